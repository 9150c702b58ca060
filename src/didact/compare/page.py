"""Facts of a comparison to one self-contained page, to Markdown and to a table for the terminal. Pure: text out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jinja2

from didact.audit.picture import axis
from didact.audit.report import cell, visible
from didact.audit.verdict import SHORT

MARKS = {"best": "good", "tie": "open", "worse": "bad"}


def html(found: dict[str, Any]) -> str:
    """The page."""
    return _environment().get_template("compare.html.jinja").render(found=found, cloud=cloud(found))


def markdown(found: dict[str, Any]) -> str:
    """The same in Markdown."""
    return _environment().get_template("compare.md.jinja").render(found=found).strip() + "\n"


def table(found: dict[str, Any]) -> str:
    """The table as the terminal shows it."""
    head = ("method", "quality", "forgetting", "trained", "memory", "time", "")
    rows = [head]
    for row in found["methods"]:
        rows.append(
            (
                row["method"],
                f"{percent(row['quality']['value'])} {span(row['quality'], 100)}",
                f"{signed(row['forgetting']['value'], 1, 2)} {span(row['forgetting'], 1, 2)}",
                f"{row['trainable']:,}",
                size(row["memory"]),
                f"{row['seconds']:,.0f} s",
                row["standing"],
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    told = [f"left out: {name} ({why})" for name, why in found["left_out"].items()]
    return "\n".join(["", *lines, *told, "", found["headline"]])


def cloud(found: dict[str, Any]) -> dict[str, Any]:
    """Quality over trained numbers: axes, and each method's point and the side its name stands on."""
    powers = [math.log10(max(1, row["trainable"])) for row in found["methods"]]
    low, high = math.floor(min(powers)), max(math.ceil(max(powers)), math.floor(min(powers)) + 1)
    values = [100 * row["quality"]["value"] for row in found["methods"]]
    y = axis([*values, 100 * found["base"]["quality"]], include=())
    points: list[dict[str, Any]] = []
    places = [
        (round(100 * (p - low) / (high - low), 2), round(100 - y.at(v), 2)) for p, v in zip(powers, values, strict=True)
    ]
    for row, (x, height) in sorted(zip(found["methods"], places, strict=True), key=lambda pair: pair[1][1]):
        crowded = any(0 < other - x < 9 and abs(up - height) < 7 for other, up in places)
        side = "end" if x > 80 or (crowded and x > 15) else "start"
        near = [p for p in points if abs(p["x"] - x) < 14 and abs(p["y"] - height) < 7 and p["side"] == side]
        label = max([height, *(p["label"] + 6.5 for p in near)])  # names below one another, not on one another
        points.append({"name": row["method"], "x": x, "y": height, "label": label, "side": side, "row": row})
    ticks = [{"at": round(100 * (p - low) / (high - low), 2), "name": f"{10**p:,}"} for p in range(low, high + 1)]
    return {"points": points, "x": ticks, "y": y, "base": round(100 - y.at(100 * found["base"]["quality"]), 2)}


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def signed(value: float | None, scale: float = 100, digits: int = 1) -> str:
    return "–" if value is None else f"{round(scale * value, digits) + 0.0:+.{digits}f}".replace("-", "−")


def span(interval: dict[str, Any], scale: float = 100, digits: int = 1) -> str:
    """The interval in brackets."""
    if interval["low"] is None or interval["high"] is None:
        return "[–]"
    ends = (f"{round(scale * interval[end], digits) + 0.0:.{digits}f}".replace("-", "−") for end in ("low", "high"))
    return f"[{', '.join(ends)}]"


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _environment() -> jinja2.Environment:
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([here, here.parent / "audit"]),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.jinja",)),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        visible=visible, cell=cell, axis=axis, percent=percent, signed=signed, span=span, size=size
    )
    environment.globals.update(marks=MARKS, short=SHORT)
    return environment
