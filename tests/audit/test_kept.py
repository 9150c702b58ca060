"""What was answered once is not asked again: not by another probe, not by an audit that goes on after a kill."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from planted import Fake, Said, everywhere, heldout, subject, texts, untuned

from didact.audit import Arm
from didact.audit.kept import BATCH, Remembering, remembering
from didact.instance import Instance


class Shelf:
    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def read(self, key: str) -> dict[str, Any]:
        return dict(self.kept.get(key, {}))

    def write(self, key: str, answers: Mapping[str, Any]) -> None:
        self.kept[key] = dict(answers)


def test_a_second_audit_neither_trains_nor_asks_what_the_first_did() -> None:
    shelf, trained = Shelf(), list[str]()
    items = heldout(5)

    def retrain(arm: Arm) -> Fake:
        trained.append(arm.name)
        return Fake(everywhere(0.5), 0.9, 4)

    def once(name: str, rows: Sequence[Instance], changes: Mapping[str, Any]) -> list[str]:
        told = subject(
            untuned(), untuned(), retrain=retrain, shelf=shelf, keys=("b", "t"), key=lambda a: str(a.changes)
        )
        who = remembering(told)
        assert who.retrain is not None
        speaker = who.retrain(Arm(name, rows, changes))
        who.base.text_loss(texts(3))
        who.base.rank(items)
        return [reply.text for reply in speaker.answer(items)]

    first = once("one", items, {})
    assert trained == ["one"]
    assert once("one", items, {}) == first
    assert trained == ["one"]
    assert set(shelf.kept) == {"b", "{}"}
    once("other", items, {"tune.seed": 1})
    assert trained == ["one", "other"]


def test_a_kill_loses_a_batch_at_most() -> None:
    shelf, items = Shelf(), heldout(60)
    assert len(items) > BATCH

    class Dies(Fake):
        def answer(self, instances: Sequence[Instance]) -> list[Said]:
            if self.asked:
                raise KeyboardInterrupt
            return super().answer(instances)

    with contextlib.suppress(KeyboardInterrupt):
        Remembering(lambda: Dies(everywhere(1), 1), shelf, "k").answer(items)
    again = Fake(everywhere(1), 1)
    assert len(Remembering(lambda: again, shelf, "k").answer(items)) == len(items)
    assert again.asked == len(items) - BATCH


def test_without_a_key_nothing_is_kept_and_arms_are_told_apart_by_their_content() -> None:
    shelf, trained = Shelf(), list[str]()

    def retrain(arm: Arm) -> Fake:
        trained.append(arm.name)
        return untuned()

    who = remembering(replace(subject(untuned(), untuned(), retrain=retrain), shelf=shelf))
    assert who.retrain is not None
    for arm in (Arm("a", heldout(1)), Arm("b", heldout(1)), Arm("c", heldout(1)[1:]), Arm("d", heldout(1), {"x": 1})):
        who.retrain(arm).answer(heldout(1))
    assert trained == ["a", "c", "d"]
    who.base.answer(heldout(1))
    assert "" not in shelf.kept
