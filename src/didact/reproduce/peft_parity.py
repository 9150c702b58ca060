"""Small parts of a model: which ways to tune few parameters equal tuning all of them?

Claim: Full tuning is at best a little ahead of LoRA and adapters; BitFit follows, then prefixes, then soft prompts.
    LoRA of rank 1 is close to rank 8.
Miniature: One base, 768 instances of the starter's tasks, one pass, each method at its default rate, LoRA at 0.005
    and adapters at 0.01: full, LoRA of rank 8 and 1 on all layers, adapters, BitFit, a prefix, a soft prompt. Asked:
    new rows of trained tasks and tasks never trained on.
Expected: LoRA at most 5 points below full, adapters at most 5 below LoRA; adapter above BitFit above prefix above
    prompt; rank 1 at most 5 points below rank 8.
Limits: One size of base, so that the gap's shrinking with size was not tried, nor were LoRA's places (queries, keys,
    values). One pass over few instances: prompts and prefixes are known to need more steps than others. A first try
    with 256 instances left LoRA and all behind it at zero, where nothing can be compared.
Paper: Hu et al. 2021, arXiv 2106.09685; Houlsby et al. 2019, arXiv 1902.00751; Ding et al. 2022, arXiv 2203.06904.
"""

from __future__ import annotations

from typing import Any

from didact.reproduce.bench import Bench
from didact.reproduce.seen import Seen, lead, row
from didact.reproduce.sign import Sign

TOTAL, ITEMS = 768, 60
METHODS: dict[str, dict[str, Any]] = {
    "full": {"type": "full"},
    "LoRA, rank 8": {"type": "lora", "rank": 8},
    "LoRA, rank 1": {"type": "lora", "rank": 1},
    "adapter": {"type": "adapter"},
    "BitFit": {"type": "bitfit"},
    "prefix": {"type": "prefix"},
    "soft prompt": {"type": "prompt"},
}
RATES = {"lora": 5e-3, "adapter": 1e-2}  # fixed: at their lower defaults they learn little in so few steps


def reproduce(bench: Bench) -> Seen:
    """Each method on the same rows."""
    bank = bench.bank
    sets = bank.asked(bench.items(ITEMS))
    asked = {"all": sets["held-in"] + sets["held-out"]}
    base = bench.untuned(asked, rank=False)
    draw = bank.draw(bench.size(TOTAL))
    arms = {}
    for name, method in METHODS.items():
        rate: dict[str, Any] = {"learning_rate": RATES[method["type"]]} if method["type"] in RATES else {}
        arms[name] = bench.train(name, draw, asked, method, rank=False, **rate)

    def same(one: str, other: str) -> Sign:
        return Sign(f"{one} is no worse than {other}", "no less", lead(arms[one], arms[other], asked["all"], "all"))

    def above(one: str, other: str) -> Sign:
        return Sign(f"{one} beats {other}", "more", lead(arms[one], arms[other], asked["all"], "all"))

    signs = [
        same("LoRA, rank 8", "full"),
        same("adapter", "LoRA, rank 8"),
        above("adapter", "BitFit"),
        above("BitFit", "prefix"),
        above("prefix", "soft prompt"),
        same("LoRA, rank 1", "LoRA, rank 8"),
    ]
    columns = {"right, %": ("all", "score"), "right form, %": ("all", "form")}
    return Seen([row(one, asked, columns) for one in (base, *arms.values())], signs)
