"""Rows of tables: CSV and TSV from lines of text, Parquet and Arrow from their files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from didact.errors import UsageError, missing_extra

DROP = "or drop such rows: on_error: drop"
Record = tuple[int, dict[str, Any]]
JSON_COLUMN = b"didact.json"  # in the metadata of a column
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
        from pyarrow import parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet") from error

    def batches() -> tuple[Any, Iterable[Any]]:
        file = parquet.ParquetFile(path)
        return file.schema_arrow, file.iter_batches(batch_size=1024)

    yield from _batch_rows(path, "Parquet", batches)


def arrow_rows(path: Path) -> Iterator[Record]:
    """(number, row) for the records of an Arrow file (Feather too) or stream, as `datasets` keeps them."""
    try:
        import pyarrow
        from pyarrow import ipc
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet") from error

    def batches() -> tuple[Any, Iterable[Any]]:
        source = pyarrow.memory_map(str(path))
        try:
            file = ipc.open_file(source)
        except pyarrow.ArrowInvalid:
            source.seek(0)
            stream = ipc.open_stream(source)
            return stream.schema, stream
        return file.schema, (file.get_batch(i) for i in range(file.num_record_batches))

    yield from _batch_rows(path, "Arrow", batches)


def _batch_rows(path: Path, kind: str, batches: Callable[[], tuple[Any, Iterable[Any]]]) -> Iterator[Record]:
    """The rows of record batches. A column marked so in its metadata holds JSON, which Arrow's types cannot tell."""
    import pyarrow

    number = 0
    try:
        schema, found = batches()
        for name in schema.names:
            if schema.names.count(name) > 1:
                raise UsageError("two columns have this name", "rename one in the file", file=path, field=name)
        coded = [field.name for field in schema if JSON_COLUMN in (field.metadata or {})]
        for batch in found:
            for row in batch.to_pylist():
                number += 1
                for name in coded:
                    row[name] = None if row[name] is None else json.loads(row[name])
                yield number, row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        told = (str(error).splitlines() or [""])[0]
        problem = f"not readable as {kind}: {told}"
        raise UsageError(problem, "fetch or write the file again", file=path) from error
    if not number:
        raise UsageError("the file holds no rows", "give a file with rows", file=path)
