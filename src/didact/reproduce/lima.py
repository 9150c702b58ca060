"""Less is more: do a few clean and varied instances do what many noisy or narrow ones do?

Claim: Few instances of high quality and variety align a model as well as many of lower quality; manner is learnt from
    few, and more of the same kind adds little to it.
Miniature: The starter, 32 steps of 8 instances for every arm. Clean and varied: 32, 64 and 256 instances, read 8, 4
    and 1 times. Noisy: 256, in half of which the label is drawn at random from the right space. Narrow: 256 of one
    cluster (look-up). Asked: new rows of trained tasks and tasks never trained on.
Expected: 32 clean ones are at most 5 points below 256 noisy ones; 256 varied ones beat 256 narrow ones. The right
    form is the same with 64 as with 256, while the right answer is still ranked first more often with 256.
Limits: Noise is wrong labels, not bad style. Thirty-two instances are fewer than the starter has tasks, and reading
    them eight times invites learning by heart.
Paper: Zhou et al. 2023 (LIMA), arXiv 2305.11206; style and skill by size: Raghavendra et al. 2024, arXiv 2410.03717.
"""

from __future__ import annotations

from typing import Any

from didact.audit.controls import random_labels
from didact.audit.measure import sample
from didact.instance import Instance
from didact.reproduce.bench import Bench
from didact.reproduce.seen import Seen, lead, row
from didact.reproduce.sign import Sign

CLEAN, SET = (32, 64, 256), 256
STEPS, ITEMS = 32, 60
NARROW = "lookup"
MUCH = 10_000


def reproduce(bench: Bench) -> Seen:
    """Clean ladders, noise and narrowness at equal steps."""
    bank = bench.bank
    sets = bank.asked(bench.items(ITEMS))
    asked = {"all": sets["held-in"] + sets["held-out"]}
    same: dict[str, Any] = {"epochs": MUCH, "max_steps": bench.steps(STEPS)}

    def noisy(seed: int) -> list[Instance]:
        rows = bank.draw(bench.size(SET))(seed)
        wrong = random_labels(rows, seed)
        return [one if i % 2 else bad for i, (one, bad) in enumerate(zip(rows, wrong, strict=True))]

    def narrow(seed: int) -> list[Instance]:
        return sample([one for one in bank.train if one.origin.cluster == NARROW], bench.size(SET), seed)

    base = bench.untuned(asked)
    clean = {n: bench.train(f"clean and varied, {n:,}", bank.draw(bench.size(n)), asked, **same) for n in CLEAN}
    bad = bench.train(f"half of the labels random, {SET}", noisy, asked, **same)
    one_kind = bench.train(f"one cluster, {SET}", narrow, asked, **same)
    every, most, some = asked["all"], clean[256], clean[64]
    signs = [
        Sign("32 clean ones are no worse than 256 noisy ones", "no less", lead(clean[32], bad, every, "all")),
        Sign("256 varied ones are better than 256 of one cluster", "more", lead(clean[SET], one_kind, every, "all")),
        Sign("the form is the same with 256 as with 64", "same", lead(most, some, every, "all", "form"), role="beside"),
        Sign(
            "256 rank the right answer first more often than 64",
            "more",
            lead(most, some, every, "all", "content"),
            0.02,
            "beside",
        ),
    ]
    columns = {"right, %": ("all", "score"), "right form, %": ("all", "form"), "ranked first, %": ("all", "content")}
    arms = (base, *clean.values(), bad, one_kind)
    return Seen([row(one, asked, columns) for one in arms], signs)
