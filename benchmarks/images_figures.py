"""What benchmarks/images.py found, as a table and as RESULT lines: means over items, intervals over tasks and seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from didact.audit.interval import Interval, mean_interval

LEVELS = ("seen_template", "heldout_template", "heldout_task")
KINDS = ("talk", "detail", "reason")
SHOWN = {"seen": "its picture", "other": "another picture", "none": "no picture", "usual": "(always the usual answer)"}
FEW = 4
Rows = dict[str, Any]
Made = dict[int, Rows]
Pairs = list[tuple[int, Rows]]


def report(made: dict[str, Made]) -> Iterator[str]:
    """The lines of a table, then one RESULT for each figure that was aimed at; arms that were not made are left out."""
    yield "| | share right [95%] | by seed | items |\n|---|---|---|---|"
    for arm, name in (("main", "two stages"), ("skipped", "first stage skipped")):
        for level in LEVELS:
            for written, what in ((False, "picture world"), (True, "handwritten digits")):
                yield from told(f"{name}, {what}, {level}", digits(of(made[arm], level=level), written))
    for arm, name in SHOWN.items():
        yield from told(f"shown {name}", of(made["main"], level="blind", arm=arm))
    for kind in ("mixed", *KINDS):
        for asked in (*KINDS, "short"):
            yield from told(f"trained on {kind}, asked {asked}", of(made[f"kind-{kind}"], level=asked))
        yield from told(f"trained on {kind}, all three", three(made[f"kind-{kind}"]))
    for arm in ("aware", "unaware"):
        yield from told(f"one query, {arm} of the question", of(made[arm], level="queries"))
    held = of(made["main"], level="heldout_template")
    tasks = sorted({item["task"] for _, item in held})
    shares = [(task, fmean(item["score"] for _, item in held if item["task"] == task)) for task in tasks]
    yield "\nheld-out wordings by task: " + ", ".join(f"{task.split('/')[-1]} {value:.2f}" for task, value in shares)
    for first in (0, 100, 200, 500, 1000, 2000):
        both = "; ".join(f"{arm} {losses(made[arm], first, first + 100)}" for arm in ("main", "skipped"))
        yield f"mean loss of steps {first + 1} to {first + 100}, by seed: {both}"
    for loss in (1.0, 0.5, 0.25, 0.1):
        both = "; ".join(f"{arm} {reached(made[arm], loss)}" for arm in ("main", "skipped"))
        yield f"step at which the mean loss of the last 100 falls below {loss}, by seed: {both}"
    yield from results(made)


def results(made: dict[str, Made]) -> Iterator[str]:
    main = of(made["main"], level="heldout_template")
    yield from result("images.heldout_templates", share(digits(main, False)), 0.85)
    yield from result("images.handwritten_digits", share(digits(main, True)), 0.85)
    for arm in ("other", "none"):
        blind, usual = of(made["main"], level="blind", arm=arm), of(made["main"], level="blind", arm="usual")
        yield from result(f"images.blind_{arm}_above_usual", apart(blind, usual), None)
    slower = [
        excess(made["main"][seed], made["skipped"][seed]) for seed in sorted(made["skipped"]) if seed in made["main"]
    ]
    if slower:
        line = {"name": "images.first_stage_skipped_loss_more", "value": round(fmean(slower), 4), "by_seed": slower}
        yield "RESULT " + json.dumps(line | {"unit": "nats a token", "target": 0.0, "ok": min(slower) > 0})
    skipped = digits(of(made["skipped"], level="heldout_template"), False)
    yield from result("images.first_stage_gain", apart(digits(main, False), skipped), 0.0)
    for kind in KINDS:
        gained = apart(three(made["kind-mixed"]), three(made[f"kind-{kind}"]))
        yield from result(f"images.mixed_over_{kind}", gained, 0.0)
    gained = apart(of(made["aware"], level="queries"), of(made["unaware"], level="queries"))
    yield from result("images.aware_over_unaware", gained, 0.0)


def result(name: str, found: Interval | None, target: float | None) -> Iterator[str]:
    """A difference must be clear of 0, a share reach its target."""
    if found is None:
        return
    reached = target is not None and (found.low > 0 if target == 0 else found.value >= target)
    line: Rows = {
        "name": name,
        "value": round(found.value, 4),
        "low": round(found.low, 4),
        "high": round(found.high, 4),
    }
    line |= {"unit": "share", "target": target} | ({"ok": reached} if target is not None else {})
    yield "RESULT " + json.dumps(line)


def share(rows: Pairs) -> Interval | None:
    """Mean score."""
    return mean_interval([item["score"] for _, item in rows], groups(rows), span=(0.0, 1.0)) if rows else None


def groups(rows: Pairs) -> list[Any]:
    """Items of one task and seed share a wording and count as one; but where there are few tasks, each by itself."""
    found = [(seed, item["task"]) for seed, item in rows]
    return found if len({task for _, task in found}) > FEW else list(range(len(rows)))


def apart(rows: Pairs, others: Pairs) -> Interval | None:
    """Mean difference of two arms on the same items."""
    if not rows or len(rows) != len(others):
        return None
    assert all((s, a["task"]) == (t, b["task"]) for (s, a), (t, b) in zip(rows, others, strict=True))
    values = [a["score"] - b["score"] for (_, a), (_, b) in zip(rows, others, strict=True)]
    return mean_interval(values, groups(rows))


def told(name: str, rows: Pairs) -> Iterator[str]:
    found = share(rows)
    if found is None:
        return
    seeds = sorted({seed for seed, _ in rows})
    each = ", ".join(f"{fmean(item['score'] for s, item in rows if s == seed):.3f}" for seed in seeds)
    yield f"| {name} | {found.value:.3f} [{found.low:.3f}, {found.high:.3f}] | {each} | {len(rows)} |"


def of(made: Made, **wanted: str) -> Pairs:
    return [
        (seed, item)
        for seed, found in sorted(made.items())
        for item in found["items"]
        if all(item.get(name) == value for name, value in wanted.items())
    ]


def three(made: Made) -> Pairs:
    return [pair for kind in KINDS for pair in of(made, level=kind)]


def digits(rows: Pairs, written: bool) -> Pairs:
    return [(seed, item) for seed, item in rows if (item["task"] == "handwritten") == written]


def losses(made: Made, first: int, last: int) -> str:
    found: Sequence[Sequence[float]] = [one["losses"][first:last] for _, one in sorted(made.items())]
    return " ".join(f"{fmean(some):.3f}" if some else "-" for some in found)


def reached(made: Made, level: float) -> str:
    """The first step by which the mean loss of a hundred steps is below a level."""
    found = []
    for _, one in sorted(made.items()):
        means = (fmean(one["losses"][i - 100 : i]) for i in range(100, len(one["losses"]) + 1))
        found.append(next((i for i, mean in enumerate(means, 100) if mean < level), None))
    return " ".join(map(str, found))


def excess(main: Rows, other: Rows) -> float:
    """How much more loss the other arm has after the first hundred steps, which see the same rows in the same order."""
    return round(fmean(b - a for a, b in zip(main["losses"][100:], other["losses"][100:], strict=True)), 4)
