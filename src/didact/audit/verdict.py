"""From figures to a sentence: which of five verdicts a level deserves, in words a manager can read.

The category is decided by intervals only; the sentence then says with which figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from didact.audit.interval import Interval
from didact.audit.subject import Finding

Category = Literal["task learning", "format only", "no evidence of task learning", "worse", "cannot be said"]
CATEGORIES: tuple[Category, ...] = (
    "task learning",
    "format only",
    "no evidence of task learning",
    "worse",
    "cannot be said",
)
LEVELS = {
    "seen_template": "new rows of the trained tasks, in trained wordings",
    "heldout_template": "the trained tasks in wordings never trained on",
    "heldout_task": "tasks never trained on, from trained clusters",
    "heldout_cluster": "clusters of tasks never trained on",
}
SHORT = {
    "seen_template": "new rows",
    "heldout_template": "new wordings",
    "heldout_task": "new tasks",
    "heldout_cluster": "new clusters",
}
REMEDY = {
    "seen_template": "raise build.heldout_rows",
    "heldout_template": "give every task several templates and set build.heldout_templates to 1 or more",
    "heldout_task": "name some tasks under build.heldout_tasks",
    "heldout_cluster": "name one or more clusters under build.heldout_clusters",
}


@dataclass(frozen=True)
class Evidence:
    """The figures a verdict rests on. content: by route, by opponent, the tuned model's lead; clusters: the
    hardest opponent in each cluster, and the lead over it.

    knew: the share that the untuned model had right, its form forgiven. part_form and part_content add up to the gain:
    what right form alone would have brought with that knowledge, and the rest.
    """

    level: str
    n: int
    tasks: int
    mixed: bool
    base: float
    tuned: float
    gain: Interval
    base_form: float
    tuned_form: float
    form: Interval
    ranked: Interval
    content: Mapping[str, Mapping[str, Interval]]
    clusters: Mapping[str, tuple[str, Interval]]
    part_form: Interval
    part_content: Interval
    unrankable: int
    smallest: float
    knew: float
    few_shot: tuple[float, float, Interval] | None = None

    def closest(self) -> tuple[str, str, Interval]:
        """The route that shows most, and on it the opponent hardest to beat: (route, opponent, lead)."""
        hardest = [(route, *min(leads.items(), key=lambda lead: lead[1].low)) for route, leads in self.content.items()]
        return max(hardest, key=lambda lead: lead[2].low)

    def nearest_bound(self) -> tuple[str, Interval]:
        """The opponent that bounds the lead most tightly from above, on the route that leaves most room."""
        bounds = [min(leads.items(), key=lambda lead: lead[1].high) for leads in self.content.values()]
        return max(bounds, key=lambda lead: lead[1].high)

    @property
    def content_shown(self) -> bool:
        """Is every opponent beaten, the interval clear of 0, by some route or in some cluster?"""
        return self.closest()[2].low > 0 or bool(self.shown_in)

    @property
    def shown_in(self) -> list[str]:
        """The clusters in which content shows, the largest lead first."""
        shown = [(lead.value, name) for name, (_, lead) in self.clusters.items() if lead.low > 0]
        return [name for _, name in sorted(shown, reverse=True)]


def gain_category(evidence: Evidence) -> Category:
    """One of five, by intervals: content needs every opponent beaten; form alone is not task learning."""
    if not math.isfinite(evidence.gain.low):
        return "cannot be said"
    improved = evidence.gain.low > 0 or evidence.ranked.low > 0
    if evidence.gain.high < 0 or (evidence.ranked.high < 0 and not improved and evidence.form.low <= 0):
        return "worse"
    if improved and evidence.content_shown:
        return "task learning"
    return "format only" if evidence.form.low > 0 else "no evidence of task learning"


def gain_sentence(evidence: Evidence) -> str:
    """The verdict in plain words with the figures it rests on."""
    category, where = gain_category(evidence), LEVELS[evidence.level]
    if category == "cannot be said":
        return f"Cannot be said. On {where} a figure is not finite: look for NaN in the model's outputs."
    what = "the score (exact match; ROUGE-L for long answers)" if evidence.mixed else "the share of right answers"
    moved = "rose" if evidence.gain.low > 0 else "fell" if evidence.gain.high < 0 else "did not clearly move,"
    sentences = [
        f"{category.capitalize()}.",
        f"On {where}, {what} {moved} from {percent(evidence.base)} to {percent(evidence.tuned)}: "
        f"{points(evidence.gain)}, n={evidence.n} in {count(evidence.tasks, 'task')}.",
        _form(evidence),
    ]
    if category == "task learning":
        sentences.append(_shown(evidence))
    elif category != "worse":
        sentences.append(_not_shown(evidence, category))
    if evidence.few_shot is not None:
        sentences.append(_few_shot(*evidence.few_shot))
    if evidence.ranked.high < 0:
        sentences.append(f"By ranking the choices it knows less than before: {points(evidence.ranked)}.")
    if evidence.unrankable:
        sentences.append(f"{evidence.unrankable} rankings had no finite score and count as wrong.")
    return " ".join(sentences)


def _few_shot(score: float, shots: float, lead: Interval) -> str:
    stands = "is ahead of" if lead.low > 0 else "is behind" if lead.high < 0 else "is not clearly ahead of"
    return (
        f"In content it {stands} the untuned model with {round(shots, 1):g} solved examples in its prompt, which "
        f"reaches {percent(score)}: {points(lead)}."
    )


def _form(evidence: Evidence) -> str:
    knew = f" Its form forgiven, the untuned model had {percent(evidence.knew)} right."
    if evidence.form.low > 0 or evidence.form.high < 0:
        return (
            f"Answers have the right form in {percent(evidence.tuned_form)} of cases, "
            f"before in {percent(evidence.base_form)}.{knew}"
        )
    return f"The form of the answers is as before ({percent(evidence.tuned_form)} valid).{knew}"


def _shown(evidence: Evidence) -> str:
    route, rival, lead = evidence.closest()
    by = "ranking" if route == "ranking" else "its valid answers"
    if lead.low > 0:
        text = f"By {by} it beats every control; the closest is {RIVALS[rival]}, beaten by {bare(lead)}."
    else:
        text = f"By {by} it is not clearly ahead of {RIVALS[rival]} over all clusters together: {points(lead)}."
    if evidence.clusters:
        number, names = len(evidence.shown_in), _and([f'"{name}"' for name in evidence.shown_in[:6]])
        rest, tried = " and more" if number > 6 else "", len(evidence.clusters)
        if number:
            text += f" Taken one by one, content shows in {number} of {count(tried, 'cluster')}: {names}{rest}."
        else:
            text += f" None of the {count(tried, 'larger cluster')} has items enough to show it alone."
    if evidence.gain.low > 0:
        text += (
            f" Of the gain, {plain(evidence.part_form.value)} points are form "
            f"and {plain(evidence.part_content.value)} content."
        )
    return text


def _not_shown(evidence: Evidence, category: Category) -> str:
    rival, lead = evidence.nearest_bound()
    if lead.high < evidence.smallest:
        taught = "format was learnt, not the task" if category == "format only" else "the task was not learnt"
        return (
            f"In content the model is {_stands(lead)} {RIVALS[rival]}: {points(lead)}. "
            f"A lead of {plain(evidence.smallest)} points over every control is ruled out: {taught}."
        )
    _, rival, lead = evidence.closest()
    taught = (
        "format was learnt and nothing shows that the task was" if category == "format only" else "nothing is shown"
    )
    return (
        f"In content the model is {_stands(lead)} {RIVALS[rival]}: {points(lead)}. So {taught}; but a true lead under "
        f"{plain(lead.detectable)} points would often be missed, and about {lead.items_for(evidence.smallest):,} items "
        f"would settle {plain(evidence.smallest)} points."
    )


def _stands(lead: Interval) -> str:
    return "behind" if lead.high < 0 else "not clearly ahead of"


RIVALS = {
    "untuned model": "the untuned model",
    "chance": "chance",
    "majority label": "the majority label",
    "own answers to other rows": "its own answers to other rows",
    "tuned on random labels": "a model tuned on random labels",
}


def absent(level: str, n: int, least: int) -> str:
    """The verdict on a level with too few items, and how to get them."""
    if n == 0:
        return (
            f"Cannot be said. No held-out item tests {LEVELS[level]}, so nothing can be claimed there; "
            f"to find out, {REMEDY[level]}."
        )
    return (
        f"Cannot be said. Only {count(n, 'item')} of {LEVELS[level]}, and {least} are needed; "
        f"raise build.heldout_rows{'' if level == 'seen_template' else f' or {REMEDY[level]}'}."
    )


def level_question(level: str) -> str:
    return f"What did the tuning teach that shows on {LEVELS[level]}?"


def headline(findings: Sequence[Finding]) -> str:
    """The whole audit in one or two sentences, from the verdicts on the levels."""
    levels = {f.details.get("level"): f.category for f in findings if f.probe == "gain" and f.details.get("level")}
    if not levels:
        return "Nothing can be said of what the tuning taught: the gain probe was not run."
    says = {
        "task learning": "task content was learnt, and it shows on",
        "format only": "only the form of answers is shown to carry over to",
        "no evidence of task learning": "there is no evidence of learning on",
        "worse": "the tuned model is worse on",
        "cannot be said": "nothing can be said of",
    }
    parts = [
        f"{says[category]} {_and([SHORT[name] for name in LEVELS if levels.get(name) == category])}"
        for category in CATEGORIES
        if category in levels.values()
    ]
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _and(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def plain(fraction: float) -> str:
    return f"{100 * fraction:.1f}".replace("-0.0", "0.0")


def bare(interval: Interval) -> str:
    """`12.3 points [8.1, 16.4]` for an interval of fractions."""
    return f"{plain(interval.value)} points [{plain(interval.low)}, {plain(interval.high)}]"


def points(interval: Interval) -> str:
    """The same with its sign."""
    return f"{'+' if interval.value >= 0 else ''}{bare(interval)}"


def count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")
