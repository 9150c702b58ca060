"""The starter world: its words, its people and its fact tables, all from seeds and two YAML files.

What is kept for evaluation is decided here, by hash, so corpus and tasks cannot disagree: a few people, a part of the
keys of every fact table, and an eighth of all word lists.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

WORLD_SEED = 20  # the one world the shipped base knows; another seed is another world and needs another base


@dataclass(frozen=True)
class Slot:
    """What can be said of a person: `Anna drinks tea` is slot drink, verb `drinks`/`drink`, noun `drink`."""

    name: str
    kind: str
    verb: str
    plain: str
    noun: str


@dataclass(frozen=True)
class World:
    """All words by kind, the slots, the fact tables (key -> value) and what is reserved for evaluation."""

    names: tuple[str, ...]
    reserved_names: tuple[str, ...]
    kinds: Mapping[str, tuple[str, ...]]
    kind_of: Mapping[str, str]
    slots: tuple[Slot, ...]
    values: Mapping[str, tuple[str, ...]]
    opposites: Mapping[str, str]
    facts: Mapping[str, Mapping[str, str]]
    labels: tuple[str, ...]
    data: Mapping[str, Any]

    @property
    def words(self) -> list[str]:
        """Every word of the lexicon, sorted (sentence frames bring more)."""
        found = set(self.names) | set(self.reserved_names) | set(self.kind_of) | set(self.kinds) | set(self.labels)
        for table in (self.opposites, *self.facts.values()):
            found |= {*table.keys(), *table.values()}
        found |= {word for slot in self.slots for text in (slot.verb, slot.plain, slot.noun) for word in text.split()}
        for section in ("polarity", "reviewed", "emotion", "topics"):
            for key, phrases in self.data[section].items():
                found |= {key, *(word for phrase in phrases for word in phrase.split())}
        return sorted(found | set(self.data["numbers"].split()) | {str(n) for n in range(100)})


@cache
def table(name: str) -> Any:
    """One of the package's YAML files, parsed."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return loader((files(__package__) / f"{name}.yaml").read_text("utf-8")).get_single_data()


def is_reserved(key: str | Sequence[str], share: int = 5) -> bool:
    """Whether a key of a fact table, or a list of words, is kept for evaluation: one in `share`, by hash."""
    text = key if isinstance(key, str) else " ".join(key)
    return zlib.crc32(f"reserved {text}".encode()) % share == 0


@cache
def world(seed: int = WORLD_SEED) -> World:
    """The world of a seed."""
    data = table("words")
    rng = Random(f"world {seed}")
    kinds = {
        kind: tuple(words.split()) if isinstance(words, str) else tuple(words) for kind, words in data["kinds"].items()
    }
    part = data["syllables"]
    stems = [a + b + c for a in part["start"] for b in part["middle"] for c in ("", *part["start"][:6])]
    rng.shuffle(stems)
    taken = {word for words in kinds.values() for word in words}

    def invent(n: int, ending: str) -> tuple[str, ...]:
        made: list[str] = []
        while len(made) < n:
            word = stems.pop() + (rng.choice(part[ending]) if ending in part else ending)
            if word not in taken:
                taken.add(word)
                made.append(word)
        return tuple(made)

    countries = tuple(word.capitalize() for word in invent(96, "country"))
    cities = tuple(word.capitalize() for word in invent(96, "city"))
    rivers = tuple(word.capitalize() for word in invent(64, "a"))
    labels = invent(160, "label")
    beasts = [*kinds["animal"], *kinds["bird"]]
    seasons = ("spring", "summer", "autumn", "winter")
    facts = {
        "capital": dict(zip(countries, rng.sample(cities, 96), strict=True)),
        "river": dict(zip(rng.sample(countries, 64), rivers, strict=True)),
        "origin": {beast: rng.choice(countries) for beast in beasts},
        "season": {plant: rng.choice(seasons) for kind in ("fruit", "flower", "vegetable") for plant in kinds[kind]},
    }
    everyone = data["names"].split()
    slots = tuple(Slot(name, *row) for name, row in data["slots"].items())
    return World(
        names=tuple(name for name in everyone if not is_reserved(name, 8)),
        reserved_names=tuple(name for name in everyone if is_reserved(name, 8)),
        kinds=kinds,
        kind_of={word: kind for kind, words in kinds.items() for word in words},
        slots=slots,
        values={slot.name: cities[:40] if slot.kind == "city" else kinds[slot.kind] for slot in slots},
        opposites={**data["opposites"], **{b: a for a, b in data["opposites"].items()}},
        facts=facts,
        labels=labels,
        data=data,
    )
