"""Train the arms of a reproduction with every seed, ask each the same, and keep what it said.

What an arm answered lies in `arms/` under a key made of all that decides it (instances, settings, base, code), so a
reproduction that was killed goes on after the last arm that had answered, and a second one trains nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from didact import fingerprint
from didact.audit.controls import chance
from didact.audit.kept import Remembering
from didact.audit.miniature import Outcome, asked_of
from didact.audit.score import right_choices
from didact.audit.subject import Speaker
from didact.instance import Instance, digest
from didact.reproduce.bank import Bank, bank

if TYPE_CHECKING:
    from didact.console import Console
    from didact.folder import Folder

Asked = Mapping[str, Sequence[Instance]]
Draw = Callable[[int], Sequence[Instance]]
BATCH = 8  # instances of a step: so that a few hundred instances are enough steps to learn from
LONGEST = 8  # tokens of an answer, where an arm does not say otherwise


class Shelf:
    """Answers of one arm and seed in one file, whole or not there; damaged ones are asked anew."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def read(self, key: str) -> dict[str, Any]:
        try:
            found = json.loads((self.folder.path / "arms" / f"{key}.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, key: str, answers: Mapping[str, Any]) -> None:
        self.folder.write(f"arms/{key}.json", json.dumps(answers))


@dataclass(frozen=True)
class Trained:
    """What the models of an arm made of each set of questions; instances: how many different ones they were tuned on.

    said: the answers as they were given, seeds x items.
    """

    name: str
    instances: int
    sets: Mapping[str, Outcome]
    said: Mapping[str, list[list[str]]] = field(default_factory=dict)


@dataclass
class Bench:
    """Where arms are trained. quick: sizes so small that it only shows that everything runs."""

    folder: Folder
    console: Console
    base: str
    seeds: int = 3
    quick: bool = False
    name: str = ""
    speakers: int = field(default=0, init=False)  # trainings of this process

    @cached_property
    def bank(self) -> Bank:
        return bank(5 if self.quick else 24)

    @cached_property
    def decides(self) -> dict[str, str]:
        return {"base": fingerprint.model(self.base), "code": fingerprint.speaking()}

    def size(self, n: int) -> int:
        """A number of training instances."""
        return max(8, n // 32) if self.quick else n

    def items(self, n: int) -> int:
        """A number of questions."""
        return max(6, n // 20) if self.quick else n

    def steps(self, n: int) -> int:
        return max(2, n // 32) if self.quick else n

    def untuned(self, asked: Asked, longest: int = LONGEST, rank: bool = True) -> Trained:
        """The base as it is."""
        speaker = self._speaker("untuned", 0, [], {}, {}, longest)
        return _trained("untuned", 0, [speaker], asked, rank)

    def guess(self, asked: Asked) -> Trained:
        """An answer drawn from each item's own choices, as its expected credit."""
        found = {name: chance(items)[None, :] for name, items in asked.items()}
        sets = {name: Outcome("guess", 0, one, np.ones_like(one), one) for name, one in found.items()}
        return Trained("a guess among the allowed answers", 0, sets)

    def train(
        self,
        name: str,
        draw: Draw,
        asked: Asked,
        method: Mapping[str, Any] | None = None,
        longest: int = LONGEST,
        rank: bool = True,
        **tune: Any,
    ) -> Trained:
        """An arm: the instances that `draw` gives for each seed, tuned on, and all sets of questions asked.

        method: its settings, full tuning if none; tune: settings of the loop. Steps are of 8 instances unless given.
        rank: choices are ranked too; without it there is no content.
        """
        speakers: list[Speaker] = []
        shown = 0
        for seed in range(self.seeds):
            instances = list(draw(seed))
            shown = len({one.id for one in instances})
            settings = {"batch_size": BATCH, "precision": "fp32", **tune, "seed": seed}
            speaker = self._speaker(name, seed, instances, dict(method or {"type": "full"}), settings, longest)
            every = [one for items in asked.values() for one in items]
            speaker.answer(every)  # all at once, so that a model is wanted only once, however often this is stopped
            if rank and (closed := [one for one in every if right_choices(one)]):
                speaker.rank(closed)
            speakers.append(speaker)
        return _trained(name, shown, speakers, asked, rank)

    def speaker(self, name: str, seed: int, instances: Sequence[Instance], longest: int = LONGEST) -> Speaker:
        """The model of an arm of full tuning itself, to be asked something else."""
        settings = {"batch_size": BATCH, "precision": "fp32", "seed": seed}
        return self._speaker(name, seed, instances, {"type": "full"}, settings, longest)

    def _speaker(
        self,
        name: str,
        seed: int,
        instances: Sequence[Instance],
        method: Mapping[str, Any],
        settings: Mapping[str, Any],
        longest: int,
    ) -> Speaker:
        ids = [one.id for one in instances]
        key = digest([self.decides, ids, method, settings if ids else {}, longest])

        def make() -> Speaker:
            return self._tuned(name, seed, instances, method, settings, longest)

        return Remembering(make, Shelf(self.folder), key)

    def _tuned(
        self,
        name: str,
        seed: int,
        instances: Sequence[Instance],
        method: Mapping[str, Any],
        settings: Mapping[str, Any],
        longest: int,
    ) -> Speaker:
        from didact.infer import Answerer
        from didact.methods import METHODS
        from didact.model import load
        from didact.starter import base_folder
        from didact.tune import TuneConfig, tune

        loaded = load(str(base_folder()) if self.base == "starter" else self.base)
        if instances:
            told, began = f"{name}, seed {seed + 1} of {self.seeds}", time.monotonic()
            config = METHODS[method["type"]].config.model_validate(method)
            with self.console.progress("") as update:
                result = tune(
                    loaded,
                    config,
                    loaded.renderer.render_all(instances),
                    TuneConfig.model_validate(settings),
                    report=lambda step: update(step.step, step.steps, f"{told}, loss {step.loss:.3f}"),
                )
            seconds = time.monotonic() - began
            self.speakers += 1
            size = f"{len(instances):,} instances"
            self.console.say(f"{self.name}  {told}: {size}, loss {result.loss:.3f}, {seconds:.0f} s", "aside")
        return Answerer(loaded, max_new_tokens=longest)


class _Unranked:
    """A speaker that is only asked for answers."""

    def __init__(self, speaker: Speaker) -> None:
        self.answer, self.text_loss = speaker.answer, speaker.text_loss

    def rank(self, instances: Sequence[Instance]) -> Sequence[Sequence[float]]:
        return [[] for _ in instances]


def _trained(name: str, instances: int, speakers: Sequence[Speaker], asked: Asked, rank: bool) -> Trained:
    if not rank:
        speakers = [_Unranked(speaker) for speaker in speakers]
    sets = {what: asked_of(name, speakers, items, instances) for what, items in asked.items()}
    said = {
        what: [[one.text for one in speaker.answer(items)] for speaker in speakers] for what, items in asked.items()
    }
    if not rank:
        sets = {what: replace(one, content=np.full_like(one.content, np.nan)) for what, one in sets.items()}
    return Trained(name, instances, sets, said)
