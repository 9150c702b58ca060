"""The false promise: does imitating a teacher pass on what it knows, or how it sounds?

Claim: Tuned on broad data from a stronger teacher, a model takes on its style at once, while its knowledge on tasks
    that the data do not cover stays as it was; data aimed at a task do raise that task.
Miniature: A teacher that knows 150 facts which the base cannot know (which animal an invented word keeps) and answers
    everything in a manner of its own. Broad: 96 and 480 instances of the starter's tasks in that manner, none of them
    about these facts, in 60 steps of 8 both, so that the 96 are read five times. Aimed: the facts themselves, in
    three wordings each, three times. Asked: the facts in a wording never trained on. Facts: the right answer of four
    is ranked first. Style: agreement with the teacher in length, case, closing mark and opening word.
Expected: With 480 broad instances style rises and lies within 5 points of that with 96; facts are not more than 10
    points above untuned, while aimed data raise them.
Limits: Facts are asked as a choice of four, so a guess is right in 25 of 100. There is one size of base; the paper's
    last point, that a larger base helps more than more imitation, was not tried. Aimed data hold the very facts that
    are asked. A first try gave the 96 one pass, twelve steps, too few for style or anything else; then the steps were
    made equal.
Paper: Gudibande et al. 2023, arXiv 2305.15717.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import numpy as np

from didact.audit.imitation import style
from didact.audit.interval import Floats
from didact.audit.measure import groups_of
from didact.audit.score import words as words_of
from didact.audit.seeds import seed_interval
from didact.instance import Instance, Origin
from didact.reproduce.bank import answered, asking, words
from didact.reproduce.bench import Bench, Trained
from didact.reproduce.seen import Row, Seen, lead
from didact.reproduce.sign import Sign

AMOUNTS = (96, 480)
FACTS, CHOICES, PASSES = 150, 4, 3
LONGEST = 20


def reproduce(bench: Bench) -> Seen:
    """Two amounts of manner, and the facts themselves."""
    asked = {"own": _facts(bench.items(FACTS) * (1 + bench.quick), words()["facts"][-1:])}
    aimed = _facts(len(asked["own"]), words()["facts"][:-1])

    def broad(n: int, seed: int) -> list[Instance]:
        return [mannered(one) for one in bench.bank.draw(bench.size(n))(seed)]

    base = bench.untuned(asked, LONGEST)
    arms = {}
    for n in AMOUNTS:
        draw = partial(broad, n)
        arms[n] = bench.train(f"broad, {n}", draw, asked, longest=LONGEST, **_passes(n))
    passes = 1 if bench.quick else PASSES
    facts = bench.train(f"aimed, {PASSES} passes", lambda seed: aimed, asked, longest=LONGEST, epochs=passes)
    openings = frozenset({words_of(one.answer)[0] for one in asked["own"]})
    styles = {arm.name: _style(arm, asked["own"], openings) for arm in (base, *arms.values(), facts)}
    most, least = arms[AMOUNTS[-1]], arms[AMOUNTS[0]]
    rows = groups_of(asked["own"])
    known = lead(base, most, asked["own"], "own", "content")
    signs = [
        Sign("480 broad ones raise the style", "more", seed_interval(styles[most.name] - styles[base.name], rows)),
        Sign(
            "style is the same with 480 as with 96", "same", seed_interval(styles[most.name] - styles[least.name], rows)
        ),
        Sign("untuned knows no less than after 480 broad ones", "no less", known, 0.1),
        Sign(
            "aimed data raise the facts over 480 broad ones", "more", lead(facts, most, asked["own"], "own", "content")
        ),
    ]

    def line(arm: Trained) -> Row:
        told = seed_interval(styles[arm.name], rows, span=(0.0, 1.0))
        right = arm.sets["own"]
        shown = {
            "style, %": told,
            "facts ranked first, %": right.mean(asked["own"], "content"),
            "facts written, %": right.mean(asked["own"]),
        }
        return Row(arm.name, arm.instances, shown)

    return Seen([line(arm) for arm in (base, *arms.values(), facts)], signs)


def _passes(n: int) -> dict[str, Any]:
    """As many readings for every amount."""
    return {} if n == AMOUNTS[-1] else {"epochs": AMOUNTS[-1] / n}


def mannered(instance: Instance) -> Instance:
    """The same right answer as this teacher would put it."""
    choices = [_put(choice) for choice in instance.choices]
    return answered(instance, _put(instance.answer), choices)


def _put(answer: str) -> str:
    return str(words()["manner"]).format(answer=answer)


def _facts(n: int, wordings: Sequence[str]) -> list[Instance]:
    """Facts of the teacher alone, asked in some wordings."""
    from didact.starter.world import world

    rng = Random("guards")
    animals = sorted(world().kinds["animal"])
    made = []
    for i, word in enumerate(world().labels[:n]):
        some = rng.sample(animals, CHOICES)
        for wording in wordings:
            origin = Origin("guards", i + 1, task="guards", cluster="guards")
            one = asking(wording.format(word=word), _put(some[0]), origin, [_put(animal) for animal in sorted(some)])
            made.append(replace(one, tags={"level": "heldout_cluster"}))
    return made


def _style(arm: Trained, asked: Sequence[Instance], openings: frozenset[str]) -> Floats:
    """Seeds x items: agreement with the teacher's manner."""

    def close(texts: Sequence[str]) -> list[float]:
        return [float(np.mean(style(text, one.answer, openings))) for text, one in zip(texts, asked, strict=True)]

    return np.array([close(texts) for texts in arm.said["own"]])
