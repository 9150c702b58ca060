"""Balance: does it matter that a few tasks are far larger than the others?

Claim: Capping how much of each task goes into training beats mixing by raw size, which lets a few large tasks crowd
    out the rest.
Miniature: The starter's tasks as if their sizes were unequal: task number k of a random order has 2,000 / k rows. 256
    instances are drawn by raw size, by size capped at 20, and equally. Asked: new rows of all trained tasks, each
    task as often, and tasks never trained on.
Expected: Capped beats raw size on trained tasks, and on new ones it is not worse; capped and equal are within 5
    points.
Limits: All tasks are alike in worth and in noise here, which is what favours an even mixture.
Paper: Wei et al. 2021, arXiv 2109.01652; Longpre et al. 2023 (Flan Collection), arXiv 2301.13688.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from random import Random

from didact.instance import Instance
from didact.reproduce.bench import Bench
from didact.reproduce.seen import Seen, lead, row
from didact.reproduce.sign import Sign

TOTAL, ITEMS = 256, 80
LARGEST, CAP = 2000, 20


def reproduce(bench: Bench) -> Seen:
    """Three mixtures of unequal tasks."""
    bank = bench.bank
    asked = bank.asked(bench.items(ITEMS))
    by_task: dict[str, list[Instance]] = defaultdict(list)
    for one in bank.train:
        by_task[one.origin.task].append(one)

    def draw(limit: int) -> Callable[[int], list[Instance]]:
        def of(seed: int) -> list[Instance]:
            rng = Random(f"sizes {seed}")
            names = rng.sample(sorted(by_task), len(by_task))
            rates = [min(limit, LARGEST // k) for k in range(1, len(names) + 1)]
            drawn = rng.choices(names, rates, k=bench.size(TOTAL))
            taken: dict[str, int] = defaultdict(int)
            some = []
            for name in drawn:  # a large task has no more rows than the starter gives it; then they come again
                some.append(by_task[name][taken[name] % len(by_task[name])])
                taken[name] += 1
            return some

        return of

    base = bench.untuned(asked, rank=False)
    raw, capped, equal = (
        bench.train(name, draw(limit), asked, rank=False)
        for name, limit in (("by raw size", LARGEST), (f"capped at {CAP}", CAP), ("equally", 1))
    )
    near, far = asked["held-in"], asked["held-out"]
    signs = [
        Sign("capped beats raw size on trained tasks", "more", lead(capped, raw, near, "held-in")),
        Sign(
            "capped is no worse than raw size on new tasks",
            "no less",
            lead(capped, raw, far, "held-out"),
            role="beside",
        ),
        Sign(
            "capped and equal are alike on trained tasks", "same", lead(capped, equal, near, "held-in"), role="beside"
        ),
    ]
    columns = {
        "trained tasks, %": ("held-in", "score"),
        "new tasks, %": ("held-out", "score"),
    }
    return Seen([row(one, asked, columns) for one in (base, raw, capped, equal)], signs)
