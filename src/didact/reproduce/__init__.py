"""Published findings about instruction tuning, tried again in miniature: one file each, and a line in the table.

A reproduction says its claim, its miniature and the signs to expect before it trains; what it says afterwards follows
from intervals over seeds and items by one rule (`sign`).
"""

from __future__ import annotations

from types import ModuleType

from didact.reproduce import (
    balancing,
    flan_clusters,
    format_mixing,
    gudibande,
    inversion,
    kung_peng,
    lima,
    names,
    peft_parity,
    prompt_diversity,
    rule_count,
    self_instruct,
    superni_tasks,
)

REPRODUCTIONS: dict[str, ModuleType] = {
    "kung-peng": kung_peng,
    "gudibande": gudibande,
    "flan-clusters": flan_clusters,
    "superni-tasks": superni_tasks,
    "rule-count": rule_count,
    "lima": lima,
    "names": names,
    "prompt-diversity": prompt_diversity,
    "peft-parity": peft_parity,
    "self-instruct": self_instruct,
    "format-mixing": format_mixing,
    "inversion": inversion,
    "balancing": balancing,
}

__all__ = ["REPRODUCTIONS"]
