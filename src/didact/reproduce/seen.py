"""What a reproduction is and what it gives: texts from its docstring, rows of a table, signs, a verdict by rule."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, Literal, cast

import numpy as np

from didact.audit.interval import Interval
from didact.instance import Instance
from didact.reproduce.bench import Asked, Trained
from didact.reproduce.sign import Sign, count, overall, sentence

PARTS = ("Claim", "Miniature", "Expected", "Limits", "Paper")
What = Literal["score", "form", "content"]


@dataclass(frozen=True)
class Row:
    """An arm in the table: how many different instances it was tuned on, and its figures by column (fractions)."""

    name: str
    instances: int
    figures: Mapping[str, Interval]


@dataclass(frozen=True)
class Seen:
    """What was seen: rows of the table, and the signs that were looked for."""

    rows: Sequence[Row]
    signs: Sequence[Sign]
    note: str = ""


def told(module: ModuleType) -> dict[str, str]:
    """A reproduction's own words: title, claim, miniature, expected, limits, paper, each on one line."""
    text = module.__doc__ or ""
    title, *rest = re.split(rf"^({'|'.join(PARTS)}): ", text, flags=re.MULTILINE)
    found = {"title": " ".join(title.split())}
    found |= {key.lower(): " ".join(value.split()) for key, value in zip(rest[::2], rest[1::2], strict=True)}
    missing = [part for part in PARTS if part.lower() not in found]
    assert not missing, f"{module.__name__} does not tell its {', '.join(missing)}"
    return found


def row(arm: Trained, asked: Asked, columns: Mapping[str, tuple[str, str]]) -> Row:
    """An arm's line. columns: name -> (set of questions, which figure of it)."""
    what = {column: told for column, told in columns.items() if told[0] in arm.sets}
    figures = {column: arm.sets[name].mean(asked[name], cast(What, kind)) for column, (name, kind) in what.items()}
    return Row(arm.name, arm.instances, figures)


def lead(one: Trained, other: Trained, asked: Sequence[Instance], name: str = "own", what: What = "score") -> Interval:
    """One arm's figure minus the other's on a set of questions, paired by item and seed."""
    mine, theirs = one.sets[name], other.sets[name]
    if len(getattr(mine, what)) < len(getattr(theirs, what)):  # an arm without seeds before one with some
        same: dict[str, Any] = {what: np.broadcast_to(getattr(mine, what), getattr(theirs, what).shape)}
        mine = replace(mine, **same)
    return mine.lead(theirs, asked, what)


def to_json(words: Mapping[str, str], seen: Seen) -> dict[str, Any]:
    """Everything that a page shows."""

    columns = list(dict.fromkeys(column for row in seen.rows for column in row.figures))
    return {
        **words,
        "verdict": overall(seen.signs),
        "count": list(count(seen.signs)),
        "sentence": sentence(seen.signs),
        "note": seen.note,
        "columns": columns,
        "rows": [
            {"arm": row.name, "instances": row.instances, "figures": {k: _plain(v) for k, v in row.figures.items()}}
            for row in seen.rows
        ],
        "signs": [
            {
                "says": sign.says,
                "role": sign.role,
                "expects": sign.expects,
                "smallest": sign.smallest,
                **_plain(sign.seen),
                "verdict": sign.verdict,
                "why": sign.why,
            }
            for sign in seen.signs
        ],
    }


def _plain(interval: Interval) -> dict[str, Any]:
    return {key: getattr(interval, key) for key in ("value", "low", "high", "n")}
