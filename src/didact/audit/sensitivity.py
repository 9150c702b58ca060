"""How much do wording, layout and the order of options matter? Median and spread over ways to ask the same.

Wordings are the task's own templates (T0's question, Sanh et al. 2021); layouts change white space, case and frame
only (Sclar et al. 2023); orders permute the options as they stand in the prompt. Sensitivity is MultiInstruct's: the
standard deviation over ways divided by the mean, averaged over tasks (Xu et al. 2022, arXiv 2212.10773).

Limits: layouts are few and English; a task with one template has no wordings.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from itertools import groupby, pairwise
from typing import Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field

from didact.audit.exhibit import table, whiskers
from didact.audit.few_shot import asked_so
from didact.audit.interval import Floats, Interval, mean_interval
from didact.audit.measure import failed, groups_of, measure, sample, task_of
from didact.audit.subject import Finding, Speaker, Subject
from didact.audit.verdict import count, percent
from didact.instance import Instance, Message, Part

Way = Literal["wordings", "layouts", "orders"]
QUESTIONS: dict[Way, str] = {
    "wordings": "Does it matter in which of its wordings a task is asked?",
    "layouts": "Does it matter how a question is laid out?",
    "orders": "Does the order of the options matter?",
}


class SensitivityConfig(BaseModel):
    """The same questions in other wordings, layouts and orders of options."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["sensitivity"] = "sensitivity"
    ways: list[Way] = Field(["wordings", "layouts", "orders"], min_length=1, description="what is varied")
    items: int = Field(60, ge=1, description="held-out rows asked per way, spread over tasks")
    variants: int = Field(5, ge=2, le=8, description="ways to ask each")
    min_items: int = Field(20, ge=5, description="with fewer items than this nothing is said")
    tolerance: float = Field(0.1, gt=0, lt=1, description="the share of answers that may turn with the way of asking")


@dataclass(frozen=True)
class Asked:
    """Items x ways: what each item scored, asked in each way."""

    scores: Floats

    @property
    def by_way(self) -> Floats:
        return np.asarray(self.scores.mean(axis=0))

    @property
    def turns(self) -> Floats:
        """Per item: how far its score moves with the way of asking; 1 is right in one and wrong in another."""
        return np.asarray(self.scores.max(axis=1) - self.scores.min(axis=1))

    def sensitivity(self, tasks: Sequence[str]) -> float:
        members: dict[str, list[int]] = defaultdict(list)
        for i, task in enumerate(tasks):
            members[task].append(i)
        means = [self.scores[chosen].mean(axis=0) for chosen in members.values()]
        told = [float(mean.std() / mean.mean()) for mean in means if mean.mean() > 0]
        return float(np.mean(told)) if told else 0.0


def sensitivity(config: SensitivityConfig, subject: Subject) -> list[Finding]:
    """One finding per way: the share of answers that turn, tuned beside base; median and quartiles over the ways."""
    made: dict[Way, Callable[[], list[list[Instance]]]] = {
        "wordings": lambda: _wordings(config, subject),
        "layouts": lambda: _layouts(config, subject),
        "orders": lambda: _orders(config, subject),
    }
    return [_finding(config, subject, way, made[way]()) for way in config.ways]


def _finding(config: SensitivityConfig, subject: Subject, way: Way, variants: list[list[Instance]]) -> Finding:
    question = QUESTIONS[way]
    fitting = subject.readable([one for ways in variants for one in ways])
    width = len(variants[0]) if variants else 0
    variants = [ways for i, ways in enumerate(variants) if all(fitting[i * width : (i + 1) * width])]
    if len(variants) < config.min_items:
        why = {
            "wordings": "give tasks several templates",
            "layouts": "raise build.heldout_rows",
            "orders": "let templates name their options",
        }[way]
        return failed("sensitivity", question, f"Only {count(len(variants), 'item')} can be asked so; {why}.")
    firsts = [ways[0] for ways in variants]
    rows, tasks = groups_of(firsts), [task_of(one) for one in firsts]
    base, tuned = (_asked(speaker, variants) for speaker in (subject.base, subject.tuned))
    turns = mean_interval(tuned.turns, rows, seed=subject.seed, span=(0.0, 1.0))
    before = mean_interval(base.turns, rows, seed=subject.seed, span=(0.0, 1.0))
    category = _category(turns, config.tolerance)
    low, middle, high = np.quantile(tuned.by_way, [0.25, 0.5, 0.75])
    base_low, base_middle, base_high = np.quantile(base.by_way, [0.25, 0.5, 0.75])
    told = {"wordings": "wordings", "layouts": "layouts", "orders": "orders of the options"}[way]
    unlearnt = ", when next to nothing was right" if base.by_way.max() < 0.05 else ""
    verdict = (
        f"{category.capitalize()}. Asked in {width} {told}, {percent(turns.value)} [{percent(turns.low)}, "
        f"{percent(turns.high)}] of the tuned model's scores turn with the way of asking, "
        f"before {percent(before.value)}{unlearnt} (n={turns.n}). Median over the {told} {percent(middle)}, quartiles "
        f"{percent(low)} to {percent(high)}; before "
        f"{percent(base_middle)}, {percent(base_low)} to {percent(base_high)}."
    )
    if category == "cannot be told apart":
        verdict += f" About {turns.items_for(config.tolerance / 2):,} items would settle it."
    ways = [f"way {i + 1}" for i in range(width)] if way != "layouts" else list(_named(width))
    each = [
        (name, f"before {percent(float(base.by_way[i]))}", mean_interval(tuned.scores[:, i], rows, span=(0.0, 1.0)))
        for i, name in enumerate(ways)
    ]
    spread = {"tuned": tuned.sensitivity(tasks), "base": base.sensitivity(tasks)}
    details = {
        "category": category,
        "way": way,
        "sensitivity": spread,
        "median": {"tuned": float(middle), "base": float(base_middle)},
        "quartiles": {"tuned": [float(low), float(high)], "base": [float(base_low), float(base_high)]},
        "detectable": turns.detectable,
        "pictures": [whiskers(each, "percent", f"The tuned model's score by {told}, with 95% intervals.")],
        "tables": [
            table(
                "Over the ways",
                ["", "median, %", "lower quartile", "upper quartile", "lowest", "highest", "sensitivity"],
                [_row("before", base, spread["base"]), _row("after", tuned, spread["tuned"])],
            )
        ],
    }
    return Finding(
        "sensitivity", question, verdict, turns.value, turns.low, turns.high, before.value, turns.n, [], details
    )


def _category(turns: Interval, tolerance: float) -> str:
    if turns.high <= tolerance:
        return "robust"
    return "sensitive" if turns.low > tolerance else "cannot be told apart"


def _row(name: str, asked: Asked, spread: float) -> list[str | float]:
    low, middle, high = (100 * float(q) for q in np.quantile(asked.by_way, [0.25, 0.5, 0.75]))
    return [name, middle, low, high, 100 * float(asked.by_way.min()), 100 * float(asked.by_way.max()), spread]


def _asked(speaker: Speaker, variants: Sequence[Sequence[Instance]]) -> Asked:
    flat = [one for ways in variants for one in ways]
    return Asked(measure(speaker, flat).score.reshape(len(variants), -1))


def _pool(config: SensitivityConfig, subject: Subject) -> list[Instance]:
    """Held-out instances, one per row, spread over tasks."""
    seen: dict[object, Instance] = {}
    for instance, row in zip(subject.heldout, groups_of(subject.heldout), strict=True):
        seen.setdefault(row, instance)
    return sample(list(seen.values()), config.items, subject.seed)


def _wordings(config: SensitivityConfig, subject: Subject) -> list[list[Instance]]:
    """The rows in as many wordings of their task as are wanted; tasks with fewer are left out."""
    if subject.reworded is None:
        return []
    pool = _pool(config, subject)
    found = (list({one.id: one for one in ways}.values()) for ways in subject.reworded(pool))
    return [ways[: config.variants] for ways in found if len(ways) >= config.variants]


def _layouts(config: SensitivityConfig, subject: Subject) -> list[list[Instance]]:
    frames = list(_named(config.variants).values())
    return [[_laid_out(instance, frame) for frame in frames] for instance in _pool(config, subject)]


def _laid_out(instance: Instance, frame: str) -> Instance:
    """The last question in another frame; pictures stay where they are among its words."""
    context = list(instance.context)
    key = next(key for key in ("{question}", "{one_line}", "{lower}") if key in frame)
    before, _, after = frame.partition(key)
    parts: list[Part] = []
    for kind, some in groupby(context[-1].parts, key=lambda part: part.kind):
        if kind == "image":
            parts += some
            continue
        text = "".join(part.value for part in some)
        changed = {"{question}": text, "{one_line}": " ".join(text.split()), "{lower}": text.lower()}[key]
        parts.append(Part(changed, "instruction"))
    places = [i for i, part in enumerate(parts) if part.kind == "text"]
    if places:
        parts[places[0]] = Part(before + parts[places[0]].value, "instruction")
        parts[places[-1]] = Part(parts[places[-1]].value + after, "instruction")
    told = [part.value for part in context[-1].parts if part.kind == "text"]
    if "".join(told) == "".join(part.value for part in parts if part.kind == "text"):
        return instance
    context[-1] = Message(context[-1].role, tuple(parts))
    return asked_so(instance, tuple(context), "reworded")


@lru_cache(maxsize=1)
def _frames() -> dict[str, str]:
    return dict(yaml.safe_load(files("didact.audit").joinpath("rewordings.yaml").read_text("utf-8")))


def _named(number: int) -> dict[str, str]:
    return dict(list(_frames().items())[:number])


def _orders(config: SensitivityConfig, subject: Subject) -> list[list[Instance]]:
    pool = [instance for instance in subject.heldout if _places(instance)]
    orders = []
    for instance in sample(pool, config.items, subject.seed):
        rng = random.Random(f"{subject.seed} {instance.id}")
        shuffled = [list(range(len(instance.choices)))]
        for _ in range(config.variants - 1):  # two options have two orders only, so they come again
            shuffled.append(rng.sample(shuffled[0], len(shuffled[0])))
        orders.append([_permuted(instance, order) for order in shuffled])
    return orders


def _places(instance: Instance) -> tuple[int, list[tuple[int, int]]] | None:
    """In which part of the last message all choices stand, each once, and where; None if they do not."""
    if len(instance.choices) < 2:
        return None
    for number, part in enumerate(instance.context[-1].parts if instance.context else ()):
        if part.kind != "text":
            continue
        spans = [(part.value.find(choice), len(choice)) for choice in instance.choices]
        once = all(part.value.count(choice) == 1 for choice in instance.choices)
        ordered = sorted((start, start + length) for start, length in spans)
        apart = all(a[1] <= b[0] for a, b in pairwise(ordered))
        if once and apart:
            return number, ordered
    return None


def _permuted(instance: Instance, order: Sequence[int]) -> Instance:
    """The instance with its options in another order, in the prompt and in its choices."""
    found = _places(instance)
    assert found is not None, "only instances with options in their prompt are permuted"
    number, spans = found
    message = instance.context[-1]
    text = message.parts[number].value
    stood = [text[start:end] for start, end in spans]
    pieces, last = [], 0
    for (start, end), i in zip(spans, order, strict=True):
        pieces += [text[last:start], stood[i]]
        last = end
    part = Part("".join([*pieces, text[last:]]), message.parts[number].slot)
    parts = (*message.parts[:number], part, *message.parts[number + 1 :])
    return asked_so(instance, (*instance.context[:-1], Message(message.role, parts)), "options in another order")
