"""Rows as the loop reads them, kept on disk and mapped into memory, so that nothing is tokenised twice.

An entry is named after all that decides its content: rows, template and tokenizer, policy, code. What changed since the
last one is said; an entry that was damaged or cut off is made again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, overload

from didact.disk import flush, room
from didact.folder import sha256
from didact.instance import digest
from didact.render import Tokens

if TYPE_CHECKING:
    from didact.fit import Fitted

ARRAYS = {"ids": "int32", "weights": "float32", "ends": "int64", "turns": "int64", "turn_ends": "int64"}
ROWS, MANIFEST = "rows.json", "manifest.json"


class Rows(Sequence[Tokens]):
    """Rows over mapped arrays; each is made when it is asked for. They carry no slots: training asks for none.

    names: of each row its id, its source and line, and for each picture its name and the range of its places.
    home: the folder of the pictures.
    """

    def __init__(self, arrays: Mapping[str, Any], names: Sequence[Sequence[Any]], home: Path) -> None:
        self.arrays, self.names, self.home = arrays, names, home

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Tokens: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tokens]: ...
    def __getitem__(self, index: int | slice) -> Tokens | list[Tokens]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        start, end = _range(self.arrays["ends"], row)
        first, last = _range(self.arrays["turn_ends"], row)
        name, source, line, *shown = self.names[row]
        turns = tuple((int(a), int(b)) for a, b in self.arrays["turns"][2 * first : 2 * last].reshape(-1, 2))
        ids, weights = self.arrays["ids"][start:end].tolist(), self.arrays["weights"][start:end].tolist()
        images, media = tuple(str(self.home / file) for file, _, _ in shown), tuple((a, b) for _, a, b in shown)
        return Tokens(ids, weights, [None] * len(ids), name, images, turns, (source, line), media)

    def __iter__(self) -> Iterator[Tokens]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True)
class Encoded:
    """rows to train on; drops: as JSON; notes: in plain words what was done, the cache included."""

    rows: Sequence[Tokens]
    drops: list[dict[str, Any]]
    notes: list[str]


def encoded(folder: Path, parts: Mapping[str, str], make: Callable[[], Fitted], home: Path) -> Encoded:
    """What `make` gives, from `folder` if it is there. parts: all that decides it, by name. Keeps one entry.

    home: the folder of the rows' pictures, which are told by their names: these are hashes of their bytes.
    """
    key = digest(dict(parts), 32)
    place = folder / key
    fault = _fault(place) if place.exists() else ""
    if place.exists() and not fault:
        return _open(place, home, "tokens: from the cache")
    why = f"the cache was damaged ({fault})" if fault else _why(folder, parts)
    made = make()
    _write(folder, place, parts, made)
    return _open(place, home, f"tokens: encoded again, {why}" if why else "")


def _open(place: Path, home: Path, note: str) -> Encoded:
    import numpy as np

    known = json.loads((place / ROWS).read_text(encoding="utf-8"))
    arrays = {name: np.load(place / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
    rows = Rows(arrays, known["names"], home)
    return Encoded(rows, known["drops"], [*known["notes"], *([note] if note else [])])


def _write(folder: Path, place: Path, parts: Mapping[str, str], made: Fitted) -> None:
    """Staged, flushed, renamed; older entries go."""
    import numpy as np

    tokens = made.tokens
    arrays: dict[str, Any] = {
        "ids": [i for row in tokens for i in row.ids],
        "weights": [w for row in tokens for w in row.weights],
        "ends": np.cumsum([len(row.ids) for row in tokens]),
        "turns": [edge for row in tokens for turn in row.turns for edge in turn],
        "turn_ends": np.cumsum([len(row.turns) for row in tokens]),
    }
    names = [[row.instance_id, *row.where, *_shown(row)] for row in tokens]
    stage = folder / ".partial"
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    with room(folder, 8 * len(arrays["ids"]) + (1 << 20)):
        for name, kind in ARRAYS.items():
            np.save(stage / f"{name}.npy", np.asarray(arrays[name], dtype=kind))
        drops = [drop.to_json() for drop in made.drops]
        known = {"parts": dict(parts), "names": names, "drops": drops, "notes": made.notes}
        (stage / ROWS).write_text(json.dumps(known), encoding="utf-8")
        sums = {path.name: sha256(path) for path in sorted(stage.iterdir())}
        (stage / MANIFEST).write_text(json.dumps(sums), encoding="utf-8")
        flush(stage)
    for old in folder.iterdir():
        if old != stage:
            shutil.rmtree(old, ignore_errors=True)
    stage.rename(place)


def _shown(row: Tokens) -> list[tuple[str, int, int]]:
    return [(PurePath(path).name, *place) for path, place in zip(row.images, row.media, strict=True)]


def _fault(place: Path) -> str:
    try:
        sums = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        for name in (*(f"{array}.npy" for array in ARRAYS), ROWS):
            if sha256(place / name) != sums[name]:
                return name
    except (OSError, ValueError, KeyError, TypeError):
        return MANIFEST
    return ""


def _why(folder: Path, parts: Mapping[str, str]) -> str:
    """What differs from the entry that is there; nothing to say if there is none."""
    for old in sorted(folder.glob(f"*/{ROWS}")):
        try:
            before = json.loads(old.read_text(encoding="utf-8"))["parts"]
        except (OSError, ValueError, KeyError):
            continue
        changed = [name for name in parts if before.get(name) != parts[name]]
        return f"because of another {' and '.join(changed)}"
    return ""


def _range(ends: Any, row: int) -> tuple[int, int]:
    return (int(ends[row - 1]) if row else 0), int(ends[row])
