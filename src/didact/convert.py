"""Instructions from one format and container into another, every row accounted for.

Rows read = rows written (the rows of Self-Instruct and task files hold several instances) + dropped + refused; what the
new format has no place for is counted, or carried in a column `didact`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from didact import conll, files, formats
from didact.console import Console
from didact.containers import NOTHING, layout_for, write_rows
from didact.errors import UsageError, nearest
from didact.instance import PICTURES, Drop, Instance, Origin
from didact.pictures import check, keep
from didact.sandbox import TemplateDrop
from didact.sources import FileSource, HubSource, open_source

LOOKED_AT = 500  # lines of a file whose name does not tell its layout
LOST = {
    "extra": "fields that {0} has no place for",
    "parts": "which part is instruction, input or example",
    "messages": "the turns as they are",
    "references": "other right answers",
    "choices": "the closed set of answers",
    "tags": "lineage and tags",
}


@dataclass
class Read:
    """Instructions that can be read again and again. `drops` and `rows` tell of the last time they were read whole."""

    description: str
    name: formats.Name
    again: Callable[[Callable[[Drop], None]], Iterator[tuple[int, list[Instance]]]]
    rows: int = 0
    drops: list[Drop] = field(default_factory=list)

    def instances(self) -> Iterator[Instance]:
        """All instances, row after row."""
        self.rows, self.drops = 0, []
        seen = 0
        for _, found in self.again(self.drops.append):
            seen += 1
            yield from found
        self.rows = seen + len(self.drops)


def open_data(path: Path, **settings: Any) -> Read:
    """Instructions in a file, in a folder of Super-NaturalInstructions' tasks, of a run, or of a saved hub dataset.

    settings: those of a file source, such as format, layout, rename or on_error. Raises UsageError.
    """
    if not path.exists():
        raise UsageError("no such file or folder", "check the path", file=path)
    if (path / "run.json").is_file():
        path = next((path / name for name in ("kept.jsonl", "built.jsonl") if (path / name).is_file()), path)
    if any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        saved = HubSource.model_validate({"name": str(path.absolute()), **settings})
        mapping = _mapping(saved)
        return Read(mapping.description, mapping.name, lambda drop: _rows(saved, drop))
    settings["layout"] = _layout(path, settings)
    tasks = _task_files(path) if settings["layout"] == "auto" else []
    if tasks:
        mapping = formats.Mapping("super-ni", f"super-ni: {len(tasks)} task files, each one row of many instances")
        drop_faults = settings.get("on_error") == "drop"
        return Read(mapping.description, "super-ni", lambda drop: _tasks(tasks, mapping, drop, drop_faults))
    config = FileSource.model_validate({"path": "x", **settings}).model_copy(update={"path": str(path.absolute())})
    mapping = _mapping(config)
    return Read(mapping.description, mapping.name, lambda drop: _rows(config, drop))


def format_name(name: str, option: str, more: Sequence[str] = ()) -> Any:
    """The name of a format as typed; UsageError with the nearest one if there is none of this name."""
    if name not in (*formats.FORMATS, *more):
        raise UsageError(f'no format is called "{name}"', nearest(name, formats.FORMATS), field=option)
    return name


def convert(source: Read, out: Path, name: formats.Name, console: Console, carry: bool, replace: bool) -> None:
    """Write instructions in another format and tell, line by line, what became of every row."""
    lost: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    first: dict[str, str] = {}  # of what is not written: reason -> file:line:field and reason
    layout = layout_for(out, name)

    def rows() -> Iterator[dict[str, Any]]:
        lost.clear()
        refused.clear()
        for group in formats.grouped(name, source.instances()):
            try:
                row = _row(name, group, carry and layout not in ("conll", "squad"), lost)
                for instance in group:
                    for picture in instance.images:
                        keep(check(picture), out.parent / PICTURES)
                yield conll.checked(row) if layout == "conll" else row
            except UsageError as error:
                refused[str(error)] += len(group)
                origin = group[0].origin
                first.setdefault(str(error), str(error.at(file=origin.source, line=origin.row or None)))

    if name not in formats.WRITERS and name not in formats.GROUPS:
        formats.written(name, [])  # tells what can be written
    try:
        count, changed = write_rows(out, rows, replace, layout)
    except UsageError as error:
        why = _most(source.drops, Counter({first[reason]: many for reason, many in refused.items()}))
        raise UsageError(error.problem, why, file=error.file) if why and error.problem == NOTHING else error from None
    console.say(f"{source.description}")
    console.say(f"{source.rows:,} rows read, {count:,} written to {out} as {name}")
    for reason, many in Counter(drop.reason for drop in source.drops).most_common():
        one = next(drop for drop in source.drops if drop.reason == reason)
        console.say(f"dropped: {many:,} {reason}; first: {one.origin.source}:{one.origin.row} {one.detail}".rstrip())
    for reason, many in refused.most_common():
        console.say(f"not written: {many:,} instances{', first' * (many > 1)}: {first[reason]}")
    told = [f"{LOST[key].format(name)} ({many:,} instances)" for key, many in lost.most_common()]
    told += [f"{what} ({many:,} rows)" for what, many in changed.most_common()]
    if told:
        cure = "" if carry or not lost else f"; --carry keeps what can be kept in a column {formats.CARRIED}"
        console.say(f"lost: {'; '.join(told)}{cure}")


def _most(drops: Sequence[Drop], refused: Counter[str]) -> str:
    reasons = Counter(f"{drop.reason}; such as {drop.detail}".removesuffix("; such as ") for drop in drops) + refused
    return "".join(f"most often ({many:,}): {reason}" for reason, many in reasons.most_common(1))


def _layout(path: Path, settings: dict[str, Any]) -> files.Layout:
    """How a file is written: as asked for; CoNLL also where its lines look so under a name that does not tell it."""
    asked: files.Layout = settings.get("layout") or "auto"
    if asked != "auto" or not path.is_file():
        return asked
    try:
        told = files.layout_of(path)
    except UsageError:
        told = "auto"
    form = settings.get("format", "auto")
    if told in ("auto", "lines", "tsv") and form == "conll":
        return "conll"
    if told not in ("auto", "lines") or form != "auto":
        return "auto"
    lines = files.records(path, lambda reason, error: None, "lines")
    return "conll" if conll.looks_so(row["text"] for _, row in islice(lines, LOOKED_AT)) else "auto"


def _row(name: formats.Name, group: Sequence[Instance], carry: bool, lost: Counter[str]) -> dict[str, Any]:
    row = formats.written(name, group)
    for number, instance in enumerate(group):
        held = formats.unwritten(name, instance, row, number)
        if held and carry and len(group) == 1 and name in formats.WRITERS:
            return {**row, formats.CARRIED: held}
        lost.update(key for key in LOST if key in held)
    return row


def _mapping(config: FileSource | HubSource) -> formats.Mapping:
    mapping = open_source(config, Path(), lambda drop: None)[0].mapping
    assert mapping is not None, "a source without templates has a mapping"
    return mapping


def _rows(config: FileSource | HubSource, drop: Callable[[Drop], None]) -> Iterator[tuple[int, list[Instance]]]:
    (task,) = open_source(config, Path(), drop)
    assert task.mapping is not None, "a source without templates has a mapping"
    for row in task.rows():
        origin = Origin(row.source, row.number, task=task.name, cluster=task.cluster, licence=task.licence)
        try:
            yield row.number, formats.to_instances(task.mapping, row.data, origin, task.home)
        except TemplateDrop as left_out:
            drop(Drop(left_out.reason, left_out.detail, origin))
        except UsageError as error:
            error = error.at(file=row.source, line=row.number)
            if config.on_error == "stop":
                raise error from None
            drop(Drop("faulty row", str(error), origin))


def _tasks(
    tasks: Sequence[Path], mapping: formats.Mapping, drop: Callable[[Drop], None], drop_faults: bool
) -> Iterator[tuple[int, list[Instance]]]:
    from didact.superni import name_of

    for file in tasks:
        origin = Origin(str(file), 1, task=name_of(file))
        try:
            ((_, row),) = files.records(file, _raise, "object")
            yield 1, formats.to_instances(mapping, row, origin)
        except TemplateDrop as left_out:
            drop(Drop(left_out.reason, left_out.detail, origin))
        except UsageError as error:
            if not drop_faults:
                raise error.at(file=file) from None
            drop(Drop("not a task file", str(error.at(file=file)), origin))


def _task_files(path: Path) -> list[Path]:
    """The files of tasks in a folder, or the one that the path names; none if it is something else."""
    if path.is_dir():
        from didact.superni import task_files

        return task_files(path)
    if not path.is_file() or not path.name.endswith((".json", ".json.gz", ".json.zst")):
        return []
    try:
        ((_, row),) = files.records(path, _raise, "object")
    except (UsageError, ValueError):
        return []
    return [path] if "Definition" in row and "Instances" in row else []


def _raise(reason: str, error: UsageError) -> None:
    raise error
