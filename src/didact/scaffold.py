"""The text that a chat template writes around the texts of a conversation, and positions in it.

A conversation has a *shape*: its roles, and the blanks and think tags around its texts. A *scaffold* is that shape
rendered with a unique marker in place of each text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from didact.instance import Message, Part, Role, Slot

MARK = re.compile("\ue0f0(\\d+)\ue0f1")  # private-use characters: no template or tokenizer gives them a meaning
PICTURE = "\ue0f2"  # stands for a picture in what stands around texts
OPEN, CLOSE = "<think>", "</think>"

Place = tuple[int, int]  # a position in a scaffold: how many texts stand before it, and how far into the piece
Shape = tuple[tuple[Role, tuple[str, ...]], ...]  # of each message, the role and what stands around its texts


@dataclass(frozen=True)
class Scaffold:
    """pieces: what the template writes around the texts; shown: which texts it shows, by their number."""

    pieces: tuple[str, ...]
    shown: tuple[int, ...]


def mark(number: int) -> str:
    """What stands for a text in a scaffold."""
    return f"\ue0f0{number}\ue0f1"


def split(message: Message) -> tuple[list[str], list[str]]:
    """What stands around the texts of a message (blanks, think tags, pictures), and the texts."""
    if any(part.kind == "image" for part in message.parts):
        return _split_pictures(message)
    text = message.text
    if message.role == "assistant" and text.lstrip().startswith(OPEN) and CLOSE in text:
        opening, _, rest = text.partition(OPEN)
        thought, _, answer = rest.partition(CLOSE)
        literals, cores = [opening + OPEN], list[str]()
        for piece, closing in ((thought, CLOSE), (answer, "")):
            core = piece.strip()
            if not core:
                literals[-1] += piece + closing
                continue
            left, _, right = piece.partition(core)
            literals[-1] += left
            literals.append(right + closing)
            cores.append(core)
        return literals, cores
    core = text.strip()
    if not core:
        return [text], []
    left, _, right = text.partition(core)
    return [left, right], [core]


def _split_pictures(message: Message) -> tuple[list[str], list[str]]:
    literals, cores = [""], list[str]()
    for text in runs(message):
        core = text.strip()
        if text == PICTURE or not core:
            literals[-1] += text
            continue
        left, _, right = text.partition(core)
        literals[-1] += left
        literals.append(right)
        cores.append(core)
    return literals, cores


def runs(message: Message) -> list[str]:
    """The texts between a message's pictures and a sign for each of these, in order."""
    found: list[str] = []
    for part in message.parts:
        if part.kind == "image":
            found.append(PICTURE)
        elif part.value:
            if found and found[-1] != PICTURE:
                found[-1] += part.value
            else:
                found.append(part.value)
    return found


def form_at(text: str, position: int, core: str, following: str) -> str | None:
    """How a text stands at a position: as it is, or as a JSON string in the results of tools."""
    for make in (str, lambda core: json.dumps(core, ensure_ascii=False)[1:-1], lambda core: json.dumps(core)[1:-1]):
        form = make(core)
        if text.startswith(form, position) and text.startswith(following, position + len(form)):
            return form
    return None


def interleave(pieces: Sequence[str], texts: Sequence[str]) -> list[str]:
    return [piece for pair in zip(pieces, [*texts, ""], strict=False) for piece in pair]


def inside(part: Scaffold, whole: Scaffold) -> Place | None:
    """Where a scaffold ends in another that begins with it; None if it does not."""
    n = len(part.shown)
    if part.shown != whole.shown[:n] or part.pieces[:-1] != whole.pieces[:n]:
        return None
    return (n, len(part.pieces[-1])) if whole.pieces[n].startswith(part.pieces[-1]) else None


def between(whole: Scaffold, start: Place, end: Place) -> list[str]:
    """What a scaffold writes between two places, without the texts."""
    if start[0] == end[0]:
        return [whole.pieces[start[0]][start[1] : end[1]]]
    middle = whole.pieces[start[0] + 1 : end[0]]
    return [whole.pieces[start[0]][start[1] :], *middle, whole.pieces[end[0]][: end[1]]]


def own_end(tail: str, literal: str) -> int:
    """How much of what follows the last text of a turn belongs to the turn itself: blanks, the end of a thought."""
    return next(len(own) for own in (literal, literal.rstrip(), literal.strip(), "") if tail.startswith(own))


def stop_in(tail: str, skipped: int, found: Sequence[re.Match[str]], last: bool) -> int | None:
    """Where the stop ends: right after a text; at the `last` control token where a call or nothing stands."""
    if not found:
        return None
    if last:
        return found[-1].end() if not tail[found[-1].end() :].strip() else None
    gap = tail[skipped : found[0].start()]
    return found[0].end() if len(gap) <= 8 and not gap.strip() else None


def part_spans(message: Message, span: tuple[int, int], number: int = 0) -> list[tuple[int, int, Slot]]:
    """Character spans of the parts of a message whose text, stripped, lies at `span`.

    number: of the text among those of the message, where pictures part them.
    """
    start, end = span
    if message.role == "assistant":
        return [(start, end, "answer")]
    parts = message.parts
    if any(part.kind == "image" for part in parts):
        groups: list[list[Part]] = [[]]
        for part in parts:
            if part.kind == "image":
                groups.append([])
            else:
                groups[-1].append(part)
        parts = tuple([group for group in groups if "".join(part.value for part in group).strip()][number])
    whole = "".join(part.value for part in parts if part.kind == "text")
    position, spans = start - (len(whole) - len(whole.lstrip())), []
    for part in parts:
        if part.slot is not None and part.value:
            spans.append((max(position, start), min(position + len(part.value), end), part.slot))
        position += len(part.value)
    return spans
