"""Prompts that say less than a task's own: the space of answers, its name, or nothing beside what is asked about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from didact.instance import Instance
from didact.reproduce.bank import reworded, words

if TYPE_CHECKING:
    from didact.template import Template


def said(instances: Sequence[Instance], rows: int, kind: str) -> list[Instance]:
    """The same rows with prompts of a kind of words.yaml: simplified, empty or named."""
    return reworded(instances, rows, lambda task, one: _template(task.name, kind))


@cache
def _template(task: str, kind: str) -> Template:
    from didact.template import Template

    asked = " ".join("{{ %s }}" % field for field in _fields(task))  # noqa: UP031
    text = words()[kind].replace("{fields}", asked).replace("{name}", _name(task))
    return Template(name=kind, prompt=text, answer="{{ answer }}", answer_choices="{{ choices | join(' ||| ') }}")


def _name(task: str) -> str:
    """Two invented words for a task, no two tasks the same."""
    from itertools import product

    from didact.starter.tasks import specs
    from didact.starter.world import world

    number = [spec.name for spec in specs()].index(task)
    labels = world().labels
    pairs = list(product(labels[64:80], labels[80:96]))
    return " ".join(pairs[(number * 37) % len(pairs)])


def _fields(name: str) -> list[str]:
    """The columns, in a fixed order, that a task's templates ask about and that its rows do not share."""
    from didact.starter.tasks import specs, templates

    spec = next(spec for spec in specs() if spec.name == name)
    used = {field for template in templates(spec) for field in re.findall(r"\{\{ (\w+) \}\}", template.prompt)}
    return [field for field in words()["fields"] if field in used]
