"""Entities out of tagged tokens: BIO, IOB1, BIOES and BILOU, and tags without a prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BEGINS, GOES_ON, SINGLE, OUTSIDE = "BSU", "IELM", "SU", ("O", "", "_")


def entities(tokens: Sequence[str], tags: Sequence[str]) -> list[dict[str, Any]]:
    """The entities in tagged tokens, each {text, type, start, end}: start and end count tokens, end is one beyond.

    A tag that goes on with what was not begun begins it, as in CoNLL's own scoring. Raises ValueError if the lengths
    differ or a tag is no text.
    """
    if len(tokens) != len(tags):
        raise ValueError(f"{len(tokens)} tokens but {len(tags)} tags")
    found: list[dict[str, Any]] = []
    open_type: str | None = None
    for place, (token, tag) in enumerate(zip(tokens, tags, strict=True)):
        if not isinstance(tag, str):
            raise ValueError(f"the tag {tag!r} is no name: declare the names of the tags in the source's `labels`")
        prefixed = tag[1:2] == "-" and tag[0] in BEGINS + GOES_ON
        kind, prefix = (tag[2:], tag[0]) if prefixed else (tag, "I")
        if tag in OUTSIDE:
            open_type = None
        elif prefix in GOES_ON and kind == open_type:
            found[-1] |= {"text": f"{found[-1]['text']} {token}", "end": place + 1}
            open_type = None if prefix in "EL" else kind
        else:
            found.append({"text": str(token), "type": kind, "start": place, "end": place + 1})
            open_type = None if prefix in SINGLE + "EL" else kind
    return found
