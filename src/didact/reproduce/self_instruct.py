"""The loop: what do proposed instructions, a novelty filter and a model's answers bring, and when do they stop?

Claim: Instructions that a model proposes, kept only if they are unlike all kept before, and answered by a model, tune
    a base well; as the pool grows fewer proposals are new, and beyond a few hundred instances more bring little.
Miniature: Proposals are 1,200 prompts drawn with repetition from the starter's tasks; the filter of Self-Instruct
    keeps those whose ROUGE-L with all kept ones is at most 0.7. A teacher (the base tuned on 256 annotated instances)
    answers them. The base is tuned on the first 32, 96 and 256 kept ones with the teacher's answers, 32 steps of 8
    instances each. Asked: new rows of trained tasks and tasks never trained on.
Expected: No two kept prompts are above 0.7; of the last quarter of the proposals fewer are kept than of the first; 96
    beat 32; 256 are within 5 points of 96.
Limits: Proposals are drawn by program and not written by a model, so that their errors are not those of a language
    model. That writing the answer first balances labels was not tried.
Paper: Wang et al. 2022 (Self-Instruct), arXiv 2212.10560; Xue et al. 2023 (InstructWild).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

import numpy as np

from didact.audit.interval import Interval
from didact.audit.seeds import gap_interval
from didact.curate.novelty import NoveltyIndex
from didact.instance import Instance
from didact.reproduce.bank import answered
from didact.reproduce.bench import Bench
from didact.reproduce.seen import Seen, lead, row
from didact.reproduce.sign import Sign

PROPOSALS, TAUGHT, SIZES = 1200, 256, (32, 96, 256)
STEPS, ITEMS = 32, 80
THRESHOLD = 0.7
MUCH = 10_000


def reproduce(bench: Bench) -> Seen:
    """The pool of each seed, its teacher, and a ladder over what was kept."""
    bank = bench.bank
    sets = bank.asked(bench.items(ITEMS))
    asked = {"all": sets["held-in"] + sets["held-out"]}

    @cache
    def pool(seed: int) -> tuple[list[Instance], list[bool]]:
        return kept(bank.train, bench.size(PROPOSALS), seed)

    teaching = bank.draw(bench.size(TAUGHT))

    @cache
    def taught(seed: int) -> list[Instance]:
        some = pool(seed)[0][: bench.size(SIZES[-1])]
        said = bench.speaker("teacher", seed, teaching(seed)).answer([*some, *asked["all"]])
        pairs = [(one, reply.text.strip()) for one, reply in zip(some, said, strict=False)]
        return [answered(one, text, one.choices) for one, text in pairs if text]

    def draw(n: int) -> Callable[[int], list[Instance]]:
        return lambda seed: taught(seed)[: bench.size(n)]

    base = bench.untuned(asked, rank=False)
    steps: dict[str, Any] = {"epochs": MUCH, "max_steps": bench.steps(STEPS)}
    arms = {n: bench.train(f"{n} kept", draw(n), asked, rank=False, **steps) for n in SIZES}
    teacher = bench.train("teacher", teaching, asked, rank=False)
    found = [pool(seed) for seed in range(bench.seeds)]
    worst = max(alike([one.prompt for one in some[: bench.size(200)]]) for some, _ in found)
    quarter = len(found[0][1]) // 4
    first, last = ([float(new) for _, marks in found for new in part(marks, quarter)] for part in (_head, _tail))
    near = Interval(THRESHOLD - worst, THRESHOLD - worst, THRESHOLD - worst, 0.0, 1, 1)
    signs = [
        Sign("no two kept prompts are more alike than 0.7", "no less", near, 1e-9, "control"),
        Sign(
            "fewer of the last proposals are new than of the first",
            "more",
            gap_interval(np.array(first), np.array(last)),
        ),
        Sign("96 kept beat 32", "more", lead(arms[96], arms[32], asked["all"], "all")),
        Sign("256 kept are like 96", "same", lead(arms[256], arms[96], asked["all"], "all")),
    ]
    counts = ", ".join(f"{len(some):,}" for some, _ in found)
    note = (
        f"Of {len(found[0][1]):,} proposals {counts} were kept (by seed): {100 * np.mean(first):.0f}% of the first "
        f"quarter, {100 * np.mean(last):.0f}% of the last. The two most alike of the first {bench.size(200)} kept "
        f"have a ROUGE-L of {worst:.3f}."
    )
    columns = {"right, %": ("all", "score"), "right form, %": ("all", "form")}
    rows = [row(one, asked, columns) for one in (base, teacher, *arms.values())]
    return Seen(rows, signs, note)


def kept(instances: Sequence[Instance], proposals: int, seed: int) -> tuple[list[Instance], list[bool]]:
    """Proposals in the order they come, those kept, and for each proposal whether it was."""
    rng, index = Random(f"proposals {seed}"), NoveltyIndex(THRESHOLD)
    some, marks = list[Instance](), list[bool]()
    for one in rng.choices(instances, k=proposals):
        new = index.nearest(one.prompt)[1] < 0
        marks.append(new)
        if new:
            index.add(one.prompt)
            some.append(replace(one))
    return some, marks


def alike(prompts: Sequence[str]) -> float:
    """The largest ROUGE-L of any two prompts, each pair looked at."""
    from didact.audit.score import rouge_l

    pairs = ((one, other) for i, one in enumerate(prompts) for other in prompts[:i])
    return max((rouge_l(one, [other]) for one, other in pairs), default=0.0)


def _head(marks: Sequence[bool], n: int) -> Sequence[bool]:
    return marks[:n]


def _tail(marks: Sequence[bool], n: int) -> Sequence[bool]:
    return marks[-n:]
