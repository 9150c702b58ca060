"""An item becomes an instance: its row in the words of a template, with options, examples and reasoning as drawn.

Every draw is made for the row, the template's place and what is drawn, so an instance is the same however many others
are made, and in whichever process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from didact.build import draws
from didact.build.budget import fitting
from didact.build.config import BuildConfig, layouts
from didact.build.plan import Plan
from didact.build.split import LEVELS, Templates, is_inverted, templates_of
from didact.errors import UsageError
from didact.formats import to_instances
from didact.instance import Drop, Instance, Message, Origin, Part
from didact.sources import Row, Task
from didact.template import Rendered, Template, TemplateDrop
from didact.token_count import Count

OUTSIDE = "the answer is none of the choices"
MOST_OPTIONS = 26  # a longer list is no help, and letters run out
NONE_FITS = "no example fits into the token budget"
NO_ROW = "no other training row gives an example"
NO_TEMPLATE = "ready-made instructions have no template for examples"
OF_ENCODING = "only those of its encoding"  # Super-NaturalInstructions bring their examples themselves
WITH_PICTURES = "examples are texts, and the question has a picture"
TRIES = 5  # rows looked at for each example wanted, as some give none
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
        return "".join(part.value for part in self.parts)


@dataclass(frozen=True)
class _Asked:
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


def compose(plan: Plan, item: Any, drop: Callable[[Drop], None]) -> Iterator[Instance]:
    """The instances of an item of a plan: one, or none and a drop; ready-made rows may give several."""
    number, index = int(item["task"]), int(item["row"])
    task, row, level = plan.tasks[number], plan.rows.read(index, number), LEVELS[item["level"]]
    slot = int(item["slot"])
    template = chosen(plan.templates[number][level], slot, plan.config, task, row, inverted=not level)

    def mates() -> list[Row]:
        return [plan.rows.read(mate, number) for mate in plan.group_mates(number, index)]

    def examples(n: int) -> Iterator[Row]:
        return _candidates(plan, number, index, slot, n)

    mates_ = mates if task.references and level else list
    asked = _Asked(task, row, template, level, slot, plan.config, mates_, examples, plan.count)
    yield from _instances(asked, drop)


def build_row(task: Task, row: Row, config: BuildConfig, drop: Callable[[Drop], None]) -> Iterator[Instance]:
    """The instances of one row in the words it would be trained in, without examples, held out or not; to look at."""
    templates = templates_of(task, config)[""]
    for slot in range(min(config.templates_per_row, len(templates))):
        template = chosen(templates, slot, config, task, row, inverted=True)
        yield from _instances(_Asked(task, row, template, "", slot, config), drop)


def chosen(
    templates: Templates, slot: int, config: BuildConfig, task: Task, row: Row, inverted: bool
) -> Template | None:
    """The template of a row's `slot`: they are drawn in an order of the row's own, without putting any back.

    inverted: whether turned-around templates are drawn at their own rate, where the recipe gives one.
    """
    if len(templates) == 1:
        return templates[0]
    what = ("pick", task.name, row.number)
    ranked = sorted(templates, key=lambda t: draws.share(config.seed, *what, t.name if t else ""))
    turned = [template for template in ranked if is_inverted(template)]
    if config.inverted is None or not inverted or not turned or len(turned) == len(ranked):
        return ranked[slot % len(ranked)]
    plain = [template for template in ranked if not is_inverted(template)]
    for place in range(slot % len(ranked) + 1):
        wanted = draws.share(config.seed, "inverted", task.name, row.number, slot - slot % len(ranked) + place)
        pile = (turned or plain) if wanted < config.inverted else (plain or turned)
        if place == slot % len(ranked):
            return pile[0]
        pile.pop(0)
    raise AssertionError("a slot has its place")


def _instances(asked: _Asked, drop: Callable[[Drop], None]) -> Iterator[Instance]:
    task, row = asked.task, asked.row
    via = f"template:{asked.template.name}" if asked.template else ""
    origin = Origin(row.source, row.number, via, task=task.name, cluster=task.cluster, licence=task.licence)
    tags = {"split": "heldout", "level": asked.level} if asked.level else {"split": "train"}
    try:
        if asked.template is None:
            if asked.examples is not None and asked.chance("few_shot", asked.config.few_shot.share):
                brought = task.mapping is not None and task.mapping.name == "super-ni"
                tags["zero-shot"] = OF_ENCODING if brought else NO_TEMPLATE
            for instance in _ready_made(task, row, origin):
                yield instance.tagged(**tags)
            return
        yield _instance(asked, asked.template, origin, tags)
    except TemplateDrop as left_out:
        drop(Drop(left_out.reason, left_out.detail, origin))
    except UsageError as error:
        if task.on_error == "stop" or error.field is None or error.file is not None:
            raise error if error.file else error.at(file=row.source, line=row.number) from error
        drop(Drop("faulty row", str(error), origin))


def _instance(asked: _Asked, template: Template, origin: Origin, tags: Mapping[str, str]) -> Instance:
    options = _options_layout(asked)
    reasoned = not asked.level and not is_inverted(template) and asked.chance("cot", asked.config.rationale.share)
    why = asked.layout("rationale", asked.config.rationale.layouts) if reasoned else None
    rendered = _rendered(template, asked.row, asked.task.home)
    words = _worded(asked, rendered, asked.row, options, why)
    references = () if "cot" in words.tags else _references(asked, template, rendered, words)
    parts, shots, few = _with_examples(asked, template, words, options, why)
    told = {**tags, "template": template.name, **words.tags, **few}
    if is_inverted(template):
        told["inverted"] = "yes"
    if shots:
        origin = replace(origin, parents=tuple(f"{row.source}:{row.number}" for row in shots))
    messages = (Message("user", parts), Message("assistant", (Part(words.answer, "answer"),)))
    return Instance.of(messages, origin, references, words.choices, told)


def _rendered(template: Template, row: Row, home: Path | None) -> Rendered:
    rendered = template.render(row.data).at(home)
    if rendered.choices and rendered.answer not in rendered.choices:
        raise TemplateDrop(OUTSIDE, f"{rendered.answer!r} is not in {', '.join(rendered.choices)}")
    return rendered


def _worded(
    asked: _Asked, rendered: Rendered, row: Row, options: dict[str, str] | None, why: dict[str, str] | None
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


def _options_layout(asked: _Asked) -> dict[str, str] | None:
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


def _with_examples(
    asked: _Asked,
    template: Template,
    words: Words,
    options: dict[str, str] | None,
    why: dict[str, str] | None,
) -> tuple[tuple[Part, ...], list[Row], dict[str, str]]:
    """The question with examples before it, the rows that they come from, and what is to be said of them (tags)."""
    settings = asked.config.few_shot
    if asked.examples is None or not asked.chance("few_shot", settings.share):
        return words.parts, [], {}
    if template.images:
        return words.parts, [], {"zero-shot": WITH_PICTURES}
    layout = asked.layout("few_shot", settings.layouts)
    drawn = _drawn(asked, template, words, options, why)
    head, before, cue = (layout[key] for key in ("head", "before", "cue"))
    texts = [layout["before"] + e.question + layout["after"] + e.answer + layout["between"] for _, e in drawn]
    assert asked.count is not None, "a build with examples counts tokens"
    kept = fitting(texts, head, before + words.question + cue, settings.max_tokens, asked.count)
    tags = {"pruned": str(len(texts) - len(kept))} if len(kept) < len(texts) else {}
    if not kept:
        return words.parts, [], {**tags, "zero-shot": NONE_FITS if texts else NO_ROW}
    parts = [Part(head, "demo"), *(Part(texts[n], "demo") for n in kept), Part(before), *words.parts, Part(cue)]
    tags["shots"] = str(len(kept))
    return tuple(part for part in parts if part.value), [drawn[n][0] for n in kept], tags


def _drawn(
    asked: _Asked, template: Template, words: Words, options: dict[str, str] | None, why: dict[str, str] | None
) -> list[tuple[Row, Words]]:
    """As many examples as were drawn, or as there are, each with its row; none asks the question itself."""
    shots, found = asked.config.few_shot.shots, list[tuple[Row, Words]]()
    n = shots[int(asked.draw("shots") * len(shots))]
    for row in asked.examples(n) if asked.examples else ():
        try:
            example = _worded(asked, _rendered(template, row, asked.task.home), row, options, why)
        except (TemplateDrop, UsageError):
            continue  # told when the row's own turn comes
        if example.question != words.question:
            found.append((row, example))
        if len(found) == n:
            break
    return found


def _candidates(plan: Plan, task: int, index: int, slot: int, n: int) -> Iterator[Row]:
    """Training rows of the task that may be examples for a row: of other groups, and no two of one group."""
    rows, draw_of, seed = plan.train_rows(task), plan.rows.index["draw"], plan.config.seed
    if not len(rows):
        return
    name, number, taken = plan.tasks[task].name, int(plan.rows.index["number"][index]), {int(draw_of[index])}
    for attempt in range(n * TRIES):
        candidate = int(rows[draws.one_of(len(rows), seed, "example", name, number, slot, attempt)])
        if int(draw_of[candidate]) not in taken:
            taken.add(int(draw_of[candidate]))
            yield plan.rows.read(candidate, task)


def _ready_made(task: Task, row: Row, origin: Origin) -> list[Instance]:
    assert task.mapping is not None, "a task has templates or a mapping"
    data = {name: value for name, value in row.data.items() if name != "_split"}
    return to_instances(task.mapping, data, origin, task.home)


def _references(asked: _Asked, template: Template, rendered: Rendered, words: Words) -> tuple[str, ...]:
    """The other right answers: those of rows that pose the very same question."""
    found: list[str] = []
    for row in asked.mates():
        try:
            other = template.render(row.data).at(asked.task.home)
        except TemplateDrop:
            continue
        if other.parts == rendered.parts and other.answer not in (rendered.answer, *found):
            found.append(other.answer)
    return tuple(found)
