"""Findings to one self-contained page (HTML, no network) or a model card's section (Markdown). Pure: text in, text out.

Everything that comes from data is shown as text: escaped, control and direction characters made visible.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from didact.audit.picture import axis, curve, ladder
from didact.audit.subject import Finding
from didact.audit.verdict import LEVELS, SHORT, headline

UNITS = {  # unit -> factor, digits
    "points": (100, 1),
    "percent": (100, 1),
    "bits per token": (1, 3),
    "nats": (1, 3),
    "ratio": (1, 2),
    "words": (1, 1),
}
MARKS = {
    **dict.fromkeys(
        (
            "robust",
            "the meaning is used",
            "no overlap worth a mention",
            "well calibrated",
            "refuses next to nothing that has an answer",
            "obeys more than before",
            "no sign of learning by heart",
            "no secret leaks",
            "a gain inside and outside",
            "a gain inside without a loss outside",
            "style and skill",
            "skill more than style",
            "better",
            "tuned preferred",
            "the instruction matters",
            "the input matters",
        ),
        "good",
    ),
    **dict.fromkeys(
        (
            "sensitive",
            "overlap, its effect open",
            "overlap without a larger gain",
            "overconfident",
            "underconfident",
            "a gain inside, its cost open",
            "skill on supported tasks, style beyond",
            "the instruction hardly matters",
            "skill on supported tasks, reach open",
            "style, and no skill shown",
            "better and worse",
            "mostly rambles",
            "the input hardly matters",
            "surface pattern",
        ),
        "partly",
    ),
    **dict.fromkeys(
        (
            "contaminated",
            "refuses what has an answer",
            "obeys less than before",
            "learnt by heart",
            "imitation",
            "a gain inside at a cost outside",
            "a loss inside the domain",
            "a cost outside without a gain inside",
            "base preferred",
            "mostly breaks",
        ),
        "bad",
    ),
    "task learning": "good",
    "stops reliably": "good",
    "no forgetting seen": "good",
    "they help": "good",
    "they harm": "bad",
    "format only": "partly",
    "stops mostly": "partly",
    "slight forgetting": "partly",
    "forgetting cannot be ruled out": "partly",
    "worse": "bad",
    "does not stop reliably": "bad",
    "forgetting": "bad",
    "failed": "bad",
}
LIMITS = (
    "Intervals hold 95% of the time one figure at a time; the page shows many, so about one in twenty strays.",
    "They speak of other rows of the same tasks, not of other tasks: three tasks are three tasks, however many rows.",
    "Content counts as shown only where the model beats every control with an interval clear of 0. Up to three "
    "ways are tried (ranking, exact match on valid answers, cluster by cluster), so each is held to a wider interval.",
    "For free answers nothing can be ranked: what the untuned model knows is judged from what it writes, form "
    "forgiven, and may be more than that.",
    "Exact match ignores case and punctuation. It knows no synonyms: a right answer in other words counts as wrong "
    "unless it is among the references.",
    "A control tuned on fewer instances than the model is a weaker opponent than it looks.",
    "Generation is greedy; sampled answers may be better or worse.",
)


@dataclass(frozen=True)
class About:
    """What the report says of the run besides its findings.

    facts: labelled lines in order (model, method, instances, time, versions). metrics: the rows of metrics.jsonl.
    dropped: instances dropped, by reason. headline: the whole in a sentence; that of the gain unless given.
    """

    name: str
    facts: Mapping[str, str] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    kept: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    headline: str = ""


def report_html(findings: Sequence[Finding], about: About) -> str:
    """The page as text: verdict first; a picture per finding, its table behind it; examples, training, data, limits."""
    return _environment().get_template("report.html.jinja").render(**_context(findings, about))


def report_markdown(findings: Sequence[Finding], about: About) -> str:
    """The same in Markdown, for a model card: verdicts, tables and limits; examples stay in the page."""
    text = _environment().get_template("report.md.jinja").render(**_context(findings, about))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.jinja",)),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        visible=visible,
        percent=_percent,
        signed=_signed,
        span=_span,
        ends=_ends,
        number=_number,
        cell=cell,
        axis=axis,
        ladder=ladder,
        figure=_figure,
    )
    return environment


def _context(findings: Sequence[Finding], about: About) -> dict[str, Any]:
    levels = [view for view in map(_view, findings) if view["level"]]
    order = list(LEVELS)
    return {
        "about": about,
        "headline": about.headline or headline(findings),
        "levels": sorted(levels, key=lambda view: order.index(view["level"])),
        "others": [view for view in map(_view, findings) if not view["level"]],
        "curve": curve(about.metrics),
        "steps": list(about.metrics)[:: max(1, len(about.metrics) // 20)],
        "dropped": sorted(about.dropped.items(), key=lambda item: -item[1]),
        "limits": LIMITS,
        "units": UNITS,
    }


def _view(finding: Finding) -> dict[str, Any]:
    """A finding as the templates need it; `mark` is its colour."""
    details = finding.details
    category = finding.category
    prefix = f"{category.capitalize()}. "
    level = details.get("level") if finding.probe == "gain" else None
    return {
        "finding": finding,
        "details": details,
        "category": category,
        "mark": MARKS.get(category, "open"),
        "sentence": finding.verdict.removeprefix(prefix),
        "level": level if level in LEVELS else None,
        "title": SHORT.get(str(level), finding.probe),
        "where": LEVELS.get(str(level), ""),
        "parts": [
            ("gain", {"value": finding.value, "low": finding.low, "high": finding.high}),
            *((f"{name} part", part) for name, part in details.get("parts", {}).items()),
        ],
    }


def visible(text: object) -> str:
    """Text with control, direction and broken characters made visible, so that data cannot act on who reads it."""
    return "".join(_visible(character) for character in str(text))


def _visible(character: str) -> str:
    if character in "\n\t" or character.isprintable() or character == "\u200d":
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if unicodedata.category(character) == "Zs":
        return " "
    return "\ufffd" if 0xD800 <= code < 0xE000 else f"<U+{code:04X}>"


def _figure(value: object) -> str:
    """A cell of a table: text as it is, numbers short, whole ones with separators."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return visible(value)
    if isinstance(value, int) or value == int(value):
        return f"{int(value):,}".replace("-", "−")
    return f"{value:,.{3 if abs(value) < 1 else 1}f}".replace("-", "−")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "−")


def _signed(value: float | None, scale: float = 100, digits: int = 1) -> str:
    return "–" if value is None else f"{round(scale * value, digits) + 0.0:+.{digits}f}".replace("-", "−")


def _span(interval: Mapping[str, float | None], scale: float = 100, digits: int = 1) -> str:
    low, high = interval.get("low"), interval.get("high")
    return f"[{_signed(low, scale, digits)}, {_signed(high, scale, digits)}]"


def _ends(interval: Mapping[str, float]) -> str:
    """The ends of an interval of a share, in percent."""
    return f"[{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"


def cell(text: object) -> str:
    """Data in a Markdown line: on one line, with everything that Markdown or HTML would act on escaped."""
    flat = " ".join(visible(text).split())
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", flat).replace("&", "&amp;")
