"""An audit that must be done by a given time: which probes, at which sizes, and what is left out.

Work is counted in answers and in trained instances, from the settings alone; what each costs is measured on this model.
The recipe's own probes come first, then the others in the order of their cost. A probe that does not fit is tried at
half and at a quarter of its size before it is left out. Estimates err, so before each probe the clock is looked at.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from didact.audit.measure import sample
from didact.audit.subject import Finding, Subject
from didact.errors import UsageError
from didact.instance import Instance

SCALES = (1.0, 0.5, 0.25)
TRIED = 16  # items answered to see how long an answer takes
LEVELS = 4
FLOORS = {
    "items": 30,
    "items_per_level": 30,
    "arm_size": 50,
    "size": 80,
    "largest": 64,
    "random_label": 0,
    "word_items": 0,
}
FREE = ("contamination",)  # beside the index, next to nothing
UNASKED = ("external",)  # has nothing to ask until the recipe names tasks
QUESTION = "What was left out for want of time?"


@dataclass(frozen=True)
class Work:
    """Answers asked for, of all models together, and instances trained on, each time counted."""

    answers: float
    trained: float


@dataclass(frozen=True)
class Plan:
    """Probes with the seconds each may need, and those that are left out, with why."""

    probes: tuple[tuple[Any, float], ...]
    left_out: Mapping[str, str]
    notes: tuple[str, ...] = ()


def seconds_of(text: str) -> float:
    """`90s`, `10m` or `1.5h` in seconds; UsageError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|h)\s*", text)
    if not found or float(found.group(1)) <= 0:
        raise UsageError(f'"{text}" is no time', "write it as 90s, 10m or 1.5h", field="audit_budget")
    return float(found.group(1)) * {"s": 1, "m": 60, "h": 3600}[found.group(2)]


def work_of(config: Any, heldout: float = math.inf, trained: float = math.inf) -> Work:
    """How much a probe will ask and train, at most, where so many instances are held out and trained on."""
    n = min(getattr(config, "items", 0), heldout)
    levels = min(getattr(config, "items_per_level", 0) * LEVELS, heldout)

    def arm(size: int) -> float:
        return min(size, trained)

    arms: Mapping[str, Callable[[], Work]] = {
        "gain": lambda: Work(
            levels * (3 + bool(config.few_shot) + bool(config.random_label)),
            arm(config.random_label),
        ),
        "stop": lambda: Work(levels * 0.2, 0),  # shares gain's answers
        "forgetting": lambda: Work(config.texts * 2 / 5, 0),  # reading a text costs less than an answer
        "added": lambda: Work(levels * 2, arm(1000)),
        "sensitivity": lambda: Work(n * config.variants * len(config.ways) * 2, 0),
        "blind": lambda: Work(n * 3 * 2 + min(config.yes_no, heldout) * 2, 0),
        "surface": lambda: Work(
            n * 8 + config.word_items * 20 + n * 2 * (len(config.arms) + 1) * config.seeds * bool(config.arms),
            arm(config.arm_size) * (len(config.arms) + 1) * config.seeds * bool(config.arms),
        ),
        "calibration": lambda: Work(n * 0.5, 0),
        "contamination": lambda: Work(n * 4, 0),
        "domain": lambda: Work(n * 4 + 80, 0),
        "memorised": lambda: Work(n * 4, arm(config.arm_size) * bool(config.canaries)),
        "refusal": lambda: Work(n * 2 + 60, 0),
        "adherence": lambda: Work(n * (6 + config.samples) + 32, 0),
        "imitation": lambda: Work(n * (4 + 2 * len(config.amounts)), sum(map(arm, config.amounts))),
        "quality": lambda: Work(n * (4 * config.seeds + 1), arm(config.size) * 4 * config.seeds),
        "size": lambda: Work(
            n * (config.rungs * config.seeds + 1) * len(config.ladders),
            2 * arm(config.largest) * config.seeds * len(config.ladders),
        ),
        "source": lambda: Work(
            n * (config.parts + 1) * config.seeds, arm(config.size) * (config.parts + 1) * config.seeds
        ),
        "judge": lambda: Work(n * 2, 0),
        "external": lambda: Work(config.limit * len(config.tasks) * 4, 0),
    }
    return arms[config.type]()


def planned(
    configs: Sequence[Any],
    table: Mapping[str, type[BaseModel]],
    seconds: float,
    paces: tuple[float, float],
    sizes: tuple[float, float] = (math.inf, math.inf),
) -> Plan:
    """Which probes fit into so many seconds. paces: seconds per answer and per instance trained on; sizes: how many
    instances are held out, and how many were trained on.

    The pace of training may be 0 where it is not known; probes that train are then left out.
    """
    answer, train = paces

    def cost_of(config: Any) -> float:
        return _cost(work_of(config, *sizes), config.type, answer, train or 0.1)

    asked = {config.type for config in configs}
    others = [table[name]() for name in table if name not in asked and name not in UNASKED]
    others.sort(key=lambda config: (work_of(config).trained > 0, cost_of(config)))
    chosen: list[tuple[Any, float]] = []
    left: dict[str, str] = {}
    notes: list[str] = []
    rest = seconds
    for config in [*configs, *others]:
        if work_of(config).trained and not train:
            left[config.type] = "how long training takes is not known"
            continue
        tried = ((scale, scaled(config, scale)) for scale in SCALES)
        fitting = next(((scale, small) for scale, small in tried if cost_of(small) <= rest), None)
        if fitting is None:
            left[config.type] = f"needs about {_told(cost_of(scaled(config, SCALES[-1])))} at its smallest"
            continue
        scale, small = fitting
        cost = cost_of(small)
        chosen.append((small, cost))
        rest -= cost
        if scale < 1:
            notes.append(f"{config.type} at {'half' if scale == 0.5 else 'a quarter'} of its size")
    return Plan(tuple(chosen), left, tuple(notes))


def scaled(config: Any, scale: float) -> Any:
    """The settings with fewer items and fewer training instances, not below what the probe needs."""
    if scale == 1:
        return config
    fields: Mapping[str, Any] = type(config).model_fields
    changes: dict[str, Any] = {
        name: max(min(getattr(config, name), floor), int(getattr(config, name) * scale))
        for name, floor in FLOORS.items()
        if name in fields
    }
    if config.type == "imitation":
        changes["amounts"] = [max(20, int(amount * scale)) for amount in config.amounts]
    return config.model_copy(update=changes)


def pace(subject: Subject) -> float:
    """Seconds that an answer takes, measured on a few held-out items with both models."""
    items: list[Instance] = sample(subject.heldout, TRIED, subject.seed)
    if not items:
        return 0.01
    start = time.monotonic()
    for speaker in (subject.base, subject.tuned):
        speaker.answer(items)
    return max(1e-4, (time.monotonic() - start) / (2 * len(items)))


def left_out(plan: Plan, seconds: float, spent: float) -> Finding:
    """What the budget cost, as a finding."""
    probes = ", ".join(f"{name} ({why})" for name, why in plan.left_out.items()) or "nothing"
    smaller = f" Made smaller: {', '.join(plan.notes)}." if plan.notes else ""
    verdict = (
        f"{'Complete' if not plan.left_out else 'Cut short'}. Of {_told(seconds)} the audit took {_told(spent)}. "
        f"Left out: "
        f"{probes}.{smaller}"
    )
    category = "complete" if not plan.left_out else "cut short"
    details = {"category": category, "left out": dict(plan.left_out), "smaller": list(plan.notes)}
    return Finding("budget", QUESTION, verdict, details=details)


def _cost(work: Work, probe: str, answer: float, train: float) -> float:
    return work.answers * answer * (0.05 if probe in FREE else 1) + work.trained * train


def _told(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
