"""More clusters of tasks: does tuning on more kinds of tasks help with kinds never trained on?

Claim: The more clusters of tasks a model is tuned on, the better it does on clusters never trained on, with less and
    less gained by each further one; tasks that were trained on are not hurt.
Miniature: The starter's clusters, 1, 4 and 12 of them with 256 instances in all; which ones, each seed draws anew,
    and the first is always look-up. Asked: three clusters never trained on (pick, order, facts), and new rows of
    look-up, which all arms were trained on.
Expected: On new clusters 12 clusters beat 1 by more than chance; the step from 1 to 4 is larger than that from 4 to
    12; look-up stays within 5 points although its share of the instances falls to a twelfth.
Limits: The base has the skills of the new clusters before tuning, so it is the readiness to use them that spreads; at
    small scale the paper itself saw no gain from tuning on new clusters.
Paper: Wei et al. 2021 (FLAN, figure 6), arXiv 2109.01652.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from didact.audit.measure import groups_of, sample
from didact.audit.seeds import seed_interval
from didact.instance import Instance
from didact.reproduce.bench import Bench
from didact.reproduce.seen import Seen, lead, row
from didact.reproduce.sign import Sign
from didact.starter.levels import spread

COUNTS = (1, 4, 12)
TOTAL, ITEMS = 256, 80
FIRST = "lookup"


def reproduce(bench: Bench) -> Seen:
    """A ladder of clusters at the same number of instances."""
    bank = bench.bank
    far = [one for one in bank.far if one.tags["level"] == "heldout_cluster"]
    near = [one for one in bank.near if one.origin.cluster == FIRST]
    asked = {"far": sample(far, bench.items(ITEMS), 0), "near": sample(near, bench.items(ITEMS), 0)}

    def draw(count: int) -> Callable[[int], list[Instance]]:
        def of(seed: int) -> list[Instance]:
            names = sorted({one.origin.cluster for one in bank.train} - {FIRST})
            some = [FIRST, *Random(f"clusters {seed}").sample(names, len(names))][:count]
            pool = [one for one in bank.train if one.origin.cluster in some]
            return spread(Random(f"rows {seed}").sample(pool, len(pool)), bench.size(TOTAL))

        return of

    base = bench.untuned(asked, rank=False)
    arms = {
        count: bench.train(f"{count} cluster{'s'[: count > 1]}", draw(count), asked, rank=False) for count in COUNTS
    }
    score = {count: arm.sets["far"].score for count, arm in arms.items()}
    bend = (score[4] - score[1]) - (score[12] - score[4])
    signs = [
        Sign("12 clusters beat 1 on new clusters", "more", lead(arms[12], arms[1], asked["far"], "far")),
        Sign(
            "the step from 1 to 4 is larger than from 4 to 12",
            "more",
            seed_interval(bend, groups_of(asked["far"]), span=(-2.0, 2.0)),
            role="beside",
        ),
        Sign(
            "look-up is as good with 12 as with 1",
            "no less",
            lead(arms[12], arms[1], asked["near"], "near"),
            role="beside",
        ),
    ]
    columns = {
        "new clusters, %": ("far", "score"),
        "their form, %": ("far", "form"),
        "look-up, %": ("near", "score"),
    }
    return Seen([row(one, asked, columns) for one in (base, *arms.values())], signs)
