"""Rows without answers from a file: each text is asked as the training rows are, in the place of a row's own input.

So that PET has more to say labels for than the rows of the recipe (the unlabelled examples of Schick 2021, 2001.07676).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

from didact.errors import UsageError, nearest
from didact.files import records
from didact.instance import Instance, Message, Part


def unlabelled(path: Path, column: str, moulds: Sequence[Instance]) -> list[Instance]:
    """One instance without an answer for every text of the file, the training rows taken in turn as moulds.

    Raises UsageError for a file that cannot be read or has no such column, and for rows without one single input.
    """
    for mould in moulds:
        inputs = [part for message in mould.context for part in message.parts if _asked(part)]
        if len(inputs) != 1:
            problem = f"method.unlabelled puts a text in the place of a row's input, and this row has {len(inputs)}"
            fix = "use templates with one input, or leave method.unlabelled out"
            raise UsageError(problem, fix, file=mould.origin.source or None, line=mould.origin.row or None)
    texts = _texts(path, column)
    found = [_cast(mould, text, path, line) for mould, (line, text) in zip(cycle(moulds), texts, strict=False)]
    if not found:
        raise UsageError("there is no text in it", "name another file", file=path, field="method.unlabelled")
    return found


def _texts(path: Path, column: str) -> Iterator[tuple[int, str]]:
    def fault(reason: str, error: UsageError) -> None:
        raise error

    if not path.is_file():
        raise UsageError("there is no such file", "name a file of rows", file=path, field="method.unlabelled")
    rows: Iterator[tuple[int, Mapping[str, Any]]] = records(path, fault)
    for line, row in rows:
        if not isinstance(row.get(column), str):
            told = nearest(column, [name for name, value in row.items() if isinstance(value, str)])
            raise UsageError(f'no text in the column "{column}"', told, file=path, line=line, field="method.column")
        if text := row[column].strip():
            yield line, text


def _asked(part: Part) -> bool:
    return part.slot == "input" and part.kind == "text"


def _cast(mould: Instance, text: str, path: Path, line: int) -> Instance:
    """The mould with another input and no answer."""
    asked = tuple(
        replace(
            message,
            parts=tuple(replace(part, value=text) if _asked(part) else part for part in message.parts),
        )
        for message in mould.context
    )
    origin = replace(mould.origin, source=str(path), row=line)
    return Instance.of((*asked, Message("assistant", ())), origin, choices=mould.choices)
