"""Turned around: does it help to also ask for what was given, and give what was asked?

Claim: Adding tasks with input and output exchanged leaves trained tasks as they are and lifts tasks never trained on.
Miniature: The starter's tasks without reverse look-up, 256 instances. Look-up asks what a person has; turned around
    it asks who has it. Plain: 80 of the instances are look-up. With inversion: 40 of them are turned around. Asked:
    new rows of look-up, reverse look-up itself, and clusters and tasks never trained on in either arm.
Expected: Look-up with inversion is at most 5 points below plain; new tasks are better with inversion than plain.
Limits: One task of the starter has a natural inverse with a short answer; the paper turned many round. Reverse
    look-up is in the table and no sign, since one arm is trained on it.
Paper: Longpre et al. 2023 (Flan Collection), arXiv 2301.13688.
"""

from __future__ import annotations

from didact.audit.measure import sample
from didact.instance import Instance
from didact.reproduce.bench import Bench
from didact.reproduce.seen import Seen, lead, row
from didact.reproduce.sign import Sign

TOTAL, PART, ITEMS = 256, 80, 80
TASK, INVERSE = "lookup", "reverse"


def reproduce(bench: Bench) -> Seen:
    """Plain and with a part turned around."""
    bank = bench.bank
    items = bench.items(ITEMS)
    asked = {
        "near": sample([one for one in bank.near if one.origin.cluster == TASK], items, 0),
        "inverse": sample([one for one in bank.near if one.origin.cluster == INVERSE], items, 0),
        "far": sample([one for one in bank.far if one.origin.cluster != INVERSE], items, 0),
    }
    pools = {
        name: [one for one in bank.train if one.origin.cluster in clusters]
        for name, clusters in (
            (TASK, {TASK}),
            (INVERSE, {INVERSE}),
            ("rest", {one.origin.cluster for one in bank.train} - {TASK, INVERSE}),
        )
    }

    def mixed(turned: int, seed: int) -> list[Instance]:
        part = bench.size(PART)
        rest = sample(pools["rest"], bench.size(TOTAL) - part, seed)
        return rest + sample(pools[TASK], part - turned, seed) + sample(pools[INVERSE], turned, seed)

    base = bench.untuned(asked, rank=False)
    plain = bench.train("plain", lambda seed: mixed(0, seed), asked, rank=False)
    half = bench.size(PART) // 2
    turned = bench.train("with inversion", lambda seed: mixed(half, seed), asked, rank=False)
    signs = [
        Sign("look-up is no worse with inversion", "no less", lead(turned, plain, asked["near"], "near")),
        Sign("new tasks are better with inversion", "more", lead(turned, plain, asked["far"], "far")),
    ]
    columns = {"look-up, %": ("near", "score"), "new tasks, %": ("far", "score"), "reverse, %": ("inverse", "score")}
    return Seen([row(one, asked, columns) for one in (base, plain, turned)], signs)
