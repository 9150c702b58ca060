"""A task of Super-NaturalInstructions <-> instances: definition, examples, explanations, several outputs (Wang 2022).

What a model is shown is one of the encodings of Tk-Instruct; their words lie in super_ni.yaml. An example is added only
while the whole prompt fits. Of several outputs one, drawn by its content, is the answer; the others are references.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

import yaml

from didact.errors import UsageError, nearest
from didact.formats.fields import DROP, extra, kept, list_of, mistyped, rest, within
from didact.instance import Instance, Message, Origin, Part, digest
from didact.sandbox import TemplateDrop

Encoding = Literal["definition", "examples", "positive", "negative", "explanations", "mixed"]
BYTES_PER_TOKEN = 4  # of English in the vocabularies of T5 and its like, where no tokenizer counts
SEAM = 8  # tokens by which joining two pieces may change their number
Count = Callable[[str], int]


@dataclass(frozen=True)
class Shown:
    """How instances are put: the encoding, the tokens that a prompt with examples may have, and the seed of draws.

    cut: an input that is too long by itself is cut at its end, and the instance says so. count: tokens of a text; none:
    they are taken as four bytes each.
    """

    encoding: Encoding = "positive"
    max_length: int = 1024
    seed: int = 0
    cut: bool = False
    count: Count | None = None


@dataclass(frozen=True)
class Head:
    """What all instances of a task share. positive and negative: (input, output, explanation)."""

    name: str
    definition: str
    categories: tuple[str, ...]
    sources: tuple[str, ...]
    licence: str
    english: bool
    languages: tuple[str, ...]
    positive: tuple[tuple[str, str, str], ...]
    negative: tuple[tuple[str, str, str], ...]


def head_of(task: Mapping[str, Any], name: str) -> Head:
    """The head of a task as its file has it; raises UsageError naming the field."""
    definition = task.get("Definition")
    definition = definition[0] if isinstance(definition, list) and definition else definition
    if not isinstance(definition, str) or not definition.strip():
        fix = "write what the task asks for, as text or as a list of texts"
        raise UsageError("the task has no definition", fix, field="Definition")
    languages = [word for kind in ("Instruction", "Input", "Output") for word in _texts(task, f"{kind}_language")]
    return Head(
        name=name,
        definition=definition.strip(),
        categories=_texts(task, "Categories"),
        sources=_texts(task, "Source"),
        licence=", ".join(_texts(task, "Instance License")),
        english=all(language == "English" for language in languages),  # drafts that name no language are English
        languages=tuple(dict.fromkeys(languages)),
        positive=_examples(task, "Positive Examples"),
        negative=_examples(task, "Negative Examples"),
    )


def checked(item: Any) -> dict[str, Any]:
    """An instance of a task, its output a list of texts; raises UsageError naming the field."""
    if not isinstance(item, dict):
        raise mistyped(item, "an object", "Instances")
    for key in ("input", "output"):
        if key not in item:
            fix = f"{nearest(key, item) if item else 'add it'} {DROP}"
            raise UsageError(f'the field "{key}" is missing', fix, field=key)
    if not isinstance(item["input"], str):
        raise mistyped(item["input"], "text", "input")
    outputs = [item["output"]] if isinstance(item["output"], str) else item["output"]
    if not isinstance(outputs, list) or not outputs or not all(isinstance(text, str) for text in outputs):
        raise mistyped(item["output"], "a text or a list of texts", "output")
    return {**item, "output": outputs}


def instance_of(
    head: Head, shown: Shown, row: Mapping[str, Any], origin: Origin, held: Mapping[str, Any] | None = None
) -> Instance:
    """The instance of a `checked` row, encoded. held: what is kept in `extra`, for writing it again."""
    outputs = [text for text in row["output"] if text.strip()]
    if not outputs:
        raise TemplateDrop("the answer is empty")
    drawn = digest([shown.seed, head.name, row["input"], row["output"]])
    able = [name for name in _data()["encodings"] if name != "examples" or head.positive]
    encoding = able[int(drawn[:8], 16) % len(able)] if shown.encoding == "mixed" else shown.encoding
    answer = outputs[int(drawn[8:], 16) % len(outputs)]
    others = tuple(dict.fromkeys(text for text in outputs if text != answer))
    try:
        parts = encode(head, row["input"], encoding, shown)
    except TemplateDrop:
        if shown.encoding != "mixed":
            raise
        encoding = "definition"
        parts = encode(head, row["input"], encoding, shown)
    tags = {"template": encoding, "metric": metric(head.categories)}
    if shown.cut and not _fits(parts, shown):
        parts, tags["cut"] = _cut(parts, shown), "input"
    tags |= kept("super-ni", instance=dict(row)) if held is None else kept("super-ni", **held)
    messages = (Message("user", parts), Message("assistant", (Part(answer, "answer"),)))
    return Instance.of(messages, replace(origin, via=f"super-ni:{encoding}"), others, tags=tags)


def encode(head: Head, given: str, encoding: str, shown: Shown) -> tuple[Part, ...]:
    """The prompt of an instance in an encoding; examples are added only while it is within `shown.max_length` tokens.

    Raises TemplateDrop where an encoding without the definition has no example to show.
    """
    word, (defined, positives, negatives, explained) = _data()["words"], _data()["encodings"][encoding]
    before = [Part(_ended(word["definition"] + head.definition) + word["after_definition"], "instruction")]
    before = before if defined else []
    asked = word["asked"] + given.strip()
    stop = _ended(asked)[len(asked) :]
    middle = [Part(given.strip(), "input")] if given.strip() else []
    after = [Part(word["asked"], "instruction"), *middle, Part(stop + word["cue"], "instruction")]
    demos: list[Part] = []
    for kind, examples, wanted in (("positive", head.positive, positives), ("negative", head.negative, negatives)):
        for number, (question, answer, explanation) in enumerate(examples[:wanted], 1):
            text = _ended(word[kind].format(number=number) + question.strip())
            text += _ended(word["example_output"] + answer.strip())
            if explained and explanation.strip():
                text += _ended(word["example_explanation"] + explanation.strip())
            demo = Part(text + word["after_example"], "demo")
            if not _fits([*before, *demos, demo, *after], shown):
                break
            demos.append(demo)
    if not defined and not demos:
        raise TemplateDrop("the task has no example to show", f"encoding {encoding}")
    return (*before, *demos, *after)


def read_super_ni(row: Mapping[str, Any], origin: Origin) -> list[Instance]:
    """All instances of a task; the first keeps what the task's file holds besides them."""
    head, found = head_of(row, origin.task), []
    held: dict[str, Any] = {"task": rest(row, "Instances")}
    for number, item in enumerate(list_of(row, "Instances")):
        try:
            found.append(instance_of(head, Shown(), checked(item), origin, {**held, "instance": item}))
        except UsageError as error:
            raise within(error, f"Instances.{number}") from error
        except TemplateDrop as left_out:
            detail = f"instance {number + 1} of {len(row['Instances'])}, and the others with it"
            raise TemplateDrop(left_out.reason, detail) from left_out
        held = {}
    return found


def write_super_ni(instances: Sequence[Instance]) -> dict[str, Any]:
    """A task from its instances, in their order; UsageError if none of them keeps the task's definition."""
    task = next((found for found in (extra(instance, "super-ni", "task") for instance in instances) if found), None)
    if task is None:
        raise UsageError("no instance has kept the definition of its task", "write it as messages")
    items = []
    for instance in instances:
        row = extra(instance, "super-ni", "instance")
        outputs = row.get("output", [])
        if instance.answer not in ([outputs] if isinstance(outputs, str) else outputs):  # another since it was read
            row = {**row, "output": [instance.answer, *instance.references]}
        items.append(row)
    return {**task, "Instances": items}


def test_category(categories: Sequence[str]) -> str:
    """The first of the categories that is only tested on, or ""."""
    known = {name for names in _data()["test_categories"].values() for name in names}
    return next((category for category in categories if category in known), "")


def metric(categories: Sequence[str]) -> str:
    """How answers are judged: exact_match for six test categories and other classification, else rouge_l."""
    exact = _data()["test_categories"]["exact_match"]
    return "exact_match" if any(c in exact or c.endswith("Classification") for c in categories) else "rouge_l"


def _texts(task: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The texts of a field that may be missing, one text, or a list of texts."""
    value = task.get(key) or []
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise mistyped(value, "a text or a list of texts", key)
    return tuple(found)


def _examples(task: Mapping[str, Any], key: str) -> tuple[tuple[str, str, str], ...]:
    value, found = task.get(key) or [], []
    if not isinstance(value, list):
        raise mistyped(value, "a list", key)
    for number, item in enumerate(value):
        values = [item.get(name) or "" for name in ("input", "output", "explanation")] if isinstance(item, dict) else []
        values = [text[0] if isinstance(text, list) and len(text) == 1 else text for text in values]
        if not values or not all(isinstance(text, str) for text in values):
            raise mistyped(item, "an object of texts", f"{key}.{number}")
        found.append((values[0], values[1], values[2]))
    return tuple(found)


def _ended(text: str) -> str:
    """The text with a full stop unless an ASCII punctuation mark ends it: the rule of the original, blanks and all."""
    return text if text[-1:] and text[-1] in string.punctuation else text + "."


def _fits(parts: Sequence[Part], shown: Shown) -> bool:
    """Whether a prompt is within its tokens. Those of pieces add up to those of the whole but for the seams, so the
    whole is counted only near the limit."""
    if shown.count is None:
        data = sum(len(part.value.encode("utf-8", "surrogatepass")) for part in parts)
        return data / BYTES_PER_TOKEN <= shown.max_length
    over = sum(_tokens(shown.count, part.value) for part in parts) - shown.max_length
    if abs(over) > SEAM * len(parts):
        return over < 0
    return shown.count("".join(part.value for part in parts)) <= shown.max_length


@lru_cache(maxsize=8192)
def _tokens(count: Count, text: str) -> int:
    """Tokens of a definition or an example, which all instances of a task share."""
    return count(text)


def _cut(parts: tuple[Part, ...], shown: Shown) -> tuple[Part, ...]:
    """The prompt with as much of its input as fits, at least none. Tk-Instruct cuts off the cue for the answer, too."""

    def with_only(length: int) -> tuple[Part, ...]:
        return tuple(replace(p, value=p.value[:length].rstrip()) if p.slot == "input" else p for p in parts)

    fits, beyond = 0, max((len(part.value) for part in parts if part.slot == "input"), default=0)
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        fits, beyond = (middle, beyond) if _fits(with_only(middle), shown) else (fits, middle)
    return with_only(fits)


@lru_cache(maxsize=1)
def _data() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((resources.files("didact") / "formats" / "super_ni.yaml").read_text("utf-8"))
    return found
