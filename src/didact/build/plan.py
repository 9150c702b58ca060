"""What is to be built, decided before anything is put into words: every row read once, a few bytes of it kept.

An item is one instance to be: a row, its place in the split, and which of the row's templates in order (`slot`). The
order of items follows from the seed and the rows' draws, not from the order of the files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from didact.build import draws
from didact.build.budget import counting
from didact.build.config import BuildConfig
from didact.build.mixing import Mixture, Supply, cap, mix
from didact.build.repeats import Repeats
from didact.build.rows import FREE, HELDOUT, INDEX, TRAIN, Rows
from didact.build.split import LEVELS, Templates, check, held_rows, key_of, left_out, level_of, templates_of
from didact.errors import UsageError
from didact.instance import Drop, Origin
from didact.sources import Task
from didact.token_count import Count

LEFT_OUT = "its cluster is left out with one that is held out"
ITEM = np.dtype([("row", "<u4"), ("task", "<u4"), ("slot", "<u2"), ("level", "u1")])
Items = NDArray[Any]
Tell = Callable[[int], None]  # how many rows were read


@dataclass(frozen=True)
class Plan:
    """Everything that decides the instances: tasks, settings, rows, which are held out, and the items in order."""

    tasks: Sequence[Task]
    config: BuildConfig
    rows: Rows
    held: NDArray[np.bool_]
    heldout: Items
    train: Items
    templates: Sequence[dict[str, Templates]]
    groups: Sequence[Sequence[str]]
    mixture: Mixture
    notes: tuple[str, ...] = ()
    count: Count | None = None  # tokens of a text, for the budget of examples
    _train_rows: dict[int, NDArray[Any]] = field(default_factory=dict)
    _by_group: dict[int, NDArray[Any]] = field(default_factory=dict)

    def train_rows(self, task: int) -> NDArray[Any]:
        """Indices of the rows of a task that may be trained on."""
        if task not in self._train_rows:
            start, end = self.rows.starts[task], self.rows.starts[task + 1]
            self._train_rows[task] = (np.flatnonzero(~self.held[start:end]) + start).astype("<u4")
        return self._train_rows[task]

    def group_mates(self, task: int, row: int) -> list[int]:
        """The other held-out rows of a row's group, in the order of the file."""
        start, end = self.rows.starts[task], self.rows.starts[task + 1]
        draws_of = self.rows.index["draw"][start:end]
        if task not in self._by_group:
            self._by_group[task] = np.argsort(draws_of, kind="stable")
        order = self._by_group[task]
        ranked = draws_of[order]
        first, last = (int(np.searchsorted(ranked, draws_of[row - start], side)) for side in ("left", "right"))
        return [int(index) + start for index in order[first:last] if int(index) + start != row]


def read(tasks: Sequence[Task], config: BuildConfig, rows: Rows, drop: Callable[[Drop], None], tell: Tell) -> list[str]:
    """Read every row of every task once into `rows`; returns the group column found for each task, or "".

    Raises UsageError for settings that match nothing. Tasks that leave training are not read, and dropped as one.
    """
    check(tasks, config)
    left, found, done = left_out(tasks, config), list[str](), 0
    for task in tasks:
        repeats = Repeats() if config.find_groups and not task.group and not level_of(task, config) else None
        if task.name in left:
            origin = Origin("", 0, task=task.name, cluster=task.cluster, licence=task.licence)
            drop(Drop(LEFT_OUT, f'task "{task.name}": cluster {left[task.name]} is held out', origin))
        else:
            for row in task.rows():
                draw = draws.number(config.seed, "row", key_of(task, row, task.group))
                rows.add(row, draw, _forced(row.data))
                if repeats is not None:
                    repeats.look(row.data)
                done += 1
                if done % 1000 == 0:
                    tell(done)
        rows.end_task()
        found.append(repeats.column() if repeats is not None else "")
    rows.finish()
    for number, column in enumerate(found):
        if column:
            _regroup(tasks[number], number, column, rows, config)
    return found


def _forced(data: dict[str, Any]) -> int:
    return (HELDOUT if data["_split"] == "heldout" else TRAIN) if "_split" in data else FREE


def _regroup(task: Task, number: int, column: str, rows: Rows, config: BuildConfig) -> None:
    """Draw a task's rows anew, by a column that was found to repeat; rows without it stay groups of their own."""
    for index, row in zip(range(rows.starts[number], rows.starts[number + 1]), rows.of_task(number), strict=True):
        if column in row.data:
            rows.index["draw"][index] = draws.number(config.seed, "row", key_of(task, row, [column]))


def plan(tasks: Sequence[Task], config: BuildConfig, rows: Rows, found: Sequence[str], tokenizer: str = "") -> Plan:
    """Decide split, mixture and order. found: group columns that `read` found. tokenizer: what counts, see `counting`.

    Raises UsageError if nothing is left to train on.
    """
    index = rows.index[:-1] if len(rows.index) else np.zeros(0, INDEX)
    held, taught, tested = np.zeros(len(index), bool), list[Items](), list[Items]()
    templates = [templates_of(task, config) for task in tasks]
    supplies: list[Supply] = []
    for number, task in enumerate(tasks):
        part = slice(rows.starts[number], rows.starts[number + 1])
        held[part] = held_rows(task, index[part], config)
        order = np.lexsort((index["number"][part], index["draw"][part]))
        mine = held[part][order]
        tested += _tested(task, number, order[mine] + part.start, templates[number], index, config)
        # Training begins at the other end of the draws: a cap keeps the same rows whatever is held out.
        taught.append((order[~mine] + part.start)[::-1])
        supplies.append(_supply(task, len(taught[-1]), templates[number], config))
    mixture = mix(supplies, config.mixing, preset=bool(config.preset))
    learnt = [
        _items(number, rows_, _slots(templates[number][""], config), 0, mixture.quotas.get(tasks[number].name, 0))
        for number, rows_ in enumerate(taught)
    ]
    train, heldout = _ordered(learnt, index, tasks, config.seed), _ordered(tested, index, tasks, config.seed)
    if len(heldout) and not len(train):
        raise UsageError("every row is held out", "hold less out", field="build")
    groups = [task.group or ((column,) if column else ()) for task, column in zip(tasks, found, strict=True)]
    notes = [
        f'task "{task.name}": rows that share "{column}" stay on one side (it repeats, and the source names no group)'
        for task, column in zip(tasks, found, strict=True)
        if column
    ]
    count, notes = counting(config, tokenizer), [*notes, *mixture.notes]
    return Plan(tasks, config, rows, held, heldout, train, templates, groups, mixture, tuple(notes), count)


def _supply(task: Task, rows: int, templates: dict[str, Templates], config: BuildConfig) -> Supply:
    slots = _slots(templates[""], config)
    part = f"super-ni/{task.name}" if task.mapping is not None and task.mapping.name == "super-ni" else ""
    limit = cap((task.name, task.cluster, part), config.max_per_task)
    items = rows * slots if limit is None else min(rows * slots, limit)
    return Supply(task.name, task.cluster, rows, len(templates[""]), items, part)


def _slots(templates: Templates, config: BuildConfig) -> int:
    return min(config.templates_per_row, len(templates))


def _items(task: int, rows: Items, slots: int, level: int, n: int) -> Items:
    """The first `n` items of rows: each row in `slots` templates, row after row; then all again in the next ones."""
    items = np.zeros(n, ITEM)
    if not n:
        return items
    place = np.arange(n, dtype=np.int64)
    turn, place = np.divmod(place, len(rows) * slots)
    items["task"], items["level"] = task, level
    items["row"] = rows[place // slots]
    items["slot"] = np.minimum(turn * slots + place % slots, 65535)
    return items


def _tested(
    task: Task, number: int, rows: Items, templates: dict[str, Templates], index: NDArray[Any], config: BuildConfig
) -> list[Items]:
    """The held-out items of a task, for each level; with `references`, the rows of a group are one question."""
    if task.references and len(rows):
        rows = rows[np.unique(index["draw"][rows], return_index=True)[1]]
    whole = level_of(task, config)
    found = []
    for level in (whole,) if whole else ("seen_template", "heldout_template"):
        slots = _slots(templates[level], config)
        n = len(rows) * slots
        n = n if config.heldout_per_task is None else min(n, config.heldout_per_task)
        found.append(_items(number, rows, slots, LEVELS.index(level), n))
    return found


def _ordered(parts: Sequence[Items], index: NDArray[Any], tasks: Sequence[Task], seed: int) -> Items:
    """Items in the order of a hash of seed, task, row, slot and level."""
    items = np.concatenate(parts) if parts else np.zeros(0, ITEM)
    names = np.array([draws.number(seed, "order", task.name) for task in tasks] or [0], np.uint64)
    with np.errstate(over="ignore"):
        mark = names[items["task"]] ^ _scatter(index["number"][items["row"]].astype(np.uint64))
        place = items["slot"].astype(np.uint64) << np.uint64(8) | items["level"].astype(np.uint64)
        mark = _scatter(mark ^ _scatter(place + np.uint64(1)))
    ordered: Items = items[np.argsort(mark, kind="stable")]
    return ordered


def _scatter(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014): every bit of the input moves every bit of the output."""
    x = (x + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def stripped(tasks: Sequence[Task]) -> list[Task]:
    """Tasks without their rows and what templates have compiled, to hand to another process."""
    return [replace(t, rows=_no_rows, templates=tuple(replace(template) for template in t.templates)) for t in tasks]


def _no_rows() -> Any:
    raise AssertionError("the rows of a planned task are in Rows")
