"""All that is settled before the first optimiser step: the method attached, the forward pass proved, the optimiser,
the precision measured, and the newest checkpoint put back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal

from didact import checkpoint, memory
from didact.errors import UsageError
from didact.forward import Forward, Objective, Precision
from didact.instance import digest
from didact.kinds import cost
from didact.methods import row_of
from didact.methods.attached import attach
from didact.methods.virtual import begun, longest_row
from didact.pack import heaviest, steps_per_epoch
from didact.ranks import Ranks
from didact.render import Tokens
from didact.settle import measure, sample, settle

if TYPE_CHECKING:
    import torch

    from didact.adamw import AdamW
    from didact.model import Loaded
    from didact.tune import TuneConfig


SILENT = 12.0  # nats of a stop that is less likely than 1 in 160,000: far beyond a vocabulary's chance


@dataclass
class Prepared:
    """All that is settled before the first step. data: rows with the virtual tokens that the method puts before them;
    first: steps already done; place: of the checkpoints.

    max_tokens is the only thing that moves: it falls when memory does not hold so many.
    """

    data: Sequence[Tokens]
    trained: dict[str, torch.nn.Parameter]
    optimizer: AdamW | torch.optim.Optimizer
    forward: Forward
    precision: Precision
    lengths: list[int]
    heaviest: int
    max_tokens: int
    parameters: int
    peak: float
    steps: int
    first: int
    loss: float
    frozen: bool | None  # whether a run that goes on had kept what frozen layers give
    place: Path | None
    compile: bool
    ranks: Ranks
    say: Callable[[str], None]
    too_large: Callable[[int], UsageError]


def prepare(
    loaded: Loaded,
    method: Any,
    data: Sequence[Tokens],
    config: TuneConfig,
    folder: Path | None,
    say: Callable[[str], None],
    ranks: Ranks,
    objective: Objective | None = None,
) -> Prepared:
    """Attach the method, find the newest checkpoint, prove and measure the forward pass, restore."""
    import torch

    if config.compile and ranks.count > 1:
        raise no_compile()
    _inspect(loaded, data, longest_row(loaded, method, config.max_length))
    torch.manual_seed(config.seed)
    parameters = sum(weight.numel() for weight in loaded.model.parameters())
    row = row_of(method.type)
    given, data = data, begun(data, attach(loaded, method).virtual)
    if config.activation_checkpointing:
        activation_checkpointing(loaded.model, "enable", {"use_reentrant": False})
    wide = ranks.count > 1 and loaded.device.type == "cuda" and config.precision == "auto"
    precision: Precision = "bf16" if wide or config.precision == "bf16" else "fp32"
    longest = max(cost(loaded.kind, tokens) for tokens in data)
    with _fits(lambda: _too_large(loaded, method, config, longest)):
        forward = ranks.shard(loaded.model, settle(loaded, data, config.packing, say), precision == "bf16")
    if row.ahead and objective is None and ranks.count == 1:
        _silent(loaded, forward, data, method.type, say)
    forward = replace(forward, objective=objective)
    trained = {name: weight for name, weight in loaded.model.named_parameters() if weight.requires_grad}
    peak = config.learning_rate if config.learning_rate is not None else row.rate(parameters)
    optimizer = (row.optimizer or _adamw)(trained, peak, config, loaded.device)
    lengths = [cost(loaded.kind, tokens) for tokens in data]
    place = None if folder is None else folder / _fingerprint(loaded, method, given, config, peak, objective)
    found = None if place is None else checkpoint.latest(place)
    for text in found.skipped if found is not None else ():
        say(f"passed over a checkpoint: {text}")

    run = Prepared(
        data=data,
        trained=trained,
        optimizer=optimizer,
        forward=forward,
        precision=precision,
        lengths=lengths,
        heaviest=heaviest(lengths, config.batch_size, config.seed),
        max_tokens=config.max_tokens,
        parameters=parameters,
        peak=peak,
        steps=_steps(len(data), config),
        first=0,
        loss=math.nan,
        frozen=None,
        place=place,
        compile=config.compile,
        ranks=ranks,
        say=say,
        too_large=lambda longest: _too_large(loaded, method, config, longest),
    )
    if config.packing is True and not run.forward.packed:
        raise UsageError("this model cannot be packed", "set tune.packing to auto", field="tune.packing")
    if found is not None and found.step:
        run.first, run.loss, run.max_tokens = found.step, float(found.state["loss"]), found.state["max_tokens"]
        run.precision, run.frozen = found.state["precision"], found.state.get("frozen")
        say(f"goes on after step {run.first} of {run.steps}, in {run.precision}")
    elif config.precision == "auto" and ranks.count == 1:
        with _fits(lambda: run.too_large(longest)):
            run.precision, text = measure(loaded, run.forward, data, list(trained.values()))
        say(text)
    torch.manual_seed(config.seed)  # the proofs and measurements leave no trace in the state
    if found is not None and found.step:
        checkpoint.restore(trained, optimizer, found)
    return run


def _silent(loaded: Loaded, forward: Forward, data: Sequence[Tokens], method: str, say: Callable[[str], None]) -> None:
    """Say so where the base has never written the stop: right answers that do not end are counted as wrong ones."""
    import torch

    with torch.no_grad(), forward.on(loaded):
        one = forward.batch(loaded, data, sample(data))
        nats_N = torch.nn.functional.cross_entropy(forward.logits(loaded, one).float(), one.labels_N, reduction="none")
    stops_N = torch.isin(one.labels_N, torch.tensor(loaded.renderer.stop_ids, device=one.labels_N.device))
    nats = float(nats_N[stops_N & (one.weights_N > 0)].mean())  # NaN where no answer ends in a stop
    if nats > SILENT:
        text = f"this base does not end its answers (the stop after a right one costs {nats:.0f} nats)"
        say(f"{text}, and {method} hardly teaches it to: take lora, or a base that was tuned to answer")


@contextmanager
def _fits(refusal: Callable[[], UsageError]) -> Iterator[None]:
    """What memory does not hold is refused in one line."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not memory.exhausted(error):
            raise
        raise refusal() from error


def activation_checkpointing(model: Any, what: Literal["enable", "disable"], *settings: Any) -> None:
    """Later versions of transformers have another name for it.

    The last layer keeps its activations: the backward begins there, so that computing them again would save nothing.
    """
    from didact import tail

    names = (f"activation_checkpointing_{what}", f"gradient_checkpointing_{what}")
    switch = next(getattr(model, name) for name in names if hasattr(model, name))
    switch(*settings)
    last = tail.last(model)
    if getattr(last, "gradient_checkpointing", False):
        last.gradient_checkpointing = False  # type: ignore[union-attr]


def no_compile() -> UsageError:
    """Sharded layers are not compiled."""
    return UsageError("tune.compile is for one process", "set it to false, or leave out --nproc", field="tune.compile")


def _inspect(loaded: Loaded, data: Sequence[Tokens], limit: int) -> None:
    """Refuse what cannot be trained truly: nothing, rows without a target, rows longer than the model can read."""
    if not data:
        raise UsageError("there is nothing to train on", "look at dropped.jsonl for the reasons")
    for tokens in data:
        source, row = tokens.where
        if not tokens.supervised:
            raise UsageError("the row has no supervised token", "drop it", file=source or None, line=row or None)
    long = [tokens for tokens in data if len(tokens.ids) > limit]
    if long:
        source, row = long[0].where
        raise UsageError(
            f"{len(long)} rows are longer than {limit} tokens, the first has {len(long[0].ids)}",
            f"drop them: curate: [{{type: length}}], with tune.max_length at most {loaded.max_positions or 'any'}",
            file=source or None,
            line=row or None,
        )


def _steps(n: int, config: TuneConfig) -> int:
    per_epoch = steps_per_epoch(n, config.batch_size)
    steps = max(1, round(per_epoch * config.epochs))
    return steps if config.max_steps is None else min(steps, config.max_steps)


def _fingerprint(
    loaded: Loaded, method: Any, data: Sequence[Tokens], config: TuneConfig, peak: float, objective: Objective | None
) -> str:
    """Names the run that a checkpoint belongs to: model, method, data and settings."""
    settings = config.model_dump(exclude={"checkpoint_minutes"})
    rows = digest([[t.ids, t.weights, *(PurePath(path).name for path in t.images)] for t in data], 64)
    more = [] if objective is None else [objective.key]
    return digest([loaded.hash, method.model_dump(), settings, peak, rows, *more])


def _adamw(
    trained: dict[str, torch.nn.Parameter], peak: float, config: TuneConfig, device: torch.device
) -> AdamW | torch.optim.Optimizer:
    """AdamW; torch's class for what only it can move: shards, and weights on other devices. Vectors are not decayed."""
    import torch

    from didact.adamw import BETAS, AdamW

    if device.type == "cpu" and not any(hasattr(weight, "placements") for weight in trained.values()):
        return AdamW(list(trained.values()), peak, config.weight_decay)
    matrices = [p for p in trained.values() if p.ndim >= 2]
    vectors = [p for p in trained.values() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=peak, betas=BETAS, fused=True)


def _too_large(loaded: Loaded, method: Any, config: TuneConfig, longest: int) -> UsageError:
    """Out of memory on a single row: what would need less, and how much."""
    trained = sum(weight.numel() for weight in loaded.model.parameters() if weight.requires_grad)
    plan = replace(memory.plan_of(method.model_dump(), config, trained), tokens=longest, longest=longest)
    changes = "; ".join(memory.cheaper(memory.shape(loaded.folder), plan))
    return UsageError(f"memory does not hold a single row of {longest} tokens", changes)
