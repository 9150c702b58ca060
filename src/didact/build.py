"""rows -> instances: which rows and templates are held out, and every kept row in the words of its templates.

Rows are split before templates are applied, by group or by content, so no held-out row is in training in other words.
The split, the choice of templates and the order follow from hashes of the seed and the row, not from the order of
the file: more rows at the end of a file leave the earlier ones where they were.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from didact.errors import UsageError, nearest
from didact.formats import to_instances
from didact.instance import Drop, Instance, Message, Origin, Part, digest
from didact.sources import Row, Task
from didact.template import Rendered, Template, TemplateDrop, matches

OUTSIDE = "the answer is none of the choices"


class BuildConfig(BaseModel):
    """How rows become instances, and what is held out of training to be judged on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    heldout_clusters: list[str] = Field([], description="globs of clusters whose tasks are only tested on")
    heldout_tasks: list[str] = Field([], description="globs of tasks that are only tested on")
    heldout_templates: int = Field(
        1, ge=0, description="templates of each task that are only tested on; one always stays"
    )
    heldout_rows: int | float = Field(
        0.1, ge=0, description="rows of each task that are only tested on: a share below 1, or a number of row groups"
    )
    heldout_per_task: int | None = Field(
        100, ge=1, description="at most this many held-out instances of each task and level; null for all"
    )
    max_per_task: int | None = Field(None, ge=1, description="at most this many training instances of each task")
    templates_per_row: int = Field(1, ge=1, description="with how many templates each row is put into words")
    seed: int = Field(0, ge=0, description="decides split, choice of templates and order")


@dataclass(frozen=True, slots=True)
class _Plan:
    """One instance to be: a row, the template it is put into words with, and its place in the split."""

    task: Task
    row: Row
    template: Template | None
    level: str  # empty: training
    others: tuple[Row, ...] = ()  # rows of the same group, whose answers are references


def build(tasks: Sequence[Task], config: BuildConfig, drop: Callable[[Drop], None]) -> Iterator[Instance]:
    """The instances of tasks, training and held-out mixed, in an order that the seed decides.

    Tags: split (train | heldout), template, and for held-out ones level (seen_template | heldout_template |
    heldout_task | heldout_cluster). Rows that give no instance go to `drop`. Raises UsageError for settings that
    match nothing or leave nothing, and for faulty rows of tasks whose `on_error` is stop. Holds the rows in memory.
    """
    _check(tasks, config)
    plans = [plan for task in tasks for plan in _plan(task, config)]
    plans.sort(key=lambda plan: _draw(config.seed, "order", plan.task.name, plan.row.number, _name(plan)))
    if plans and not any(not plan.level for plan in plans):
        raise UsageError("every row is held out", "hold less out", field="build")
    for plan in plans:
        yield from _instances(plan, drop)


def build_row(task: Task, row: Row, config: BuildConfig, drop: Callable[[Drop], None]) -> Iterator[Instance]:
    """The instances of one row in the words it would be trained in, whether it is held out or not; to look at."""
    for template in _some(_split_templates(task, config)[0], config.templates_per_row, config.seed, task, row):
        yield from _instances(_Plan(task, row, template, ""), drop)


def _check(tasks: Sequence[Task], config: BuildConfig) -> None:
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f'two tasks are called "{name}"', "give one source another name: task: NAME", field="sources"
            )
    for field, known, globs in (
        ("heldout_clusters", {task.cluster for task in tasks}, config.heldout_clusters),
        ("heldout_tasks", set(names), config.heldout_tasks),
    ):
        for glob in globs:
            if not any(matches(name, [glob]) for name in known):
                raise UsageError(f'"{glob}" matches nothing', nearest(glob, known), field=f"build.{field}")
    if tasks and not any(_held_level(task, config) == "" for task in tasks):
        raise UsageError("every task is held out", "hold fewer tasks or clusters out", field="build")


def _held_level(task: Task, config: BuildConfig) -> str:
    if matches(task.cluster, config.heldout_clusters):
        return "heldout_cluster"
    return "heldout_task" if matches(task.name, config.heldout_tasks) else ""


def _plan(task: Task, config: BuildConfig) -> list[_Plan]:
    """What becomes of each row of a task."""
    seen, unseen = _split_templates(task, config)
    whole = _held_level(task, config)
    train, heldout = _split_rows(task, config, bool(whole))
    per_row = config.templates_per_row
    plans: list[_Plan] = []
    levels = [(whole, (*seen, *unseen))] if whole else [("seen_template", seen), ("heldout_template", unseen)]
    for level, templates in levels:
        asked = [
            _Plan(task, rows[0], template, level, tuple(rows[1:]))
            for rows in _questions(task, heldout)
            for template in _some(templates, per_row, config.seed, task, rows[0])
        ]
        plans += asked[: config.heldout_per_task]
    if not whole:
        taught = [_Plan(task, row, t, "") for row in train for t in _some(seen, per_row, config.seed, task, row)]
        plans += taught[: config.max_per_task]
    return plans


def _split_templates(
    task: Task, config: BuildConfig
) -> tuple[tuple[Template | None, ...], tuple[Template | None, ...]]:
    """Templates for training, and those kept for testing, in the task's order."""
    if not task.templates:
        return (None,), ()
    ranked = sorted(task.templates, key=lambda t: _draw(config.seed, "template", task.name, t.name))
    kept = {id(template) for template in ranked[: max(0, min(config.heldout_templates, len(ranked) - 1))]}
    seen = tuple(template for template in task.templates if id(template) not in kept)
    return seen, tuple(template for template in task.templates if id(template) in kept)


def _split_rows(task: Task, config: BuildConfig, whole: bool) -> tuple[list[Row], list[Row]]:
    """Training and held-out rows, each in an order of its own that does not follow the file."""
    keyed = [(_draw(config.seed, "row", key), key, row) for row in task.rows() for key in (_key(task, row),)]
    keyed.sort(key=lambda item: (item[0], item[1], item[2].number))
    ranks: dict[str, int] = {}
    for _, key, row in keyed:
        if "_split" not in row.data:
            ranks.setdefault(key, len(ranks))
    forced: dict[str, bool] = {}
    for _, key, row in keyed:
        if "_split" in row.data:
            forced[key] = forced.get(key, False) or row.data["_split"] == "heldout"
    share = config.heldout_rows
    if not whole and ranks and share >= len(ranks) and share >= 1:
        problem = f'task "{task.name}" has {len(ranks)} groups of rows; holding {share:g} out leaves none to train on'
        raise UsageError(problem, "hold fewer rows out", field="build.heldout_rows")

    def held(draw: float, key: str) -> bool:
        if key in forced:
            return forced[key]
        return draw < share if share < 1 else ranks[key] < share

    train: list[Row] = []
    heldout: list[Row] = []
    for draw, key, row in keyed:
        (heldout if whole or held(draw, key) else train).append(row)
    return train[::-1], heldout  # each begins at its end of the draws: a cap keeps the same rows whatever the share


def _key(task: Task, row: Row) -> str:
    """What keeps rows on one side: the group columns, else the whole content."""
    for column in task.group:
        if column not in row.data:
            problem = f'the group column "{column}" is missing'
            raise UsageError(problem, nearest(column, row.data), file=row.source, line=row.number, field=column)
    content = {column: row.data[column] for column in task.group} if task.group else row.data
    return digest({name: repr(value) for name, value in content.items() if name != "_split"}, 32)


def _questions(task: Task, rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that are one question each; with `references`, all rows of a group are one."""
    if not task.references:
        return [[row] for row in rows]
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[_key(task, row)].append(row)
    return list(groups.values())


def _some(templates: Sequence[Template | None], n: int, seed: int, task: Task, row: Row) -> list[Template | None]:
    """`n` of the templates, drawn for this row."""
    if len(templates) <= n:
        return list(templates)
    return sorted(templates, key=lambda t: _draw(seed, "pick", task.name, row.number, t.name if t else ""))[:n]


def _name(plan: _Plan) -> str:
    return plan.template.name if plan.template else ""


def _draw(seed: int, *what: object) -> float:
    """A number in [0, 1) that follows from the seed and what it is drawn for."""
    text = "\x1f".join(map(str, (seed, *what)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64


def _instances(plan: _Plan, drop: Callable[[Drop], None]) -> Iterator[Instance]:
    task, row = plan.task, plan.row
    via = f"template:{plan.template.name}" if plan.template else ""
    origin = Origin(row.source, row.number, via, task=task.name, cluster=task.cluster, licence=task.licence)
    tags = {"split": "heldout", "level": plan.level} if plan.level else {"split": "train"}
    try:
        if plan.template is None:
            for instance in _ready_made(task, row, origin):
                yield instance.tagged(**tags)
            return
        rendered = plan.template.render(row.data)
        if rendered.choices and rendered.answer not in rendered.choices:
            raise TemplateDrop(OUTSIDE, f"{rendered.answer!r} is not in {', '.join(rendered.choices)}")
        references = _references(plan, rendered)
        messages = (Message("user", rendered.parts), Message("assistant", (Part(rendered.answer, "answer"),)))
        yield Instance.of(messages, origin, references, rendered.choices, {**tags, "template": plan.template.name})
    except TemplateDrop as left_out:
        drop(Drop(left_out.reason, left_out.detail, origin))
    except UsageError as error:
        if task.on_error == "stop" or error.field is None or error.file is not None:
            raise error if error.file else error.at(file=row.source, line=row.number) from error
        drop(Drop("faulty row", str(error), origin))


def _ready_made(task: Task, row: Row, origin: Origin) -> list[Instance]:
    assert task.mapping is not None, "a task has templates or a mapping"
    data = {name: value for name, value in row.data.items() if name != "_split"}
    return to_instances(task.mapping, data, origin)


def _references(plan: _Plan, rendered: Rendered) -> tuple[str, ...]:
    """The other right answers: those of rows that pose the very same question."""
    assert plan.template is not None
    found: list[str] = []
    for row in plan.others:
        try:
            other = plan.template.render(row.data)
        except TemplateDrop:
            continue
        if other.parts == rendered.parts and other.answer not in (rendered.answer, *found):
            found.append(other.answer)
    return tuple(found)
