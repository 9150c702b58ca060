"""Pictures in ready-made rows: LLaVA's `<image>` marks, OpenAI's content parts and columns `image` or `images`.

While a row is read or written a picture stands in its text as a short hold with the picture's name, so the formats need
to know of texts only: `settled` puts holds where marks and content parts were, `unfold` makes image parts of them;
`fold` and `spread` go back. A line break beside a mark belongs to the mark.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from didact.errors import UsageError
from didact.formats.fields import DROP, mistyped
from didact.instance import PICTURES, Instance, Message, Part

MARK = "<image>"
MARKED = re.compile(r"<image>\n?|\n<image>\Z")
HOLD = re.compile(rf"\0picture:({PICTURES}/[0-9a-f]{{16}}\.[a-z]{{3,4}})\0")
NAMED = re.compile(rf'"{PICTURES}/[0-9a-f]{{16}}\.[a-z]{{3,4}}"')
COLUMNS = ("images", "image")
TEXTS = ("system", "instruction", "input", "context", "prompt", "output", "response", "completion")
TURNS = {"messages": ("content",), "conversations": ("value", "content"), "conversation": ("human", "assistant")}
IMAGE_PARTS = ("image", "image_url", "input_image")
HOLDING = ("messages", "sharegpt", "pairs", "alpaca", "prompt-completion", "didact")
Keep = Callable[[Any, str], str]  # a picture as a row names it, and the field -> its name, pictures/...


def settled(row: Mapping[str, Any], keep: Keep) -> dict[str, Any]:
    """The row with its pictures kept, and each set by its new name where it stands in the texts.

    Raises UsageError naming the field if there are more or fewer marks than pictures.
    """
    turns = row.get("messages")
    if isinstance(turns, list) and any(isinstance(turn, dict) and "parts" in turn for turn in turns):
        return {**row, "messages": [_own_turn(turn, f"messages.{i}", keep) for i, turn in enumerate(turns)]}
    column = next((name for name in COLUMNS if row.get(name)), None)
    if column is None and not any(name in row for name in COLUMNS) and not _with_parts(row):
        return dict(row)
    names = [keep(value, f"{column}.{i}") for i, value in enumerate(_listed(row[column]))] if column else []
    used: list[int] = []

    def take(place: int | None = None) -> str:
        number = len(used) if place is None else place
        used.append(number)
        return f"\0picture:{names[number]}\0" if 0 <= number < len(names) else ""

    def change(value: Any, field: str) -> Any:
        if isinstance(value, str):
            return MARKED.sub(lambda _: take(), value)
        return [_part(item, f"{field}.{i}", keep, take) for i, item in enumerate(value)]

    made = _walked(row, change)
    if sorted(set(used)) != list(range(len(names))):
        problem = f"{_many(len(used), f'{MARK} mark')}, but {_many(len(names), 'picture')}"
        fix = f"let each picture have one mark where it stands, or give the source `templates`, {DROP}"
        raise UsageError(problem, fix, field=column or COLUMNS[0])
    if column:
        made[column] = names[0] if not isinstance(row[column], list) else names
    return made


def pictured(row: Mapping[str, Any]) -> bool:
    """Whether a settled row holds a picture."""
    text = json.dumps(row, default=str)
    return "\\u0000picture:" in text or NAMED.search(text) is not None


def unfold(instance: Instance, home: Path | None) -> Instance:
    """The instance with image parts where its texts had holds; refuses a picture in an answer.

    home: the folder that holds `pictures/`, which makes their paths absolute.
    """
    if not any("\0picture:" in part.value or part.kind == "image" for m in instance.messages for part in m.parts):
        return instance
    messages = []
    for i, message in enumerate(instance.messages):
        parts = tuple(each for part in message.parts for each in _parts(part, home))
        if message.role == "assistant" and any(part.kind == "image" for part in parts):
            problem = "a picture in the answer, but only text can be learnt"
            raise UsageError(problem, f"put it in the question, {DROP}", field=f"messages.{i}")
        messages.append(Message(message.role, parts))
    return Instance.of(tuple(messages), instance.origin, instance.references, instance.choices, instance.tags)


def refuse_marks(instance: Instance) -> None:
    """Refuse `<image>` in a row without a picture, of a file whose rows have pictures."""
    marks = sum(part.value.count(MARK) for message in instance.messages for part in message.parts)
    if marks and not instance.images:
        fix = f"name the picture in a column image, take the mark out, {DROP}"
        raise UsageError(f"{_many(marks, f'{MARK} mark')}, but no picture", fix, field="image")


def fold(instance: Instance) -> Instance:
    """The instance with its pictures as holds, each in the text beside it."""
    if not instance.images:
        return instance
    folded = instance.to_json()["messages"]
    messages = []
    for message, told in zip(instance.messages, folded, strict=True):
        parts: list[Part] = []
        waiting = ""
        for part, data in zip(message.parts, told["parts"], strict=True):
            if part.kind == "image":
                waiting += f"\0picture:{data['value']}\0"
            else:
                parts.append(replace(part, value=waiting + part.value))
                waiting = ""
        if waiting and parts:
            parts[-1] = replace(parts[-1], value=parts[-1].value + waiting)
        elif waiting:
            parts.append(Part(waiting, "instruction"))
        messages.append(Message(message.role, tuple(parts)))
    return replace(instance, messages=tuple(messages))


def spread(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A written row with its holds as the format has pictures: content parts in messages, else marks and a column."""
    if name not in HOLDING:
        if pictured(row):
            raise UsageError("an image cannot be written in this format", f"write it as one of {', '.join(HOLDING)}")
        return dict(row)
    found: list[str] = []

    def change(value: Any, field: str) -> Any:
        if isinstance(value, list):
            return [each for item in value for each in _content_parts(item)]
        pieces = HOLD.split(value)
        if len(pieces) == 1:
            return value
        if name == "messages":
            return [each for item in ({"type": "text", "text": value},) for each in _content_parts(item)]
        found.extend(pieces[1::2])
        return _marked(pieces)

    made = _walked(row, change)
    columns = [column for column in COLUMNS if column in row]
    for column in columns:
        del made[column]
    if found:
        column = columns[0] if columns else "images"
        made[column] = found[0] if len(found) == 1 and columns and not isinstance(row[column], list) else found
    return made


def _own_turn(turn: Any, field: str, keep: Keep) -> Any:
    if not isinstance(turn, dict) or not isinstance(turn.get("parts"), list):
        return turn
    parts = [
        {**part, "value": keep(part.get("value"), f"{field}.parts.{i}")}
        if isinstance(part, dict) and part.get("kind") == "image"
        else part
        for i, part in enumerate(turn["parts"])
    ]
    return {**turn, "parts": parts}


def _with_parts(row: Mapping[str, Any]) -> bool:
    for key, fields in TURNS.items():
        for turn in row[key] if isinstance(row.get(key), list) else ():
            contents = (turn.get(field) for field in fields) if isinstance(turn, dict) else ()
            if any(isinstance(content, list) and any(map(_is_image, content)) for content in contents):
                return True
    return False


def _is_image(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") in IMAGE_PARTS


def _part(item: Any, field: str, keep: Keep, take: Callable[..., str]) -> Any:
    """A content part; a picture becomes a text that holds it, its own or the next of the row's column."""
    if not _is_image(item):
        return item
    place = item["type"].removeprefix("input_")
    values = (item.get(key) for key in ("image_url", "image", "path", "url", "base64", "value"))
    value = next((value for value in values if value), None)
    if value is None:
        index = item.get("index")
        text = take(index if isinstance(index, int) else None)
    else:
        text = f"\0picture:{keep(value, f'{field}.{place}')}\0"
    return {"type": "text", "text": text}


def _walked(row: Mapping[str, Any], change: Callable[[Any, str], Any]) -> dict[str, Any]:
    """The row with its texts and lists of content parts changed, in the order in which they are read."""
    made = dict(row)
    for key in TEXTS:
        if isinstance(row.get(key), str):
            made[key] = change(row[key], key)
    for key, fields in TURNS.items():
        if isinstance(row.get(key), list):
            made[key] = [_turn(turn, f"{key}.{i}", fields, change) for i, turn in enumerate(row[key])]
    return made


def _turn(turn: Any, place: str, fields: tuple[str, ...], change: Callable[[Any, str], Any]) -> Any:
    if not isinstance(turn, dict):
        return turn
    changed = {f: change(turn[f], f"{place}.{f}") for f in fields if isinstance(turn.get(f), str | list)}
    return {**turn, **changed}


def _listed(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, str | dict | bytes) or hasattr(value, "save"):
        return [value]
    raise mistyped(value, "a picture or a list of them", "image")


def _parts(part: Part, home: Path | None) -> Iterator[Part]:
    if part.kind == "image":
        yield Part(absolute(part.value, home), part.slot, "image")
        return
    pieces = HOLD.split(part.value)
    for i, piece in enumerate(pieces):
        if i % 2:
            yield Part(absolute(piece, home), "input", "image")
        elif piece or len(pieces) == 1:
            yield replace(part, value=piece)


def absolute(name: str, home: Path | None) -> str:
    """The path of a picture that a row names by its place in the folder `home`."""
    return name if home is None else str(home.absolute() / name)


def _content_parts(item: Any) -> Iterator[Any]:
    text = item.get("text", item.get("value")) if isinstance(item, dict) else None
    pieces = HOLD.split(text) if isinstance(text, str) else [""]
    if len(pieces) == 1:
        yield item
        return
    for i, piece in enumerate(pieces):
        if i % 2:
            yield {"type": "image", "image": piece}
        elif piece:
            yield {"type": "text", "text": piece}


def _marked(pieces: list[str]) -> str:
    """A text with marks for its holds; each has a line break beside it unless a blank keeps it apart."""
    text = pieces[0]
    for i in range(1, len(pieces), 2):
        after = pieces[i + 1]
        last = i + 2 == len(pieces) and not after
        if last and pieces[i - 1] and not text.endswith(" "):
            text += "\n" + MARK
        elif last or after.startswith(" "):
            text += MARK + after
        else:
            text += MARK + "\n" + after
    return text


def _many(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
