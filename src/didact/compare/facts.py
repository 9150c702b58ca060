"""From what the arms said to what can be said of the methods: means over seeds and items, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from didact.audit.interval import Interval, ratio_interval
from didact.audit.measure import groups_of
from didact.audit.seeds import seed_interval
from didact.instance import Instance

Fact = dict[str, Any]
BITS = 1 / math.log(2)


def facts(
    name: str,
    asked: Sequence[Instance],
    base: Mapping[str, Any],
    arms: Mapping[str, Sequence[Mapping[str, Any]]],
    memory: Mapping[str, float],
    left_out: Mapping[str, str],
    seed: int = 0,
) -> Fact:
    """One fact per method, best first. base and arms: scores per item, nats and tokens per plain text.

    A method ties with the best if the interval of their paired difference holds 0; its level is divided by how many are
    compared (Bonferroni), so that with many methods one is not taken for worse by chance.
    """
    groups, several = groups_of(asked), max(1, len(arms) - 1)
    scores = {method: np.array([arm["scores"] for arm in some], dtype=float) for method, some in arms.items()}
    order = sorted(scores, key=lambda method: -float(scores[method].mean()))
    best = scores[order[0]]
    rows = []
    for method in order:
        some, behind = arms[method], seed_interval(best - scores[method], groups, seed=seed, level=1 - 0.05 / several)
        first = method == order[0]
        rows.append(
            {
                "method": method,
                "quality": _told(seed_interval(scores[method], groups, seed=seed, span=(0.0, 1.0))),
                "behind": None if first else _told(behind),
                "standing": "best" if first else "worse" if behind.low > 0 else "tie",
                "levels": _levels(asked, scores[method]),
                "forgetting": _told(_forgetting(base, some, seed)),
                "form": float(np.mean([arm["form"] for arm in some])),
                "trainable": some[0]["trainable"],
                "share": some[0]["trainable"] / some[0]["parameters"],
                "rate": some[0]["rate"],
                "memory": memory[method],
                "seconds": float(np.median([arm["seconds"] for arm in some])),
                "speed": float(np.median([arm["speed"] for arm in some])),
            }
        )
    ties = [row["method"] for row in rows if row["standing"] == "tie"]
    return {
        "name": name,
        "seeds": len(next(iter(arms.values()))),
        "items": len(asked),
        "rows": len(set(groups)),
        "texts": len(base["nats"]),
        "base": {
            "quality": float(np.mean(base["scores"])),
            "bits": sum(base["nats"]) * BITS / max(1, sum(base["tokens"])),
            "levels": _levels(asked, np.array([base["scores"]], dtype=float)),
        },
        "level": 1 - 0.05 / several,
        "methods": rows,
        "ties": ties,
        "headline": headline(rows, ties),
        "left_out": dict(left_out),
    }


def headline(rows: Sequence[Fact], ties: Sequence[str]) -> str:
    """What came out, in a sentence or two."""
    best, worse = rows[0], [row["method"] for row in rows if row["standing"] == "worse"]
    text = f"{best['method']} has {100 * best['quality']['value']:.1f}% right"
    if ties:
        text += f"; {_list(ties)} {'is' if len(ties) == 1 else 'are'} not told apart from it"
    text += "."
    return text + (f" Behind it {'is' if len(worse) == 1 else 'are'} {_list(worse)}." if worse else "")


def _forgetting(base: Mapping[str, Any], some: Sequence[Mapping[str, Any]], seed: int) -> Interval:
    """Rise of the loss on plain text in bits per token: over texts, and over seeds where there are several."""
    tokens = np.array(base["tokens"], dtype=float)
    rises = np.array([np.array(arm["nats"]) - np.array(base["nats"]) for arm in some]) * BITS
    if len(some) == 1:
        return ratio_interval(rises[0], tokens, seed=seed)
    return seed_interval(rises * len(tokens) / tokens.sum(), seed=seed, span=None)


def _levels(asked: Sequence[Instance], scores_SN: Any) -> dict[str, float]:
    """Mean score at each level that was held out."""
    levels = [instance.tags.get("level", "held out") for instance in asked]
    return {
        level: float(scores_SN[:, [i for i, other in enumerate(levels) if other == level]].mean())
        for level in dict.fromkeys(levels)
    }


def _told(interval: Interval) -> Fact:
    return {
        "value": interval.value,
        "low": interval.low if math.isfinite(interval.low) else None,
        "high": interval.high if math.isfinite(interval.high) else None,
        "n": interval.n,
    }


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
