"""Where an instance comes from and where it went: dataset, row, template, options, examples, licence, verdicts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from didact.errors import UsageError
from didact.instance import Instance

# tag -> how it is told; other tags are told by their names
WORDS = {
    "template": "template {}",
    "options": "answer options shown ({})",
    "shots": "{} examples before it",
    "pruned": "{} more pruned to the token budget",
    "zero-shot": "no examples: {}",
    "cot": "reasoning asked for ({})",
    "inverted": "turned around",
    "metric": "judged by {}",
    "split": "{}",
    "level": "level {}",
}
FILES = ("built.jsonl", "generated.jsonl", "heldout.jsonl", "kept.jsonl", "dropped.jsonl")


def lineage(instance: Instance) -> list[str]:
    """Lines that tell where an instance comes from and what was done to its row."""
    origin, tags = instance.origin, {k: v for k, v in instance.tags.items() if k != "extra"}
    place = f"{origin.source}:{origin.row}" if origin.row else origin.source
    licence = f"licence {origin.licence}" if origin.licence else "licence not told"
    whole = [
        f"row {place}",
        f"task {origin.task}" * bool(origin.task),
        f"cluster {origin.cluster}" * bool(origin.cluster),
    ]
    lines = [", ".join([part for part in whole if part] + [licence])]
    made = [f"made by {origin.via}"] if origin.via else []
    made += [f"teacher {origin.teacher}"] if origin.teacher else []
    made += [WORDS[key].format(tags[key]) for key in WORDS if key in tags]
    made += [f"{key} {value}" for key, value in sorted(tags.items()) if key not in WORDS]
    lines += [", ".join(made)] if made else []
    if origin.parents:
        lines.append(f"grown from {', '.join(origin.parents)}")
    return lines


def fate(folder: Path, wanted: str) -> list[str]:
    """What became of an instance in a run, stage by stage; empty if the run's files do not know it."""
    told = []
    for name, record in _records(folder, wanted):
        if name == "dropped.jsonl":
            detail = f" ({record['detail']})" if record.get("detail") else ""
            told.append(f"{record.get('stage', 'a stage')} dropped it: {record['reason']}{detail}")
        else:
            told.append({"kept.jsonl": "curate kept it"}.get(name, f"in {name}"))
    return told


def find(folder: Path, wanted: str) -> Instance:
    """The instance of a run whose id begins so; UsageError if there is none, or more than one."""
    found: dict[str, Instance] = {}
    for _, record in _records(folder, wanted, whole=False):
        data = record.get("instance") or record
        if "messages" in data:
            found.setdefault(data["id"], Instance.from_json(data, folder))
    if not found:
        raise UsageError(f'no instance of this run is called "{wanted}"', "ids stand in built.jsonl", file=folder)
    if len(found) > 1:
        raise UsageError(f'{len(found)} instances begin with "{wanted}"', "give more of the id", file=folder)
    return next(iter(found.values()))


def _records(folder: Path, wanted: str, whole: bool = True) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file, record) wherever an id stands; lines are parsed only if the id is in them."""
    for name in FILES:
        if not (folder / name).is_file():
            continue
        with (folder / name).open("rb") as file:
            for line in file:
                if wanted.encode() not in line:
                    continue
                record = json.loads(line)
                data = record.get("instance") if name == "dropped.jsonl" else record
                own = str((data or {}).get("id", ""))
                if own == wanted or (not whole and own.startswith(wanted)):
                    yield name, record
