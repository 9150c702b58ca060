"""What a card is about: the instances of a run, and the records and accounts of how they came to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from didact.instance import Instance

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
