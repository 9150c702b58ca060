"""What a card is about: the instances of a run, and the records and accounts of how they came to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from didact.instance import Instance, Origin

Fact = dict[str, Any]


@dataclass(frozen=True)
class Made:
    """What a run has made so far. dropped: the records of dropped.jsonl.

    accounts, asked: of the strategies that generated, and of the filters that asked a teacher.
    """

    name: str
    kept: Sequence[Instance]
    built: int = 0
    heldout: Sequence[Instance] = ()
    dropped: Sequence[Mapping[str, Any]] = ()
    accounts: Sequence[Mapping[str, Any]] = ()
    asked: Sequence[Mapping[str, Any]] = ()
    generated: Mapping[str, Sequence[int]] = field(default_factory=dict)  # strategy: turn_of each that it gave on
    languages: Mapping[str, Sequence[str]] = field(default_factory=dict)  # task: ISO 639 codes that are told of it


def evenly(items: Sequence[Instance], most: int) -> Sequence[Instance]:
    """At most so many, spread evenly over all."""
    return items if len(items) <= most else [items[i * len(items) // most] for i in range(most)]


def turn_of(source: str, row: int) -> int:
    """When something was written, counted from 1; 0 where its number is that of the row it was written for."""
    return row if source.startswith("generate:") else 0


def public_names(sources: Iterable[str], home: Path) -> dict[str, str]:
    """Source -> what others may read of it, for those named by a whole path, which tells of the machine and its owner.

    home: where the recipe lies. Within it the path from there; elsewhere the name of the file, with as many folders
    before it as tell it from the others.
    """
    found, outside = dict[str, str](), dict[str, tuple[str, ...]]()
    for source in sorted(set(sources)):
        path = PurePosixPath(source)
        if path.is_absolute() and path.is_relative_to(home.resolve()):
            found[source] = str(path.relative_to(home.resolve()))
        elif path.is_absolute():
            outside[source] = path.parts[1:]
    for source, parts in outside.items():
        others = [other for other in outside.values() if other != parts]
        n = next((n for n in range(1, len(parts)) if parts[-n:] not in [o[-n:] for o in others]), len(parts))
        found[source] = "/".join(parts[-n:])
    return found


def public(origin: Origin, names: Mapping[str, str]) -> Origin:
    """The origin, and the rows that it grew from, under public names."""
    parents = tuple(_row(parent, names) for parent in origin.parents)
    return replace(origin, source=names.get(origin.source, origin.source), parents=parents)


def _row(parent: str, names: Mapping[str, str]) -> str:
    source, colon, row = parent.rpartition(":")
    return f"{names[source]}{colon}{row}" if source in names else parent
