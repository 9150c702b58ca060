"""What tuning will need of memory, counted from a model's files before it is loaded, and what would need less.

Weights, gradients and AdamW's two moments are counted exactly (of a large embedding as if every row were met, which is
the most it can be); activations by what a Llama layer keeps for its backward
(measured, within a third for other decoders).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from didact.tune import TuneConfig

GIB = 1 << 30
KEPT = {"fp32": (40, 18, 4), "bf16": (24, 9, 2)}  # bytes per token and layer: of each hidden value, inner value, score
NF4 = 4.127  # bits per weight of qlora's layers
NEW = ("memory.max", "memory.current", "inactive_file")  # of a control group: most, used, what could be dropped
OLD = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
LOGITS = 256 << 20  # most bytes of logits at a time, see loss.py


@dataclass(frozen=True, slots=True)
class Shape:
    """A model as its files describe it. parameters: all; matrices: (rows, columns) of the layers; vectors: values."""

    parameters: int
    matrices: tuple[tuple[int, int], ...]
    vectors: int
    hidden: int
    inner: int
    layers: int
    heads: int
    vocabulary: int
    biased: bool = True

    @property
    def largest(self) -> int:
        """Values of the largest tensor."""
        return max([self.hidden * self.vocabulary, *(rows * columns for rows, columns in self.matrices)])


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done with it. tokens: in one forward; longest: row in tokens; method: as in the recipe.

    trained: how many values, where that was counted; else it is estimated from the method.
    """

    method: Mapping[str, Any]
    precision: str
    tokens: int
    longest: int
    checkpointing: bool = False
    trained: int | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes, by what takes them."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits

    def __str__(self) -> str:
        parts = [f"{name} {getattr(self, name) / GIB:.2g}" for name in ("weights", "gradients", "optimizer")]
        return ", ".join([*parts, f"activations {(self.activations + self.logits) / GIB:.2g}"])


def shape(folder: Path) -> Shape:
    """Read config.json and the headers of the weight files; no weight is loaded."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = {**config, **config.get("text_config", {})}
    sizes: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as handle:
            header = json.loads(handle.read(struct.unpack("<Q", handle.read(8))[0]))
        sizes |= {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    vocabulary = int(config.get("vocab_size", 0))
    layers = [tuple(size) for size in sizes.values() if len(size) == 2 and vocabulary not in size]
    hidden = _of(config, "hidden_size", "n_embd", "d_model")
    return Shape(
        parameters=sum(math.prod(size) for size in sizes.values()),
        matrices=tuple((rows, columns) for rows, columns in layers),
        vectors=sum(math.prod(size) for size in sizes.values() if len(size) == 1),
        hidden=hidden,
        inner=_of(config, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden,
        layers=_of(config, "num_hidden_layers", "n_layer", "n_layers"),
        heads=_of(config, "num_attention_heads", "n_head", "n_heads"),
        vocabulary=vocabulary,
        biased=any(name.endswith(".bias") for name in sizes),
    )


def need(model: Shape, plan: Plan) -> Need:
    """Memory at the peak of a step."""
    kind = plan.method.get("type")
    if plan.trained is not None:
        trained = plan.trained
    elif kind in ("full", "lomo"):
        trained = model.parameters
    elif "rank" in plan.method:
        trained = int(plan.method["rank"]) * sum(map(sum, model.matrices))
    else:
        trained = model.vectors
    hidden, inner, score = KEPT[plan.precision]
    keys = min(plan.longest, 1024)  # beyond it scores are not kept, see attention.py
    layer = plan.tokens * (hidden * model.hidden + inner * model.inner + score * model.heads * keys)
    width = 2 if plan.precision == "bf16" else 4
    kept = layer + plan.tokens * width * model.hidden * model.layers if plan.checkpointing else layer * model.layers
    weights: float = 4 * model.parameters + (0 if kind in ("full", "lomo") else 4 * trained)
    if kind == "qlora":
        weights -= (4 - NF4 / 8) * sum(rows * columns for rows, columns in model.matrices)
    weights += 2 * trained if plan.precision == "bf16" else 0
    logits = min(LOGITS, plan.tokens * width * model.vocabulary)
    if kind == "lomo":  # one tensor of the gradient at a time, and no moments
        return Need(weights, 4 * model.largest, 0, kept, logits)
    return Need(weights, 4 * trained, 8 * trained, kept, logits)


def before_loading(folder: Path, method: Mapping[str, Any], config: TuneConfig, trained: int | None = None) -> str:
    """One line for people: what is needed, what is free, and what to change if it is not enough."""
    model, plan = shape(folder), plan_of(method, config, trained)
    expected, free = need(model, plan), available()
    text = f"memory: about {expected.total / GIB:.2g} GiB ({expected})"
    if free is not None and expected.total > free:
        text += f", but {free / GIB:.2g} GiB are free; " + "; ".join(cheaper(model, plan))
    return text


def plan_of(method: Mapping[str, Any], config: TuneConfig, trained: int | None = None) -> Plan:
    """The most that these settings may ask for."""
    precision = "bf16" if config.precision == "bf16" else "fp32"
    tokens = min(config.max_tokens, config.batch_size * config.max_length)
    return Plan(method, precision, tokens, config.max_length, config.activation_checkpointing, trained)


def cheaper(model: Shape, plan: Plan, n: int = 3) -> list[str]:
    """The changes that save most, with the GiB each saves by itself."""
    lora = {"type": "lora", "rank": 16}
    changes = {
        f"tune.max_tokens: {plan.tokens // 2}": replace(plan, tokens=plan.tokens // 2),
        f"tune.max_length: {plan.longest // 2}": replace(
            plan, longest=plan.longest // 2, tokens=min(plan.tokens, max(plan.tokens // 2, plan.longest // 2))
        ),
        "tune.activation_checkpointing: true": replace(plan, checkpointing=True),
        "tune.precision: bf16": replace(plan, precision="bf16"),
        "method: {type: lora}": replace(plan, method=lora, trained=None) if plan.method.get("type") == "full" else plan,
    }
    now = need(model, plan).total
    saved = {text: now - need(model, other).total for text, other in changes.items()}
    best = sorted(saved, key=lambda text: -saved[text])[:n]
    return [f"{text} saves {saved[text] / GIB:.2g} GiB" for text in best]


def available(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Bytes of memory that are free to this program, where the system says so: on the machine, or in its container."""
    try:
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    free = [float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    return min([*free, *_left(proc / "self" / "cgroup", groups)], default=None)


def _left(told: Path, root: Path) -> Iterator[float]:
    """What each limited control group (version 2 or 1) that this program is in has left; caches can be dropped."""
    try:
        parts = [line.split(":", 2) for line in told.read_text("utf-8").splitlines() if line.count(":") > 1]
    except OSError:
        return
    for _, kinds, path in parts:
        if kinds and "memory" not in kinds.split(","):
            continue
        top, names = (root / "memory", OLD) if kinds else (root, NEW)
        place = top / path.lstrip("/")
        for folder in (place, *place.parents):
            if not folder.is_relative_to(top):
                break
            try:
                most, used = (int((folder / name).read_text("ascii")) for name in names[:2])
                stat = dict(line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
                if most < 1 << 60:  # an old group without a limit has a huge one
                    yield float(max(0, most - used + int(stat.get(names[2], 0))))
            except (OSError, ValueError):  # not there from within a container, or "max"
                continue


def exhausted(error: BaseException) -> bool:
    """Whether an exception says that memory does not suffice, on whichever device."""
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def _of(config: Mapping[str, Any], *names: str) -> int:
    values: Sequence[Any] = [config[name] for name in names if isinstance(config.get(name), int)]
    return int(values[0]) if values else 0
