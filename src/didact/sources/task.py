"""What a source gives: tasks, each with its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from didact import formats
from didact.template import Template


@dataclass(frozen=True, slots=True)
class Row:
    """One annotated row: `number` is its 1-based line or record in `source`; label columns hold names."""

    source: str
    number: int
    data: dict[str, Any]


@dataclass(frozen=True)
class Task:
    """Rows, and the templates that make instances of them; without templates the rows are instructions already.

    rows: gives the rows anew at each call. group: columns whose equal values keep rows on one side of the split.
    mapping: how rows without templates are read. references: rows of one group are right answers to one question.
    on_error: what a row's fault leads to. level: at which level the source itself holds the whole task out.
    languages: ISO 639 codes, as far as they are told. home: the folder in which the rows' `pictures/...` lie.
    """

    name: str
    cluster: str
    licence: str
    rows: Callable[[], Iterator[Row]]
    templates: tuple[Template, ...] = ()
    group: tuple[str, ...] = ()
    mapping: formats.Mapping | None = None
    references: bool = False
    on_error: Literal["stop", "drop"] = "stop"
    level: str = ""
    languages: tuple[str, ...] = ()
    home: Path | None = None
