"""Rows of one file: JSON lines, JSON, CSV, TSV, Parquet or bare lines, plain, gzip or zstd; streamed where possible.

Lines end at "\\n" and nowhere else: U+0085 or U+2028 inside a text do not end a line. What a row's fault leads to
(stop, or drop and count) is decided by the `fault` that is handed in.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

from didact import tables
from didact.errors import UsageError, missing_extra, nearest
from didact.sandbox import SURROGATE

Layout = Literal["auto", "jsonl", "json", "csv", "tsv", "parquet", "lines"]
Record = tables.Record  # the line or place of a record, and its row
Fault = tables.Fault  # gets the reason, a fixed phrase, and the error

SUFFIXES: dict[str, Layout] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet",
    ".txt": "lines",
}  # fmt: skip
MAGIC = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}


class _BadJson(ValueError):
    """JSON that parses but means two things or nothing: a key twice, NaN, half a character."""


def records(
    path: Path,
    fault: Fault,
    layout: Layout = "auto",
    encoding: str = "utf-8",
    columns: Sequence[str] = (),
    quoted: bool | None = None,
) -> Iterator[Record]:
    """(number, row) for every record: the line it begins in, or its place in a JSON array or Parquet file.

    columns: the header of a csv or tsv file that has none. quoted: whether double quotes enclose fields (csv: yes,
    tsv: no). Raises UsageError naming the file and line; faults of single rows go to `fault(reason, error)`.
    """
    layout = layout_of(path) if layout == "auto" else layout
    if layout == "parquet":
        _opened(path).close()
        yield from tables.parquet_rows(path)
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
            yield from _json_lines(path, lines, fault)
        else:
            yield from _json(path, lines, fault)
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


def _loads(text: str) -> Any:
    value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    if "\\u" in text and SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise _BadJson("half of a surrogate pair (\\ud800-\\udfff) in a text")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _BadJson(f'the key "{twice}" is given twice')
    return found


def _constant(name: str) -> Any:
    raise _BadJson(f"{name} is not JSON: write null")


def _fault_of(error: Exception, path: Path, line: int, fix: str) -> UsageError:
    if isinstance(error, json.JSONDecodeError):
        comma = error.doc[error.pos : error.pos + 1] in ("]", "}") and error.doc[: error.pos].rstrip().endswith(",")
        told = "a comma before the closing bracket" if comma else error.msg[0].lower() + error.msg[1:].removesuffix(":")
        problem = f"malformed JSON: {told} at column {error.colno}"
        return UsageError(problem, fix, file=path, line=line + error.lineno - 1)
    problem = str(error) if isinstance(error, _BadJson) else "malformed JSON: too deeply nested or too large a number"
    return UsageError(problem, fix, file=path, line=line)


def _json_lines(path: Path, lines: Iterable[tuple[int, str]], fault: Fault) -> Iterator[Record]:
    first = True
    for number, line in lines:
        if not line.strip():
            continue
        try:
            value = _loads(line)
        except (ValueError, RecursionError) as error:
            if first and line.lstrip().startswith("[") and not isinstance(error, _BadJson):
                # Not read as it is: an array must be held whole in memory, and its rows have no lines to name.
                problem = "a JSON array, where each line should hold one object"
                raise UsageError(
                    problem, "rename the file to .json, or add layout: json", file=path, line=number
                ) from error
            fault("malformed JSON", _fault_of(error, path, number, f"mend the line, {tables.DROP}"))
            value = None
        else:
            row = _as_row(value)
            if row is None:
                fault("not an object", _not_an_object(value, path, number))
            else:
                yield number, row
        first = False


def _json(path: Path, lines: Iterable[tuple[int, str]], fault: Fault) -> Iterator[Record]:
    """A JSON array of objects; or JSON lines, if the first line is a whole object and more follow."""
    read: list[tuple[int, str]] = []
    more = iter(lines)
    for number, line in more:
        read.append((number, line))
        if not line.strip():
            continue
        if line.lstrip().startswith("{") and _is_object(line):
            following = next(((n, text) for n, text in more if text.strip()), None)
            if following is not None:
                yield from _json_lines(path, _chain(read, [following], more), fault)
                return
        break
    text = "".join(line for _, line in read) + "".join(line for _, line in more)
    if not text.strip():
        return
    try:
        value = _loads(text)
    except (ValueError, RecursionError) as error:
        raise _fault_of(error, path, 1, "mend the file at this line") from error
    if not isinstance(value, list):
        problem = f"holds one JSON {_kind(value)}, not an array of rows"
        raise UsageError(problem, "save its rows as JSON lines, one object per line", file=path)
    for number, item in enumerate(value, 1):
        row = _as_row(item)
        if row is None:
            fault("not an object", _not_an_object(item, path, number))
        else:
            yield number, row


def _chain(*parts: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    for part in parts:
        yield from part


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _as_row(value: Any) -> dict[str, Any] | None:
    """An object as it is; a bare list of {role, content} as a conversation; nothing else is a row."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and value and all(isinstance(turn, dict) and "role" in turn for turn in value):
        return {"messages": value}
    return None


def _not_an_object(value: Any, path: Path, number: int) -> UsageError:
    fix = 'write an object, such as {"instruction": ..., "output": ...}'
    return UsageError(f"holds a JSON {_kind(value)}, not an object", f"{fix}, {tables.DROP}", file=path, line=number)


def _kind(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")
