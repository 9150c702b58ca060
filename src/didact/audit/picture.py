"""Geometry of the report's pictures: axes with round ticks, and points as percentages of a plot's width or height.

Pictures are drawn in percentages, so that they stretch with the page while their lettering keeps its size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Axis:
    """A scale from low to high with round ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float | None) -> float:
        """Where a value lies, in percent, kept within the plot."""
        if value is None:
            return 0.0
        return round(100 * min(1.0, max(0.0, (value - self.low) / (self.high - self.low))), 2)

    def label(self, tick: float) -> str:
        digits = max(0, -math.floor(math.log10(self.ticks[1] - self.ticks[0]) + 1e-9))
        return f"{tick:.{digits}f}".replace("-", "−")


def axis(values: Sequence[float | None], aim: int = 5, include: Sequence[float] = (0.0,)) -> Axis:
    """An axis that covers the values, with about `aim` ticks at 1, 2 or 5 times a power of ten."""
    known = [value for value in (*values, *include) if value is not None and math.isfinite(value)] or [0.0]
    low, high = min(known), max(known)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / aim
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw - 1e-12)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(first * step, last * step, tuple(i * step for i in range(first, last + 1)))


@dataclass(frozen=True)
class Curve:
    """A training curve: axes, and the points of the raw and of the smoothed line as SVG coordinates in 0..100."""

    x: Axis
    y: Axis
    raw: str
    smooth: str
    first: float
    last: float


def curve(metrics: Sequence[Mapping[str, Any]], smoothing: float = 0.9, points: int = 400) -> Curve | None:
    """The loss over steps with its debiased exponential mean; None with fewer than two finite losses."""
    steps = [(float(m["step"]), float(m["loss"])) for m in metrics if _finite(m.get("step")) and _finite(m.get("loss"))]
    if len(steps) < 2:
        return None
    smooth, mean, weight = [], 0.0, 0.0
    for step, loss in steps:
        mean, weight = smoothing * mean + (1 - smoothing) * loss, smoothing * weight + 1 - smoothing
        smooth.append((step, mean / weight))
    x = axis([step for step, _ in steps], include=())
    y = axis([loss for _, loss in steps])
    every = max(1, len(steps) // points)
    return Curve(x, y, _path(steps, x, y, every), _path(smooth, x, y, every), smooth[0][1], smooth[-1][1])


@dataclass(frozen=True)
class Ladder:
    """Lines over a logarithmic scale: ticks of x (place, label), the axis of y, per series its points in percent."""

    ticks: tuple[tuple[float, str], ...]
    y: Axis
    series: tuple[tuple[str, str, tuple[Mapping[str, float], ...]], ...]


def ladder(picture: Mapping[str, Any], factor: float = 100) -> Ladder:
    """A picture of kind `line`, ready to draw; points without an interval have none drawn."""
    series = {name: [p for p in points if _finite(p.get("value"))] for name, points in picture["series"].items()}
    places = sorted({float(point["x"]) for points in series.values() for point in points}) or [1.0]
    low, high = math.log(places[0]), math.log(places[-1])
    width = (high - low) or 1.0
    ends = [
        factor * point[key]
        for points in series.values()
        for point in points
        for key in ("value", "low", "high")
        if _finite(point.get(key))
    ]
    y = axis([*ends, 0.0, 100.0] if picture["unit"] == "percent" else ends)

    def at(x: float) -> float:
        return round(2 + 96 * (math.log(x) - low) / width, 2)

    drawn = []
    for name, points in series.items():
        dots = []
        for point in sorted(points, key=lambda point: float(point["x"])):
            told = {
                "x": at(float(point["x"])),
                "y": 100 - y.at(factor * point["value"]),
                "value": factor * point["value"],
            }
            for key in ("low", "high"):
                told[key] = 100 - y.at(factor * point[key]) if _finite(point.get(key)) else told["y"]
            dots.append(told)
        drawn.append((name, " ".join(f"{dot['x']},{dot['y']}" for dot in dots), tuple(dots)))
    return Ladder(tuple((at(x), f"{x:,.0f}") for x in places), y, tuple(drawn))


def _path(points: Sequence[tuple[float, float]], x: Axis, y: Axis, every: int) -> str:
    kept = [*points[:-1:every], points[-1]]
    return " ".join(f"{x.at(step)},{round(100 - y.at(loss), 2)}" for step, loss in kept)


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
