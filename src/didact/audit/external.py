"""What do the field's own benchmarks say? Tasks of lm-evaluation-harness, base beside tuned, paired by item.

Run through the harness's own API, so tasks, prompts and metrics are the harness's. Tasks of a local folder need no
network; those of the hub are fetched only where the recipe says `online`. Metrics that are not per item (perplexities,
corpus scores) are left out, since they have no paired interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.audit.exact import CORRECTION, holm, paired_test
from didact.audit.exhibit import table, whiskers
from didact.audit.interval import Interval, mean_interval
from didact.audit.measure import failed
from didact.audit.subject import Finding, Subject
from didact.audit.verdict import count, percent, plain, points

QUESTION = "What do benchmarks of lm-evaluation-harness say?"
FIRST = ("exact_match", "acc_norm", "acc", "f1", "rouge1")  # the metric that stands for a task, if it has several


class ExternalConfig(BaseModel):
    """Tasks of lm-evaluation-harness, base and tuned."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["external"] = "external"
    tasks: list[str] = Field([], description="names of tasks of lm-evaluation-harness, or of the folder's")
    folder: str = Field("", description="folder of task files beside the recipe")
    limit: int = Field(200, ge=1, description="items of each task")
    shots: int | None = Field(None, ge=0, description="examples before each question; the task's own unless given")
    chat: bool = Field(True, description="put prompts into the model's chat template")
    online: bool = Field(False, description="let the harness fetch data from the hub")


def external(config: ExternalConfig, subject: Subject) -> list[Finding]:
    """One finding over all tasks: the mean difference, and each task's with its interval and corrected p."""
    if not config.tasks:
        return [failed("external", QUESTION, "No task is named; name some: {type: external, tasks: [...]}.")]
    if subject.harness is None:
        return [failed("external", QUESTION, "The harness cannot be run here.")]
    scores = subject.harness(config)
    chosen = {task: metric for task, by in scores.items() if (metric := _metric(by))}
    if not chosen:
        return [failed("external", QUESTION, f"No task of {', '.join(config.tasks)} has a metric per item.")]
    differences = {task: _difference(scores[task][metric]) for task, metric in chosen.items()}
    intervals = {
        task: mean_interval(values, seed=subject.seed, span=(-1.0, 1.0)) for task, values in differences.items()
    }
    chances = dict(zip(intervals, holm([paired_test(values) for values in differences.values()]), strict=True))
    pooled = [value for values in differences.values() for value in values]
    groups = [f"{task} {i}" for task, values in differences.items() for i in range(len(values))]
    whole = mean_interval(pooled, groups, seed=subject.seed)
    better = [task for task, p in chances.items() if p < 0.05 and intervals[task].value > 0]
    worse = [task for task, p in chances.items() if p < 0.05 and intervals[task].value < 0]
    category = "better" if better and not worse else "worse" if worse and not better else "no difference shown"
    category = "better and worse" if better and worse else category
    verdict = (
        f"{category.capitalize()}. Over {count(len(chosen), 'task')} of the harness ({whole.n} items) the tuned model "
        f"differs by {points(whole)}. Shown after correction ({CORRECTION}): better on "
        f"{', '.join(better) or 'none'}, worse "
        f"on {', '.join(worse) or 'none'}."
    )
    if not better and not worse:
        verdict += f" A true difference under {plain(whole.detectable)} points would often be missed."
    details: dict[str, Any] = {
        "category": category,
        "tasks": {
            task: {**told.to_json(), "metric": chosen[task], "p": chances[task]} for task, told in intervals.items()
        },
        "correction": CORRECTION,
        "detectable": whole.detectable,
        "pictures": [
            whiskers(
                [(task, f"{chosen[task]}, n={told.n}", told) for task, told in intervals.items()],
                "points",
                "Tuned minus base by task, paired by item, 95% intervals.",
            )
        ],
        "tables": [_table(scores, intervals, chances)],
    }
    start = _mean([pair[0] for task, metric in chosen.items() for pair in scores[task][metric]])
    return [Finding("external", QUESTION, verdict, whole.value, whole.low, whole.high, start, whole.n, [], details)]


def _metric(by: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    known = [metric for metric in by if by[metric]]
    return next((metric for metric in FIRST if metric in known), next(iter(sorted(known)), ""))


def _difference(pairs: Sequence[tuple[float, float]]) -> list[float]:
    return [after - before for before, after in pairs]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _table(
    scores: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    intervals: Mapping[str, Interval],
    chances: Mapping[str, float],
) -> dict[str, Any]:
    rows = []
    for task, by in scores.items():
        for metric, pairs in by.items():
            before, after = (_mean([pair[i] for pair in pairs]) for i in (0, 1))
            p = chances.get(task, "")
            rows.append([task, metric, 100 * before, 100 * after, percent(after - before), p, len(pairs)])
    return table("Every metric", ["task", "metric", "before, %", "after, %", "difference", "p, corrected", "n"], rows)
