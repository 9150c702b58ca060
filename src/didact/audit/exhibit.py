"""What a finding shows beside its sentence: pictures and tables as plain data that any report can draw.

A picture is rows with intervals on one axis (`whiskers`), or points over a scale (`line`); numbers are fractions where
the unit is points or percent. A table is columns and rows; numbers in it are shown as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from didact.audit.interval import Interval

Unit = Literal["points", "percent", "bits per token", "nats", "ratio", "words"]
Row = tuple[str, str, Interval | Mapping[str, Any]]  # name, note, figures


def whiskers(rows: Sequence[Row], unit: Unit = "points", caption: str = "") -> dict[str, Any]:
    """One line per row, its value with its interval on a common axis."""
    return {
        "kind": "whiskers",
        "unit": unit,
        "caption": caption,
        "rows": [{"name": name, "note": note, **_figures(told)} for name, note, told in rows],
    }


def line(
    series: Mapping[str, Sequence[tuple[float, Interval | Mapping[str, Any]]]], x: str, unit: Unit, caption: str = ""
) -> dict[str, Any]:
    """Points with intervals over a logarithmic scale, one line per series."""
    return {
        "kind": "line",
        "x": x,
        "unit": unit,
        "caption": caption,
        "series": {name: [{"x": place, **_figures(told)} for place, told in points] for name, points in series.items()},
    }


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """A table; its first column names the rows."""
    return {"title": title, "columns": list(columns), "rows": [list(row) for row in rows]}


def _figures(told: Interval | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(told, Interval):
        return {"value": told.value, "low": told.low, "high": told.high, "n": told.n}
    return {key: told.get(key) for key in ("value", "low", "high", "n")}
