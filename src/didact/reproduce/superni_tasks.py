"""Tasks or instances: is it more tasks, or more instances of each, that help with new tasks?

Claim: With the number of tasks new tasks go better and better, about by the logarithm; with the number of instances
    of each task they soon do not: a few of each are enough.
Miniature: The starter, 128 instances of 8, 32 and 128 tasks (16, 4 and 1 of each), and 512 of 32 tasks (16 of each).
    Every arm takes the same 32 steps of 8 instances, so that a small set is read more often and only what is read
    differs. Tasks are drawn anew with each seed, small sets lie within large ones. Asked: tasks never trained on.
Expected: At the same number of instances 128 tasks beat 8, 32 beat 8, and 128 beat 32. With 32 tasks, 16 instances of
    each are within 5 points of 4.
Limits: The largest set is read by half; the base has the skills of many tasks before tuning. The paper's second
    claim, that a small model with more tasks equals a larger one, needs bases of several sizes and was not tried.
Paper: Wang et al. 2022 (Super-NaturalInstructions), arXiv 2204.07705.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from random import Random
from typing import Any

from didact.instance import Instance
from didact.reproduce.bench import Bench
from didact.reproduce.seen import Seen, lead, row
from didact.reproduce.sign import Role, Sign

CELLS = ((8, 16), (32, 4), (128, 1), (32, 16))  # tasks, instances of each
STEPS, ITEMS = 32, 120
MUCH = 10_000  # passes: more than the steps need, which end the training


def reproduce(bench: Bench) -> Seen:
    """Tasks against instances, at equal steps."""
    bank = bench.bank
    asked = {"own": bank.asked(bench.items(ITEMS))["held-out"]}
    by_task: dict[str, list[Instance]] = defaultdict(list)
    for one in bank.train:
        by_task[one.origin.task].append(one)

    def draw(tasks: int, each: int) -> Callable[[int], list[Instance]]:
        def of(seed: int) -> list[Instance]:
            rng = Random(f"tasks {seed}")
            names = rng.sample(sorted(by_task), len(by_task))[: bench.size(tasks)]
            pools = [Random(f"{name} {seed}").sample(by_task[name], len(by_task[name])) for name in names]
            return [one for pool in pools for one in pool[:each]]

        return of

    base = bench.untuned(asked, rank=False)
    steps: dict[str, Any] = {"epochs": MUCH, "max_steps": bench.steps(STEPS)}
    grid = {
        (tasks, each): bench.train(f"{tasks} tasks, {each} of each", draw(tasks, each), asked, rank=False, **steps)
        for tasks, each in CELLS
    }

    def step(one: tuple[int, int], other: tuple[int, int], role: Role = "beside") -> Sign:
        seen = lead(grid[one], grid[other], asked["own"])
        return Sign(f"{grid[one].name}: better than {grid[other].name}", "more", seen, role=role)

    most, least = grid[32, 16], grid[32, 4]
    signs = [
        step((128, 1), (8, 16), "claim"),
        step((32, 4), (8, 16)),
        step((128, 1), (32, 4)),
        Sign(f"{most.name}: like {least.name}", "same", lead(most, least, asked["own"])),
    ]
    columns = {
        "new tasks, %": ("own", "score"),
        "right form, %": ("own", "form"),
    }
    return Seen([row(one, asked, columns) for one in (base, *grid.values())], signs)
