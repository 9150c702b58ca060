"""The model that PET keeps: the rows as they are asked elsewhere, with the likeliest answer and soft labels for it.

Where the answers' tokens part, all of them are learnt with their shares at a temperature (Hinton 2015, 1503.02531).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from didact.instance import Instance
from didact.methods.full import FullConfig
from didact.programs.job import Job

if TYPE_CHECKING:
    from didact.closed import Fork
    from didact.model import Loaded
    from didact.render import Renderer, Tokens


def distilled(job: Job, instances: Sequence[Instance], soft: Sequence[Sequence[float]], temperature: float) -> Loaded:
    """A fresh base, tuned on the rows with these shares of their choices."""
    from didact.closed import Closed

    loaded = job.fresh()
    made = [student_row(loaded.renderer, one, shares) for one, shares in zip(instances, soft, strict=True)]
    limit = min(job.settings.max_length, loaded.max_positions or job.settings.max_length)
    kept = [(tokens, fork) for tokens, fork in made if len(tokens.ids) <= limit]
    if len(kept) < len(made):
        job.say(f"without {len(made) - len(kept):,} rows that are longer than {limit} tokens")
    forks = [fork for _, fork in kept]
    objective = Closed(forks, temperature=temperature, plain=True)
    job.train(loaded, FullConfig(), [tokens for tokens, _ in kept], job.settings, "", objective=objective)
    return loaded


def student_row(renderer: Renderer, instance: Instance, shares: Sequence[float]) -> tuple[Tokens, Fork]:
    """The instance as it is asked, answered with the likeliest choice; where choices part, with their shares."""
    from didact.closed import Fork

    rendered = renderer.render_all([renderer.complete(instance, choice) for choice in instance.choices])
    answers = [row.ids[row.turns[-1][0] : row.turns[-1][1]] for row in rendered]
    common = next(n for n in range(max(map(len, answers))) if len({tuple(ids[n : n + 1]) for ids in answers}) > 1)
    likely: dict[int, float] = {}
    best = max(range(len(shares)), key=shares.__getitem__)
    for ids, share in zip(answers, shares, strict=True):
        likely[ids[common]] = likely.get(ids[common], 0.0) + share
    row, (start, end) = rendered[best], rendered[best].turns[-1]
    weights = [1.0 if start <= i < end else 0.0 for i in range(len(row.ids))]
    fork = Fork(common, end - start, tuple((token,) for token in likely), tuple(likely.values()))
    return replace(row, weights=weights, turns=(row.turns[-1],)), fork
