"""Rows into one file: JSON lines, JSON, CSV, TSV, Parquet, Arrow, CoNLL or SQuAD; plain, .gz or .zst. Whole or not
at all.

What a container cannot tell (CSV knows only text, tables know no missing column) is counted, never silent: the caller
gets the counts, and the file is read back and compared with what was to be written before it takes its place.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from didact import conll, files, squad
from didact.errors import UsageError, missing_extra
from didact.folder import disk_error
from didact.instance import digest
from didact.tables import JSON_COLUMN

Row = dict[str, Any]
Rows = Callable[[], Iterator[Row]]  # gives the rows anew at each call
BATCH = 1024
NOTHING = "no row is left to write"
WRITABLE = ("jsonl", "json", "csv", "tsv", "parquet", "arrow")


def layout_for(path: Path, form: str) -> files.Layout:
    """How a file of rows in a format is to be written: as its name says, SQuAD's and CoNLL's own way where it can be.

    Raises UsageError for a name that tells no layout that can be written.
    """
    layout = files.layout_of(path)
    if layout == "json" and form == "squad":
        return "squad"
    if layout in ("conll", "lines") and form == "conll":
        return "conll"
    if layout not in WRITABLE:
        more = ", conll (--to conll)" if layout in ("conll", "lines") else ""
        fix = f"write one of: {', '.join(WRITABLE)}{more}"
        raise UsageError(f"{layout} can be read, but not written", fix, file=path)
    return layout


def write_rows(
    path: Path, rows: Rows, replace: bool = False, layout: files.Layout = "auto"
) -> tuple[int, Counter[str]]:
    """Write rows to a file of the layout that its name tells; how many, and what was lost, in words, of how many rows.

    layout: as `layout_for` gives it. Raises UsageError for a name that tells no layout, a file that is there (unless
    `replace`), rows that the layout cannot hold at all, a full disk, or a file that does not read back as it was.
    """
    layout = layout_for(path, "") if layout == "auto" else layout
    if path.exists() and not replace:
        raise UsageError("there is a file already", "give another name, or --force", file=path)
    if layout in ("parquet", "arrow") and path.suffix.lower() in files.MAGIC:
        problem = f"{layout} is compressed inside, and cannot be read from {path.suffix}"
        raise UsageError(problem, f"leave {path.suffix} out of the name", file=path)
    # The suffixes stay at the end, so that the unfinished file reads like the finished one.
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    lost: Counter[str] = Counter()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        marks = _TABLES[layout](part, rows, lost) if layout in _TABLES else _text(part, layout, rows(), lost)
        _verify(part, marks, path, layout)
        part.replace(path)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        part.unlink(missing_ok=True)
    return len(marks), lost


def _verify(part: Path, marks: list[bytes], path: Path, layout: files.Layout) -> None:
    """Refuse a file whose rows do not read back as they were meant."""
    if not marks:
        raise UsageError(NOTHING, "give a file with rows", file=path)
    read = 0
    for number, row in files.records(part, _stop, layout):
        if read >= len(marks) or _mark(row) != marks[read]:
            raise UsageError("a row does not read back as it was", "write jsonl instead", file=path, line=number)
        read += 1
    if read != len(marks):
        raise UsageError(f"{read} of {len(marks)} rows read back", "write jsonl instead", file=path)


def _mark(row: Row) -> bytes:
    return bytes.fromhex(digest(row))


def _plain(value: Any, lost: Counter[str]) -> str:
    """A row as JSON text; dates, decimals and bytes, which JSON does not know, as their words."""
    odd: list[str] = []

    def words(found: Any) -> str:
        odd.append(type(found).__name__)
        return found.decode("utf-8", "backslashreplace") if isinstance(found, bytes) else str(found)

    try:
        text = json.dumps(value, ensure_ascii=False, default=words, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"a value is no JSON: {error}", "mend or leave out the column") from error
    lost.update({f"values of kind {kind} became text": 1 for kind in set(odd)})
    return text


def _text(part: Path, layout: str, rows: Iterator[Row], lost: Counter[str]) -> list[bytes]:
    """JSON lines, or a JSON array with a row on each line."""
    marks: list[bytes] = []
    with _opened(part) as file:
        for row in rows:
            text = _plain(row, lost)
            marks.append(_mark(json.loads(text)))
            start = "" if layout == "jsonl" else ("[\n" if len(marks) == 1 else ",\n")
            file.write((start + text + ("\n" if layout == "jsonl" else "")).encode("utf-8"))
        if layout == "json":
            file.write(b"\n]\n" if marks else b"[]\n")
    return marks


def _conll(part: Path, rows: Rows, lost: Counter[str]) -> list[bytes]:
    """Tokens and their tags, a line each; what a row has besides and CoNLL has no place for is counted."""
    marks: list[bytes] = []
    middle = conll.middle_of(rows())
    with _opened(part) as file:
        for text, row in conll.written(rows(), middle, lost):
            file.write(text.encode("utf-8"))
            marks.append(_mark(row))
    return marks


def _squad(part: Path, rows: Rows, lost: Counter[str]) -> list[bytes]:
    """One document of SQuAD."""
    kept = list(rows())
    text = _plain(squad.squad_document(kept, lost), lost)
    with _opened(part) as file:
        file.write(f"{text}\n".encode())
    return [_mark(row) for row in squad.read_back(json.loads(text), kept)] if kept else []


def _stop(reason: str, error: UsageError) -> None:
    raise error


def _delimited(part: Path, rows: Rows, lost: Counter[str]) -> list[bytes]:
    """CSV, its fields quoted where they must be, or TSV, which has no quotes."""
    tsv, marks = files.layout_of(part) == "tsv", list[bytes]()
    columns = list(dict.fromkeys(column for row in rows() for column in row))
    for column in columns:
        bare = column.strip("\ufeff").strip()
        if not bare or bare.lstrip("-").replace(".", "", 1).isdecimal() or column.startswith("\ufeff"):
            raise UsageError(
                "a table's header cannot have this name", "rename the column, or write jsonl", field=column
            )
    with _opened(part) as binary, io.TextIOWrapper(binary, "utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        for number, row in enumerate(_with_header(columns, rows()), 1):
            cells = {column: _cell(row, column, lost if number > 1 else Counter()) for column in columns}
            if tsv and any(mark in text for text in cells.values() for mark in "\t\n\r"):
                problem = "a text has a tab or a line end in it, which tsv cannot hold"
                raise UsageError(problem, "write csv or jsonl", file=part.name.split("-", 2)[2], line=number)
            if tsv:
                file.write("\t".join(cells.values()) + "\n")
            else:
                table.writerow(cells.values())
            if number > 1:
                marks.append(_mark(cells))
    return marks


def _with_header(columns: Iterable[str], rows: Iterator[Row]) -> Iterator[Row]:
    yield {column: column for column in columns}
    yield from rows


def _cell(row: Row, column: str, lost: Counter[str]) -> str:
    """A value as the text of a field; what that loses is counted."""
    if column not in row:
        lost[f"no {column}: became an empty field"] += 1
        return ""
    value = row[column]
    if isinstance(value, str):
        return value
    if value is None:
        lost[f"null in {column}: became an empty field"] += 1
        return ""
    if isinstance(value, list | dict):
        problem = "holds a list or an object, which a csv or tsv field cannot"
        raise UsageError(problem, "write jsonl or parquet", field=column)
    lost[f"numbers and truth values in {column}: became text"] += 1
    return _plain(value, lost)


def _arrow(part: Path, rows: Rows, lost: Counter[str]) -> list[bytes]:
    """Parquet or Arrow: columns with types where every value comes back as it was, JSON in a text column where not."""
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet") from error
    fields = _fields(pyarrow, rows)
    schema = pyarrow.schema(fields)
    marks: list[bytes] = []
    is_parquet = files.layout_of(part) == "parquet"
    with (
        part.open("wb") as file,
        parquet.ParquetWriter(file, schema) if is_parquet else ipc.new_file(file, schema) as writer,
    ):
        for batch in _batches(rows()):
            arrays = []
            for field in fields:
                name = field.name
                lost.update({f"no {name}: became null": sum(name not in row for row in batch)})
                values = [row.get(name) for row in batch]
                coded = [None if v is None else _plain(v, lost) for v in values] if field.metadata else values
                arrays.append(pyarrow.array(coded, type=field.type))
            writer.write_batch(pyarrow.record_batch(arrays, schema=schema))
            marks += [_mark({field.name: row.get(field.name) for field in fields}) for row in batch]
        file.flush()
    lost += Counter()  # without those that are 0
    return marks


def _fields(arrow: Any, rows: Rows) -> list[Any]:
    """A column's type if all its values have one and come back equal, else text that holds JSON."""
    types: dict[str, Any] = {}
    coded: set[str] = set()
    for batch in _batches(rows()):
        for name in dict.fromkeys(column for row in batch for column in row):
            values = [row.get(name) for row in batch]
            kind = _type(arrow, values)
            known = types.get(name, arrow.null())
            if kind is None or not (known == kind or arrow.null() in (known, kind)):
                coded.add(name)
            elif known == arrow.null():
                types[name] = kind
    found = []
    for name in {**types, **dict.fromkeys(sorted(coded))}:
        if name in coded:
            found.append(arrow.field(name, arrow.string(), metadata={JSON_COLUMN: b"1"}))
        else:
            found.append(arrow.field(name, types[name]))
    return found


def _type(arrow: Any, values: list[Any]) -> Any:
    """The Arrow type in which these values come back exactly; None if there is none."""
    try:
        array = arrow.array(values)
        same = array.to_pylist() == values and json.dumps(array.to_pylist()) == json.dumps(values)
    except (arrow.ArrowException, OverflowError, TypeError, ValueError, RecursionError):
        return None
    # A list of nothing but nulls, or empty lists, would get another type in another batch.
    hollow = any(mark in str(array.type) for mark in ("null", "struct<>")) and array.type != arrow.null()
    return array.type if same and not hollow else None


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _opened(path: Path) -> BinaryIO:
    """A file to write bytes to, compressed as its name says, the same bytes each time."""
    suffix = path.suffix.lower()
    if suffix == ".zst":
        try:
            import zstandard
        except ImportError as error:
            raise missing_extra("zstandard", "zstd") from error
        stream: BinaryIO = zstandard.ZstdCompressor(level=9).stream_writer(path.open("wb"))
        return stream
    if suffix == ".gz":
        raw = path.open("wb")
        packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0)  # neither name nor time in its head
        packed.myfileobj = raw  # type: ignore[assignment]  # closed with it
        return packed  # type: ignore[return-value]
    return path.open("wb")


_TABLES = {
    "csv": _delimited,
    "tsv": _delimited,
    "parquet": _arrow,
    "arrow": _arrow,
    "conll": _conll,
    "squad": _squad,
}
