"""Instructions or names: do the words of an instruction carry over to new tasks, or only knowing which task it is?

Claim: A model tuned with natural instructions does better on new tasks than one tuned with the names of the tasks,
    and that one better than one tuned with neither; on trained tasks a name serves as well.
Miniature: 24 of the starter's tasks, all their rows (about 19 of each) twice, in three wordings: real instructions; a
    name of the task, two invented words; nothing beside what is asked about. Each arm is asked in its own wording:
    new rows of the trained tasks, and tasks never trained on.
Expected: On new tasks instructions beat names and names beat nothing; on trained tasks names are at most 5 points
    below.
Limits: The names mean nothing, so that the name of a new task says nothing of it; those of data sets say something. A
    first try spread 256 instances over all tasks, one or two of each, too few to learn any name; hence few tasks with
    many rows.
Paper: Wei et al. 2021 (FLAN, appendix B), arXiv 2109.01652.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from didact.audit.measure import sample
from didact.instance import Instance
from didact.reproduce.bench import Bench
from didact.reproduce.prompts import said
from didact.reproduce.seen import Seen, lead, row
from didact.reproduce.sign import Sign

TASKS, EACH, ITEMS = 24, 19, 100
KINDS = {"instruction": "", "name": "named", "nothing": "empty"}


def reproduce(bench: Bench) -> Seen:
    """Three wordings of the same rows."""
    bank = bench.bank
    names = Random("names").sample(sorted({one.origin.task for one in bank.train}), bench.size(TASKS))
    pool = [one for one in bank.train if one.origin.task in names]
    asked = bank.asked(bench.items(ITEMS)) | {
        "held-in": sample([one for one in bank.near if one.origin.task in names], bench.items(ITEMS), 0)
    }

    def worded(kind: str, instances: Sequence[Instance]) -> list[Instance]:
        return said(instances, bank.rows, KINDS[kind]) if KINDS[kind] else list(instances)

    def draw(kind: str) -> Callable[[int], list[Instance]]:
        return lambda seed: worded(kind, sample(pool, bench.size(TASKS * EACH), seed))

    base = bench.untuned(asked, rank=False)
    own = {kind: {name: worded(kind, some) for name, some in asked.items()} for kind in KINDS}
    arms = {kind: bench.train(kind, draw(kind), own[kind], rank=False, epochs=2) for kind in KINDS}
    far, near = asked["held-out"], asked["held-in"]
    signs = [
        Sign("instructions beat names on new tasks", "more", lead(arms["instruction"], arms["name"], far, "held-out")),
        Sign("names beat nothing on new tasks", "more", lead(arms["name"], arms["nothing"], far, "held-out")),
        Sign(
            "names do as well on trained tasks",
            "no less",
            lead(arms["name"], arms["instruction"], near, "held-in"),
            role="beside",
        ),
    ]
    columns = {
        "new tasks, %": ("held-out", "score"),
        "trained tasks, %": ("held-in", "score"),
    }
    return Seen([row(one, asked, columns) for one in (base, *arms.values())], signs)
