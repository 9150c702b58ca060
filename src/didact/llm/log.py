"""The durable log of answers: JSON lines that are only appended, each with its checksum, under the hash of its request.

A line cut off by a crash goes when the log is opened; a line with a flipped byte is told by its number and put aside,
and its request is asked again. One process writes at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from array import array
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

from didact.errors import UsageError

HEAD, MARK = b'{"sum":"', 16  # a line is HEAD, 16 hex digits, `",` and the rest of the record


class Log:
    """The answers in a file, found by key. Use it as a context; `say` is told what was mended.

    requests, tokens, money: what all calls in it have used.
    """

    def __init__(self, path: Path, say: Callable[[str], None] = lambda text: None) -> None:
        self.path, self.say = path, say
        self.requests, self.tokens, self.money = 0, 0, 0.0
        self._handle, self._end, self._began = -1, 0, 0
        self._flushing = threading.Lock()
        self._places = _Places()

    def __enter__(self) -> Log:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._handle)
            fix = "wait for it, or give another folder with --out"
            raise UsageError("another process is writing these answers", fix, file=self.path) from error
        try:
            self._open()
        except BaseException:
            os.close(self._handle)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with self._flushing:  # a flush that still runs in its thread would hold the file, and with it the lock
            os.close(self._handle)
            self._handle = -1

    def _open(self) -> None:
        """Index what is whole, cut a torn tail, put damaged lines aside."""
        damaged: list[tuple[int, int, int]] = []  # line, start, end
        whole = 0
        for number, start, line in self._lines():
            if not line.endswith(b"\n"):
                self.say(f"{self.path}: the last answer was cut off and is asked again")
                break
            record = _read(line)
            if record is None:
                damaged.append((number, start, start + len(line)))
            else:
                self._remember(record, start)
            whole = start + len(line)
        self._end = whole
        os.ftruncate(self._handle, whole)
        self._began = whole
        if damaged:
            more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
            self.say(f"{self.path}:{damaged[0][0]}: damaged line{more}; it is put aside and its prompt asked again")
            self._put_aside(damaged)

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        start = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, start, line
                start += len(line)

    def _put_aside(self, damaged: list[tuple[int, int, int]]) -> None:
        """Rewrite the file without the damaged lines, which are kept in a file beside it."""
        spans = {start for _, start, _ in damaged}
        staged = self.path.with_name(f".{self.path.name}.partial")
        with self.path.with_name(f"{self.path.name}.damaged").open("ab") as aside, staged.open("wb") as good:
            for _, start, line in self._lines():
                (aside if start in spans else good).write(line)
            for file in (aside, good):
                file.flush()
                os.fsync(file.fileno())
        handle = os.open(staged, os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(handle, fcntl.LOCK_EX)  # taken before the name is: nobody gets between
        staged.replace(self.path)
        os.close(self._handle)
        self._handle, self._places = handle, _Places()
        self.requests, self.tokens, self.money = 0, 0, 0.0
        for _, start, line in self._lines():
            record = _read(line)
            assert record is not None
            self._remember(record, start)
            self._began = self._end = start + len(line)

    def _remember(self, record: dict[str, Any], start: int) -> None:
        self.requests += int(record.get("calls", 0))
        self.tokens += int(record.get("in", 0)) + int(record.get("out", 0))
        self.money += float(record.get("cost", 0.0))
        if record.get("state") != "failed":  # a prompt that failed is asked again by the next command
            self._places[int(record["key"][:16], 16)] = start

    def find(self, key: str) -> dict[str, Any] | None:
        """The answer under a key, or None."""
        place = self._places[int(key[:16], 16)]
        if place < 0:
            return None
        size, end, block = 1 << 13, -1, b""
        while end < 0:
            block = os.pread(self._handle, size, place)
            end = block.find(b"\n")
            if end < 0 and len(block) < size:
                return None
            size *= 4
        record = _read(block[: end + 1])
        return record if record is not None and record["key"] == key else None

    def earlier(self, key: str) -> bool:
        """Whether the answer under a key was there when the log was opened."""
        return 0 <= self._places[int(key[:16], 16)] < self._began

    def add(self, record: dict[str, Any]) -> None:
        """Append an answer; it survives the process at once, and the machine after `sync`."""
        body = json.dumps(record, separators=(",", ":")).encode("ascii")
        line = HEAD + _sum(body).encode() + b'",' + body[1:] + b"\n"
        try:
            written = os.pwrite(self._handle, line, self._end)
            if written < len(line):
                raise OSError(28, os.strerror(28), str(self.path))
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self._end)
            raise
        self._remember(record, self._end)
        self._end += len(line)

    def sync(self) -> None:
        """Everything added so far is on the disk when this returns."""
        with self._flushing:
            if self._handle >= 0:
                os.fdatasync(self._handle)

    def __len__(self) -> int:
        return len(self._places)


def _sum(body: bytes) -> str:
    return blake2b(body, digest_size=MARK // 2).hexdigest()


def _read(line: bytes) -> dict[str, Any] | None:
    """The record of a line, or None if its bytes are not those that were written."""
    start = len(HEAD) + MARK
    if not line.startswith(HEAD) or line[start : start + 2] != b'",':
        return None
    body = b"{" + line[start + 2 : -1]
    if _sum(body).encode() != line[len(HEAD) : start]:
        return None
    record = json.loads(body)
    return record if isinstance(record, dict) else None


class _Places:
    """Key -> place in the file, in 32 bytes or less per key: a table of two arrays with open addressing."""

    def __init__(self) -> None:
        self._keys, self._values, self._used = array("Q", bytes(8 * 1024)), array("q", b"\xff" * 8 * 1024), 0

    def __len__(self) -> int:
        return self._used

    def _slot(self, key: int) -> int:
        keys, values, mask = self._keys, self._values, len(self._keys) - 1
        slot = key & mask
        while values[slot] >= 0 and keys[slot] != key:
            slot = (slot + 1) & mask
        return slot

    def __getitem__(self, key: int) -> int:
        """The place, or -1."""
        return self._values[self._slot(key)]

    def __setitem__(self, key: int, place: int) -> None:
        slot = self._slot(key)
        if self._values[slot] < 0:
            self._used += 1
        self._keys[slot], self._values[slot] = key, place
        if 2 * self._used > len(self._keys):
            self._grow()

    def _grow(self) -> None:
        keys, values = self._keys, self._values
        self._keys, self._values = array("Q", bytes(16 * len(keys))), array("q", b"\xff" * 16 * len(keys))
        for key, place in zip(keys, values, strict=True):
            if place >= 0:
                slot = self._slot(key)
                self._keys[slot], self._values[slot] = key, place
