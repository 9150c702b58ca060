"""The rows of a file source, put together from all the files that it names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from didact import files, layouts
from didact.errors import UsageError
from didact.sources.config import FileSource
from didact.template import expand

Records = Callable[[files.Fault], Iterator[files.Record]]


def reader(config: FileSource, path: Path, folder: Path) -> Records:
    """What gives the rows of a file source anew at each call, put together from all the files it names."""

    def lines(other: Path) -> Callable[[], Iterator[files.Record]]:
        return lambda: files.records(other, stop, "lines", config.encoding)

    others = {column: (folder / expand(name), lines(folder / expand(name))) for column, name in config.beside.items()}

    def read(fault: files.Fault) -> Iterator[files.Record]:
        if others:  # a line left out would shift all that follow
            fault = stop
        rows = files.records(path, fault, config.layout, config.encoding, config.columns, config.quoted)
        if config.pattern:
            rows = layouts.matched(rows, re.compile(config.pattern), path, fault)
        if others:
            rows = layouts.beside(rows, path, others)
        if config.unroll:
            rows = layouts.unrolled(rows, config.unroll, path, fault)
        return rows

    return read


def stop(reason: str, error: UsageError) -> None:
    raise error
