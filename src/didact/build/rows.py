"""The rows of all tasks, read once: what decides their place in memory, their content in memory or in a file.

Of each row stay its number, a 64-bit draw of its group (equal groups have equal draws) and where its content lies: 25
bytes. Contents go to a file as soon as they are many, so that any row can be read again by its index, also by other
processes, and a million rows need hardly more memory than a thousand.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import decimal
import io
import json
import os
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from didact.errors import UsageError
from didact.sources import Row

IN_MEMORY = 32 * 2**20  # bytes of contents beyond which they go to a file
FREE, TRAIN, HELDOUT = 0, 1, 2  # what the column _split says of a row
INDEX = np.dtype([("offset", "<u8"), ("draw", "<u8"), ("number", "<i8"), ("forced", "u1")])
TAGS: dict[str, Any] = {"date": datetime.date, "datetime": datetime.datetime, "time": datetime.time}


class Rows:
    """Rows by index, over all tasks; `add` them, `finish`, then read and look at `index`.

    index: one record of type INDEX per row. starts: for each task the index of its first row, and one more at the end.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.file: Any = io.BytesIO()
        self.sources: list[str] = []  # of each task; a row from elsewhere says so itself
        self.starts = [0]
        self.size = 0
        self.offsets, self.draws, self.numbers, self.forced = array("Q"), array("Q"), array("q"), bytearray()
        self.index: NDArray[Any] = np.zeros(0, INDEX)

    def __len__(self) -> int:
        return len(self.index) or len(self.offsets)

    def add(self, row: Row, draw: int, forced: int) -> None:
        """One more row of the task that is being read."""
        if len(self.sources) < len(self.starts):
            self.sources.append(row.source)
        content: Any = row.data if row.source == self.sources[-1] else [row.source, row.data]
        self.offsets.append(self.size)
        self.draws.append(draw)
        self.numbers.append(row.number)
        self.forced.append(forced)
        try:
            self.size += self.file.write(json.dumps(content, default=_tagged).encode())
        except (RecursionError, TypeError, ValueError) as error:
            problem = f"the row cannot be kept: {error}"
            raise UsageError(problem, "simplify its columns", file=row.source, line=row.number) from error
        if self.size > IN_MEMORY and isinstance(self.file, io.BytesIO):
            self._to_disk()

    def end_task(self) -> None:
        """The rows that follow are another task's."""
        if len(self.sources) < len(self.starts):
            self.sources.append("")
        self.starts.append(len(self.offsets))

    def finish(self) -> None:
        """All rows are there."""
        self.index = np.empty(len(self.offsets) + 1, INDEX)
        self.index["offset"][:-1], self.index["offset"][-1] = self.offsets, self.size
        for name, values in (("draw", self.draws), ("number", self.numbers), ("forced", self.forced)):
            self.index[name][:-1] = np.frombuffer(values, INDEX[name]) if len(values) else 0
            self.index[name][-1] = 0
        self.offsets, self.draws, self.numbers, self.forced = array("Q"), array("Q"), array("q"), bytearray()
        self.file.flush()

    def task_of(self, index: int) -> int:
        """The number of the task that a row belongs to."""
        return int(np.searchsorted(self.starts, index, "right")) - 1

    def read(self, index: int, task: int) -> Row:
        """A row of a task, as it was added."""
        start, end = int(self.index["offset"][index]), int(self.index["offset"][index + 1])
        if isinstance(self.file, io.BytesIO):
            text = bytes(self.file.getbuffer()[start:end])
        else:
            text = os.pread(self.file.fileno(), end - start, start)
        content = json.loads(text, object_hook=_untagged)
        source, data = content if isinstance(content, list) else (self.sources[task], content)
        return Row(source, int(self.index["number"][index]), data)

    def of_task(self, task: int) -> Iterator[Row]:
        """The rows of a task in the order of its file."""
        return (self.read(index, task) for index in range(self.starts[task], self.starts[task + 1]))

    def save(self) -> None:
        """Leave all of it in the folder, for other processes and for a later start."""
        assert self.folder is not None, "rows that are saved have a folder"
        if (self.folder / "rows.json").exists():
            return
        if isinstance(self.file, io.BytesIO):
            self._to_disk()
        self.file.flush()
        os.fsync(self.file.fileno())
        np.save(self.folder / "rows.npy", self.index)
        told = json.dumps({"starts": self.starts, "sources": self.sources})
        (self.folder / "rows.json.new").write_text(told, "utf-8")
        (self.folder / "rows.json.new").replace(self.folder / "rows.json")

    @staticmethod
    def load(folder: Path) -> Rows:
        """The rows that `save` left in a folder."""
        rows = Rows(folder)
        rows.file = (folder / "rows.jsonl").open("rb")
        rows.index = np.load(folder / "rows.npy", mmap_mode="r")
        told = json.loads((folder / "rows.json").read_text("utf-8"))
        rows.starts, rows.sources = told["starts"], told["sources"]
        return rows

    def _to_disk(self) -> None:
        held = self.file
        self.file = (self.folder / "rows.jsonl").open("w+b") if self.folder else tempfile.TemporaryFile()  # noqa: SIM115
        self.file.write(held.getbuffer())


def _tagged(value: object) -> Any:
    """What JSON does not know and a template may want to write: dates, decimals, bytes; else its text."""
    for name, kind in TAGS.items():
        if type(value) is kind:
            return {"\0": name, "value": value.isoformat()}  # type: ignore[attr-defined]
    if isinstance(value, decimal.Decimal):
        return {"\0": "decimal", "value": str(value)}
    if isinstance(value, bytes):
        return {"\0": "bytes", "value": base64.b64encode(value).decode()}
    if isinstance(value, np.generic):
        return value.item()
    return value.tolist() if isinstance(value, np.ndarray) else str(value)


def _untagged(value: dict[str, Any]) -> Any:
    if value.keys() != {"\0", "value"} or not isinstance(value["value"], str):
        return value
    kind, text = value["\0"], value["value"]
    with contextlib.suppress(ValueError, ArithmeticError):  # then it is a row's own, written to look like ours
        if isinstance(kind, str) and kind in TAGS:
            return TAGS[kind].fromisoformat(text)
        if kind in ("decimal", "bytes"):
            return decimal.Decimal(text) if kind == "decimal" else base64.b64decode(text, validate=True)
    return value
