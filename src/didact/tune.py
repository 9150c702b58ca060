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

from pydantic import BaseModel, ConfigDict, Field

from didact import checkpoint, memory
from didact.errors import Interrupted, UsageError
from didact.forward import Forward, Precision, measure, settle
from didact.instance import digest
from didact.methods import METHODS
from didact.pack import best_fit, by_length, heaviest, step_rows, steps_per_epoch
from didact.ranks import ALONE, Ranks, gathered
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
) -> Result:
    """Train `loaded.model` in place with a method's config on rendered rows.

    folder: for checkpoints; the same call continues there after a stop of any kind. note: gets each decision as it is
    taken; resumed: the step it goes on from (what was reported beyond it is reported again). Raises Interrupted when
    `stop` says so, after saving, and UsageError for data that cannot be trained and for numbers that are not finite.
    """
    began, notes = time.perf_counter(), list[str]()

    def say(text: str) -> None:
        notes.append(text)
        note(text)

    run = _prepare(loaded, method, data, config, folder, say, ranks)
    resumed(run.first)
    loss, examples, saved, looped = run.loss, 0, time.monotonic(), time.perf_counter()
    loaded.model.train()
    with _computing(run, loaded) as refresh:
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
                state = {"precision": run.precision, "max_tokens": run.max_tokens, "loss": loss}
                tensors = ranks.whole(checkpoint.tensors_of(run.trained, run.optimizer))
                if ranks.first:
                    checkpoint.write(run.place, step + 1, tensors, state)
                saved = time.monotonic()
            if asked and not last:
                raise Interrupted(f"stopped after step {step + 1} of {run.steps}; the same command goes on from there")
    loaded.model.eval()
    if config.activation_checkpointing:
        _checkpointing(loaded.model, "disable")
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


@dataclass
class _Run:
    """All that is settled before the first step. first: steps already done; place: of the checkpoints.

    max_tokens is the only thing that moves: it falls when memory does not hold so many.
    """

    trained: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
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
    place: Path | None
    compile: bool
    ranks: Ranks
    say: Callable[[str], None]
    too_large: Callable[[int], UsageError]


def _prepare(
    loaded: Loaded,
    method: Any,
    data: Sequence[Tokens],
    config: TuneConfig,
    folder: Path | None,
    say: Callable[[str], None],
    ranks: Ranks,
) -> _Run:
    """Attach the method, find the newest checkpoint, prove and measure the forward pass, restore."""
    import torch

    if config.compile and ranks.count > 1:
        raise no_compile()
    _inspect(loaded, data, config.max_length)
    torch.manual_seed(config.seed)
    parameters = sum(weight.numel() for weight in loaded.model.parameters())
    row = METHODS[method.type]
    row.attach(loaded.model, method)
    if config.activation_checkpointing:
        _checkpointing(loaded.model, "enable", {"use_reentrant": False})
    wide = ranks.count > 1 and loaded.device.type == "cuda" and config.precision == "auto"
    precision: Precision = "bf16" if wide or config.precision == "bf16" else "fp32"
    forward = ranks.shard(loaded.model, settle(loaded, data, config.packing, say), precision == "bf16")
    trained = {name: weight for name, weight in loaded.model.named_parameters() if weight.requires_grad}
    peak = config.learning_rate if config.learning_rate is not None else row.rate(parameters)
    optimizer = (row.optimizer or _adamw)(trained, peak, config, loaded.device)
    lengths = [len(tokens.ids) for tokens in data]
    place = None if folder is None else folder / _fingerprint(loaded, method, data, config, peak)
    found = None if place is None else checkpoint.latest(place)
    for text in found.skipped if found is not None else ():
        say(f"passed over a checkpoint: {text}")

    run = _Run(
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
        run.precision = found.state["precision"]
        say(f"goes on after step {run.first} of {run.steps}, in {run.precision}")
    elif config.precision == "auto" and ranks.count == 1:
        run.precision, text = measure(loaded, run.forward, data, list(trained.values()))
        say(text)
    torch.manual_seed(config.seed)  # the proofs and measurements leave no trace in the state
    if found is not None and found.step:
        checkpoint.restore(trained, optimizer, found)
    return run


def _checkpointing(model: Any, what: Literal["enable", "disable"], *settings: Any) -> None:
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


@contextmanager
def _computing(run: _Run, loaded: Loaded) -> Iterator[Callable[[], None]]:
    """The model ready for steps; gives what is to be called after each of them."""
    from didact.forward import compiled
    from didact.precision import bf16

    with run.forward.on(loaded), ExitStack() as stack:
        refresh = (
            stack.enter_context(bf16(loaded.model))
            if run.precision == "bf16" and run.ranks.count == 1
            else lambda: None
        )
        if run.compile:
            stack.enter_context(compiled(loaded.model))
        yield refresh


def _step(
    run: _Run, loaded: Loaded, data: Sequence[Tokens], config: TuneConfig, step: int, rows: Sequence[int]
) -> tuple[float, float, float]:
    """One optimiser step: loss (mean nats per supervised token), norm of the gradient before clipping, rate."""
    rate = run.peak * _schedule(step, run.steps, config)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    loss = _backward(run, loaded, data, step, rows)
    norm = _gradient_norm(run.trained.values(), config.clip)
    if not math.isfinite(norm):
        raise _not_finite("gradient", step, data, rows)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return loss, norm, rate


def _backward(run: _Run, loaded: Loaded, data: Sequence[Tokens], step: int, rows: Sequence[int]) -> float:
    """The gradient of some rows' mean loss over as many micro-batches as needed, and that loss.

    What does not fit in memory is begun again in smaller pieces, which changes nothing; a row is not cut.
    """
    weight, longest = sum(sum(data[row].weights) for row in rows), max(run.lengths[row] for row in rows)
    cut = best_fit if run.forward.packed else by_length
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
    run: _Run, loaded: Loaded, data: Sequence[Tokens], step: int, rows: Sequence[int], weight: float, factor: float
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

    row = METHODS[method.type]
    save_adapter, merge = row.save, row.merge
    base = str(loaded.folder.resolve()) if loaded.name == "starter" else loaded.name
    models.save(
        loaded,
        folder,
        adapter=None if save_adapter is None else lambda place: save_adapter(loaded.model, method, base, place),
        merge=None if merge is None else lambda: merge(loaded.model),
    )


# ---- before the first step


def no_compile() -> UsageError:
    """Sharded layers are not compiled."""
    return UsageError("tune.compile is for one process", "set it to false, or leave out --nproc", field="tune.compile")


def _inspect(loaded: Loaded, data: Sequence[Tokens], max_length: int) -> None:
    """Refuse what cannot be trained truly: nothing, rows without a target, rows longer than the model can read."""
    if not data:
        raise UsageError("there is nothing to train on", "look at dropped.jsonl for the reasons")
    for tokens in data:
        source, row = tokens.where
        if not tokens.supervised:
            raise UsageError("the row has no supervised token", "drop it", file=source or None, line=row or None)
    limit = min(max_length, loaded.max_positions or max_length)
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


def _fingerprint(loaded: Loaded, method: Any, data: Sequence[Tokens], config: TuneConfig, peak: float) -> str:
    """Names the run that a checkpoint belongs to: model, method, data and settings."""
    settings = config.model_dump(exclude={"checkpoint_minutes"})
    rows = digest([[tokens.ids, tokens.weights] for tokens in data], 64)
    return digest([loaded.hash, method.model_dump(), settings, peak, rows])


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


def _too_large(loaded: Loaded, method: Any, config: TuneConfig, longest: int) -> UsageError:
    """Out of memory on a single row: what would need less, and how much."""
    plan = replace(memory.plan_of(method.model_dump(), config), tokens=longest, longest=longest)
    changes = "; ".join(memory.cheaper(memory.shape(loaded.folder), plan))
    return UsageError(f"memory does not hold a single row of {longest} tokens", changes)


def _gradient_norm(weights: Any, clip: float) -> float:
    import torch

    gradients = [weight.grad for weight in weights if weight.grad is not None]
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
