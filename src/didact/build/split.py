"""What is held out: clusters, tasks, templates and rows, with what shares a group; and what leaves training with it.

The levels are those of OPT-IML (Iyer et al. 2022, arXiv 2212.12017); the rule for clusters is Flan's (Wei et al. 2021,
arXiv 2109.01652): a task is unseen only if nothing that says much about it was trained on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from didact.build import draws
from didact.build.config import BuildConfig, _data
from didact.build.rows import FREE, HELDOUT
from didact.errors import UsageError, nearest
from didact.instance import digest
from didact.sources import Row, Task
from didact.template import Template, matches

LEVELS = ("", "seen_template", "heldout_template", "heldout_task", "heldout_cluster")  # "" is training
Templates = tuple[Template | None, ...]


def check(tasks: Sequence[Task], config: BuildConfig) -> None:
    """Refuse settings that match nothing or leave nothing, and two tasks of one name."""
    names = [task.name for task in tasks]
    seen: set[str] = set()
    for name in names:
        if name in seen:
            problem = f'two tasks are called "{name}"'
            raise UsageError(problem, "give one source another name: task: NAME", field="sources")
        seen.add(name)
    for field, known, globs in (
        ("heldout_clusters", {task.cluster for task in tasks}, config.heldout_clusters),
        ("heldout_tasks", seen, config.heldout_tasks),
    ):
        for glob in globs:
            if not any(matches(name, [glob]) for name in known):
                raise UsageError(f'"{glob}" matches nothing', nearest(glob, known), field=f"build.{field}")
    left = left_out(tasks, config)
    if tasks and not any(level_of(task, config) == "" and task.name not in left for task in tasks):
        raise UsageError("every task is held out", "hold fewer tasks or clusters out", field="build")


def level_of(task: Task, config: BuildConfig) -> str:
    """The level of a task that is held out whole, else empty."""
    if task.level:
        return task.level
    if matches(task.cluster, config.heldout_clusters):
        return "heldout_cluster"
    return "heldout_task" if matches(task.name, config.heldout_tasks) else ""


def left_out(tasks: Sequence[Task], config: BuildConfig) -> dict[str, str]:
    """Tasks that are neither trained on nor tested, and beside which held-out cluster."""
    # A source that holds tasks out itself has its own rule for what leaves training with them.
    held = sorted({task.cluster for task in tasks if not task.level and level_of(task, config) == "heldout_cluster"})
    found: dict[str, str] = {}
    for cluster in held:
        close = _close(cluster, config.leave_out)
        for task in tasks:
            if not level_of(task, config) and any(_plain(task.cluster) == name for name in close):
                found.setdefault(task.name, cluster)
    return found


def _close(cluster: str, rule: Mapping[str, Sequence[str]] | None) -> set[str]:
    """The plain names of the clusters that leave training when this one is held out."""
    if rule is not None:
        return {_plain(name) for key, names in rule.items() if matches(cluster, [key]) for name in names}
    told = _data("clusters.yaml")
    kinds = [kind for kind, names in told["names"].items() if _plain(cluster) in map(_plain, names)]
    return {_plain(name) for kind in kinds for other in told["leave_out"][kind] for name in told["names"][other]}


def _plain(name: str) -> str:
    return re.sub(r"[\s_/-]+", "", name).lower()


def is_inverted(template: Template | None) -> bool:
    """Whether a template asks for the input and is given the answer."""
    if template is None:
        return False
    return template.inverted


def templates_of(task: Task, config: BuildConfig) -> dict[str, Templates]:
    """By level, the templates in which a row of the task is put into words, in the task's order.

    Turned-around templates ask another question, so they are trained on and not tested with.
    """
    if not task.templates:
        return {level: () if level == "heldout_template" else (None,) for level in LEVELS}
    plain = [t for t in task.templates if not is_inverted(t)] or list(task.templates)
    ranked = sorted(plain, key=lambda t: draws.share(config.seed, "template", task.name, t.name))
    unseen = {id(t) for t in ranked[: max(0, min(config.heldout_templates, len(ranked) - 1))]}
    return {
        "": tuple(t for t in task.templates if id(t) not in unseen),
        "seen_template": tuple(t for t in plain if id(t) not in unseen),
        "heldout_template": tuple(t for t in plain if id(t) in unseen),
        "heldout_task": tuple(plain),
        "heldout_cluster": tuple(plain),
    }


def key_of(task: Task, row: Row, group: Sequence[str]) -> str:
    """What keeps rows on one side: the group columns, else the whole content."""
    for column in group:
        if column not in row.data:
            problem = f'the group column "{column}" is missing'
            raise UsageError(problem, nearest(column, row.data), file=row.source, line=row.number, field=column)
    content = {column: row.data[column] for column in group} if group else row.data
    return digest({name: repr(value) for name, value in content.items() if name != "_split"}, 32)


def held_rows(task: Task, index: NDArray[Any], config: BuildConfig) -> NDArray[np.bool_]:
    """Which rows of a task are held out: whole groups, by their draw, or as their column `_split` says."""
    if level_of(task, config):
        return np.ones(len(index), bool)
    groups, forced, share = index["draw"], index["forced"], config.heldout_rows
    free = np.unique(groups[forced == FREE])
    if share >= 1:
        if len(free) and share >= len(free):
            problem = (
                f'task "{task.name}" has {len(free)} groups of rows; holding {share:g} out leaves none to train on'
            )
            raise UsageError(problem, "hold fewer rows out", field="build.heldout_rows")
        held = np.isin(groups, free[: int(np.ceil(share))])
    else:
        held = groups / 2.0**64 < share
    told = np.isin(groups, groups[forced != FREE])
    return np.where(told, np.isin(groups, groups[forced == HELDOUT]), held).astype(bool)
