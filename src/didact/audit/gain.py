"""What did the tuning teach? Base against tuned on four levels of unseen data, form and content told apart.

The form of an answer (it is one of the choices; it ends) is learnt long before its content, so a rise in exact match
proves little (Kung & Peng 2023, "Do Models Really Learn to Follow Instructions?"). Content is claimed only where the
tuned model beats every opponent that knows nothing new: itself untuned, chance, the majority label, its own answers to
other rows, and, where a model can be retrained, one tuned on random labels.

Limits: the intervals speak of other rows of the same tasks, not of other tasks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from didact.audit.controls import chance, majority, random_labels, swapped
from didact.audit.exhibit import whiskers
from didact.audit.few_shot import with_examples
from didact.audit.interval import Floats, Interval, mean_interval
from didact.audit.measure import Measured, choose_examples, generous_score, groups_of, is_long, measure, sample, task_of
from didact.audit.subject import Arm, Finding, Speaker, Subject
from didact.audit.verdict import LEVELS, Evidence, absent, gain_category, gain_sentence, level_question
from didact.instance import Instance

ROUTES = {
    "ranking": "ranking the choices (free answers: the score itself, the untuned model's form forgiven)",
    "given valid": "exact match on those closed items where the tuned model gave a valid answer",
}


class GainConfig(BaseModel):
    """Base against tuned on seen templates, held-out templates, held-out tasks and held-out clusters."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["gain"] = "gain"
    items_per_level: int = Field(400, ge=1, description="held-out instances asked per level, spread over its tasks")
    min_items: int = Field(30, ge=5, description="with fewer items than this nothing is said of a level")
    smallest_gain: float = Field(0.05, gt=0, lt=1, description="the smallest gain worth having, as a fraction")
    random_label: int = Field(1000, ge=0, description="instances for the control tuned on random labels; 0: none")
    few_shot: int = Field(3, ge=0, description="solved examples that the untuned model gets as an opponent; 0: none")
    examples: int = Field(3, ge=0, description="examples shown per rule: largest gain, largest loss, random")
    stem: bool = Field(False, description="stem words in ROUGE-L (needs nltk)")

    @model_validator(mode="after")
    def _enough(self) -> GainConfig:
        if self.items_per_level < self.min_items:
            raise ValueError(f"items_per_level must be at least min_items ({self.min_items})")
        return self


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


def gain(config: GainConfig, subject: Subject) -> list[Finding]:
    """One finding per level, from near (new rows of trained tasks) to far (clusters never trained)."""
    control, control_note = _control(config, subject)
    findings = []
    for name in LEVELS:
        mine = [instance for instance in subject.heldout if instance.tags.get("level") == name]
        instances = sample(mine, config.items_per_level, subject.seed)
        if len(instances) < config.min_items:
            details = {"category": "cannot be said", "level": name}
            verdict = absent(name, len(instances), config.min_items)
            findings.append(Finding("gain", level_question(name), verdict, n=len(instances), details=details))
            continue
        finding = _finding(config, _measured(name, instances, subject, control, config))
        told = {"random_label": control_note, "left_out": subject.left_out}
        findings.append(replace(finding, details={**finding.details, **told}))
    return findings


def _control(config: GainConfig, subject: Subject) -> tuple[Speaker | None, str]:
    if not config.random_label or subject.retrain is None or not subject.trained:
        return None, "not run"
    chosen = sample(subject.trained, config.random_label, subject.seed)
    note = f"tuned on {len(chosen):,} of the {len(subject.trained):,} training instances, labels drawn at random"
    return subject.retrain(Arm("random labels", random_labels(chosen, subject.seed))), note


def _measured(
    name: str, instances: Sequence[Instance], subject: Subject, control: Speaker | None, config: GainConfig
) -> Level:
    stem = config.stem
    base, tuned = measure(subject.base, instances, stem), measure(subject.tuned, instances, stem)
    other = None if control is None else measure(control, instances, stem)
    knew = np.array([generous_score(r, i, stem) for r, i in zip(base.replies, instances, strict=True)])
    common = {"chance": chance(instances), "majority label": majority(instances, subject.trained, subject.seed)}
    opponents: dict[str, dict[str, Floats]] = {}
    for route in ROUTES:
        ranking = route == "ranking"
        opponents[route] = {
            "untuned model": _content(base, knew),
            **common,
            "own answers to other rows": np.where(
                np.isfinite(tuned.ranked) & ranking,
                swapped(instances, tuned, subject.seed, by_ranking=True),
                swapped(instances, tuned, subject.seed, by_ranking=False),
            ),
            **({} if other is None else {"tuned on random labels": _content(other, other.score)}),
        }
    few = _few_shot(subject, instances, config) if config.few_shot else None
    return Level(name, instances, base, tuned, other, opponents, subject.seed, few)


def _few_shot(subject: Subject, instances: Sequence[Instance], config: GainConfig) -> tuple[Floats, Floats] | None:
    """The untuned model with solved examples of each task before the question, form forgiven.

    Examples are training instances where the task was trained on, else other held-out rows, which tuning never saw.
    """
    asked = {task_of(instance) for instance in instances}
    known = {task_of(instance) for instance in subject.trained} & asked
    pool = [i for i in subject.trained if task_of(i) in known] + [
        i for i in subject.heldout if task_of(i) in asked - known
    ]
    shown, shots = with_examples(instances, pool, config.few_shot, subject.readable, subject.seed)
    if not any(shots):
        return None
    measured = measure(subject.base, shown, config.stem)
    free = [generous_score(r, i, config.stem) for r, i in zip(measured.replies, shown, strict=True)]
    return _content(measured, np.array(free)), np.array(shots, dtype=float)


def _content(measured: Measured, free: Floats) -> Floats:
    """Content whatever the form: ranked credit where there are choices, else the score of the free answer."""
    return np.where(np.isfinite(measured.ranked), measured.ranked, free)


def _finding(config: GainConfig, level: Level) -> Finding:
    base, tuned = level.base, level.tuned
    routes = {
        "ranking": _content(tuned, tuned.score),
        "given valid": np.where(np.isfinite(tuned.ranked) & (tuned.form == 1), tuned.exact, np.nan),
    }
    routes = {name: own for name, own in routes.items() if np.isfinite(own).sum() >= config.min_items}
    clusters = _members(level, "cluster", config.min_items)
    width = 1 - 0.05 / (len(routes) + (len(clusters) > 1))  # Bonferroni: content may be shown by any of these ways
    content = {
        route: {rival: level.interval(own - credit, width) for rival, credit in level.opponents[route].items()}
        for route, own in routes.items()
    }
    knew = level.opponents["ranking"]["untuned model"]
    leads = _leads(level, routes["ranking"], clusters, 1 - (1 - width) / max(1, len(clusters)))
    few = _few_shot_figures(level, routes["ranking"])
    evidence = Evidence(
        level=level.name,
        n=len(level.instances),
        tasks=len({task_of(instance) for instance in level.instances}),
        mixed=any(is_long(instance) for instance in level.instances),
        base=float(base.score.mean()),
        tuned=float(tuned.score.mean()),
        gain=level.interval(tuned.score - base.score),
        base_form=float(base.form.mean()),
        tuned_form=float(tuned.form.mean()),
        form=level.interval(tuned.form - base.form),
        ranked=level.interval(tuned.ranked - base.ranked),
        content=content,
        clusters=leads if len(leads) > 1 else {},
        part_form=level.interval(tuned.form * knew - base.score),
        part_content=level.interval(tuned.score - tuned.form * knew),
        unrankable=base.unrankable + tuned.unrankable,
        smallest=config.smallest_gain,
        few_shot=(few["score"], few["shots"], few["lead"]) if few else None,
    )
    details = {
        "category": gain_category(evidence),
        "level": level.name,
        "measures": _measures(level, config.min_items),
        "content": {
            "level": width,
            "routes": {
                route: {
                    "how": ROUTES[route],
                    "value": float(np.nanmean(own)),
                    "opponents": _rivals(content[route], level.opponents[route], own),
                }
                for route, own in routes.items()
            },
        },
        "parts": {"form": evidence.part_form.to_json(), "content": evidence.part_content.to_json()},
        "detectable": evidence.gain.detectable,
        "few_shot": few and {**few, "lead": few["lead"].to_json()},
        "pictures": [
            whiskers(
                [("the tuned model's lead", f"{few['shots']:.1f} examples", few["lead"])],
                caption="Content over the untuned model with solved examples of the task before each question.",
            )
        ]
        if few
        else [],
        "tasks": _table(level, "task"),
        "clusters": [{**row, "content": _lead_json(leads.get(row["cluster"]))} for row in _table(level, "cluster")],
        "unrankable": evidence.unrankable,
    }
    return Finding(
        "gain",
        level_question(level.name),
        gain_sentence(evidence),
        evidence.gain.value,
        evidence.gain.low,
        evidence.gain.high,
        evidence.base,
        evidence.n,
        choose_examples(level.instances, base, tuned, config.examples, level.seed),
        details,
    )


def _few_shot_figures(level: Level, own: Floats) -> dict[str, Any] | None:
    if level.few is None:
        return None
    content, shots = level.few
    return {"score": float(content.mean()), "shots": float(shots.mean()), "lead": level.interval(own - content)}


def _rivals(against: Mapping[str, Interval], credits: Mapping[str, Floats], own: Floats) -> dict[str, dict[str, float]]:
    known = np.isfinite(own)
    return {
        rival: {"opponent": float(np.nanmean(credits[rival][known])), **interval.to_json()}
        for rival, interval in against.items()
    }


def _measures(level: Level, least: int) -> list[dict[str, Any]]:
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


def _table(level: Level, key: Literal["task", "cluster"]) -> list[dict[str, Any]]:
    """The gain per task or cluster, largest first; intervals over few items are wide and say so."""
    blind = chance(level.instances)
    rows: list[dict[str, Any]] = []
    for name, chosen in _members(level, key).items():
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


def _members(level: Level, key: Literal["task", "cluster"], least: int = 1) -> dict[str, list[int]]:
    """Which instances belong to each task or cluster that has at least `least` of them."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, instance in enumerate(level.instances):
        members[task_of(instance) if key == "task" else instance.origin.cluster or "(none)"].append(i)
    return {name: chosen for name, chosen in members.items() if len(chosen) >= least}


def _leads(
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


def _lead_json(lead: tuple[str, Interval] | None) -> dict[str, Any] | None:
    return None if lead is None else {"opponent": lead[0], **lead[1].to_json()}
