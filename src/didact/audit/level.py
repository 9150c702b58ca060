"""One level of held-out data measured, and its tables: by measure, by task and by cluster."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from didact.audit.controls import chance
from didact.audit.interval import Floats, Interval, mean_interval
from didact.audit.measure import Measured, groups_of, is_long, task_of
from didact.instance import Instance


@dataclass(frozen=True)
class Level:
    """One level measured: its instances, and what base, tuned and the random-label control made of them."""

    name: str
    instances: Sequence[Instance]
    base: Measured
    tuned: Measured
    control: Measured | None
    opponents: Mapping[str, Mapping[str, Floats]]
    seed: int
    few: tuple[Floats, Floats] | None = None  # content of the untuned model with examples, and how many it got

    def interval(self, values: Floats, level: float = 0.95) -> Interval:
        """Mean over the items where the value is known, rows resampled whole."""
        known = np.isfinite(values)
        rows = [row for row, keep in zip(groups_of(self.instances), known, strict=True) if keep]
        return mean_interval(values[known], rows, seed=self.seed, level=level)

    def share(self, values: Floats) -> Interval:
        """Mean of scores from 0 to 1, rows resampled whole."""
        return mean_interval(values, groups_of(self.instances), seed=self.seed, span=(0.0, 1.0))


def measures(level: Level, least: int) -> list[dict[str, Any]]:
    """Every measure as a row: base, tuned, their paired difference, and the random-label control."""
    names = {
        "exact match": "exact",
        "ROUGE-L": "rouge",
        "score": "score",
        "right form": "form",
        "ranked accuracy": "ranked",
        "ranked, chance as 0": "above_chance",
        "ended by itself": "stopped",
    }
    rows = []
    for name, field in names.items():
        before, after = _figures(level, level.base, field), _figures(level, level.tuned, field)
        known = np.isfinite(after)
        if known.sum() < least or (name == "score" and not any(map(is_long, level.instances))):
            continue
        control = None if level.control is None else float(np.nanmean(_figures(level, level.control, field)))
        means = {"base": float(before[known].mean()), "tuned": float(after[known].mean()), "random_label": control}
        blind = {"chance": float(chance(level.instances)[known].mean())} if name == "ranked accuracy" else {}
        rows.append({"measure": name, **means, **blind, **level.interval(after - before).to_json()})
    return rows


def _figures(level: Level, measured: Measured, field: str) -> Floats:
    """A measure per item; ranked accuracy also on the scale where chance is 0 and all right is 1 (Flan-PaLM)."""
    if field != "above_chance":
        return np.asarray(getattr(measured, field))
    blind = chance(level.instances)
    return np.where(blind < 1, (measured.ranked - blind) / np.where(blind < 1, 1 - blind, 1), np.nan)


def table(level: Level, key: Literal["task", "cluster"]) -> list[dict[str, Any]]:
    """The gain per task or cluster, largest first; intervals over few items are wide and say so."""
    blind = chance(level.instances)
    rows: list[dict[str, Any]] = []
    for name, chosen in members(level, key).items():
        here = replace(level, instances=[level.instances[i] for i in chosen])
        pick = np.array(chosen)
        closed = np.isfinite(level.tuned.ranked[pick])
        difference = here.interval(level.tuned.score[pick] - level.base.score[pick])
        rows.append(
            {
                key: name,
                **({"cluster": level.instances[chosen[0]].origin.cluster} if key == "task" else {}),
                "base": float(level.base.score[pick].mean()),
                "tuned": float(level.tuned.score[pick].mean()),
                **difference.to_json(),
                "base_form": float(level.base.form[pick].mean()),
                "tuned_form": float(level.tuned.form[pick].mean()),
                "base_ranked": float(level.base.ranked[pick][closed].mean()) if closed.any() else None,
                "tuned_ranked": float(level.tuned.ranked[pick][closed].mean()) if closed.any() else None,
                "chance": float(blind[pick][closed].mean()) if closed.any() else None,
            }
        )
    return sorted(rows, key=lambda row: (-row["value"], row[key]))


def categories(level: Level) -> list[dict[str, Any]]:
    """Score of each cluster by its own measure, before and after, with 95% intervals; nothing if there is one cluster.

    Super-NaturalInstructions is judged so: exact match in some categories, ROUGE-L in the others (Wang et al. 2022).
    """
    clusters = members(level, "cluster")
    rows = []
    for name in sorted(clusters) if len(clusters) > 1 else ():
        for measure, long in (("exact match", False), ("ROUGE-L", True)):
            chosen = [i for i in clusters[name] if is_long(level.instances[i]) == long]
            if chosen:
                here = replace(level, instances=[level.instances[i] for i in chosen])
                base, tuned = level.base.score[chosen], level.tuned.score[chosen]
                told = {"base": here.share(base), "tuned": here.share(tuned), "change": here.interval(tuned - base)}
                figures = {key: interval.to_json() for key, interval in told.items()}
                rows.append({"category": name, "measure": measure, "n": len(chosen), **figures})
    return rows


def members(level: Level, key: Literal["task", "cluster"], least: int = 1) -> dict[str, list[int]]:
    """Which instances belong to each task or cluster that has at least `least` of them."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, instance in enumerate(level.instances):
        members[task_of(instance) if key == "task" else instance.origin.cluster or "(none)"].append(i)
    return {name: chosen for name, chosen in members.items() if len(chosen) >= least}


def leads(
    level: Level, own: Floats, clusters: Mapping[str, Sequence[int]], width: float
) -> dict[str, tuple[str, Interval]]:
    """In each cluster, the opponent hardest to beat by ranking and the lead over it: pooled figures can hide both."""
    found = {}
    for name, chosen in clusters.items():
        here = replace(level, instances=[level.instances[i] for i in chosen])
        pick = np.array(chosen)
        leads = {rival: here.interval(own[pick] - c[pick], width) for rival, c in level.opponents["ranking"].items()}
        found[name] = min(leads.items(), key=lambda lead: lead[1].low)
    return found


def lead_json(lead: tuple[str, Interval] | None) -> dict[str, Any] | None:
    """A lead with its opponent, for the details of a finding."""
    return None if lead is None else {"opponent": lead[0], **lead[1].to_json()}
