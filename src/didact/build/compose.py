"""An item becomes an instance: its row in the words of a template, with options, examples and reasoning as drawn.

Every draw is made for the row, the template's place and what is drawn, so an instance is the same however many others
are made, and in whichever process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from didact.build import draws
from didact.build.budget import fitting
from didact.build.config import BuildConfig
from didact.build.plan import Plan
from didact.build.split import LEVELS, Templates, is_inverted, templates_of
from didact.build.wording import Asked, Words, options_layout, render, worded
from didact.errors import UsageError
from didact.formats import to_instances
from didact.instance import Drop, Instance, Message, Origin, Part
from didact.sources import Row, Task
from didact.template import Rendered, Template, TemplateDrop

NONE_FITS = "no example fits into the token budget"
NO_ROW = "no other training row gives an example"
NO_TEMPLATE = "ready-made instructions have no template for examples"
OF_ENCODING = "only those of its encoding"  # Super-NaturalInstructions bring their examples themselves
TRIES = 5  # rows looked at for each example wanted, as some give none


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
    asked = Asked(task, row, template, level, slot, plan.config, mates_, examples, plan.count)
    yield from _instances(asked, drop)


def build_row(task: Task, row: Row, config: BuildConfig, drop: Callable[[Drop], None]) -> Iterator[Instance]:
    """The instances of one row in the words it would be trained in, without examples, held out or not; to look at."""
    templates = templates_of(task, config)[""]
    for slot in range(min(config.templates_per_row, len(templates))):
        template = chosen(templates, slot, config, task, row, inverted=True)
        yield from _instances(Asked(task, row, template, "", slot, config), drop)


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


def _instances(asked: Asked, drop: Callable[[Drop], None]) -> Iterator[Instance]:
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


def _instance(asked: Asked, template: Template, origin: Origin, tags: Mapping[str, str]) -> Instance:
    options = options_layout(asked)
    reasoned = not asked.level and not is_inverted(template) and asked.chance("cot", asked.config.rationale.share)
    why = asked.layout("rationale", asked.config.rationale.layouts) if reasoned else None
    rendered = render(template, asked.row, asked.task.home)
    words = worded(asked, rendered, asked.row, options, why)
    references = () if "cot" in words.tags else _references(asked, template, rendered, words)
    parts, shots, few = _with_examples(asked, template, words, options, why)
    told = {**tags, "template": template.name, **words.tags, **few}
    if is_inverted(template):
        told["inverted"] = "yes"
    if shots:
        origin = replace(origin, parents=tuple(f"{row.source}:{row.number}" for row in shots))
    messages = (Message("user", parts), Message("assistant", (Part(words.answer, "answer"),)))
    return Instance.of(messages, origin, references, words.choices, told)


def _with_examples(
    asked: Asked,
    template: Template,
    words: Words,
    options: dict[str, str] | None,
    why: dict[str, str] | None,
) -> tuple[tuple[Part, ...], list[Row], dict[str, str]]:
    """The question with examples before it, the rows that they come from, and what is to be said of them (tags)."""
    settings = asked.config.few_shot
    if asked.examples is None or not asked.chance("few_shot", settings.share):
        return words.parts, [], {}
    layout = asked.layout("few_shot", settings.layouts)
    drawn = _drawn(asked, template, words, options, why)
    head, before, cue = (layout[key] for key in ("head", "before", "cue"))
    examples, each = [example.example(layout) for _, example in drawn], settings.picture_tokens or 0
    texts = ["".join(part.value for part in parts if part.kind == "text") for parts in examples]
    sizes = [(text, each * example.pictures) for text, (_, example) in zip(texts, drawn, strict=True)]
    assert asked.count is not None, "a build with examples counts tokens"
    question = before + words.text + cue, each * words.pictures
    kept = fitting(sizes, head, question, settings.max_tokens, asked.count)
    tags = {"pruned": str(len(texts) - len(kept))} if len(kept) < len(texts) else {}
    if not kept:
        return words.parts, [], {**tags, "zero-shot": NONE_FITS if texts else NO_ROW}
    shown = [part for n in kept for part in examples[n]]
    parts = [Part(head, "demo"), *shown, Part(before), *words.parts, Part(cue)]
    tags["shots"] = str(len(kept))
    return tuple(part for part in parts if part.value), [drawn[n][0] for n in kept], tags


def _drawn(
    asked: Asked, template: Template, words: Words, options: dict[str, str] | None, why: dict[str, str] | None
) -> list[tuple[Row, Words]]:
    """As many examples as were drawn, or as there are, each with its row; none asks the question itself."""
    shots, found = asked.config.few_shot.shots, list[tuple[Row, Words]]()
    n = shots[int(asked.draw("shots") * len(shots))]
    for row in asked.examples(n) if asked.examples else ():
        try:
            example = worded(asked, render(template, row, asked.task.home), row, options, why)
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


def _references(asked: Asked, template: Template, rendered: Rendered, words: Words) -> tuple[str, ...]:
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
