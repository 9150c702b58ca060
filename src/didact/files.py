"""Rows of one file: JSON lines, JSON, CSV, TSV, YAML, Parquet, Arrow, CoNLL or bare lines, plain, gzip or zstd;
streamed where possible.

Lines end at "\\n" and nowhere else: U+0085 or U+2028 inside a text do not end a line. What a row's fault leads to
(stop, or drop and count) is decided by the `fault` that is handed in.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

from didact import conll, json_rows, tables
from didact.errors import UsageError, missing_extra, nearest

Layout = Literal[
    "auto", "jsonl", "json", "csv", "tsv", "yaml", "parquet", "arrow", "lines", "conll", "squad", "splits", "object"
]
Record = tables.Record  # the line or place of a record, and its row
Fault = tables.Fault  # gets the reason, a fixed phrase, and the error

SUFFIXES: dict[str, Layout] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet",
    ".arrow": "arrow", ".feather": "arrow", ".yaml": "yaml", ".yml": "yaml",
    ".txt": "lines", ".conll": "conll", ".bio": "conll", ".iob": "conll",
}  # fmt: skip
MAGIC = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}


def records(
    path: Path,
    fault: Fault,
    layout: Layout = "auto",
    encoding: str = "utf-8",
    columns: Sequence[str] = (),
    quoted: bool | None = None,
) -> Iterator[Record]:
    """(number, row) for every record: the line it begins in, or its place in a JSON document or Parquet file.

    layout: squad, splits and object are JSON documents; auto tells the first two by themselves. columns: the header of
    a csv or tsv file that has none, the fields of conll lines, the items of arrays in splits. quoted: whether double
    quotes enclose fields (csv: yes, tsv: no). Raises UsageError naming the file and line; faults of single rows go to
    `fault(reason, error)`.
    """
    layout = layout_of(path) if layout == "auto" else layout
    if layout in ("parquet", "arrow"):
        _opened(path).close()
        yield from (tables.parquet_rows if layout == "parquet" else tables.arrow_rows)(path)
        return
    seen = 0

    def seen_fault(reason: str, error: UsageError) -> None:
        nonlocal seen
        seen += 1
        fault(reason, error)

    with _opened(path) as handle:
        for record in _parse(path, handle, seen_fault, layout, encoding, columns, quoted):
            seen += 1
            yield record
    if not seen:
        raise UsageError("the file holds no rows", "give a file with rows", file=path)


def layout_of(path: Path) -> Layout:
    """The layout that a file's name tells, compression aside; UsageError if it tells none."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in MAGIC]
    if not suffixes or suffixes[-1] not in SUFFIXES:
        known = ", ".join(sorted(set(SUFFIXES.values())))
        raise UsageError("its name does not tell how to read it", f"add `layout:` ({known}) to the source", file=path)
    return SUFFIXES[suffixes[-1]]


def _parse(
    path: Path,
    handle: BinaryIO,
    fault: Fault,
    layout: Layout,
    encoding: str,
    columns: Sequence[str],
    quoted: bool | None,
) -> Iterator[Record]:
    try:
        lines = _lines(path, handle, encoding, fault)
        if layout in ("csv", "tsv"):
            yield from tables.table_rows(
                path, lines, fault, layout, columns, (layout == "csv") if quoted is None else quoted
            )
        elif layout == "lines":
            yield from ((number, {"text": line.removesuffix("\n").removesuffix("\r")}) for number, line in lines)
        elif layout == "jsonl":
            yield from json_rows.json_lines(path, lines, fault)
        elif layout == "yaml":
            yield from json_rows.yaml_rows(path, lines, fault)
        elif layout == "conll":
            yield from conll.conll_rows(path, lines, fault, columns)
        else:
            yield from json_rows.json_rows(path, lines, fault, layout, columns)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        problem = "its compressed data is cut off or damaged"
        raise UsageError(problem, "fetch the file again", file=path) from error
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror or error}", "check the file", file=path) from error


def _opened(path: Path) -> BinaryIO:
    """The file's bytes, decompressed; how they are compressed, the first bytes say."""
    try:
        handle = path.open("rb")
    except FileNotFoundError as error:
        beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        close = nearest(path.name, beside) if beside else ""
        fix = close if close.startswith("did you") else "check the path; it is relative to the recipe"
        raise UsageError("no such file", fix, file=path) from error
    except IsADirectoryError as error:
        raise UsageError("is a folder, not a file", "name a file in it", file=path) from error
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", "check its permissions", file=path) from error
    start = handle.peek(4)
    if start.startswith(MAGIC[".gz"]):
        handle.close()
        return gzip.open(path)  # type: ignore[return-value]
    if start.startswith(MAGIC[".zst"]):
        return io.BufferedReader(_Zstd(handle))
    if path.suffix.lower() in MAGIC and start:
        kind = {".gz": "gzip", ".zst": "zstd"}[path.suffix.lower()]
        raise UsageError(f"is named {path.suffix} but holds no {kind} data", "rename it or fetch it again", file=path)
    return handle


class _Zstd(io.RawIOBase):
    """zstd frames as a stream of bytes that notices when the last frame is cut off."""

    def __init__(self, handle: BinaryIO) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise missing_extra("zstandard", "zstd") from error
        self._handle, self._new = handle, zstandard.ZstdDecompressor().decompressobj
        self._frame, self._ready, self._error = self._new(), b"", zstandard.ZstdError

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._handle.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            if self._frame.eof:
                left = self._frame.unused_data or self._handle.read(1 << 16)
                if not left:
                    return 0
                self._frame = self._new()
            else:
                left = self._handle.read(1 << 16)
                if not left:
                    raise EOFError("cut off")
            try:
                self._ready = self._frame.decompress(left)
            except self._error as error:
                raise EOFError(str(error)) from error
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


def _lines(path: Path, handle: BinaryIO, encoding: str, fault: Fault) -> Iterator[tuple[int, str]]:
    """(number, text with its line end) for every line, split at "\\n" only; a BOM is taken off."""
    wide = encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32"))
    source: Iterable[Any] = io.TextIOWrapper(handle, encoding, newline="\n") if wide else handle
    try:
        for number, line in enumerate(source, 1):
            if number == 1 and not wide:
                _refuse_wide(path, line)
            try:
                text = line if wide else line.decode(encoding)
            except UnicodeDecodeError as error:
                problem = f"not {encoding} text (byte 0x{line[error.start]:02x} at position {error.start + 1})"
                fix = "save the file as UTF-8, or name its encoding in the source, such as encoding: latin-1"
                fault("wrong encoding", UsageError(problem, fix, file=path, line=number))
                continue
            yield number, text.removeprefix("\ufeff") if number == 1 else text
    except UnicodeError as error:
        raise UsageError(f"not {encoding} text", "name the file's real encoding", file=path) from error


def _refuse_wide(path: Path, line: bytes) -> None:
    if line.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in line[:200]:
        fix = "save it as UTF-8, or add encoding: utf-16 to the source"
        raise UsageError("the file is UTF-16, not UTF-8", fix, file=path, line=1)
