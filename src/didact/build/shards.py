"""Items rendered in shards: any number of processes, always the same bytes, and what is finished outlasts a kill.

A shard is a run of items in their final order, so putting shards together in order gives the same file however many
processes made them. Each is a file of its own, checked by its sum when a killed build goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from didact.build.budget import counting
from didact.build.compose import compose
from didact.build.config import BuildConfig
from didact.build.leaks import leaks, prints_of
from didact.build.plan import Items, Plan, plan, read
from didact.build.rows import IN_MEMORY, Rows
from didact.errors import UsageError
from didact.folder import json_line
from didact.instance import Drop, Instance
from didact.sources import Task

ITEMS, BYTES = 2000, 8 * 2**20  # of a shard, at most; bytes of the rows that its items come from
MANY = 20_000  # items from which on it pays to start processes and to keep what was read
HELDOUT, TRAIN = "heldout", "train"
TOKENIZER = "tokenizer.json"
EXAMPLES = (("shown", "shots"), ("pruned", "pruned"))  # how a tally calls what tags of an instance count
Tell = Callable[[int, int, str], None]


@dataclass
class Tally:
    """What was made of the items, added up over shards: by task, by what was done to the prompt, by reason."""

    made: Counter[str] = field(default_factory=Counter)  # task
    forms: Counter[str] = field(default_factory=Counter)  # options, shots, cot, inverted
    dropped: Counter[str] = field(default_factory=Counter)  # reason
    examples: Counter[str] = field(default_factory=Counter)  # shown and pruned ones; reason: questions left with none
    barren: Counter[str] = field(default_factory=Counter)  # task \t template: rows that gave nothing with it
    fruitful: Counter[str] = field(default_factory=Counter)  # task \t template: instances
    same: Counter[str] = field(default_factory=Counter)  # task: the same as a held-out instance
    shares: Counter[str] = field(default_factory=Counter)  # task: shares a run of words with one
    first: dict[str, str] = field(default_factory=dict)  # reason: the first row that was dropped for it
    lines: int = 0

    def add(self, other: Tally) -> None:
        for name, value in vars(other).items():
            if isinstance(value, Counter):
                getattr(self, name).update(value)
        self.first = {**other.first, **self.first}
        self.lines += other.lines

    def drop(self, drop: Drop) -> None:
        self.dropped[drop.reason] += 1
        if drop.origin.via.startswith("template:"):
            self.barren[f"{drop.origin.task}\t{drop.origin.via.removeprefix('template:')}"] += 1
        self.first.setdefault(drop.reason, f"{drop.origin.source}:{drop.origin.row} {drop.detail}")

    def made_of(self, instance: Instance) -> None:
        self.lines += 1
        self.made[instance.origin.task] += 1
        self.forms.update(name for name in ("options", "shots", "cot", "inverted") if name in instance.tags)
        self.examples.update({name: int(instance.tags[tag]) for name, tag in EXAMPLES if tag in instance.tags})
        if "zero-shot" in instance.tags:
            self.examples[instance.tags["zero-shot"]] += 1
        if "template" in instance.tags:
            self.fruitful[f"{instance.origin.task}\t{instance.tags['template']}"] += 1

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Tally:
        values: dict[str, Any] = {k: v if k in ("first", "lines") else Counter(v) for k, v in data.items()}
        return Tally(**values)


class DropFile:
    """Drops written to a file as they come, and tallied."""

    def __init__(self, path: Path) -> None:
        self.path, self.file, self.tally = path, path.open("wb"), Tally()

    def add(self, drop: Drop) -> None:
        self.tally.drop(drop)
        self.tally.lines += 1
        self.file.write(drop_line(drop).encode("utf-8"))


@dataclass(frozen=True)
class Work:
    """A plan and the folder where its shards lie; `bounds` are the first items of shards, of both kinds.

    key: what it is a build of; a process whose parent was killed may still write a shard of another build.
    """

    plan: Plan
    folder: Path
    key: str
    bounds: Mapping[str, Sequence[int]]
    heldout_prints: tuple[Any, Any] | None = None

    def items(self, kind: str, number: int) -> Items:
        all_items = self.plan.heldout if kind == HELDOUT else self.plan.train
        return all_items[self.bounds[kind][number] : self.bounds[kind][number + 1]]

    def path(self, kind: str, number: int) -> Path:
        return self.folder / f"{kind}-{number:06d}"


@dataclass(frozen=True)
class Built:
    """What a finished build gives: the lines of its three files in blocks, and tallies of both kinds and of drops."""

    plan: Plan
    tallies: Mapping[str, Tally]
    blocks: Callable[[str], Iterator[bytes]]  # heldout | train | drops


def build_in(
    folder: Path,
    key: str,
    open_tasks: Callable[[Callable[[Drop], None]], list[Task]],
    config: BuildConfig,
    tell: Tell,
    tokenizer: str = "",
) -> Built:
    """Build in a folder that outlasts a kill; `key` says what it is a build of, and an older one of another key goes.

    open_tasks: opens the sources; gets what takes drops. tokenizer: counts tokens where there are examples. The caller
    removes the folder when it has taken the blocks.
    """
    if not (folder / "key").exists() or (folder / "key").read_text("utf-8") != key:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "key").write_text(key, "utf-8")
    opened = DropFile(folder / "drops-open")
    taker = opened  # of the drops of sources: they come while these are opened, and again while rows are read

    def drop(dropped: Drop) -> None:
        taker.add(dropped)

    tasks = open_tasks(drop)
    opened.file.close()

    def reading(drops: DropFile) -> None:
        nonlocal taker
        taker = drops

    (folder / TOKENIZER).write_text(tokenizer, "utf-8")
    planned, unread = _planned(folder, tasks, config, tell, reading)
    total = len(planned.heldout) + len(planned.train)
    work = Work(planned, folder, key, {HELDOUT: bounds(planned, HELDOUT), TRAIN: bounds(planned, TRAIN)})
    tallies = {HELDOUT: Tally(), TRAIN: Tally(), "drops": opened.tally}
    tallies["drops"].add(unread)
    done = 0

    def told(items: int) -> None:
        nonlocal done
        done += items
        tell(done, total, "in words")

    many = total >= MANY
    if many:
        planned.rows.save()
    _all_shards(work, HELDOUT, many, tallies[HELDOUT], told)
    if config.leak_check and len(planned.heldout):
        work = Work(planned, folder, key, work.bounds, _heldout_prints(work, many))
    _all_shards(work, TRAIN, many, tallies[TRAIN], told)
    return Built(planned, tallies, lambda kind: _blocks(work, kind))


def _planned(
    folder: Path, tasks: Sequence[Task], config: BuildConfig, tell: Tell, reading: Callable[[DropFile], None]
) -> tuple[Plan, Tally]:
    """The plan; rows that an earlier, killed build of the same key has read are not read again."""
    told, tokenizer = folder / "read.json", (folder / TOKENIZER).read_text("utf-8")
    counting(config, tokenizer)  # refused before anything is read
    if told.exists():
        rows, record = Rows.load(folder), json.loads(told.read_text("utf-8"))
        return plan(tasks, config, rows, record["found"], tokenizer), Tally.from_json(record["tally"])
    rows, drops = Rows(folder), DropFile(folder / "drops-read")
    reading(drops)
    found = read(tasks, config, rows, drops.add, lambda done: tell(done, 0, f"reads: {done:,} rows"))
    drops.file.close()
    if rows.size > IN_MEMORY or len(rows) > MANY:
        rows.save()
        place = folder / "read.json.new"
        place.write_text(json.dumps({"found": found, "tally": drops.tally.to_json()}), "utf-8")
        place.replace(told)
    return plan(tasks, config, rows, found, tokenizer), drops.tally


def bounds(planned: Plan, kind: str) -> list[int]:
    """Where shards begin, and the end: by number of items, and by the bytes of the rows they read."""
    items = planned.heldout if kind == HELDOUT else planned.train
    offsets = planned.rows.index["offset"]
    sizes = offsets[items["row"].astype(np.int64) + 1] - offsets[items["row"]]
    if planned.config.few_shot.share:
        sizes = sizes * (1 + max(planned.config.few_shot.shots))
    block = np.cumsum(sizes) // BYTES + (np.arange(len(items)) // ITEMS)
    starts = np.flatnonzero(np.diff(block)) + 1
    return [0, *map(int, starts), len(items)] if len(items) else [0]


def _all_shards(work: Work, kind: str, many: bool, total: Tally, told: Callable[[int], None]) -> None:
    """Make the shards that are not there yet, and add up what all of them hold."""
    missing, tallies = [], dict[int, Tally]()
    for number in range(len(work.bounds[kind]) - 1):
        made = _read(work, kind, number)
        if made is None:
            missing.append(number)
        else:
            tallies[number] = made[0]
            told(len(work.items(kind, number)))
    from didact.build.workers import cores, in_processes  # it needs this module

    processes = min(work.plan.config.workers or cores(), len(missing))
    if many and processes > 1:
        with closing(in_processes(work, kind, missing, processes)) as results:
            for number, tally in results:
                tallies[number] = tally
                told(len(work.items(kind, number)))
    else:
        for number in missing:
            tallies[number] = make(work, kind, number)
            told(len(work.items(kind, number)))
    for number in sorted(
        tallies
    ):  # in their order, whichever was ready first: the first row of a reason stays the first
        total.add(tallies[number])


def make(work: Work, kind: str, number: int) -> Tally:
    """Put the items of a shard into words and write its file."""
    tally, drops = Tally(), list[str]()

    def drop(dropped: Drop) -> None:
        tally.drop(dropped)
        drops.append(drop_line(dropped))

    made = [instance for item in work.items(kind, number) for instance in compose(work.plan, item, drop)]
    for instance in made:
        tally.made_of(instance)
    if kind == TRAIN and work.heldout_prints is not None:
        same, shares = leaks(made, *work.heldout_prints)
        for counter, found in ((tally.same, same), (tally.shares, shares)):
            counter.update(made[int(place)].origin.task for place in np.flatnonzero(found))
    lines = "".join(json_line(instance.to_json()) for instance in made).encode("utf-8")
    dropped = "".join(drops).encode("utf-8")
    head = {"key": work.key, "lines": len(lines), "drops": len(dropped), "sum": zlib.crc32(lines + dropped)}
    place = work.path(kind, number)
    new = place.with_suffix(f".{os.getpid()}")  # no two processes write one file
    new.write_bytes(json_line({**head, "tally": tally.to_json()}).encode("utf-8") + lines + dropped)
    new.replace(place)
    return tally


def _read(work: Work, kind: str, number: int) -> tuple[Tally, bytes, bytes] | None:
    """The tally, lines and drops of a shard; None if it is not there, not whole, or another build's."""
    try:
        with work.path(kind, number).open("rb") as file:
            head = json.loads(file.readline())
            body = file.read()
    except (OSError, ValueError):
        return None
    if head["key"] != work.key or len(body) != head["lines"] + head["drops"] or zlib.crc32(body) != head["sum"]:
        return None
    return Tally.from_json(head["tally"]), body[: head["lines"]], body[head["lines"] :]


def _blocks(work: Work, kind: str) -> Iterator[bytes]:
    if kind == "drops":
        for name in ("drops-open", "drops-read"):
            with (work.folder / name).open("rb") as file:
                while block := file.read(1 << 20):
                    yield block
    for shards in (HELDOUT, TRAIN) if kind == "drops" else (kind,):
        for number in range(len(work.bounds[shards]) - 1):
            made = _read(work, shards, number)
            if made is None:
                raise UsageError("a finished part is damaged", "repeat the command", file=work.path(shards, number))
            yield made[2] if kind == "drops" else made[1]


def _heldout_prints(work: Work, many: bool) -> tuple[Any, Any]:
    """Sorted hashes of the held-out instances and of their runs of words; kept for other processes."""
    whole, runs = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for block in _blocks(work, HELDOUT):
        found = prints_of([Instance.from_json(json.loads(line)) for line in block.split(b"\n")[:-1]])
        whole.append(found[0])
        runs.append(np.unique(found[1]))
    prints = np.unique(np.concatenate(whole)), np.unique(np.concatenate(runs))
    if many:
        for name, values in zip(("prints-whole.npy", "prints-runs.npy"), prints, strict=True):
            np.save(work.folder / name, values)
    return prints


def drop_line(drop: Drop) -> str:
    """A drop as it stands in the run's file of drops."""
    return json_line({"stage": "build", **drop.to_json()})
