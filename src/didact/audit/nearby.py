"""The training rows nearest to an example, with their lineage: what the model may have it from."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from didact.audit.measure import clip, task_of
from didact.audit.score import words
from didact.audit.subject import Finding
from didact.instance import Instance

SHOWN = 2  # training rows beside an example
LOOKED_AT = 2000  # of a task, or of a cluster


def with_lineage(findings: Sequence[Finding], trained: Sequence[Instance]) -> None:
    """Give every example of a finding its nearest training rows, in place: of its task, else of its cluster.

    Nearness is the share of words in common (Dice) of the prompts.
    """
    by_task: dict[str, list[Instance]] = defaultdict(list)
    by_cluster: dict[str, list[Instance]] = defaultdict(list)
    for instance in trained:
        for pool in (by_task[task_of(instance)], by_cluster[instance.origin.cluster]):
            if len(pool) < LOOKED_AT:
                pool.append(instance)
    for finding in findings:
        for example in finding.examples:
            if "prompt" in example and "near" not in example:
                pool = by_task.get(example["task"]) or by_cluster.get(example["cluster"]) or []
                own = Counter(words(" ".join(part["text"] for part in example["prompt"])))
                best = sorted(pool, key=lambda instance: -_alike(own, Counter(words(instance.prompt))))[:SHOWN]
                example["near"] = [row(instance) for instance in best]


def row(instance: Instance) -> dict[str, Any]:
    """A training instance with its lineage, for a report."""
    origin = instance.origin
    return {
        "id": instance.id,
        "prompt": clip(instance.prompt),
        "answer": clip(instance.answer),
        "source": origin.source,
        "row": origin.row,
        "task": task_of(instance),
        "via": origin.via,
        "teacher": origin.teacher,
        "licence": origin.licence,
        "parents": list(origin.parents),
    }


def _alike(one: Counter[str], other: Counter[str]) -> float:
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 0.0
