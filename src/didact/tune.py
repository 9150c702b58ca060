"""The one training loop, for every method and every transformers causal model.

The loss is the cross-entropy of supervised tokens, divided by their number in the whole optimiser step, so that the
cut into micro-batches changes nothing. A killed run continues bit for bit (CPU, fp32). No printing: `report` gets it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from didact import checkpoint
from didact.errors import Interrupted, UsageError
from didact.forward import Precision, head, loss_sum, measure
from didact.instance import digest
from didact.methods import METHODS
from didact.pack import batch, micro_batches, step_rows, steps_per_epoch
from didact.render import Tokens

if TYPE_CHECKING:
    import torch

    from didact.model import Loaded


class TuneConfig(BaseModel):
    """How long, how fast and how exactly to train."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    epochs: float = Field(1.0, gt=0, description="Passes over the data.")
    max_steps: int | None = Field(None, ge=1, description="Stop after this many optimiser steps, whatever the epochs.")
    batch_size: int = Field(32, ge=1, description="Instances per optimiser step.")
    max_tokens: int = Field(8192, ge=1, description="Most tokens, with padding, in one forward; more are accumulated.")
    learning_rate: float | None = Field(None, gt=0, description="Peak rate; default is the method's for this size.")
    warmup: float = Field(0.05, ge=0, le=1, description="Share of the steps in which the rate rises.")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="How the rate falls after warm-up.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decay of matrices.")
    clip: float = Field(1.0, ge=0, description="Largest norm of the gradient; 0 is no clipping.")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto measures which is faster.")
    packing: Literal[False] = Field(False, description="Joining rows in one sequence; not there yet.")
    checkpoint_minutes: float = Field(2.0, ge=0, description="Time between checkpoints; 0 is after every step.")
    seed: int = Field(0, ge=0, description="Order of the rows, and initial values of what a method adds.")

    @field_validator("packing", mode="before")
    @classmethod
    def _no_packing(cls, value: object) -> object:
        if value is not False:
            raise ValueError("packing is not there yet - leave it out; rows are grouped by length instead")
        return value


@dataclass(frozen=True)
class Step:
    """One optimiser step as it is reported. loss: mean nats per supervised token; seconds: since the run began."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    supervised_tokens: int
    tokens_per_second: float
    gradient_norm: float
    seconds: float


@dataclass(frozen=True)
class Result:
    """What a finished run says of itself. notes: what was chosen, measured or passed over, in plain words."""

    steps: int
    loss: float
    trainable: int
    parameters: int
    learning_rate: float
    precision: str
    seconds: float
    resumed_at: int
    examples_per_second: float
    notes: tuple[str, ...] = field(default=())


def tune(
    loaded: Loaded,
    method: Any,
    data: Sequence[Tokens],
    config: TuneConfig,
    *,
    folder: Path | None = None,
    report: Callable[[Step], None] = lambda step: None,
    stop: Callable[[], bool] = lambda: False,
    note: Callable[[str], None] = lambda text: None,
    resumed: Callable[[int], None] = lambda step: None,
) -> Result:
    """Train `loaded.model` in place with a method's config on rendered rows.

    folder: for checkpoints; the same call continues there after a stop of any kind. note: gets each decision as it is
    taken; resumed: the step it goes on from (what was reported beyond it is reported again). Raises Interrupted when
    `stop` says so, after saving, and UsageError for data that cannot be trained and for numbers that are not finite.
    """
    import torch

    began, notes = time.perf_counter(), []

    def say(text: str) -> None:
        notes.append(text)
        note(text)

    _inspect(loaded, data)
    model = loaded.model
    torch.manual_seed(config.seed)
    parameters = sum(p.numel() for p in model.parameters())
    METHODS[method.type].attach(model, method)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    peak = config.learning_rate if config.learning_rate is not None else METHODS[method.type].rate(parameters)
    make = METHODS[method.type].optimizer or _adamw
    optimizer = make(trained, peak, config, loaded.device)
    steps = _steps(len(data), config)
    place = None if folder is None else folder / _fingerprint(loaded, method, data, config, peak)
    found = None if place is None else checkpoint.latest(place)
    for text in found.skipped if found else ():
        say(f"passed over a checkpoint: {text}")
    first, loss = 0, math.nan
    if found is not None and found.step:
        first, loss = found.step, float(found.state["loss"])
        say(f"goes on after step {first} of {steps}")
    resumed(first)
    sample = batch(data, _sample_rows(data), loaded.pad_id)
    forward = head(loaded, sample, say)
    precision: Precision
    if found is not None and found.step:
        precision = found.state["precision"]
    elif config.precision == "auto":
        precision = measure(loaded, forward, sample, list(trained.values()), say)
    else:
        precision = config.precision
    torch.manual_seed(config.seed)  # the proofs and measurements leave no trace in the state
    if found is not None and found.step:
        checkpoint.restore(trained, optimizer, found)

    model.train()
    lengths = [len(tokens.ids) for tokens in data]
    saved, examples, looped = time.monotonic(), 0, time.perf_counter()
    for step in range(first, steps):
        rows = step_rows(len(data), config.batch_size, config.seed, step)
        supervised = sum(data[row].supervised for row in rows)
        weight = sum(sum(data[row].weights) for row in rows)
        rate = peak * _schedule(step, steps, config)
        for group in optimizer.param_groups:
            group["lr"] = rate
        tick, total = time.perf_counter(), 0.0
        for group_rows in micro_batches(rows, lengths, config.max_tokens):
            one = batch(data, group_rows, loaded.pad_id)
            part = loss_sum(forward, one, loaded.device, precision) / weight
            value = float(part.detach())
            if not math.isfinite(value):
                raise _not_finite("loss", step, data, group_rows)
            part.backward()  # type: ignore[no-untyped-call]
            total += value
        norm = _gradient_norm(trained.values(), config.clip)
        if not math.isfinite(norm):
            raise _not_finite("gradient", step, data, rows)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        now = time.perf_counter()
        loss, examples = total, examples + len(rows)
        speed = sum(lengths[row] for row in rows) / (now - tick)
        report(Step(step + 1, steps, total, rate, supervised, speed, norm, now - began))
        asked = stop()
        due = time.monotonic() - saved >= config.checkpoint_minutes * 60
        if place is not None and (asked or due or step + 1 == steps):
            state = {"precision": precision, "loss": loss}
            checkpoint.write(place, step + 1, checkpoint.tensors_of(trained, optimizer), state)
            saved = time.monotonic()
        if asked and step + 1 < steps:
            raise Interrupted(f"stopped after step {step + 1} of {steps}; the same command goes on from there")
    model.eval()
    ended = time.perf_counter()
    return Result(
        steps=steps,
        loss=loss,
        trainable=sum(p.numel() for p in trained.values()),
        parameters=parameters,
        learning_rate=peak,
        precision=precision,
        seconds=ended - began,
        resumed_at=first,
        examples_per_second=examples / max(ended - looped, 1e-9),
        notes=tuple(notes),
    )


def save(loaded: Loaded, method: Any, folder: Path) -> None:
    """Write the tuned model to `folder`: merged weights, and the adapter in `folder/adapter` where there is one."""
    from didact import model as models

    row = METHODS[method.type]
    save_adapter, merge = row.save, row.merge
    models.save(
        loaded,
        folder,
        adapter=None if save_adapter is None else lambda place: save_adapter(loaded.model, method, loaded.name, place),
        merge=None if merge is None else lambda: merge(loaded.model),
    )


# ---- before the first step


def _inspect(loaded: Loaded, data: Sequence[Tokens]) -> None:
    """Refuse what cannot be trained truly: nothing, rows without a target, rows longer than the model can read."""
    if not data:
        raise UsageError("there is nothing to train on", "look at dropped.jsonl for the reasons")
    for tokens in data:
        source, row = tokens.where
        if not tokens.supervised:
            raise UsageError("the row has no supervised token", "drop it", file=source or None, line=row or None)
    limit = loaded.max_positions
    long = [tokens for tokens in data if limit is not None and len(tokens.ids) > limit]
    if long:
        source, row = long[0].where
        raise UsageError(
            f"{len(long)} rows are longer than the {limit} positions of the model, the first has {len(long[0].ids)}",
            f"drop or shorten them: curate: [{{type: length, max_length: {limit}}}]",
            file=source or None,
            line=row or None,
        )


def _steps(n: int, config: TuneConfig) -> int:
    per_epoch = steps_per_epoch(n, config.batch_size)
    steps = max(1, round(per_epoch * config.epochs))
    return steps if config.max_steps is None else min(steps, config.max_steps)


def _fingerprint(loaded: Loaded, method: Any, data: Sequence[Tokens], config: TuneConfig, peak: float) -> str:
    """Names the run that a checkpoint belongs to: model, method, data and settings."""
    settings = config.model_dump(exclude={"checkpoint_minutes"})
    rows = digest([[tokens.ids, tokens.weights] for tokens in data], 64)
    return digest([loaded.hash, method.model_dump(), settings, peak, rows])


def _sample_rows(data: Sequence[Tokens]) -> list[int]:
    """Sixteen rows of middle length, for proofs and measurements."""
    order = sorted(range(len(data)), key=lambda row: len(data[row].ids))
    middle = max(0, len(order) // 2 - 8)
    return order[middle : middle + 16]


# ---- one step


def _schedule(step: int, steps: int, config: TuneConfig) -> float:
    warm = round(steps * config.warmup)
    if step < warm:
        return (step + 1) / (warm + 1)
    share = (step - warm) / max(1, steps - warm)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    return 1.0 - share if config.schedule == "linear" else 1.0


def _adamw(
    trained: dict[str, torch.nn.Parameter], peak: float, config: TuneConfig, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov 2019, arXiv 1711.05101); vectors are not decayed."""
    import torch

    matrices = [p for p in trained.values() if p.ndim >= 2]
    vectors = [p for p in trained.values() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=peak, betas=(0.9, 0.99), fused=True)


def _gradient_norm(weights: Any, clip: float) -> float:
    import torch

    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    value = float(norm)
    if clip and math.isfinite(value) and value > clip:
        torch._foreach_mul_(gradients, clip / (value + 1e-6))
    return value


def _not_finite(what: str, step: int, data: Sequence[Tokens], rows: Sequence[int]) -> UsageError:
    names = ", ".join("{}:{}".format(*data[row].where) for row in rows[:8]) + (", ..." if len(rows) > 8 else "")
    return UsageError(
        f"the {what} of step {step + 1} is not finite (rows {names}); nothing was updated",
        "lower tune.learning_rate, or look at these rows with `didact show`",
    )
