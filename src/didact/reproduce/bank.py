"""The rows that reproductions draw on: the starter's annotated tasks, split once, and the same rows in other words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import yaml

from didact.audit.measure import sample
from didact.instance import Instance, Message, Origin, Part

if TYPE_CHECKING:
    from didact.sources import Row, Task
    from didact.template import Template

CLUSTERS = ("pick", "order", "facts")  # never trained on
SEED = 0


@dataclass(frozen=True)
class Bank:
    """Instances to train on, new rows of the same tasks (`near`), and rows of tasks and clusters never trained on."""

    rows: int
    train: tuple[Instance, ...]
    near: tuple[Instance, ...]
    far: tuple[Instance, ...]

    def draw(self, n: int) -> Callable[[int], list[Instance]]:
        """seed -> `n` training instances, spread over the tasks."""
        return lambda seed: sample(self.train, n, seed)

    def asked(self, n: int) -> dict[str, list[Instance]]:
        """`n` questions about trained tasks and `n` about others, the same for every seed."""
        return {"held-in": sample(self.near, n, SEED), "held-out": sample(self.far, n, SEED)}


@lru_cache(maxsize=2)
def bank(rows: int) -> Bank:
    """The bank of so many rows per task."""
    from didact.build import BuildConfig, build
    from didact.starter.levels import NEAR

    some = _tasks(rows)
    config = BuildConfig(
        heldout_clusters=list(CLUSTERS),
        heldout_tasks=[glob for glob in NEAR["slot"] if not glob.startswith(CLUSTERS)],
        heldout_templates=0,
        heldout_per_task=8,
        leak_check=False,
        workers=1,
        seed=SEED,
    )
    made = list(build(some, config, lambda drop: None))
    held = [one for one in made if one.tags["split"] == "heldout"]
    return Bank(
        rows,
        tuple(one for one in made if one.tags["split"] == "train"),
        tuple(one for one in held if one.tags["level"] == "seen_template"),
        tuple(one for one in held if one.tags["level"] != "seen_template"),
    )


def reworded(
    instances: Sequence[Instance], rows: int, template_of: Callable[[Task, Instance], Template]
) -> list[Instance]:
    """The same rows in the words of another template; the answer is what that template says it is."""
    known = _rows(rows)
    made = []
    for one in instances:
        task, row = known[one.origin.source, one.origin.row]
        template = template_of(task, one)
        told = template.render({key: value for key, value in row.data.items() if not key.startswith("_")})
        messages = (Message("user", told.parts), Message("assistant", (Part(told.answer, "answer"),)))
        old = one.origin
        origin = Origin(old.source, old.row, f"template:{template.name}", task=old.task, cluster=old.cluster)
        made.append(Instance.of(messages, origin, (), told.choices, one.tags))
    return made


def answered(instance: Instance, answer: str, choices: Sequence[str] = ()) -> Instance:
    """The same question with another answer."""
    old = instance.origin
    origin = Origin(old.source, old.row, "answered", parents=(instance.id,), task=old.task, cluster=old.cluster)
    messages = (*instance.context, Message("assistant", (Part(answer, "answer"),)))
    return Instance.of(messages, origin, (), tuple(choices), instance.tags)


def asking(question: str, answer: str, origin: Origin, choices: Sequence[str] = ()) -> Instance:
    """A question and its answer, made by program."""
    messages = (Message("user", (Part(question, "instruction"),)), Message("assistant", (Part(answer, "answer"),)))
    return Instance.of(messages, origin, (), tuple(choices))


@cache
def words() -> dict[str, Any]:
    """The prompts of reproductions."""
    return dict(yaml.safe_load(files(__package__).joinpath("words.yaml").read_text("utf-8")))


@lru_cache(maxsize=2)
def _tasks(rows: int) -> tuple[Task, ...]:
    from didact.starter.tasks import tasks

    return tuple(tasks(rows, SEED))


@lru_cache(maxsize=2)
def _rows(rows: int) -> dict[tuple[str, int], tuple[Task, Row]]:
    return {(row.source, row.number): (task, row) for task in _tasks(rows) for row in task.rows()}
