"""Seed tasks: ours, a file of people's own, or what the run has built. Whatever their form, they become one noun."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files as resources
from pathlib import Path

from didact import files, formats
from didact.errors import UsageError
from didact.generate.context import name_of
from didact.instance import Instance, Origin
from didact.sandbox import TemplateDrop

OURS = "seed_tasks.jsonl"


@dataclass(frozen=True)
class SeedTask:
    """An instruction with examples of input and output, maybe none. name: for lineage."""

    instruction: str
    examples: tuple[tuple[str, str], ...] = ()
    classification: bool = False

    @property
    def name(self) -> str:
        return name_of(self.instruction)


def load_seeds(setting: str, home: Path, built: Callable[[], Iterable[Instance]]) -> list[SeedTask]:
    """The seed tasks that a setting names, each instruction once.

    Raises UsageError with file, line and field for a file that is missing, empty or of another form.
    """
    if setting == "built":
        return list(_merged((_question(instance) for instance in built()), "the run's own instances"))
    if not setting:
        text = (resources(__package__) / OURS).read_text("utf-8")
        return [_self_instruct(json.loads(line)) for line in text.splitlines()]
    path = home / setting
    if not path.exists():
        raise UsageError("there is no such file of seed tasks", "check seeds, or leave it out for ours", file=path)
    return _file(path)


def with_examples(seeds: Sequence[SeedTask], setting: str, home: Path) -> list[SeedTask]:
    """Those that show an answer; UsageError if none does."""
    found = [seed for seed in seeds if seed.examples]
    if not found:
        where = home / setting if setting not in ("", "built") else "the run's own instances"
        raise UsageError("no seed task has an example of its answer", "write instruction and output", file=where)
    return found


def _file(path: Path) -> list[SeedTask]:
    def fault(reason: str, error: UsageError) -> None:
        raise UsageError(error.problem, "mend the file of seed tasks", file=path, line=error.line, field=error.field)

    rows = list(files.records(path, fault))
    if not rows:
        raise UsageError("no seed task in the file", "write one per line: instruction, instances", file=path)
    columns = {column for _, row in rows for column in row}
    if columns <= {"text", "id", "name"} and "text" in columns:  # bare lines
        tasks: Iterable[SeedTask] = [SeedTask(_checked(row.get("text"), path, line, "text")) for line, row in rows]
    elif {"instruction", "instances"} <= columns:
        tasks = [_place(row, path, line) for line, row in rows]
    elif "instruction" in columns and "output" not in columns:
        tasks = [SeedTask(_checked(row.get("instruction"), path, line, "instruction")) for line, row in rows]
    else:
        try:
            mapping = formats.detect([row for _, row in rows[:100]])
        except UsageError as error:
            raise UsageError(error.problem, "give instruction and instances, or bare lines", file=path) from error
        tasks = (_question(instance) for line, row in rows for instance in _instances(mapping, row, path, line))
    return list(_merged(tasks, str(path)))


def _instances(mapping: formats.Mapping, row: dict[str, object], path: Path, line: int) -> list[Instance]:
    try:
        return formats.to_instances(mapping, row, Origin(str(path), line))
    except UsageError as error:
        raise error.at(file=path, line=line) from error
    except TemplateDrop as drop:
        raise UsageError(drop.reason, "fill it, or leave the row out", file=path, line=line) from drop


def _place(row: dict[str, object], path: Path, line: int) -> SeedTask:
    _checked(row.get("instruction"), path, line, "instruction")
    try:
        return _self_instruct(row)
    except (KeyError, TypeError, AttributeError) as error:
        fix = "write [{input: ..., output: ...}]"
        raise UsageError("not a list of inputs and outputs", fix, file=path, line=line, field="instances") from error


def _self_instruct(row: dict[str, object]) -> SeedTask:
    examples = row["instances"]
    if not isinstance(examples, list):
        raise TypeError
    pairs = tuple((str(item.get("input") or ""), str(item["output"])) for item in examples)
    return SeedTask(str(row["instruction"]), pairs, bool(row.get("is_classification")))


def _question(instance: Instance) -> SeedTask:
    """The first question of an instance, its input apart where its parts tell it."""
    asked = next((message for message in instance.messages if message.role == "user"), None)
    if asked is None:
        return SeedTask("")
    given = [part for part in asked.parts if part.slot == "input"]
    if len(given) == 1 and asked.parts[-1] is given[0]:
        instruction = "".join(part.value for part in asked.parts[:-1]).strip()
        if instruction:
            return SeedTask(instruction, ((given[0].value, instance.answer),), bool(instance.choices))
    return SeedTask(asked.text.strip(), (("", instance.answer),) if instance.answer else (), bool(instance.choices))


def _merged(tasks: Iterable[SeedTask], where: str) -> Iterator[SeedTask]:
    """Each instruction once, with all its examples; UsageError if nothing is left."""
    found: dict[str, SeedTask] = {}
    for task in tasks:
        if not task.instruction:
            continue
        before = found.get(task.name)
        examples = (*before.examples, *task.examples) if before else task.examples
        found[task.name] = SeedTask(task.instruction, tuple(dict.fromkeys(examples)), task.classification)
    if not found:
        raise UsageError("no seed task has an instruction", "write at least one", file=where)
    yield from found.values()


def _checked(value: object, path: Path, line: int, field: str) -> str:
    if not isinstance(value, str) or not value.strip():
        problem = "holds no text" if value is not None else "is missing"
        raise UsageError(
            f"the instruction {problem}", "write it, or take the line out", file=path, line=line, field=field
        )
    return value.strip()
