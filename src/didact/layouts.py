"""An object of splits, and rows made of rows.

Rows of lines get their columns from a pattern, from files beside theirs (labels, translations), or, where a record
holds lists, one row is made of each item.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from didact.errors import UsageError, nearest
from didact.tables import DROP, Fault, Record


def is_splits(value: Any) -> bool:
    """Whether a JSON document is an object of splits: name -> list of rows, each an object or an array."""
    parts = list(value.values()) if isinstance(value, dict) else []
    return bool(parts) and all(
        isinstance(part, list) and part and all(isinstance(item, (list, dict)) for item in part) for part in parts
    )


def split_rows(value: Any, path: Path, fault: Fault, columns: Sequence[str]) -> Iterator[Record]:
    """(number, row) for an object of splits, its key as the column `split`; `columns` name the items of arrays."""
    if not is_splits(value):
        problem = "is no object of splits"
        raise UsageError(problem, "it needs {train: [...], test: [...]} with rows in them", file=path)
    number = 0
    for split, items in value.items():
        for item in items:
            number += 1
            if isinstance(item, dict):
                yield number, {"split": split, **item}
            elif not columns:
                names = ", ".join("abcdefghijklmnopqrstuvwxyz"[: len(item)])
                fix = f"name the {len(item)} values in the source: columns: [{names}]"
                raise UsageError(f'the rows of "{split}" are arrays without names', fix, file=path)
            elif len(item) != len(columns):
                problem = f"{len(item)} values where `columns` names {len(columns)}"
                fault("wrong number of fields", UsageError(problem, f"mend the row, {DROP}", file=path, line=number))
            else:
                yield number, dict(zip(columns, item, strict=True)) | {"split": split}


def unrolled(records: Iterable[Record], lists: Mapping[str, str], path: Path, fault: Fault) -> Iterator[Record]:
    """A row for each item of the lists: name of the item -> where its list lies, such as `passage.questions`; later
    ones may lie inside the items of earlier ones. Rows are counted anew."""
    count = 0
    for number, row in records:
        rows = [row]
        try:
            for name, place in lists.items():
                rows = [{**outer, name: item} for outer in rows for item in _items(outer, place)]
        except UsageError as error:
            fault("malformed record", error.at(file=path, line=number))
            continue
        for made in rows:
            count += 1
            yield count, made


def _items(row: Mapping[str, Any], place: str) -> list[Any]:
    found = reach(row, place)
    if not isinstance(found, list):
        problem = "is no list in the row" if found is not None else "is not in the row"
        raise UsageError(f'unroll: "{place}" {problem}', nearest(place.split(".")[0], row), field=place)
    return found


def reach(row: Any, place: str) -> Any:
    """The value at a dotted place in a row, such as `answers.text.0`; None if there is none."""
    for key in place.split("."):
        if isinstance(row, Mapping):
            row = row.get(key)
        elif isinstance(row, (list, tuple)) and key.isdecimal() and int(key) < len(row):
            row = row[int(key)]
        else:
            return None
    return row


def reached(records: Iterable[Record], places: Iterable[str]) -> Iterator[Record]:
    """The rows with the values at dotted places as columns of these names."""
    dotted = [place for place in places if "." in place]
    for number, row in records:
        found = {place: reach(row, place) for place in dotted if place not in row}
        yield number, {**row, **{place: value for place, value in found.items() if value is not None}}


def matched(records: Iterable[Record], pattern: re.Pattern[str], path: Path, fault: Fault) -> Iterator[Record]:
    """Rows whose columns are the named groups of a pattern in the row's line."""
    for number, row in records:
        match = pattern.fullmatch(row["text"])
        if match is None:
            problem = f'the line "{row["text"][:40]}" does not fit the pattern'
            fault("malformed row", UsageError(problem, f"mend the pattern or the line, {DROP}", file=path, line=number))
        else:
            yield number, match.groupdict()


def beside(
    records: Iterable[Record], path: Path, others: Mapping[str, tuple[Path, Callable[[], Iterator[Record]]]]
) -> Iterator[Record]:
    """Rows with a column more for each other file, whose lines are counted off with theirs; UsageError if one ends
    before the other. others: column -> its file, and what gives its lines."""
    streams = [read() for _, read in others.values()]
    for count, (record, *lines) in enumerate(zip_longest(records, *streams)):
        for (column, (other, _)), line in zip(others.items(), lines, strict=True):
            if record is None or line is None:
                short, long = (path, other) if record is None else (other, path)
                problem = f"ends after {count:,} rows, before {long.name}: they do not belong together line by line"
                raise UsageError(problem, "fetch both anew", file=short, field=f"beside.{column}")
            if column in record[1]:
                raise UsageError(f'{path.name} has a column "{column}" itself', "choose another name", field="beside")
        yield record[0], {**record[1], **{name: line[1]["text"] for name, line in zip(others, lines, strict=True)}}
