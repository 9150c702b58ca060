"""The tasks of the picture world: rows that ask about one fact of a scene each, and on demand longer ones.

A row's `key` is its scene, so a scene is on one side of train and held-out in every task.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from random import Random
from typing import TYPE_CHECKING

from didact.starter.picture_facts import MAKERS
from didact.starter.picture_talk import KINDS
from didact.starter.scenes import world

if TYPE_CHECKING:
    from didact.sources import Row, Task
    from didact.template import Template

LICENCE = "Apache-2.0"
BARE = "bare"  # captions without a question


def names() -> list[str]:
    """The tasks in a fixed order, those with one question first."""
    return [*world()["tasks"], BARE, *KINDS]


def picture_tasks(rows_per_task: int, seed: int, only: Sequence[str] = ()) -> list[Task]:
    """The tasks whose name or cluster matches a glob of `only`; those with one question if it is empty.

    rows: columns image (PNG), other (where two pictures are compared), key, answer and what the templates name.
    """
    from didact.formats import Mapping as Form
    from didact.sources import Task

    found: list[Task] = []
    for name in names():
        cluster = world()["tasks"].get(name, {"cluster": "captions" if name == BARE else name})["cluster"]
        wanted = any(fnmatchcase(name, glob) or fnmatchcase(cluster, glob) for glob in only)
        if not (wanted if only else name in world()["tasks"]):
            continue
        found.append(
            Task(
                name=f"pictures/{name}",
                cluster=f"pictures/{cluster}",
                licence=LICENCE,
                rows=lambda name=name: rows(name, rows_per_task, seed),  # type: ignore[misc]
                templates=templates(name),
                group=("key",),
                mapping=Form("messages", "", pictured=True) if name in KINDS else None,
                languages=("en",),
            )
        )
    return found


def rows(name: str, n: int, seed: int) -> Iterator[Row]:
    """The rows of a task."""
    from didact.sources import Row

    for number in range(1, n + 1):
        rng = Random(f"pictures {name} {seed} {number}")
        yield Row(f"picture_world:{name}", number, (KINDS.get(name) or MAKERS[name])(rng))


def templates(name: str) -> tuple[Template, ...]:
    """The phrasings of a task as templates; none for whole conversations, one without words for bare captions."""
    from didact.template import Template

    if name in KINDS:
        return ()
    if name == BARE:
        return (Template(name="bare", answer="{{ caption }}", images=("image",)),)
    told = world()["tasks"][name]
    choices = told.get("choices")
    choices = list(world()[choices]) if isinstance(choices, str) else choices
    columns = ("image", "other") if told.get("pictures") == 2 else ("image",)
    return tuple(
        Template(
            name=f"{name}-{number}",
            prompt=phrasing,
            answer=told["answer"],
            answer_choices=" ||| ".join(choices) if choices else None,
            metadata={"metrics": "Accuracy"},
            images=columns,
        )
        for number, phrasing in enumerate(told["phrasings"], 1)
    )
