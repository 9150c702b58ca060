"""Rows as a page: instances with their pictures, and the tokens that training sees, what is learnt in colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from didact.audit.report import visible
from didact.instance import Instance
from didact.pictures import pictured
from didact.render import Shown


@dataclass(frozen=True)
class Seen:
    """An instance, where it comes from in lines, and its tokens; media: the token range of each of its pictures."""

    instance: Instance
    lineage: Sequence[str]
    tokens: Sequence[Shown]
    media: Sequence[tuple[int, int]]


def page_html(name: str, seen: Sequence[Seen]) -> str:
    """The page as text: no network, no scripts."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["visible"] = visible
    template = environment.from_string((files("didact") / "show.html.jinja").read_text("utf-8"))
    return template.render(name=name, rows=[_view(one) for one in seen])


def _view(one: Seen) -> dict[str, Any]:
    """What the template needs of one row: parts, and tokens with each picture in the place of its positions."""
    parts = [
        {"role": message.role, "slot": part.slot or "none", "text": part.value}
        if part.kind == "text"
        else {"role": message.role, "slot": part.slot or "none", **pictured(part.value)}
        for message in one.instance.messages
        for part in message.parts
    ]
    images = [pictured(path) for path in one.instance.images]
    starts = {start: (image, end - start) for image, (start, end) in zip(images, one.media, strict=False)}
    inside = {i for start, end in one.media for i in range(start + 1, end)}
    tokens: list[dict[str, Any]] = []
    for i, shown in enumerate(one.tokens):
        if i in starts:
            tokens.append({**starts[i][0], "places": starts[i][1], "kind": "context"})
        elif i not in inside:
            kind = "stop" if shown.stop and shown.weight else "learnt" if shown.weight else "context"
            tokens.append({"text": shown.text, "id": shown.id, "kind": kind})
    learnt = sum(shown.weight != 0 for shown in one.tokens)
    head = {"id": one.instance.id, "lineage": one.lineage, "count": len(one.tokens), "learnt": learnt}
    return {**head, "parts": parts, "tokens": tokens}
