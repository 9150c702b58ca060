"""Ready-made instructions <-> Instance: alpaca, ShareGPT, OpenAI messages, prompt-completion and Self-Instruct.

Lossless: whatever a row holds besides the texts (tools, ids, names, further columns) is kept verbatim in the tag
`extra` and written back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Mapping as Dict
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from didact.errors import UsageError, nearest
from didact.instance import Instance, Message, Origin, Part, Role
from didact.sandbox import TemplateDrop

Name = Literal["alpaca", "sharegpt", "messages", "prompt-completion", "self-instruct"]
MESSAGE_ROLES: dict[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool",
    "function": "tool",
}  # fmt: skip
SHAREGPT_ROLES: dict[str, Role] = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant",
    "bing": "assistant", "bard": "assistant", "assistant": "assistant", "function_call": "assistant",
    "tool": "tool", "observation": "tool",
}  # fmt: skip
SHAREGPT_NAMES = {"user": "human", "assistant": "gpt"}
DROP = "or drop such rows: on_error: drop"
MISSING = "\x00missing"  # in the tag `extra`: the row had no such field


@dataclass(frozen=True)
class Mapping:
    """How the columns of a file become an instance. description: one line that shows it."""

    name: Name
    description: str


# name -> (columns it needs, columns it may have, the mapping in words); looked for in this order
COLUMNS: dict[Name, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "messages": (("messages",), ("tools",), "messages[].role, content -> turns"),
    "sharegpt": (("conversations",), ("system", "tools"), "conversations[].from, value -> turns"),
    "self-instruct": (("instruction", "instances"), (), "instruction, instances[].input, output -> one instance each"),
    "alpaca": (("instruction", "output"), ("input",), "instruction -> instruction, input -> input, output -> answer"),
    "prompt-completion": (("prompt", "completion"), (), "prompt -> instruction, completion -> answer"),
}


def detect(rows: Sequence[Dict[str, Any]], wanted: str = "auto") -> Mapping:
    """The format of rows, by their columns; UsageError if it is none that is known."""
    seen = sorted({column for row in rows for column in row})
    for name, (needed, optional, words) in COLUMNS.items():
        fitting = sum(all(column in row for column in needed) for row in rows)
        if wanted == name or (wanted == "auto" and 2 * fitting > len(rows)):
            others = [column for column in seen if column not in (*needed, *optional)]
            kept = f"; kept beside: {', '.join(others)}" if others else ""
            return Mapping(name, f"{name}: {words}{kept} ({fitting} of {len(rows)} rows looked at)")
    raise UsageError(
        f"the columns ({', '.join(seen) or 'none'}) are no format of ready-made instructions that is known",
        "give the source `templates`, or rename columns to instruction, input and output",
    )


def to_instances(mapping: Mapping, row: Dict[str, Any], origin: Origin) -> list[Instance]:
    """The instances of a row: several for Self-Instruct, else one.

    Raises UsageError with its field for a missing, empty or mistyped field or an unknown role, TemplateDrop for an
    empty answer.
    """
    origin = replace(origin, via=f"format:{mapping.name}")
    return READERS[mapping.name](row, origin)


def from_instances(name: Name, instances: Iterable[Instance]) -> Iterator[dict[str, Any]]:
    """The rows of instances in a format; raises UsageError for an instance that the format cannot hold."""
    if name == "self-instruct":
        for _, group in groupby(instances, key=lambda i: (i.origin.source, i.origin.row, _split(i)[0])):
            yield _write_self_instruct(list(group))
        return
    for instance in instances:
        yield WRITERS[name](instance)


def _read_alpaca(row: Dict[str, Any], origin: Origin) -> list[Instance]:
    given, kept = _input(row)
    extra = {"columns": {**_rest(row, "instruction", "input", "output"), **kept}}
    return [_single(_text(row, "instruction"), given, _text(row, "output", empty=True), origin, extra)]


def _write_alpaca(instance: Instance) -> dict[str, Any]:
    instruction, given = _split(instance)
    return _with_input(
        {"instruction": instruction, "input": given, "output": instance.answer}, _extra(instance, "columns")
    )


def _read_pair(row: Dict[str, Any], origin: Origin) -> list[Instance]:
    extra = {"columns": _rest(row, "prompt", "completion")}
    return [_single(_text(row, "prompt"), "", _text(row, "completion", empty=True), origin, extra)]


def _write_pair(instance: Instance) -> dict[str, Any]:
    _only_question_and_answer(instance)
    return {"prompt": instance.messages[0].text, "completion": instance.answer, **_extra(instance, "columns")}


def _read_self_instruct(row: Dict[str, Any], origin: Origin) -> list[Instance]:
    instruction, columns = _text(row, "instruction"), _rest(row, "instruction", "instances")
    found = []
    for i, item in enumerate(_list(row, "instances")):
        try:
            if not isinstance(item, dict):
                raise _mistyped(item, "an object", "")
            given, kept = _input(item)
            extra = {"columns": columns, "instance": {**_rest(item, "input", "output"), **kept}}
            found.append(_single(instruction, given, _text(item, "output", empty=True), origin, extra))
        except UsageError as error:
            raise UsageError(error.problem, error.fix, field=f"instances.{i}.{error.field}".rstrip(".")) from error
    return found


def _write_self_instruct(instances: Sequence[Instance]) -> dict[str, Any]:
    items = []
    for instance in instances:
        item = {"input": _split(instance)[1], "output": instance.answer}
        items.append(_with_input(item, _extra(instance, "instance")))
    return {"instruction": _split(instances[0])[0], "instances": items, **_extra(instances[0], "columns")}


def _input(row: Dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The optional input; and, if there is none, how the row says so."""
    if row.get("input") is None:
        return "", {"input": None} if "input" in row else {MISSING: "input"}
    return _text(row, "input", empty=True), {}


def _with_input(row: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    if extra.pop(MISSING, None):
        del row["input"]
    return {**row, **extra}


def _read_messages(row: Dict[str, Any], origin: Origin) -> list[Instance]:
    return [_conversation(row, "messages", "role", "content", MESSAGE_ROLES, origin)]


def _read_sharegpt(row: Dict[str, Any], origin: Origin) -> list[Instance]:
    return [_conversation(row, "conversations", "from", "value", SHAREGPT_ROLES, origin)]


def _write_messages(instance: Instance) -> dict[str, Any]:
    return _conversation_row(instance, "messages", "role", "content", {})


def _write_sharegpt(instance: Instance) -> dict[str, Any]:
    return _conversation_row(instance, "conversations", "from", "value", SHAREGPT_NAMES)


def _conversation(
    row: Dict[str, Any], column: str, role_key: str, text_key: str, roles: Dict[str, Role], origin: Origin
) -> Instance:
    """Turns from a list of objects. What a turn holds besides role and text is kept by its position."""
    messages: list[Message] = []
    kept: dict[str, Any] = {}
    columns = _rest(row, column)
    if column == "conversations" and isinstance(row.get("system"), str) and row["system"].strip():
        messages.append(Message("system", (Part(columns.pop("system"), "instruction"),)))
        kept["0"] = {"column": "system"}
    for i, turn in enumerate(_list(row, column)):
        place = f"{column}.{i}"
        if not isinstance(turn, dict):
            raise _mistyped(turn, "an object", place)
        role = _role(turn, role_key, roles, place)
        text, content = _content(turn, text_key, place)
        told = {"name": turn[role_key], "content": content, "rest": _rest(turn, role_key, text_key)}
        usual = {"name": role if role_key == "role" else SHAREGPT_NAMES.get(role, role), "content": text, "rest": {}}
        if told != usual:
            kept[str(len(messages))] = {key: value for key, value in told.items() if value != usual[key]}
            if text_key not in turn:
                kept[str(len(messages))]["content"] = MISSING
        messages.append(Message(role, (Part(text, "answer" if role == "assistant" else "instruction"),)))
    if not any(message.role == "assistant" for message in messages):
        raise UsageError("no assistant turn to learn from", f"add the answer, {DROP}", field=column)
    if messages[-1].role != "assistant":
        problem = f"ends with a {messages[-1].role} turn, so its last question has no answer"
        raise UsageError(problem, f"end with an assistant turn, {DROP}", field=column)
    return Instance.of(tuple(messages), origin, tags=_tags({"columns": columns, "turns": kept}))


def _role(turn: Dict[str, Any], key: str, roles: Dict[str, Role], place: str) -> Role:
    name = turn.get(key)
    if isinstance(name, str) and name in roles:
        return roles[name]
    if name is None and key == "from" and "role" in turn:
        raise UsageError('turns have "role", not "from"', "rename: {conversations: messages}", field=f"{place}.from")
    problem = f'unknown role "{name}"' if name is not None else "the role is missing"
    raise UsageError(problem, f"{nearest(str(name), roles)} {DROP}", field=f"{place}.{key}")


def _conversation_row(
    instance: Instance, column: str, role_key: str, text_key: str, names: Dict[str, str]
) -> dict[str, Any]:
    kept = _extra(instance, "turns")
    rows: list[dict[str, Any]] = []
    row: dict[str, Any] = {column: rows, **_extra(instance, "columns")}
    for i, message in enumerate(instance.messages):
        if any(part.kind != "text" for part in message.parts):
            raise UsageError("an image cannot be written in this format", "leave it out", field=f"{column}.{i}")
        told = kept.get(str(i), {})
        if told.get("column"):
            row[told["column"]] = message.text
            continue
        turn = {
            role_key: told.get("name", names.get(message.role, message.role)),
            text_key: told.get("content", message.text),
        }
        if turn[text_key] == MISSING:
            del turn[text_key]
        rows.append({**turn, **told.get("rest", {})})
    return row


def _content(turn: Dict[str, Any], key: str, place: str) -> tuple[str, Any]:
    """The text of a turn, and its content as it was written: a text, a list of parts, or null beside tool calls."""
    value, calls = turn.get(key), "tool_calls" in turn or "function_call" in turn
    if value is None and calls:
        return "", value
    if isinstance(value, list):
        texts = []
        for i, part in enumerate(value):
            kind = part.get("type") if isinstance(part, dict) else None
            text = part.get("text", part.get("value")) if kind == "text" else None
            if not isinstance(text, str):
                problem = f'a content part of type "{kind}", but only text is read'
                raise UsageError(problem, f"leave it out, {DROP}", field=f"{place}.{key}.{i}")
            texts.append(text)
        return "".join(texts), value
    try:
        return _text(turn, key, empty=calls), value
    except UsageError as error:
        raise UsageError(error.problem, error.fix, field=f"{place}.{key}") from error


def _single(instruction: str, given: str, answer: str, origin: Origin, extra: Dict[str, Any]) -> Instance:
    if not answer.strip():
        raise TemplateDrop("the answer is empty")
    parts = (
        (Part(instruction + "\n", "instruction"), Part(given, "input"))
        if given
        else (Part(instruction, "instruction"),)
    )
    messages = (Message("user", parts), Message("assistant", (Part(answer, "answer"),)))
    return Instance.of(messages, origin, tags=_tags(extra))


def _split(instance: Instance) -> tuple[str, str]:
    """Instruction and input of a single question, apart again."""
    _only_question_and_answer(instance)
    parts = instance.messages[0].parts
    if len(parts) == 2 and (parts[0].slot, parts[1].slot) == ("instruction", "input"):
        return parts[0].value.removesuffix("\n"), parts[1].value
    return instance.messages[0].text, ""


def _only_question_and_answer(instance: Instance) -> None:
    if [message.role for message in instance.messages] != ["user", "assistant"]:
        raise UsageError("this format holds one question and one answer", "write conversations as messages")


def _text(row: Dict[str, Any], key: str, empty: bool = False) -> str:
    if key not in row:
        raise UsageError(f'the field "{key}" is missing', f"{nearest(key, row) if row else 'add it'} {DROP}", field=key)
    value = row[key]
    if not isinstance(value, str):
        raise _mistyped(value, "text", key)
    if not empty and not value.strip():
        raise UsageError(f'the field "{key}" is empty', f"fill it, {DROP}", field=key)
    return value


def _list(row: Dict[str, Any], key: str) -> list[Any]:
    if key not in row:
        raise UsageError(f'the field "{key}" is missing', f"{nearest(key, row) if row else 'add it'} {DROP}", field=key)
    if not isinstance(row[key], list):
        raise _mistyped(row[key], "a list", key)
    if not row[key]:
        raise UsageError(f'the field "{key}" is empty', f"fill it, {DROP}", field=key)
    return list(row[key])


def _mistyped(value: Any, wanted: str, field: str) -> UsageError:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    found = names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)
    return UsageError(f"holds {found} where {wanted} should be", f"mend it, {DROP}", field=field)


def _rest(row: Dict[str, Any], *known: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in known}


def _tags(extra: Dict[str, Any]) -> dict[str, str]:
    kept = {key: value for key, value in extra.items() if value}
    return {"extra": json.dumps(kept, ensure_ascii=False, default=str)} if kept else {}


def _extra(instance: Instance, key: str) -> dict[str, Any]:
    return dict(json.loads(instance.tags.get("extra", "{}")).get(key, {}))


READERS: dict[Name, Callable[[Dict[str, Any], Origin], list[Instance]]] = {
    "alpaca": _read_alpaca,
    "sharegpt": _read_sharegpt,
    "messages": _read_messages,
    "prompt-completion": _read_pair,
    "self-instruct": _read_self_instruct,
}
WRITERS: dict[Name, Callable[[Instance], dict[str, Any]]] = {
    "alpaca": _write_alpaca,
    "sharegpt": _write_sharegpt,
    "messages": _write_messages,
    "prompt-completion": _write_pair,
}
