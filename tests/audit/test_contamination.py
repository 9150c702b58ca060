"""A leaked test set is named, with its source and what it did to the gain; clean data are not accused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from planted import Fake, everywhere, heldout, subject, trained, untuned

from didact.audit import ContaminationConfig, Finding, Overlap, audit
from didact.audit.seeds import gap_interval
from didact.auditing import _overlap
from didact.instance import Instance, Message, Origin, Part

ITEMS = heldout(40)


@dataclass
class Leaky(Fake):
    def _choice(self, instance: Instance) -> int:
        return instance.choices.index(instance.answer) if _leaked(instance) else super()._choice(instance)


def _leaked(instance: Instance) -> bool:
    return instance.origin.task.startswith("options") and instance.tags["level"] == "heldout_task"


def find(tuned: Fake, leaks: bool = True) -> Finding:
    rows = trained()

    def overlap(items: Sequence[Instance], n: int, near: float) -> list[Overlap | None]:
        return [
            Overlap("same as a training instance", 1.0, rows[0].id) if leaks and _leaked(i) else None for i in items
        ]

    return audit([ContaminationConfig()], subject(untuned(), tuned, heldout=ITEMS, trained=rows, overlap=overlap))[0]


def test_a_leak_is_named_with_what_it_did() -> None:
    found = find(Leaky(everywhere(0), 1, 2))
    assert found.category == "contaminated"
    (place,) = found.details["places"]
    assert (place["overlap"], place["items"]) == (40, 40)
    assert f"most in {place['source']} (40 of 40)" in found.verdict
    assert found.low is not None
    assert found.low > 0.2
    assert found.examples[0]["near"][0]["id"] == trained()[0].id


def test_overlap_that_does_not_help_is_told_apart_and_none_is_none() -> None:
    assert find(Fake(everywhere(0.9), 1, 2)).category in ("overlap, its effect open", "overlap without a larger gain")
    clean = find(Leaky(everywhere(0), 1, 2), leaks=False)
    assert clean.category == "no overlap worth a mention"
    assert "0 items of 480" in clean.verdict
    (none,) = audit([ContaminationConfig()], subject(untuned(), untuned()))
    assert none.category == "cannot be said"


def test_the_index_is_the_one_that_keeps_leaks_out() -> None:
    def row(text: str, number: int) -> Instance:
        told = (Message("user", (Part(text, "input"),)), Message("assistant", (Part("yes", "answer"),)))
        return Instance.of(told, Origin("f", number))

    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    found = _overlap([row(long, 1), row("other words", 2)], [row(long, 3), row("not this at all", 4)], 13, 0.8)
    assert found[0] is not None
    assert (found[0].near, found[1]) == (row(long, 1).id, None)
    assert "training instance" in found[0].reason


def test_a_gap_of_unpaired_items() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    here, there = rng.normal(0.5, 0.3, 80), rng.normal(0.2, 0.3, 60)
    gap = gap_interval(here, there)
    assert gap.value == pytest.approx(float(here.mean() - there.mean()))
    assert 0 < gap.low < 0.3 < gap.high + 0.2
    twice = gap_interval(np.repeat(here, 2), np.repeat(there, 2), list(np.arange(160) // 2), list(np.arange(120) // 2))
    assert twice.error == pytest.approx(gap.error)
    held = [
        g.low <= 0.1 <= g.high
        for g in (gap_interval(rng.normal(0.1, 1, 12), rng.normal(0, 0.3, 30)) for _ in range(400))
    ]
    assert 0.92 <= np.mean(held) <= 0.98
    assert gap_interval(np.ones(30), np.ones(40)).low < 0
