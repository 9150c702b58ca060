"""Checkpoints that are whole or not there: safetensors and JSON, staged, flushed, renamed, the manifest written last.

A checkpoint is a folder `step-00000120` with `tensors.safetensors`, `state.json` and `manifest.json` (size and SHA-256
of the others). Reading takes the newest that proves complete and says which ones it passed over.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from didact.disk import flush, room
from didact.ranks import sharded_like

if TYPE_CHECKING:
    import torch

    from didact.adamw import AdamW

    Optimizer = AdamW | torch.optim.Optimizer

NAME = re.compile(r"step-(\d{8})")
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
KEEP = 2  # the newest, and one good one should the newest turn out damaged


@dataclass(frozen=True)
class Checkpoint:
    """tensors on the CPU by name; state: JSON values; skipped: why newer checkpoints were passed over."""

    step: int
    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]
    skipped: tuple[str, ...] = ()


def write(folder: Path, step: int, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> Path:
    """Write one checkpoint and drop those older than the newest two; raises UsageError if the disk is full.

    folder is named after what makes the run, so that a checkpoint is never taken for one of another run.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    final, stage = folder / f"step-{step:08d}", folder / f".step-{step:08d}.partial"
    shutil.rmtree(stage, ignore_errors=True)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    try:
        with room(folder, size + (1 << 20)):
            stage.mkdir()
            # a clone, because safetensors refuses tensors that share memory (tied weights)
            save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, stage / TENSORS)
            told = {**state, "step": step, "run": folder.name}
            (stage / STATE).write_text(json.dumps(told, sort_keys=True), encoding="utf-8")
            flush(stage)
            sums = {name: [(stage / name).stat().st_size, _sha256(stage / name)] for name in (TENSORS, STATE)}
            (stage / MANIFEST).write_text(json.dumps(sums, sort_keys=True), encoding="utf-8")
            flush(stage)
            if final.exists():  # written before, and found damaged
                shutil.rmtree(final)
            stage.rename(final)
            flush(folder, deep=False)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    for old in sorted(_steps(folder), reverse=True)[KEEP:]:
        shutil.rmtree(folder / f"step-{old:08d}", ignore_errors=True)
    return final


def latest(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint; half-written and damaged ones are passed over by name."""
    skipped: list[str] = []
    for step in sorted(_steps(folder), reverse=True):
        place = folder / f"step-{step:08d}"
        fault = _fault(place)
        if fault:
            skipped.append(f"{place}: {fault}")
            continue
        from safetensors.torch import load_file

        state = json.loads((place / STATE).read_text(encoding="utf-8"))
        if (state["run"], state["step"]) != (folder.name, step):
            skipped.append(f"{place}: it belongs to another run ({state['run']}, step {state['step']})")
            continue
        return Checkpoint(step, load_file(place / TENSORS), state, tuple(skipped))
    return Checkpoint(0, {}, {}, tuple(skipped)) if skipped else None


def tensors_of(trained: dict[str, torch.nn.Parameter], optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """All that moves in a run: trained weights, optimiser state, random numbers; sharded ones as they are."""
    import torch

    tensors: dict[str, torch.Tensor] = {f"weights/{name}": weight for name, weight in trained.items()}
    for name, weight in trained.items():
        for key, value in optimizer.state.get(weight, {}).items():
            tensors[f"optimizer/{name}/{key}"] = torch.as_tensor(value)
    tensors["rng/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng/cuda"] = torch.cuda.get_rng_state()
    return tensors


def restore(trained: dict[str, torch.nn.Parameter], optimizer: Optimizer, found: Checkpoint) -> None:
    """Put back what `tensors_of` took."""
    import torch

    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(sharded_like(found.tensors[f"weights/{name}"], weight))
    for key, value in found.tensors.items():
        kind, _, rest = key.partition("/")
        if kind == "optimizer":
            name, _, entry = rest.rpartition("/")
            weight = trained[name]
            if entry == "seen" and hasattr(weight, "placements"):
                continue  # sharded, its gradient is whole
            optimizer.state[weight][entry] = value if entry == "step" else sharded_like(value, weight)
    torch.set_rng_state(found.tensors["rng/cpu"])
    if "rng/cuda" in found.tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(found.tensors["rng/cuda"])


def _steps(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return [int(found[1]) for path in folder.iterdir() if (found := NAME.fullmatch(path.name))]


def _fault(place: Path) -> str:
    try:
        sums = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        for name in (TENSORS, STATE):
            size, sha256 = sums[name]
            if (place / name).stat().st_size != size:
                return f"{name} is {(place / name).stat().st_size} bytes instead of {size}"
            if _sha256(place / name) != sha256:
                return f"{name} does not match its checksum"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} is damaged"
    return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def remembered(place: Path, make: Callable[[], Any]) -> Any:
    """A JSON value out of its file; made and written there, whole or not at all, if it is not there or not whole."""
    try:
        told = json.loads(place.read_text(encoding="utf-8"))
        if told["sha256"] == hashlib.sha256(told["value"].encode()).hexdigest():
            return json.loads(told["value"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    value = make()
    text = json.dumps(value)
    place.parent.mkdir(parents=True, exist_ok=True)
    stage = place.with_name(f".{place.name}.partial")
    told = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "value": text}
    with room(place.parent, 2 * len(text) + (1 << 16)):
        stage.write_text(json.dumps(told), encoding="utf-8")
        flush(stage, deep=False)
        stage.rename(place)
        flush(place.parent, deep=False)
    return json.loads(text)
