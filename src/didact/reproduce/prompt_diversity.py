"""Wordings: do more wordings of each task make a model better, and steadier, on wordings it never saw?

Claim: Tuned with more prompts per task, a model does better on prompts it never saw, and its answers depend less on
    the wording.
Miniature: The starter's tasks, 256 instances, in 1, 3 or 6 of their templates (three phrasings in two layouts); which
    ones, is the same for every seed. Asked: new rows of the trained tasks, each in four templates of two phrasings
    never trained on. Unsteadiness is the standard deviation of a row's four scores.
Expected: 6 templates beat 1 on new wordings, and 3 beat 1; unsteadiness falls from 1 to 6.
Limits: The wordings of the starter are short questions, and the base has met its words in prose.
Paper: Sanh et al. 2021 (T0), arXiv 2110.08207; sensitivity: Xu et al. 2022 (MultiInstruct), arXiv 2212.10773.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from didact.audit.interval import Floats
from didact.audit.measure import groups_of, sample
from didact.audit.seeds import seed_interval
from didact.instance import Instance
from didact.reproduce.bank import reworded
from didact.reproduce.bench import Bench, Trained
from didact.reproduce.seen import Row, Seen, lead
from didact.reproduce.sign import Sign

if TYPE_CHECKING:
    from didact.sources import Task
    from didact.template import Template

COUNTS = (1, 3, 6)
TOTAL, ITEMS = 256, 44
TRAINED = 6  # templates of a task that are trained on at most: the first three phrasings; the other four are asked


def reproduce(bench: Bench) -> Seen:
    """A ladder of templates, asked in unseen ones."""
    bank = bench.bank
    rows = sample(bank.near, bench.items(ITEMS), 0)
    wordings = [reworded(rows, bank.rows, _at(TRAINED + i)) for i in range(4)]
    asked = {"own": [one for some in zip(*wordings, strict=True) for one in some]}

    def draw(count: int) -> Callable[[int], list[Instance]]:
        def of(seed: int) -> list[Instance]:
            def any_of(task: Task, one: Instance) -> Template:
                return _at(Random(f"{seed} {one.id}").choice((0, 2, 4, 1, 3, 5)[:count]))(task, one)

            return reworded(bank.draw(bench.size(TOTAL))(seed), bank.rows, any_of)

        return of

    base = bench.untuned(asked, rank=False)
    arms = {n: bench.train(f"{n} template{'s'[: n > 1]}", draw(n), asked, rank=False) for n in COUNTS}
    calm = _unsteady(arms[1]) - _unsteady(arms[6])
    signs = [
        Sign("6 templates beat 1 on new wordings", "more", lead(arms[6], arms[1], asked["own"])),
        Sign("3 templates beat 1 on new wordings", "more", lead(arms[3], arms[1], asked["own"]), role="beside"),
        Sign("unsteadiness falls from 1 to 6", "more", seed_interval(calm, groups_of(rows)), 0.02),
    ]

    def line(arm: Trained) -> Row:
        figures = {
            "new wordings, %": arm.sets["own"].mean(asked["own"]),
            "right form, %": arm.sets["own"].mean(asked["own"], "form"),
            "unsteadiness, points": seed_interval(_unsteady(arm), groups_of(rows), span=(0.0, 1.0)),
        }
        return Row(arm.name, arm.instances, figures)

    return Seen([line(arm) for arm in (base, *arms.values())], signs)


def _at(number: int) -> Callable[[Task, Instance], Template]:
    return lambda task, one: task.templates[number]


def _unsteady(arm: Trained) -> Floats:
    """Seeds x rows: how far a row's scores in its wordings lie apart."""
    score = arm.sets["own"].score
    return np.asarray(score.reshape(len(score), -1, 4).std(axis=2))
