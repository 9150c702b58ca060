"""Find the column whose long text several rows share: a premise, a passage, a source that must not be on both sides.

Values are sampled by their hash, so that repeats are found wherever in a file they lie, with bounded memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

KEPT = 4096  # values of a column that are counted; beyond it, every second one
LONG = 30  # characters on average; labels and short words repeat for other reasons
ENOUGH = 0.1  # of the rows share their value with another row


class Repeats:
    """Counts repeated values of the text columns of one task; `look` at each row, then ask for the `column`."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[int, int]] = {}
        self.masks: dict[str, int] = {}
        self.characters: dict[str, int] = {}
        self.rows = 0

    def look(self, data: Mapping[str, Any]) -> None:
        """One more row."""
        self.rows += 1
        for column, value in data.items():
            if not isinstance(value, str) or column == "_split":
                continue
            self.characters[column] = self.characters.get(column, 0) + len(value)
            mark = zlib.crc32(value.encode("utf-8", "surrogatepass"))
            if mark & self.masks.get(column, 0):
                continue
            counts = self.counts.setdefault(column, {})
            counts[mark] = counts.get(mark, 0) + 1
            if len(counts) > KEPT:
                mask = self.masks[column] = 2 * self.masks.get(column, 0) + 1
                self.counts[column] = {mark: n for mark, n in counts.items() if not mark & mask}

    def column(self) -> str:
        """The long text column that most rows share with others, or empty. A text that stands in most rows is an
        instruction, not a source: a column with few texts counts for nothing."""
        best, most = "", ENOUGH
        for column, counts in self.counts.items():
            rows = sum(counts.values())
            shared = sum(n for n in counts.values() if n > 1) / rows if rows else 0
            many = len(counts) >= 8 and len(counts) >= 0.02 * rows
            if many and self.characters[column] >= LONG * self.rows and shared > most:
                best, most = column, shared
        return best
