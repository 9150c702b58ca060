"""Which characters each token covers: encoding with spans, and what lies within a range of the text."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

from didact.conversation import Layout
from didact.instance import Slot

Range = tuple[int, int]  # from the first character to the one behind the last


def any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(t) for t in sorted(tokens, key=len, reverse=True)) or r"(?!)")


def without_added(backend: Any) -> Any:
    """A tokenizer that knows no added token, so that their texts are letters to it."""
    from tokenizers import Tokenizer

    plain = json.loads(backend.to_str())
    plain["added_tokens"], plain["post_processor"] = [], None
    return Tokenizer.from_str(json.dumps(plain))


def within(spans: list[Range], start: int, end: int) -> tuple[int, int]:
    """The range of tokens that begin in start..end, without empty ones at its edges."""
    first, last = bisect_left(spans, (start, -1)), bisect_left(spans, (end, -1))
    while first < last and spans[first][0] == spans[first][1]:
        first += 1
    while first < last and spans[last - 1][0] == spans[last - 1][1]:
        last -= 1
    return first, last


def slots_of(layout: Layout, spans: list[Range]) -> list[Slot | None]:
    """The slot in which most of each token lies."""
    slots: list[Slot | None] = [None] * len(spans)
    before = (0, 0)
    for c, d, slot in sorted(layout.slots):
        first, last = within(spans, c, d)
        slots[first:last] = [slot] * (last - first)
        if first and spans[first - 1][1] > c:  # a token that begins earlier and reaches in
            a, b = spans[first - 1]
            if min(b, d) - c > max(0, min(b, before[1]) - max(a, before[0])):
                slots[first - 1] = slot
        before = (c, d)
    return slots


def encode(backend: Any, text: str) -> tuple[list[int], list[Range]]:
    encoding = backend.encode(text, add_special_tokens=False)
    return list(encoding.ids), list(encoding.offsets)


def encode_inner(backend: Any, text: str) -> tuple[list[int], list[Range]]:
    """Ids of a text that is not the beginning: without the blank that some tokenizers put before a first word."""
    ids, spans = encode(backend, "\n" + text)
    inner = [(i, (a - 1, b - 1)) for i, (a, b) in zip(ids, spans, strict=True) if a >= 1]
    if any(a < 1 < b for a, b in spans) or not inner or inner[0][1][0] != 0:
        return encode(backend, text)
    return [i for i, _ in inner], [span for _, span in inner]


def fused(text: str, seam: int, spans: list[Range]) -> bool:
    """Whether the tokens before a seam may depend on what follows: one reaches across, or blanks look ahead."""
    before = bisect_left(spans, (seam, -1)) - 1
    return text[max(0, seam - 2) : seam].isspace() or (before >= 0 and spans[before][1] > seam)
