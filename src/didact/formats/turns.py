"""Conversations: OpenAI messages, ShareGPT, pairs of turns, trees of ranked replies and Baize's transcripts.

What a turn holds besides role and text (names, ids, tool calls) is kept verbatim by its position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from didact.errors import UsageError, nearest
from didact.formats.fields import DROP, MISSING, extra, joined, kept, list_of, mistyped, rest, text_of, within
from didact.instance import ROLES, Instance, Message, Origin, Part, Role
from didact.sandbox import TemplateDrop

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
HUMAN, AI = "[|Human|]", "[|AI|]"


def read_messages(row: Mapping[str, Any], origin: Origin) -> list[Instance]:
    return [_conversation(row, "messages", "role", "content", MESSAGE_ROLES, origin)]


def write_messages(instance: Instance) -> dict[str, Any]:
    return _conversation_row(instance, "messages", "role", "content", {})


def read_sharegpt(row: Mapping[str, Any], origin: Origin) -> list[Instance]:
    return [_conversation(row, "conversations", "from", "value", SHAREGPT_ROLES, origin)]


def write_sharegpt(instance: Instance) -> dict[str, Any]:
    return _conversation_row(instance, "conversations", "from", "value", SHAREGPT_NAMES)


def read_didact(row: Mapping[str, Any], origin: Origin) -> list[Instance]:
    """An instance as a run writes it (built.jsonl, kept.jsonl), with its own lineage; to be split anew."""
    try:
        found = Instance.from_json(row)
        texts = [part.value for message in found.messages for part in message.parts]
        texts += [*found.references, *found.choices, *found.tags.values(), found.origin.task, found.origin.source]
        known = all(message.role in ROLES and message.parts is not None for message in found.messages)
        if not known or not found.messages or not all(isinstance(text, str) for text in texts):
            raise ValueError("mistyped")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError("not an instance as didact writes it", f"mend it, {DROP}", field="messages") from error
    tags = {key: value for key, value in found.tags.items() if key not in ("split", "level")}
    return [Instance.of(found.messages, found.origin, found.references, found.choices, tags)]


def read_pairs(row: Mapping[str, Any], origin: Origin) -> list[Instance]:
    """Turns by twos: conversation[].human and assistant."""
    messages: list[Message] = []
    turns: dict[str, Any] = {}
    for i, turn in enumerate(list_of(row, "conversation")):
        place = f"conversation.{i}"
        if not isinstance(turn, dict):
            raise mistyped(turn, "an object", place)
        try:
            messages += [_message("user", text_of(turn, "human")), _message("assistant", text_of(turn, "assistant"))]
        except UsageError as error:
            raise within(error, place) from error
        if more := rest(turn, "human", "assistant"):
            turns[str(i)] = more
    return [_made(messages, origin, kept("pairs", columns=rest(row, "conversation"), turns=turns), "conversation")]


def write_pairs(instance: Instance) -> dict[str, Any]:
    roles = [message.role for message in instance.messages]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise UsageError("this format holds questions and answers in turn", "write it as messages")
    turns, found = extra(instance, "pairs", "turns"), []
    for i in range(0, len(roles), 2):
        pair = {"human": instance.messages[i].text, "assistant": instance.messages[i + 1].text}
        found.append(joined(pair, turns.get(str(i // 2), {})))
    return joined({"conversation": found}, extra(instance, "pairs", "columns"))


def read_tree(row: Mapping[str, Any], origin: Origin) -> list[Instance]:
    """A tree of ranked replies (OpenAssistant): the thread of the best reply at each turn, up to its last answer."""
    node, messages, others = row.get("prompt"), list[Message](), 0
    place, ends = "prompt", 0
    while node is not None:
        if not isinstance(node, dict):
            raise mistyped(node, "an object", place)
        role = {"prompter": "user", "assistant": "assistant"}.get(str(node.get("role")))
        if role is None:
            problem = f'unknown role "{node.get("role")}"'
            raise UsageError(problem, f"use one of: assistant, prompter {DROP}", field=f"{place}.role")
        try:
            messages.append(_message("user" if role == "user" else "assistant", text_of(node, "text")))
        except UsageError as error:
            raise within(error, place) from error
        ends = len(messages) if role == "assistant" else ends
        replies = node.get("replies") or []
        if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
            raise mistyped(replies, "a list of objects", f"{place}.replies")
        there = [reply for reply in replies if reply.get("deleted") is not True]
        others += len(replies) - min(1, len(there))
        node = min(there, key=_rank, default=None)
        place = f"{place}.replies"
    if not ends:
        raise TemplateDrop("the tree has no answer")
    others += len(messages) - ends
    tags = kept("tree", columns=rest(row, "prompt"), other_replies=others)
    return [_made(messages[:ends], origin, tags, "prompt")]


def read_baize(row: Mapping[str, Any], origin: Origin) -> list[Instance]:
    """A transcript with [|Human|] and [|AI|]; a question without an answer at its end is not learnt from."""
    text = text_of(row, "input")
    messages = _transcript(text)
    if not messages:
        raise TemplateDrop("the transcript has no answer")
    before = text.partition(HUMAN)[0].removesuffix("\n")
    usual = _baize_text(messages, before)
    tags = kept("baize", columns=rest(row, "input"), before=before, transcript=text if text != usual else "")
    return [_made(messages, origin, tags, "input")]


def write_baize(instance: Instance) -> dict[str, Any]:
    roles = [message.role for message in instance.messages]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise UsageError("this format holds questions and answers in turn", "write it as messages")
    before = extra(instance, "baize", "before") or ""
    text = extra(instance, "baize", "transcript") or _baize_text(instance.messages, before)
    if not _tells(text, instance):  # it is another since it was read
        text = _baize_text(instance.messages, before)
    if not _tells(text, instance):
        problem = f"a turn begins or ends with a blank, or holds {HUMAN} or {AI}, which this format cannot tell apart"
        raise UsageError(problem, "write it as messages")
    return joined({"input": text}, extra(instance, "baize", "columns"))


def _transcript(text: str) -> list[Message]:
    """The turns of a transcript up to its last answer; raises UsageError for a turn without exactly one answer."""
    messages: list[Message] = []
    pieces = text.split(HUMAN)[1:]
    for i, piece in enumerate(pieces):
        answers = piece.count(AI)
        if answers == 0 and i == len(pieces) - 1:
            break
        if answers != 1:
            problem = f"turn {i + 1} has {answers} {AI} tags where one should be"
            raise UsageError(problem, f"mend it, {DROP}", field="input")
        question, answer = (part.strip() for part in piece.split(AI))
        if not question or not answer:
            raise UsageError(f"turn {i + 1} is empty", f"fill it, {DROP}", field="input")
        messages += [_message("user", question), _message("assistant", answer)]
    return messages


def _baize_text(messages: Sequence[Message], before: str) -> str:
    said = "".join(f"\n{HUMAN if message.role == 'user' else AI} {message.text}" for message in messages)
    return f"{before}{said}\n{HUMAN} "


def _tells(text: str, instance: Instance) -> bool:
    """Whether a transcript reads as the turns of an instance."""
    try:
        return [(m.role, m.text) for m in _transcript(text)] == [(m.role, m.text) for m in instance.messages]
    except UsageError:
        return False


def _rank(reply: Mapping[str, Any]) -> float:
    rank = reply.get("rank")
    return float(rank) if isinstance(rank, int | float) and not isinstance(rank, bool) else float("inf")


def _message(role: Role, text: str) -> Message:
    return Message(role, (Part(text, "answer" if role == "assistant" else "instruction"),))


def _made(messages: list[Message], origin: Origin, tags: Mapping[str, str], column: str) -> Instance:
    """The instance of turns, if there is something to learn at their end; TemplateDrop or UsageError if not."""
    roles = [message.role for message in messages]
    spoken = [role for role in roles if role != "system"]
    if "assistant" not in roles:
        raise UsageError("no assistant turn to learn from", f"add the answer, {DROP}", field=column)
    if spoken[0] == "assistant" and spoken[-1] == "user":
        problem = "begins with an answer and ends with a question: the two roles look swapped"
        raise UsageError(problem, f"exchange the role names, {DROP}", field=column)
    if roles[-1] != "assistant":
        problem = f"ends with a {roles[-1]} turn, so its last question has no answer"
        raise UsageError(problem, f"end with an assistant turn, {DROP}", field=column)
    return Instance.of(tuple(messages), origin, tags=tags)


def _conversation(
    row: Mapping[str, Any], column: str, role_key: str, text_key: str, roles: Mapping[str, Role], origin: Origin
) -> Instance:
    """Turns from a list of objects. What a turn holds besides role and text is kept by its position."""
    messages: list[Message] = []
    turns: dict[str, Any] = {}
    columns = rest(row, column)
    if column == "conversations" and isinstance(row.get("system"), str) and row["system"].strip():
        messages.append(_message("system", columns.pop("system")))
        turns["0"] = {"column": "system"}
    for i, turn in enumerate(list_of(row, column)):
        place = f"{column}.{i}"
        if not isinstance(turn, dict):
            raise mistyped(turn, "an object", place)
        role = _role(turn, role_key, roles, place)
        text = _content(turn, text_key, place)
        if role == "assistant" and turn.get("loss_weight", 1) in (0, False) and turn.get("loss_weight") is not None:
            problem = "an assistant turn has loss_weight 0, but every answer is learnt"
            raise UsageError(problem, f"split the conversation after it, {DROP}", field=f"{place}.loss_weight")
        told = {"name": turn[role_key], "content": turn.get(text_key), "rest": rest(turn, role_key, text_key)}
        usual = {"name": role if role_key == "role" else SHAREGPT_NAMES.get(role, role), "content": text, "rest": {}}
        if told != usual:
            turns[str(len(messages))] = {key: value for key, value in told.items() if value != usual[key]}
            if text_key not in turn:
                turns[str(len(messages))]["content"] = MISSING
        messages.append(_message(role, text))
    form = "messages" if column == "messages" else "sharegpt"
    return _made(messages, origin, kept(form, columns=columns, turns=turns), column)


def _role(turn: Mapping[str, Any], key: str, roles: Mapping[str, Role], place: str) -> Role:
    name = turn.get(key)
    if isinstance(name, str) and name in roles:
        return roles[name]
    if name is None and key == "from" and "role" in turn:
        raise UsageError('turns have "role", not "from"', "rename: {conversations: messages}", field=f"{place}.from")
    if name is None and key == "role" and "from" in turn:
        raise UsageError('turns have "from", not "role"', "rename: {messages: conversations}", field=f"{place}.role")
    problem = f'unknown role "{name}"' if name is not None else "the role is missing"
    raise UsageError(problem, f"{nearest(str(name), roles)} {DROP}", field=f"{place}.{key}")


def _conversation_row(
    instance: Instance, column: str, role_key: str, text_key: str, names: Mapping[str, str]
) -> dict[str, Any]:
    form = "messages" if column == "messages" else "sharegpt"
    turns = extra(instance, form, "turns")
    rows: list[dict[str, Any]] = []
    row = joined({column: rows}, extra(instance, form, "columns"))
    for i, message in enumerate(instance.messages):
        told = turns.get(str(i), {})
        if told.get("column"):
            row[told["column"]] = message.text
            continue
        name = told.get("name", names.get(message.role, message.role))
        turn = {role_key: name, text_key: told.get("content", message.text), **told.get("rest", {})}
        if turn[text_key] == MISSING:
            del turn[text_key]
        if _said(turn, text_key) != message.text:  # the text is another since it was read
            kept_fields = rest(told.get("rest", {}), "tool_calls", "function_call")
            turn = {role_key: name, text_key: message.text, **kept_fields}
        rows.append(turn)
    return row


def _said(turn: Mapping[str, Any], key: str) -> str | None:
    """The text of a turn as it would be read; None if it would not."""
    try:
        return _content(turn, key, "")
    except UsageError:
        return None


def _content(turn: Mapping[str, Any], key: str, place: str) -> str:
    """The text of a turn: its content, which may be a list of text parts, or null beside the tools it calls."""
    value, calls = turn.get(key), bool(turn.get("tool_calls") or turn.get("function_call"))
    if value is None and calls:
        return ""
    if isinstance(value, list):
        texts = []
        for i, part in enumerate(value):
            kind = part.get("type") if isinstance(part, dict) else None
            text = part.get("text", part.get("value")) if kind == "text" else None
            if not isinstance(text, str):
                problem = f'a content part of type "{kind}", but only text is read'
                raise UsageError(problem, f"leave it out, {DROP}", field=f"{place}.{key}.{i}")
            texts.append(text)
        return "".join(texts)
    try:
        return text_of(turn, key, empty=calls)
    except UsageError as error:
        raise UsageError(error.problem, error.fix, field=f"{place}.{key}") from error
