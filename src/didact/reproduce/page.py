"""A result to its page (Markdown), its picture (SVG), the page of all, and a table for the terminal. Pure: text out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from didact.audit.picture import axis
from didact.reproduce.sign import KINDS

LINE, LEFT, WIDTH = 24, 370, 420  # of the picture, in its units
ROLES = {"claim": "", "beside": " (beside the claim)", "control": " (control)"}
EXPECTS = {"more": "more than 0", "same": "0, give or take", "no less": "not below 0 by more than"}


def page(found: Mapping[str, Any]) -> str:
    """The page of one reproduction."""
    return _environment().get_template("page.md.jinja").render(found=found).strip() + "\n"


def index(results: Sequence[Mapping[str, Any]], missing: Mapping[str, str] | None = None) -> str:
    """The page that lists them. missing: name -> title of those not made yet."""
    told = {"results": results, "missing": missing or {}}
    return _environment().get_template("index.md.jinja").render(**told).strip() + "\n"


def picture(found: Mapping[str, Any]) -> str:
    """Two panels: the arms with their intervals, and the differences that are the signs."""
    columns = list(found["columns"])[:2]
    arms = [
        (row["arm"], [(row["figures"].get(column), i) for i, column in enumerate(columns)]) for row in found["rows"]
    ]
    signs = [(sign["says"], [(sign, 0)]) for sign in found["signs"]]
    scale = axis([100 * end for _, marks in arms for mark, _ in marks if mark for end in ends(mark)], include=(0, 100))
    gap = axis([100 * end for _, marks in signs for mark, _ in marks for end in ends(mark)], include=(-5, 5))
    panels = [
        {
            "title": " and ".join(
                f"{name} ({colour})" for name, colour in zip(columns, ("blue", "orange"), strict=False)
            ),
            "scale": scale,
            "lines": arms,
            "top": 34,
        },
        {
            "title": "the signs, in points; shaded: differences that do not matter",
            "scale": gap,
            "lines": signs,
            "top": 34 + 60 + LINE * len(arms),
        },
    ]
    height = 34 + 60 + LINE * len(arms) + LINE * len(signs) + 40
    told = {"panels": panels, "height": height, "line": LINE, "left": LEFT, "width": WIDTH}
    return _environment().get_template("picture.svg.jinja").render(found=found, **told).strip() + "\n"


def table(found: Mapping[str, Any]) -> str:
    """The table as the terminal shows it."""
    lines = [["arm", "instances", *found["columns"]]]
    for row in found["rows"]:
        cells = [span(row["figures"].get(column)) for column in found["columns"]]
        lines.append([row["arm"], f"{row['instances']:,}" if row["instances"] else "", *cells])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def ends(mark: Mapping[str, Any]) -> list[float]:
    """Value and ends of an interval, as far as they are numbers."""
    return [mark[key] for key in ("value", "low", "high") if mark[key] is not None and math.isfinite(mark[key])]


def span(figure: Mapping[str, Any] | None, sign: bool = False) -> str:
    """A figure in hundredths with its interval."""
    if figure is None:
        return ""
    form = "{:+.1f}" if sign else "{:.1f}"
    value, low, high = (form.format(100 * figure[key] + 0.0) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]".replace("-", "−")


def expected(sign: Mapping[str, Any]) -> str:
    """What a sign expects, in words."""
    told, smallest = EXPECTS[sign["expects"]], 100 * sign["smallest"]
    if sign["expects"] == "more":
        return told
    return f"{told} {smallest:g}" if smallest > 0.001 else "not below 0"


def clipped(text: str, n: int = 52) -> str:
    return text if len(text) <= n else text[: n - 1] + "…"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(enabled_extensions=("svg.jinja",)),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(span=span, clipped=clipped, ends=ends)
    environment.globals.update(expects=expected, kinds=KINDS, roles=ROLES)
    return environment
