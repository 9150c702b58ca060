"""Each question is put to a model once: answers are remembered between probes, and kept between audits.

A model that has answered everything before is not loaded, and an arm that has is not trained again: so an audit that
was killed goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from didact.audit.subject import Arm, Reply, Shelf, Speaker, Subject
from didact.instance import Instance, digest

T = TypeVar("T")
BATCH = 512  # questions after which what was answered is kept, so that a kill loses little


@dataclass(frozen=True, slots=True)
class Kept:
    """A reply as it was given."""

    text: str
    stopped: bool
    tokens: int


class Remembering:
    """A speaker that answers each instance and reads each text once, and is made only if something new is asked."""

    def __init__(self, make: Callable[[], Speaker], shelf: Shelf | None = None, key: str = "") -> None:
        self.make, self.shelf, self.key = make, shelf if key else None, key
        self.speaker: Speaker | None = None
        found = self.shelf.read(key) if self.shelf else {}
        self.answers = {name: Kept(*told) for name, told in found.get("answers", {}).items()}
        self.ranks: dict[str, list[float]] = dict(found.get("ranks", {}))
        self.losses: dict[str, tuple[float, int]] = {name: (a, b) for name, (a, b) in found.get("losses", {}).items()}

    def answer(self, instances: Sequence[Instance]) -> Sequence[Reply]:
        def ask(some: Sequence[Instance]) -> list[Kept]:
            return [Kept(reply.text, reply.stopped, reply.tokens) for reply in self._awake().answer(some)]

        return self._recall(self.answers, {i.id: i for i in instances}, ask, [i.id for i in instances])

    def rank(self, instances: Sequence[Instance]) -> Sequence[Sequence[float]]:
        def ask(some: Sequence[Instance]) -> list[list[float]]:
            return [list(scores) for scores in self._awake().rank(some)]

        return self._recall(self.ranks, {i.id: i for i in instances}, ask, [i.id for i in instances])

    def text_loss(self, texts: Sequence[str]) -> Sequence[tuple[float, int]]:
        names = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16] for text in texts]
        given = dict(zip(names, texts, strict=True))
        return self._recall(self.losses, given, lambda some: list(self._awake().text_loss(some)), names)

    def _awake(self) -> Speaker:
        if self.speaker is None:
            self.speaker = self.make()
        return self.speaker

    def _recall(
        self, known: dict[str, T], given: dict[str, Any], ask: Callable[[Sequence[Any]], Sequence[T]], names: list[str]
    ) -> list[T]:
        missing = [name for name in given if name not in known]
        for start in range(0, len(missing), BATCH):
            some = missing[start : start + BATCH]
            known.update(zip(some, ask([given[name] for name in some]), strict=True))
            self._keep()
        return [known[name] for name in names]

    def _keep(self) -> None:
        if self.shelf is not None:
            answers = {name: [kept.text, kept.stopped, kept.tokens] for name, kept in self.answers.items()}
            self.shelf.write(self.key, {"answers": answers, "ranks": self.ranks, "losses": self.losses})


def remembering(subject: Subject) -> Subject:
    """The subject with speakers that answer each instance once, however many probes ask and however often it starts."""
    arms: dict[str, Remembering] = {}

    def retrain(arm: Arm) -> Speaker:
        assert subject.retrain is not None, "only wrapped where there is one"
        train = subject.retrain
        key = subject.key(arm) if subject.key else digest([[i.id for i in arm.instances], dict(arm.changes)])
        if key not in arms:
            arms[key] = Remembering(lambda: train(arm), subject.shelf, key)
        return arms[key]

    def sampled(who: str, temperature: float, seed: int) -> Speaker:
        assert subject.sampled is not None, "only wrapped where there is one"
        draw, own = subject.sampled, subject.keys[who == "tuned"]
        key = own and f"{own}-{temperature:g}-{seed}"
        return Remembering(lambda: draw(who, temperature, seed), subject.shelf, key)

    base, tuned = (
        Remembering(lambda speaker=speaker: speaker, subject.shelf, key)  # type: ignore[misc]
        for speaker, key in zip((subject.base, subject.tuned), subject.keys, strict=True)
    )
    return replace(
        subject,
        base=base,
        tuned=tuned,
        retrain=retrain if subject.retrain else None,
        sampled=sampled if subject.sampled else None,
    )
