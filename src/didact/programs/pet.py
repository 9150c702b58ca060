"""PET and iPET: questions as texts with a gap, answers as words that fill it (Schick 2021, arXiv 2001.07676).

Every pattern tunes models on the few labels; together they say how likely each label is for the rows without one, and
from that the model that is kept learns to answer the rows as they are asked elsewhere. iPET: between these, models
are tuned anew on what others of them are sure of. Limits: a closed set of answers; a filling word is one token; of a
pattern a causal model reads what stands before its gap. All weights move.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from didact.errors import UsageError, nearest
from didact.instance import Instance, digest
from didact.methods.full import FullConfig
from didact.programs.distil import distilled
from didact.programs.job import Job
from didact.programs.patterns import HOLE, Patterned, view
from didact.programs.pool import unlabelled
from didact.template import expand

if TYPE_CHECKING:
    from didact.model import Loaded

NAMES = ("mask", "input", "instruction", "prompt")


class PetConfig(BaseModel):
    """Patterns with a gap, words for each answer, and how their models teach the one that is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["pet"] = Field("pet", description="Patterns with a gap on few labels, then distillation.")
    patterns: list[str] = Field(
        min_length=1,
        description="Texts with {mask} and {input} (or {input1}, {instruction}, {prompt}).",
    )
    verbalizer: dict[str, list[str]] = Field(description="Each answer and words that mean it: {good: [great]}.")
    labels: int | None = Field(
        None, ge=0, description="Rows whose answers are used; those of the others are not looked at; default is all."
    )
    unlabelled: str | None = Field(
        None, description="A file with more texts without labels, asked in the place of the rows' own input."
    )
    column: str = Field("input", description="Where the texts stand in that file.")
    seeds: int = Field(3, ge=1, description="Models for each pattern.")
    steps: int = Field(250, ge=1, description="Steps of each of them.")
    batch_size: int = Field(16, ge=1, description="Rows in each of these steps.")
    weighting: Literal["wmean", "uniform"] = Field(
        "wmean", description="Models count by their accuracy before training, or all alike."
    )
    text_weight: float = Field(1e-4, ge=0, lt=1, description="Share of the loss on the rows as plain text.")
    temperature: float = Field(2.0, gt=0, description="How soft the labels are that the kept model learns.")
    generations: int = Field(0, ge=0, description="iPET: times that models are tuned anew; it used 3.")
    growth: float = Field(5.0, gt=1, description="iPET: how much larger each generation's training set is.")
    share: float = Field(0.25, gt=0, le=1, description="iPET: share of the other models that label a training set.")
    first: int = Field(100, ge=1, description="iPET without labels: rows for each answer that the first set takes.")

    @field_validator("patterns")
    @classmethod
    def _one_gap(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            names = HOLE.findall(pattern)
            if names.count("mask") != 1:
                raise ValueError(f'the pattern "{pattern}" needs {{mask}} once')
            for name in names:
                if not re.fullmatch(r"mask|input\d*|instruction|prompt", name):
                    raise ValueError(f'the pattern "{pattern}" has {{{name}}}: {nearest(name, NAMES)}')
            if len(names) < 2:
                raise ValueError(f'the pattern "{pattern}" shows nothing of the row: put {{input}} into it')
        return patterns

    @model_validator(mode="after")
    def _distinct(self) -> PetConfig:
        words = Counter(word for some in self.verbalizer.values() for word in some)
        empty = [label for label, some in self.verbalizer.items() if not some]
        if len(self.verbalizer) < 2 or empty:
            raise ValueError("verbalizer needs at least two answers, and a word for each of them")
        if max(words.values()) > 1:
            raise ValueError(f'the word "{words.most_common(1)[0][0]}" stands twice in verbalizer')
        if self.labels == 0 and not self.generations:
            raise ValueError("without labels there is nothing to learn from: set labels, or generations")
        return self


def run(job: Job, config: PetConfig) -> tuple[Loaded, FullConfig]:
    """The model that learnt from the patterns' models, all of its weights.

    Raises UsageError before any training for rows, patterns and words that do not go together.
    """
    base = job.fresh()
    labelled, pool = _divided(job.instances, config, job.settings.seed)
    if config.unlabelled is not None:
        pool += unlabelled(job.home / expand(config.unlabelled), config.column, labelled or pool)
    limit = min(job.settings.max_length, base.max_positions or job.settings.max_length)
    everyone = [*labelled, *pool]
    views = [view(base, pattern, config.verbalizer, config.text_weight, everyone, limit) for pattern in config.patterns]
    sets = [_hard(labelled)] * (len(config.patterns) * config.seeds)
    found = [_member(job, base.hash, config, views, everyone, n, 0, given) for n, given in enumerate(sets)]
    for generation in range(1, config.generations + 1):
        sets = [_labelled_by_others(found, n, generation, labelled, everyone, config, job.settings.seed)
                for n in range(len(found))]  # fmt: skip
        found = [_member(job, base.hash, config, views, everyone, n, generation, given) for n, given in enumerate(sets)]
    said = averaged([one["scores"] for one in found], _weights(found, config))
    taught = everyone if not config.labels and config.unlabelled is None else pool or labelled
    first = 0 if taught is everyone or taught is labelled else len(labelled)
    soft = [softmax(values, config.temperature) for values in said[first : first + len(taught)]]
    job.say(f"distils {len(found)} models into one over {len(taught):,} rows")
    return distilled(job, taught, soft, config.temperature), FullConfig()


def _divided(instances: Sequence[Instance], config: PetConfig, seed: int) -> tuple[list[Instance], list[Instance]]:
    """The rows whose labels are used, and the others."""
    for instance in instances:
        file, line = instance.origin.source or None, instance.origin.row or None
        if len(instance.choices) < 2:
            problem = "pet needs a closed set of answers, and this row has none"
            raise UsageError(problem, "use templates with answer_choices, or another method", file=file, line=line)
        for choice in instance.choices:
            if choice not in config.verbalizer:
                fix = nearest(choice, config.verbalizer)
                raise UsageError(f'no word for the answer "{choice}"', fix, file=file, line=line,
                                 field="method.verbalizer")  # fmt: skip
    order = list(instances)
    if config.labels is None:
        return order, []
    random.Random(f"labels/{seed}").shuffle(order)
    labelled, pool = order[: config.labels], order[config.labels :]
    lost = sorted(set(config.verbalizer) - {instance.answer for instance in labelled}) if labelled else []
    if lost:
        raise UsageError(f'none of the {len(labelled)} labelled rows has the answer "{lost[0]}"',
                         "use more labels, or another seed", field="method.labels")  # fmt: skip
    return labelled, pool


# ---- the patterns' models


def _hard(instances: Sequence[Instance]) -> dict[int, int]:
    """Number of a row -> number of its label."""
    return {i: instance.choices.index(instance.answer) for i, instance in enumerate(instances)}


def _member(
    job: Job,
    base: str,
    config: PetConfig,
    views: Sequence[Sequence[Patterned]],
    everyone: Sequence[Instance],
    number: int,
    generation: int,
    given: Mapping[int, int],
) -> dict[str, Any]:
    """One pattern's model on its training set: its scores of every row, and its accuracy before and after."""
    from didact import closed

    pattern, seed = divmod(number, config.seeds)
    name = f"pattern-{pattern + 1}-seed-{seed}" + (f"-generation-{generation}" if generation else "")
    rows = views[pattern]
    settings = job.settings.model_copy(update={"max_steps": config.steps, "batch_size": config.batch_size,
               "epochs": float(config.steps * config.batch_size), "seed": job.settings.seed + seed})  # fmt: skip

    def make() -> dict[str, Any]:
        loaded, order = job.fresh(), sorted(given)
        forks = [rows[i].fork([float(k == given[i]) for k in range(len(rows[i].labels))]) for i in order]
        data = [rows[i].tokens for i in order]
        before = _accuracy(closed.ask(loaded, data, forks), [given[i] for i in order])
        if order:
            objective = closed.Closed(forks, text=config.text_weight)
            job.train(loaded, FullConfig(), data, settings, name, objective=objective)
        asked = [one.fork([1.0 / len(one.labels)] * len(one.labels)) for one in rows]
        scores = closed.ask(loaded, [one.tokens for one in rows], asked)
        after = _accuracy([scores[i] for i in order], [given[i] for i in order])
        return {"scores": scores, "before": before, "after": after}

    ids = [instance.id for instance in everyone]
    key = digest([base, config.model_dump(), settings.model_dump(), ids, sorted(given.items())])
    found: dict[str, Any] = job.kept(name, key, make)
    job.say(f"{name}: {len(given):,} labels, {100 * found['before']:.0f}% of them right before, "
            f"{100 * found['after']:.0f}% after")  # fmt: skip
    return found


def _accuracy(scores: Sequence[Sequence[float]], right: Sequence[int]) -> float:
    hits = sum(max(range(len(row)), key=row.__getitem__) == label for row, label in zip(scores, right, strict=True))
    return hits / len(right) if right else 0.0


def _weights(found: Sequence[Mapping[str, Any]], config: PetConfig) -> list[float]:
    if config.weighting == "wmean" and any(one["before"] for one in found):
        return [float(one["before"]) for one in found]
    return [1.0] * len(found)


def averaged(scores: Sequence[Sequence[Sequence[float]]], weights: Sequence[float]) -> list[list[float]]:
    """The models' scores of every row's labels, averaged by weight."""
    total = sum(weights)
    return [
        [sum(w * row[k] for w, row in zip(weights, rows, strict=True)) / total for k in range(len(rows[0]))]
        for rows in zip(*scores, strict=True)
    ]


def softmax(values: Sequence[float], temperature: float = 1.0) -> list[float]:
    """How likely each label is."""
    top = max(values)
    shares = [math.exp((value - top) / temperature) for value in values]
    return [share / sum(shares) for share in shares]


def _labelled_by_others(
    found: Sequence[Mapping[str, Any]],
    number: int,
    generation: int,
    labelled: Sequence[Instance],
    everyone: Sequence[Instance],
    config: PetConfig,
    seed: int,
) -> dict[int, int]:
    """The training set of a model's next generation: the labels, and rows that a few other models are sure of.

    As many of each answer as among the labels, grown; drawn by confidence. Without labels, the surest of each answer.
    """
    rng = random.Random(f"generation/{seed}/{generation}/{number}")
    others = [n for n in range(len(found)) if n != number] or [number]
    chosen = rng.sample(others, max(1, round(config.share * len(others))))
    said = averaged([found[n]["scores"] for n in chosen], _weights([found[n] for n in chosen], config))
    names = list(config.verbalizer)
    known = Counter(instance.answer for instance in labelled)
    sure: dict[str, list[tuple[float, int]]] = {name: [] for name in names}
    for i in range(len(labelled), len(everyone)):
        shares = softmax(said[i])
        best = max(range(len(shares)), key=shares.__getitem__)
        sure[everyone[i].choices[best]].append((shares[best], i))
    given = _hard(labelled)
    for name in names:
        times = config.growth**generation
        wanted = round(known[name] * times) - known[name] if labelled else round(config.first * times / config.growth)
        rows = sorted(sure[name], reverse=True)
        if labelled:  # Efraimidis & Spirakis 2006: drawing by weight without replacement
            rows = sorted(rows, key=lambda pair: -(rng.random() ** (1 / max(pair[0], 1e-9))))
        for _, i in rows[: max(0, wanted)]:
            given[i] = everyone[i].choices.index(name)
    return given
