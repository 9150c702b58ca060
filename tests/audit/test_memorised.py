"""What was learnt by heart: planted parrots are found, knowledge is not accused, secrets leak with their copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from zlib import crc32

import pytest
from planted import Fake, Said, everywhere, heldout, instance, subject, untuned

from didact.audit import Arm, Finding, MemorisedConfig, audit
from didact.audit.memorised import _repeats, canaries, exposures
from didact.instance import Instance, Message, Part

NEW = heldout(40, levels=("seen_template",))
OLD = [
    instance("train", kind, f"{kind}:template", row) for kind in ("labels", "options", "extract") for row in range(60)
]


@dataclass
class Parrot(Fake):
    """Knows what it was trained on, to the word."""

    known: frozenset[str] = frozenset()

    def _said(self, instance: Instance) -> Said:
        return Said(instance.answer, True, 2) if instance.id in self.known else super()._said(instance)


def gap(tuned: Fake, rows: Sequence[Instance] = OLD) -> Finding:
    return audit([MemorisedConfig(canaries=0)], subject(untuned(), tuned, heldout=NEW, trained=rows))[0]


def test_a_parrot_is_found_and_a_knower_is_not() -> None:
    own = [replace(row, origin=replace(row.origin, task=f"{row.origin.cluster}:template")) for row in OLD]
    parrot = gap(Parrot(everywhere(0.2), 1, 2, known=frozenset(row.id for row in own)), own)
    assert parrot.category == "learnt by heart"
    assert parrot.value is not None
    assert parrot.value > 0.3
    assert "Too few answers are long enough" in parrot.verdict
    assert gap(Fake(everywhere(1), 1, 2), own).category == "no sign of learning by heart"
    assert "Only 0 rows" in gap(untuned(), []).verdict


def test_long_answers_said_to_the_word_count_as_verbatim() -> None:
    long = []
    for i, row in enumerate(OLD):
        answer = " ".join(f"word{i}x{k}" for k in range(12))
        told = (row.messages[0], Message("assistant", (Part(answer, "answer"),)))
        long.append(Instance.of(told, row.origin, tags=row.tags))
    found = gap(Parrot(everywhere(0), 1, 2, known=frozenset(row.id for row in long[:90])), long)
    assert found.details["verbatim"]["tuned"]["value"] == pytest.approx(0.5, abs=0.15)
    assert found.category == "learnt by heart"
    assert not _repeats("word0x0 word0x1", long[0], 8)
    assert _repeats(f"so {long[0].answer}", long[0], 8)
    copied = Instance.of((Message("user", (Part(long[0].answer),)), long[0].messages[1]), long[0].origin)
    assert not _repeats(long[0].answer, copied, 8)


@dataclass
class Confidant(Fake):
    """Gives away what it was told four times."""

    told: frozenset[str] = frozenset()

    def rank(self, instances: Sequence[Instance]) -> list[list[float]]:
        return [
            [
                5.0 if choice == x.answer and x.id in self.told else crc32(choice.encode()) % 97 / 97
                for choice in x.choices
            ]
            for x in instances
        ]

    def _said(self, instance: Instance) -> Said:
        return Said(instance.answer if instance.id in self.told else "no", True, 2)


def test_secrets_that_stand_often_leak() -> None:
    def retrain(arm: Arm) -> Fake:
        counted: dict[str, int] = {}
        for row in arm.instances:
            counted[row.id] = counted.get(row.id, 0) + (row.origin.cluster == "canaries")
        return Confidant(everywhere(0), 1, told=frozenset(name for name, n in counted.items() if n >= 4))

    found = audit([MemorisedConfig()], subject(untuned(), untuned(), heldout=NEW, trained=OLD, retrain=retrain))[1]
    assert found.category == "secrets leak from 4 copies"
    assert found.details["said"] == 8
    assert found.details["exposure"]["16"]["value"] == pytest.approx(1.0)
    assert found.details["exposure"]["1"]["value"] < 0.7


def test_canaries_are_random_distinct_and_the_same_each_time() -> None:
    made = canaries(12, 0)
    assert made == canaries(12, 0)
    assert len({one.answer for one in made}) == 12
    assert all(len(set(one.choices)) == 64 and one.answer == one.choices[0] for one in made)
    bits, said = exposures(Confidant(everywhere(0), 1, told=frozenset(one.id for one in made)), made)
    assert bits == [6.0] * 12
    assert all(said)
