"""The one training loop, for every method and every transformers causal model.

The loss is the cross-entropy of supervised tokens, divided by their number in the whole optimiser step, so that the
cut into micro-batches changes nothing: when memory does not hold one, it is cut again. A killed run continues bit for
bit (CPU, fp32). No printing: `report` gets it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from didact import checkpoint, memory
from didact.errors import Interrupted, UsageError, nearest
from didact.forward import Objective
from didact.methods import METHODS
from didact.methods.attached import merge, stays, write
from didact.methods.presets import tuning_presets
from didact.pack import step_rows
from didact.prepare import Prepared, activation_checkpointing, prepare
from didact.ranks import ALONE, Ranks, gathered
from didact.render import Tokens

if TYPE_CHECKING:
    from didact.model import Loaded


class TuneConfig(BaseModel):
    """How long, how fast and how exactly to train."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    preset: str = Field("", description="Published settings to begin from; what the recipe says comes before them.")
    epochs: float = Field(1.0, gt=0, description="Passes over the data.")
    max_steps: int | None = Field(None, ge=1, description="Stop after this many optimiser steps, whatever the epochs.")
    batch_size: int = Field(32, ge=1, description="Instances per optimiser step.")
    max_tokens: int = Field(8192, ge=1, description="Most tokens in one forward; what is beyond is accumulated.")
    max_length: int = Field(512, ge=2, description="Longest row in tokens; see truncation.")
    truncation: Literal["refuse", "drop", "keep_answer", "split"] = Field(
        "drop", description="Longer rows: none, without them, cut the prompt, or several rows cut between turns."
    )
    learning_rate: float | None = Field(None, gt=0, description="Peak rate; default is the method's for this size.")
    warmup: float = Field(0.05, ge=0, le=1, description="Share of the steps in which the rate rises.")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="How the rate falls after warm-up.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decay of matrices.")
    clip: float = Field(1.0, ge=0, description="Largest norm of the gradient; 0 is no clipping.")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto measures which is faster.")
    packing: Literal["auto"] | bool = Field(
        "auto", description="Rows on one axis without padding; auto where the model is proved to keep them apart."
    )
    activation_checkpointing: bool = Field(
        False, description="Computes each layer again in the backward: less memory, about a third slower."
    )
    compile: bool = Field(
        False, description="torch.compile of the layers: minutes before the first step (they are told), then faster."
    )
    checkpoint_minutes: float = Field(2.0, ge=0, description="Time between checkpoints; 0 is after every step.")
    seed: int = Field(0, ge=0, description="Order of the rows, and initial values of what a method adds.")

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, name: str) -> str:
        if name and name not in tuning_presets():
            raise ValueError(f'unknown preset "{name}": {nearest(name, tuning_presets())}')
        return name


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
    ranks: Ranks = ALONE,
    objective: Objective | None = None,
) -> Result:
    """Train `loaded.model` in place with a method's config on rendered rows.

    folder: for checkpoints; the same call continues there after a stop of any kind. note: gets each decision as it is
    taken; resumed: the step it goes on from (what was reported beyond it is reported again). Raises Interrupted when
    `stop` says so, after saving, and UsageError for data that cannot be trained and for numbers that are not finite.
    objective: another loss than that of the answers' tokens.
    """
    began, notes = time.perf_counter(), list[str]()

    def say(text: str) -> None:
        notes.append(text)
        note(text)

    from didact.frozen import keep

    run = prepare(loaded, method, data, config, folder, say, ranks, objective)
    resumed(run.first)
    data = run.data
    loss, examples, saved, looped = run.loss, 0, time.monotonic(), time.perf_counter()
    loaded.model.train()
    with _computing(run, loaded) as refresh:
        if run.ranks.count == 1 and not run.compile:
            epochs = run.steps * config.batch_size / len(data)
            run.forward = keep(loaded, run.forward, data, run.lengths, config.max_tokens, epochs, say, run.frozen)
        for step in range(run.first, run.steps):
            tick = time.perf_counter()
            rows = step_rows(len(data), config.batch_size, config.seed, step, run.heaviest)
            loss, norm, rate = _step(run, loaded, data, config, step, rows)
            refresh()
            now, examples = time.perf_counter(), examples + len(rows)
            supervised = sum(data[row].supervised for row in rows)
            if run.compile and step == run.first:
                say(f"compiled: the first step took {now - tick:.0f} s")
            speed = sum(run.lengths[row] for row in rows) / (now - tick)
            report(Step(step + 1, run.steps, loss, rate, supervised, speed, norm, now - began))
            asked, last = ranks.any(stop()), step + 1 == run.steps
            due = asked or last or ranks.any(time.monotonic() - saved >= config.checkpoint_minutes * 60)
            if run.place is not None and due:
                chosen = {"precision": run.precision, "frozen": run.forward.frozen is not None}
                state = {**chosen, "max_tokens": run.max_tokens, "loss": loss}
                tensors = ranks.whole(checkpoint.tensors_of(run.trained, run.optimizer))
                if ranks.first:
                    checkpoint.write(run.place, step + 1, tensors, state)
                saved = time.monotonic()
            if asked and not last:
                raise Interrupted(f"stopped after step {step + 1} of {run.steps}; the same command goes on from there")
    loaded.model.eval()
    if config.activation_checkpointing:
        activation_checkpointing(loaded.model, "disable")
    ended = time.perf_counter()
    return Result(
        steps=run.steps,
        loss=loss,
        trainable=sum(weight.numel() for weight in run.trained.values()),
        parameters=run.parameters,
        learning_rate=run.peak,
        precision=run.precision,
        seconds=ended - began,
        resumed_at=run.first,
        examples_per_second=examples / max(ended - looped, 1e-9),
        notes=tuple(notes),
    )


@contextmanager
def _computing(run: Prepared, loaded: Loaded) -> Iterator[Callable[[], None]]:
    """The model ready for steps; gives what is to be called after each of them."""
    from didact.adamw import AdamW, by_rows
    from didact.forward import compiled
    from didact.precision import bf16

    with run.forward.on(loaded), ExitStack() as stack:
        if isinstance(run.optimizer, AdamW):
            stack.enter_context(by_rows(loaded.model))
        refresh = (
            stack.enter_context(bf16(loaded.model))
            if run.precision == "bf16" and run.ranks.count == 1
            else lambda: None
        )
        if run.compile:
            stack.enter_context(compiled(loaded.model))
        yield refresh


def _step(
    run: Prepared, loaded: Loaded, data: Sequence[Tokens], config: TuneConfig, step: int, rows: Sequence[int]
) -> tuple[float, float, float]:
    """One optimiser step: loss (mean nats per supervised token), norm of the gradient before clipping, rate."""
    rate = run.peak * _schedule(step, run.steps, config)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    sweep = getattr(run.optimizer, "sweep", None)  # of an optimiser that moves the weights within the backward
    if sweep is not None:
        loss, norm = sweep(lambda: _backward(run, loaded, data, step, rows), config.clip)
    else:
        loss = _backward(run, loaded, data, step, rows)
        norm = _gradient_norm(run.trained.values(), config.clip)
    if not math.isfinite(norm):
        raise _not_finite("gradient", step, data, rows)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return loss, norm, rate


def _backward(run: Prepared, loaded: Loaded, data: Sequence[Tokens], step: int, rows: Sequence[int]) -> float:
    """The gradient of some rows' mean loss over as many micro-batches as needed, and that loss.

    What does not fit in memory is begun again in smaller pieces, which changes nothing; a row is not cut.
    """
    weight, longest = sum(sum(data[row].weights) for row in rows), max(run.lengths[row] for row in rows)
    cut: Callable[[Sequence[int], Sequence[int], int], list[list[int]]] = run.forward.cut
    if hasattr(run.optimizer, "sweep"):
        tokens = sum(run.lengths[row] for row in rows) if run.forward.packed else len(rows) * longest
        if tokens > run.max_tokens or run.ranks.count > 1:
            problem = f"this method takes a step in one piece, and step {step + 1} has {tokens} tokens"
            raise UsageError(problem, f"tune.max_tokens: {tokens}, or a smaller tune.batch_size; one process")
        if run.forward.alone and len(rows) > 1:
            problem = "this method takes a step in one piece, and of this model each row is computed alone"
            raise UsageError(problem, "tune.batch_size: 1, or another method", field="tune.batch_size")
        cut, longest = (cut if run.forward.packed else lambda some, lengths, most: [list(some)]), run.max_tokens
    while True:
        try:
            shares = run.ranks.share(rows, run.lengths, lambda some: cut(some, run.lengths, run.max_tokens))
            loss = sum(_one_backward(run, loaded, data, step, some, weight, factor) for some, factor in shares)
            return run.ranks.total(loss) / run.ranks.count
        except (RuntimeError, MemoryError) as error:
            if not memory.exhausted(error):
                raise
            if run.max_tokens <= longest or run.ranks.count > 1:  # the other ranks wait for a micro-batch of theirs
                raise run.too_large(longest) from error
        run.optimizer.zero_grad(set_to_none=True)
        run.max_tokens = max(longest, min(run.max_tokens, sum(run.lengths[row] for row in rows)) // 2)
        run.say(f"memory does not hold a micro-batch of step {step + 1}: now {run.max_tokens} tokens in each")


def _one_backward(
    run: Prepared, loaded: Loaded, data: Sequence[Tokens], step: int, rows: Sequence[int], weight: float, factor: float
) -> float:
    one = run.forward.batch(loaded, data, rows)
    part = run.forward.loss(loaded, replace(one, weights_N=one.weights_N / weight * factor))
    value = float(part.detach())
    if not math.isfinite(value):
        raise _not_finite("loss", step, data, rows)
    part.backward()  # type: ignore[no-untyped-call]
    return value


def save(loaded: Loaded, method: Any, folder: Path) -> None:
    """Write the tuned model to `folder`: merged weights, and the adapter in `folder/adapter` where there is one."""
    from didact import model as models

    merges = METHODS[method.type].merge is not None
    base = str(loaded.folder.resolve()) if loaded.name == "starter" else loaded.name
    kept = METHODS[method.type].save is not None or stays(loaded)
    models.save(
        loaded,
        folder,
        adapter=(lambda place: write(loaded, base, place)) if kept else None,
        merge=(lambda: merge(loaded)) if merges else None,
    )


# ---- one step


def _schedule(step: int, steps: int, config: TuneConfig) -> float:
    warm = round(steps * config.warmup)
    if step < warm:
        return (step + 1) / (warm + 1)
    share = (step - warm) / max(1, steps - warm)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    return 1.0 - share if config.schedule == "linear" else 1.0


def _gradient_norm(weights: Any, clip: float) -> float:
    import torch

    from didact.adamw import summed

    gradients = list[torch.Tensor]()
    for weight in weights:
        if weight.grad is not None and weight.grad.is_sparse:
            weight.grad = summed(weight.grad)
            gradients.append(weight.grad.values())
        elif weight.grad is not None:
            gradients.append(weight.grad)
    norm = torch.nn.utils.get_total_norm(gradients)
    value = float(gathered(norm))
    if clip and math.isfinite(value) and value > clip:
        torch._foreach_mul_(gradients, clip / (value + 1e-6))
    return value


def _not_finite(what: str, step: int, data: Sequence[Tokens], rows: Sequence[int]) -> UsageError:
    names = ", ".join("{}:{}".format(*data[row].where) for row in rows[:8]) + (", ..." if len(rows) > 8 else "")
    return UsageError(
        f"the {what} of step {step + 1} is not finite (rows {names}); nothing was updated",
        "lower tune.learning_rate, or look at these rows with `didact show`",
    )
