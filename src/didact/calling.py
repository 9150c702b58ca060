"""Tools of a row: their definitions, the calls an assistant makes, and what else a chat template reads of a turn.

Formats keep them verbatim in the tag `extra`; here they become what `apply_chat_template` takes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from didact.errors import UsageError
from didact.instance import READ, Instance


@dataclass(frozen=True)
class Calling:
    """tools: definitions, as JSON Schema functions. turns: for a message by its number, what goes beside its text."""

    tools: tuple[dict[str, Any], ...] = ()
    turns: Mapping[int, dict[str, Any]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.tools or self.turns)

    def calls(self, number: int) -> list[dict[str, Any]]:
        """The calls that a message makes."""
        return list(self.turns.get(number, {}).get("tool_calls", []))

    def without(self, number: int) -> Calling:
        """The same, the message having its text alone."""
        return Calling(self.tools, {i: turn for i, turn in self.turns.items() if i != number})

    def texts(self) -> Iterator[str]:
        """Every text in it, keys too: all that comes from the row and not from the template."""
        yield from _texts([self.tools, list(self.turns.values())])


def calling(instance: Instance) -> Calling:
    """What a row says of tools; raises UsageError for calls that no template could read."""
    extra = json.loads(instance.tags.get("extra", "{}"))
    tools, kept = _tools(extra.get("columns", {}).get("tools")), extra.get("turns", {})
    turns: dict[int, dict[str, Any]] = {}
    for number, message in enumerate(instance.messages):
        rest = kept.get(str(number), {}).get("rest", {})
        if message.role == "assistant" and rest.get("function_call") and not rest.get("tool_calls"):
            raise UsageError("the call is in `function_call`, which chat templates do not read", "use `tool_calls`")
        told = {key: rest[key] for key in READ if rest.get(key)}
        if message.role != "assistant":
            told.pop("tool_calls", None)
        if "tool_calls" in told:
            told["tool_calls"] = [_call(call) for call in told["tool_calls"]]
        if told:
            turns[number] = told
    return Calling(tools, turns)


def keep(instance: Instance, numbers: Sequence[int]) -> dict[str, str]:
    """The tags of an instance of which only some messages are left, in this order."""
    tags = dict(instance.tags)
    if "extra" not in tags:
        return tags
    extra = json.loads(tags["extra"])
    turns = extra.get("turns", {})
    extra["turns"] = {str(new): turns[str(old)] for new, old in enumerate(numbers) if str(old) in turns}
    return {**tags, "extra": json.dumps(extra, ensure_ascii=False)}


def _tools(value: Any) -> tuple[dict[str, Any], ...]:
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError as error:
            raise UsageError("`tools` is text, but no JSON", "write a list of functions") from error
    if not value:
        return ()
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise UsageError("`tools` is no list of objects", "write a list of functions")
    return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in value)


def _call(call: Any) -> dict[str, Any]:
    """A call as templates want it: arguments as an object, not as its text."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UsageError(
            "a tool call has no function with a name", 'write {"function": {"name": ..., "arguments": ...}}'
        )
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise UsageError(f'the arguments of the call to "{function["name"]}" are no JSON', "mend them") from error
    return {**call, "type": call.get("type", "function"), "function": {**function, "arguments": arguments}}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
