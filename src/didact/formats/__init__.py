"""Ready-made instructions <-> Instance: a table of formats, each with its columns, its reader and its writer.

Lossless: whatever a row holds besides the texts (tools, ids, names, further columns) is kept verbatim in the tag
`extra` and written back in the same format. What another format cannot hold can be carried in a column `didact`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Mapping as Dict
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args

from didact.errors import UsageError
from didact.formats import annotated, pictured, single, super_ni, turns
from didact.formats.fields import DROP, filled, refuse_unfilled
from didact.formats.super_ni import Encoding
from didact.instance import Instance, Message, Origin, Part
from didact.sandbox import TemplateDrop

__all__ = ["CARRIED", "COLUMNS", "DROP", "FORMATS", "GROUPS", "READERS", "WRITERS", "Encoding", "Mapping", "Name"]
__all__ += ["detect", "filled", "from_instances", "grouped", "refuse_unfilled", "to_instances", "unwritten", "written"]

Name = Literal[
    "didact",
    "messages",
    "sharegpt",
    "pairs",
    "tree",
    "baize",
    "self-instruct",
    "super-ni",
    "alpaca",
    "prompt-completion",
    "squad",
    "conll",
    "text",
]
FORMATS: tuple[Name, ...] = get_args(Name)
CARRIED = "didact"  # the column for what a format cannot hold
Reader = Callable[[Dict[str, Any], Origin], list[Instance]]


@dataclass(frozen=True)
class Mapping:
    """How the columns of a file become an instance. description: one line that shows it. read: instead of the format's
    own reader. pictured: rows of the file have pictures, so a mark without one is a fault."""

    name: Name
    description: str
    read: Reader | None = None
    pictured: bool = False


# name -> (columns it needs, `|` between alternatives; columns it may have; the mapping in words); looked for in order
COLUMNS: dict[Name, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "didact": (("id", "messages", "origin"), ("references", "choices", "tags"), "an instance as a run writes it"),
    "messages": (("messages",), ("tools",), "messages[].role, content -> turns"),
    "sharegpt": (("conversations",), ("system", "tools"), "conversations[].from, value -> turns"),
    "pairs": (("conversation",), (), "conversation[].human, assistant -> turns"),
    "tree": (("message_tree_id", "prompt"), (), "prompt, replies[] -> the turns of the best replies"),
    "self-instruct": (("instruction", "instances"), (), "instruction, instances[].input, output -> one instance each"),
    "super-ni": (("Definition", "Instances"), (), "Definition, Positive Examples, Instances[] -> one instance each"),
    "alpaca": (
        ("instruction", "output|response"),
        ("input", "context"),
        "instruction -> instruction, input -> input, {1} -> answer",
    ),
    "prompt-completion": (("prompt", "completion|response"), (), "prompt -> instruction, {1} -> answer"),
    "baize": (("input",), (), "input, apart at [|Human|] and [|AI|] -> turns"),
    "squad": (
        ("context", "question", "answers"),
        ("id", "title"),
        "question -> instruction, context -> input, answers -> answer and references, none -> unanswerable",
    ),
    "conll": (("tokens", "ner_tags|tags"), ("entities",), "tokens -> input, {1} -> answer, one to a line"),
    "text": (("text",), (), "text -> an answer without a question"),
}
READERS: dict[Name, Reader] = {
    "didact": turns.read_didact,
    "messages": turns.read_messages,
    "sharegpt": turns.read_sharegpt,
    "pairs": turns.read_pairs,
    "tree": turns.read_tree,
    "self-instruct": single.read_self_instruct,
    "super-ni": super_ni.read_super_ni,
    "alpaca": single.read_alpaca,
    "prompt-completion": single.read_pair,
    "baize": turns.read_baize,
    "squad": annotated.read_squad,
    "conll": annotated.read_conll,
    "text": single.read_text,
}
WRITERS: dict[Name, Callable[[Instance], dict[str, Any]]] = {
    "didact": Instance.to_json,
    "messages": turns.write_messages,
    "sharegpt": turns.write_sharegpt,
    "pairs": turns.write_pairs,
    "alpaca": single.write_alpaca,
    "prompt-completion": single.write_pair,
    "baize": turns.write_baize,
    "squad": annotated.write_squad,
    "conll": annotated.write_conll,
    "text": single.write_text,
}
# What must hold of a row beside its columns.
LOOKS: dict[Name, Callable[[Dict[str, Any]], bool]] = {
    "baize": lambda row: turns.HUMAN in str(row.get("input")),
    "squad": annotated.is_squad,
    "conll": annotated.is_conll,
}
# Formats whose row holds several instances: what is equal among them, and the writer.
GROUPS: dict[Name, tuple[Callable[[Instance], Any], Callable[[Sequence[Instance]], dict[str, Any]]]] = {
    "self-instruct": (
        lambda i: (i.origin.source, i.origin.row, single.apart(i)[0]),
        single.write_self_instruct,
    ),
    "super-ni": (lambda i: i.origin.task, super_ni.write_super_ni),
}


def detect(rows: Sequence[Dict[str, Any]], wanted: str = "auto") -> Mapping:
    """The format of rows, by their columns; UsageError if it is none that is known.

    Bare text is read only if it is asked for: an answer without a question is nothing to tune on.
    """
    seen = sorted({column for row in rows for column in row})
    for name, (needed, optional, words) in COLUMNS.items():
        if wanted != name and (wanted != "auto" or name == "text"):
            continue
        fitting = sum(_fits(name, needed, row) for row in rows)
        if wanted == name or 2 * fitting > len(rows):
            names = [next((key for key in key_or.split("|") if key in seen), key_or) for key_or in needed]
            known = {*names, *optional, CARRIED}
            with_pictures = sum(map(pictured.pictured, rows))
            known |= set(pictured.COLUMNS) if with_pictures else set()
            others = [column for column in seen if column not in known]
            beside = f"; pictures in {with_pictures} of them" if with_pictures else ""
            beside += f"; kept beside: {', '.join(others)}" if others else ""
            told = words.replace("{1}", names[-1])
            shown = f"{name}: {told}{beside} ({fitting} of {len(rows)} rows looked at)"
            return Mapping(name, shown, pictured=with_pictures > 0)
    raise _unknown(seen)


def _fits(name: Name, needed: Sequence[str], row: Dict[str, Any]) -> bool:
    return all(any(key in row for key in key_or.split("|")) for key_or in needed) and (
        name not in LOOKS or LOOKS[name](row)
    )


def _unknown(seen: Sequence[str]) -> UsageError:
    columns = ", ".join(seen) or "none"
    if "instruction" in seen or "prompt" in seen:
        problem = f"the rows ({columns}) hold questions without answers, so there is nothing to learn from them"
        return UsageError(problem, "have them answered first, or rename the column of the answers: {COLUMN: output}")
    if seen == ["text"]:
        problem = "the rows hold bare text, with no question and no answer"
        return UsageError(problem, "give the source `templates`, or format: text where a strategy completes them")
    return UsageError(
        f"the columns ({columns}) are no format of ready-made instructions that is known",
        "give the source `templates`, or rename columns to instruction, input and output",
    )


def to_instances(mapping: Mapping, row: Dict[str, Any], origin: Origin, home: Path | None = None) -> list[Instance]:
    """The instances of a row: several for Self-Instruct and Super-NaturalInstructions, else one.

    home: the folder in which the row's pictures were kept (`pictured.settled`). Raises UsageError with its field for a
    missing, empty or mistyped field or an unknown role, TemplateDrop for an empty answer.
    """
    origin = replace(origin, via=f"format:{mapping.name}")
    held = row.get(CARRIED)
    if isinstance(held, dict) and "read" in held:
        row = {key: value for key, value in row.items() if key != CARRIED}
    found = (mapping.read or READERS[mapping.name])(row, origin)
    if isinstance(held, dict) and "read" in held and len(found) == 1:
        found = [_restored(found[0], held)]
    found = [pictured.unfold(instance, home) for instance in found]
    if mapping.pictured:
        for instance in found:
            pictured.refuse_marks(instance)
    return found


def from_instances(name: Name, instances: Iterable[Instance], carry: bool = False) -> Iterator[dict[str, Any]]:
    """The rows of instances in a format; raises UsageError for an instance that the format cannot hold.

    carry: what the format has no place for goes into a column `didact`, from which it is read back. The instances of
    one row of Self-Instruct or Super-NaturalInstructions must follow one another.
    """
    for group in grouped(name, instances):
        row = written(name, group)
        held = unwritten(name, group[0], row) if carry and name in WRITERS else {}
        yield {**row, CARRIED: held} if held else row


def grouped(name: Name, instances: Iterable[Instance]) -> Iterator[list[Instance]]:
    """The instances that make one row of a format."""
    if name not in GROUPS:
        yield from ([instance] for instance in instances)
        return
    for _, group in groupby(instances, key=GROUPS[name][0]):
        yield list(group)


def written(name: Name, instances: Sequence[Instance]) -> dict[str, Any]:
    """The row of instances that belong together; raises UsageError if the format cannot hold them."""
    if name not in WRITERS and name not in GROUPS:
        raise UsageError(f"{name} can be read, but not written", f"choose one of: {', '.join((*WRITERS, *GROUPS))}")
    if name == "didact":
        return WRITERS[name](instances[0])
    folded = [pictured.fold(instance) for instance in instances]
    return pictured.spread(name, GROUPS[name][1](folded) if name in GROUPS else WRITERS[name](folded[0]))


def unwritten(name: Name, instance: Instance, row: Dict[str, Any], number: int = 0) -> dict[str, Any]:
    """What of an instance its row in a format does not tell; empty if reading the row gives the same instance.

    `read` is the id of the instance that the row alone gives (of several, by its number); then, where they differ,
    format and extra, parts (slots and lengths) or whole messages, references, choices, tags and origin.
    """
    if name == "didact":
        instance = Instance.from_json(instance.to_json())
    elif instance.images:
        instance, row = pictured.fold(instance), pictured.settled(row, lambda kept, field: str(kept))
    try:
        back = READERS[name](dict(row), instance.origin)[number]
    except TemplateDrop as left_out:
        raise UsageError(f"in this format it would be left out: {left_out.reason}", "write it as messages") from None
    held: dict[str, Any] = {}
    mine, its = (json.loads(each.tags.get("extra", "{}")) for each in (instance, back))
    columns = mine.get("columns", {})
    if mine != its and (columns != its.get("columns", {}) or set(mine) - {"format", "columns"}):
        held |= {"format": mine.get("format", name), "extra": {k: v for k, v in mine.items() if k != "format"}}
    if [(m.role, m.text) for m in back.messages] != [(m.role, m.text) for m in instance.messages]:
        held["messages"] = instance.to_json()["messages"]
    elif back.messages != instance.messages:
        held["parts"] = [[[part.slot, len(part.value)] for part in message.parts] for message in instance.messages]
    for key in ("references", "choices"):
        if getattr(instance, key) != getattr(back, key):
            held[key] = list(getattr(instance, key))
    if tags := {k: v for k, v in instance.tags.items() if k != "extra" and back.tags.get(k) != v}:
        held |= {"tags": tags, "origin": instance.to_json()["origin"]}
    return {"read": back.id, **held} if held else {}


def _restored(instance: Instance, held: Dict[str, Any]) -> Instance:
    """The instance with what its row carried, unless the row was changed in between."""
    if held["read"] != instance.id:
        return instance
    try:
        messages = instance.messages
        if "messages" in held:
            messages = Instance.from_json({"id": "", "origin": {}, "messages": held["messages"]}).messages
        elif "parts" in held:
            messages = tuple(_cut(message, cuts) for message, cuts in zip(messages, held["parts"], strict=True))
        tags = {**instance.tags, **{str(key): str(value) for key, value in held.get("tags", {}).items()}}
        if "extra" in held:
            tags["extra"] = json.dumps({"format": held["format"], **held["extra"]}, ensure_ascii=False)
        references, choices = (tuple(map(str, held.get(key, ()))) for key in ("references", "choices"))
        origin = instance.origin
        if "origin" in held:
            origin = Instance.from_json({"id": "", "messages": [], "origin": held["origin"]}).origin
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        problem = f'the column "{CARRIED}" is not as didact writes it'
        raise UsageError(problem, "leave the column out", field=CARRIED) from error
    return Instance.of(messages, origin, references, choices, tags)


def _cut(message: Message, cuts: Sequence[Any]) -> Message:
    parts, at = [], 0
    for slot, length in cuts:
        parts.append(Part(message.text[at : at + length], slot))
        at += length
    return Message(message.role, tuple(parts))
