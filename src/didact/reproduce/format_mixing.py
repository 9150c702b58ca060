"""Formats: does a model tuned with questions alone cope with examples before them, and the other way round?

Claim: A model tuned on one format of prompts, with or without examples, falls behind on the other; one tuned on both
    is as good as each on its own format.
Miniature: The starter's tasks, 160 instances, the same rows with two worked examples of the same task before the
    question (few-shot), without (zero-shot), and half of them each. Asked in both formats: new rows of the trained
    tasks.
Expected: On few-shot prompts few-shot tuning beats zero-shot tuning; on zero-shot prompts the other way round; mixed
    is at most 5 points below the better one on both.
Limits: An example and its answer stand on lines of their own with nothing to mark them, which is one of many layouts.
Paper: Longpre et al. 2023 (Flan Collection), arXiv 2301.13688; Wang et al. 2022, arXiv 2204.07705.
"""

from __future__ import annotations

from didact.audit.surface_arms import demonstrated
from didact.instance import Instance
from didact.reproduce.bench import Bench
from didact.reproduce.seen import Seen, lead, row
from didact.reproduce.sign import Sign

TOTAL, ITEMS = 160, 80


def reproduce(bench: Bench) -> Seen:
    """Three mixtures, two formats."""
    bank = bench.bank
    plain = bank.asked(bench.items(ITEMS))["held-in"]
    asked = {"zero": plain, "few": demonstrated(plain, bank.train, False, 0)}

    def zero(seed: int) -> list[Instance]:
        return bank.draw(bench.size(TOTAL))(seed)

    def few(seed: int) -> list[Instance]:
        return demonstrated(zero(seed), bank.train, False, seed)

    def mixed(seed: int) -> list[Instance]:
        return [pair[i % 2] for i, pair in enumerate(zip(zero(seed), few(seed), strict=True))]

    base = bench.untuned(asked, rank=False)
    arms = {
        name: bench.train(f"{name} tuning", draw, asked, rank=False)
        for name, draw in (("zero-shot", zero), ("few-shot", few), ("mixed", mixed))
    }
    a, b, c = arms.values()
    signs = [
        Sign("few-shot tuning beats zero-shot tuning on few-shot prompts", "more", lead(b, a, asked["few"], "few")),
        Sign("zero-shot tuning beats few-shot tuning on zero-shot prompts", "more", lead(a, b, plain, "zero")),
        Sign("mixed is no worse than zero-shot tuning on zero-shot prompts", "no less", lead(c, a, plain, "zero")),
        Sign("mixed is no worse than few-shot tuning on few-shot prompts", "no less", lead(c, b, asked["few"], "few")),
    ]
    columns = {
        "zero-shot prompts, %": ("zero", "score"),
        "few-shot prompts, %": ("few", "score"),
        "zero-shot form, %": ("zero", "form"),
        "few-shot form, %": ("few", "form"),
    }
    return Seen([row(one, asked, columns) for one in (base, *arms.values())], signs)
