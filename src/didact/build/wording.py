"""A row in the words of a template: its options below it, its reasoning before the answer, and its layouts as drawn.

Every draw is made for the row, the template's place and what is drawn, so the words are the same in every process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from didact.build import draws
from didact.build.config import BuildConfig, layouts
from didact.instance import Part
from didact.sources import Row, Task
from didact.template import Rendered, Template, TemplateDrop
from didact.token_count import Count

OUTSIDE = "the answer is none of the choices"
MOST_OPTIONS = 26  # a longer list is no help, and letters run out
_ROMAN = "i ii iii iv v vi vii viii ix x xi xii xiii xiv xv xvi xvii xviii xix xx xxi xxii xxiii xxiv xxv xxvi"
ROMAN = tuple(_ROMAN.split(" "))


@dataclass(frozen=True, slots=True)
class Words:
    """A row in the words of a template, before it is an instance, and what was done to it (tags)."""

    parts: tuple[Part, ...]
    answer: str
    choices: tuple[str, ...]
    tags: Mapping[str, str]

    @property
    def question(self) -> str:
        """Its text and its pictures, to tell it from others."""
        return "".join(part.value for part in self.parts)

    @property
    def text(self) -> str:
        return "".join(part.value for part in self.parts if part.kind == "text")

    @property
    def pictures(self) -> int:
        return sum(part.kind == "image" for part in self.parts)

    def example(self, layout: Mapping[str, str]) -> list[Part]:
        """Question and answer as a layout writes an example, its pictures where they stand in the question."""
        before, end = layout["before"], layout["after"] + self.answer + layout["between"]
        if not self.pictures:
            return [Part(before + self.text + end, "demo")]
        shown = [Part(part.value, "demo", part.kind) for part in self.parts]
        return [part for part in (Part(before, "demo"), *shown, Part(end, "demo")) if part.value]


@dataclass(frozen=True)
class Asked:
    """One item with all that its words depend on; `mates` are rows whose answers are right too."""

    task: Task
    row: Row
    template: Template | None
    level: str
    slot: int
    config: BuildConfig
    mates: Callable[[], list[Row]] = list
    examples: Callable[[int], Iterator[Row]] | None = None  # n -> candidates, from training rows of other groups
    count: Count | None = None  # tokens of a text

    def draw(self, what: str) -> float:
        return draws.share(self.config.seed, what, self.task.name, self.row.number, self.slot, self.level)

    def chance(self, what: str, rate: float) -> bool:
        return bool(rate) and self.draw(what) < rate

    def layout(self, kind: str, globs: Sequence[str]) -> dict[str, str]:
        found = [layout for name, layout in layouts(kind).items() if any(fnmatchcase(name, glob) for glob in globs)]
        where = (f"layout of {kind}", self.task.name, self.row.number, self.slot, self.level)
        return found[draws.one_of(len(found), self.config.seed, *where)]


def render(template: Template, row: Row, home: Path | None) -> Rendered:
    rendered = template.render(row.data).at(home)
    if rendered.choices and rendered.answer not in rendered.choices:
        raise TemplateDrop(OUTSIDE, f"{rendered.answer!r} is not in {', '.join(rendered.choices)}")
    return rendered


def worded(
    asked: Asked, rendered: Rendered, row: Row, options: dict[str, str] | None, why: dict[str, str] | None
) -> Words:
    """A rendered row with its options below it, and with the reasoning before the answer."""
    parts, answer, choices, tags = rendered.parts, rendered.answer, rendered.choices, dict[str, str]()
    if options is not None and 1 < len(choices) <= MOST_OPTIONS and not _listed(choices, rendered):
        order = list(choices)
        if asked.config.options.shuffle:
            where = (asked.task.name, row.number, asked.slot)
            order.sort(key=lambda choice: draws.share(asked.config.seed, "shuffle", *where, choice))
        block, marks = _block(order, options)
        parts = (*parts, Part("\n" + block, "instruction"))
        if asked.config.options.answer == "mark" and marks:
            answer, choices = marks[order.index(answer)], tuple(marks)
        tags["options"] = options["name"]
    reasoning = _reasoning(row, asked.config)
    if why is not None and reasoning and reasoning not in answer and not any(reasoning in part.value for part in parts):
        parts = (*parts, Part("\n" + why["ask"], "instruction"))
        answer = why["before"] + reasoning + why["between"] + answer + why["after"]
        choices, tags["cot"] = (), why["name"]  # the whole answer is none of the choices any more
    return Words(parts, answer, choices, tags)


def options_layout(asked: Asked) -> dict[str, str] | None:
    if not asked.chance("options", asked.config.options.share):
        return None
    return asked.layout("options", asked.config.options.layouts)


def _listed(choices: Sequence[str], rendered: Rendered) -> bool:
    """Whether the question names every choice already."""
    question = "".join(part.value for part in rendered.parts)
    return all(choice in question for choice in choices)


def _block(choices: Sequence[str], layout: Mapping[str, str]) -> tuple[str, Sequence[str]]:
    """The list of choices as a layout writes it, and its marks, if it has any."""
    first = layout.get("marks", "")
    marks = {"1": [str(n + 1) for n in range(len(choices))], "i": ROMAN}.get(
        first, [chr(ord(first) + n) for n in range(len(choices))] if first else []
    )[: len(choices)]
    shown = marks or [""] * len(choices)
    items = [layout["item"].format(choice=choice, mark=mark) for choice, mark in zip(choices, shown, strict=True)]
    if "last" in layout and len(items) > 1:
        items[-2:] = [items[-2] + layout["last"] + items[-1]]
    return layout["head"] + layout["between"].join(items) + layout["tail"], marks


def _reasoning(row: Row, config: BuildConfig) -> str:
    """The text of the first column of the row that holds reasoning."""
    if not config.rationale.share:
        return ""
    values = (row.data.get(column) for column in config.rationale.columns)
    return next((value.strip() for value in values if isinstance(value, str) and value.strip()), "")
