"""What did the tuning teach? Base against tuned on four levels of unseen data, form and content told apart.

The form of an answer (it is one of the choices; it ends) is learnt long before its content, so a rise in exact match
proves little (Kung & Peng 2023, "Do Models Really Learn to Follow Instructions?"). Content is claimed only where the
tuned model beats every opponent that knows nothing new: itself untuned, chance, the majority label, its own answers to
other rows, and, where a model can be retrained, one tuned on random labels.

Limits: the intervals speak of other rows of the same tasks, not of other tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from didact.audit.controls import chance, majority, random_labels, swapped
from didact.audit.exhibit import whiskers
from didact.audit.few_shot import with_examples
from didact.audit.interval import Floats, Interval
from didact.audit.level import Level, categories, lead_json, measures, members, table
from didact.audit.level import leads as leads_of
from didact.audit.measure import Measured, choose_examples, generous_score, is_long, measure, sample, task_of
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
    clusters = members(level, "cluster", config.min_items)
    width = 1 - 0.05 / (len(routes) + (len(clusters) > 1))  # Bonferroni: content may be shown by any of these ways
    content = {
        route: {rival: level.interval(own - credit, width) for rival, credit in level.opponents[route].items()}
        for route, own in routes.items()
    }
    knew = level.opponents["ranking"]["untuned model"]
    leads = leads_of(level, routes["ranking"], clusters, 1 - (1 - width) / max(1, len(clusters)))
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
        knew=float(np.mean(knew)),
        few_shot=(few["score"], few["shots"], few["lead"]) if few else None,
    )
    details = {
        "category": gain_category(evidence),
        "level": level.name,
        "measures": measures(level, config.min_items),
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
                [("the tuned model's lead", f"{round(few['shots'], 1):g} examples", few["lead"])],
                caption="Content over the untuned model with solved examples of the task before each question.",
            )
        ]
        if few
        else [],
        "categories": categories(level),
        "tasks": table(level, "task"),
        "clusters": [{**row, "content": lead_json(leads.get(row["cluster"]))} for row in table(level, "cluster")],
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
