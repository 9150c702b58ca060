"""Rows of tables: CSV and TSV from lines of text, Parquet from its file."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from didact.errors import UsageError, missing_extra

DROP = "or drop such rows: on_error: drop"
Record = tuple[int, dict[str, Any]]
Fault = Callable[[str, UsageError], None]


def table_rows(
    path: Path, lines: Iterable[tuple[int, str]], fault: Fault, layout: str, columns: Sequence[str], quoted: bool
) -> Iterator[Record]:
    """(line, row) for the records of a csv or tsv file, given its numbered lines; its first record is the header
    unless `columns` are given. Faults of single rows go to `fault`."""
    csv.field_size_limit(1 << 30)
    numbers: list[int] = [0]

    def texts() -> Iterator[str]:
        for number, line in lines:
            numbers[0] = number
            yield line if quoted else line.removesuffix("\n").removesuffix("\r")

    delimiter = "\t" if layout == "tsv" else ","
    reader = csv.reader(
        texts(), delimiter=delimiter, strict=True, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    )
    header = list(columns)
    while True:
        start = numbers[0] + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            other = "quoted: false" if quoted else "quoted: true"
            fix = f"mend the quotes of this row ({other} may fit the file), {DROP}"
            fault("malformed row", UsageError(f"malformed {layout}: {error}", fix, file=path, line=start))
            continue
        if fields is None:
            return
        if not fields:
            continue
        if not header:
            header = _header(path, fields, layout, start)
        elif len(fields) != len(header):
            problem = f"{len(fields)} fields where the header has {len(header)}"
            fix = f"mend the row, or if the file has no header give `columns`, {DROP}"
            fault("wrong number of fields", UsageError(problem, fix, file=path, line=start))
        else:
            yield start, dict(zip(header, fields, strict=True))


def _header(path: Path, names: list[str], layout: str, line: int) -> list[str]:
    """The names of the columns; refused if the line can only be data."""
    fix = "if the file has no header, give the source `columns: [...]`"
    for name in names:
        if not name.strip() or names.count(name) > 1 or name.strip().lstrip("-").replace(".", "", 1).isdecimal():
            problem = f'the first line looks like data: "{name[:40]}" cannot be a column name'
            raise UsageError(problem, fix, file=path, line=line)
    if len(names) == 1 and layout == "csv" and ("\t" in names[0] or ";" in names[0]):
        other = "layout: tsv" if "\t" in names[0] else "commas between the fields"
        raise UsageError("the header has only one column", f"the file may need {other}", file=path, line=line)
    return names


def parquet_rows(path: Path) -> Iterator[Record]:
    """(number, row) for the records of a Parquet file, read in batches."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet") from error
    number = 0
    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        for name in names:
            if names.count(name) > 1:
                raise UsageError("two columns have this name", "rename one in the file", file=path, field=name)
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        problem = f"not readable as Parquet: {str(error).splitlines()[0]}"
        raise UsageError(problem, "fetch or write the file again", file=path) from error
    if not number:
        raise UsageError("the file holds no rows", "give a file with rows", file=path)
