"""Super-NaturalInstructions as a source: a folder of task files, which of them are trained and tested on (Wang 2022).

A task file becomes a task of didact, its category a cluster. Test tasks are held out whole, at the level of clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from didact import files, formats
from didact.errors import UsageError, nearest
from didact.formats.super_ni import Head, Shown, checked, head_of, instance_of, test_category
from didact.instance import Drop, Instance, Origin, digest
from didact.languages import CODES
from didact.sources import Row, SuperNISource, Task
from didact.template import expand, matches
from didact.token_count import Counting

HELD = "heldout_cluster"


def open_tasks(config: SuperNISource, folder: Path, drop: Callable[[Drop], None], tokenizer: str = "") -> list[Task]:
    """The tasks of a folder of task files; those that the split leaves out go to `drop`, broken ones too if wanted.

    tokenizer: what counts the tokens of prompts, as `tokenizer_json` gives it; without it, four bytes are one.

    Raises UsageError for a folder without task files and, unless faults are dropped, for the first broken file.
    """
    place = folder / expand(config.path)
    heads: dict[Path, Head] = {}
    for file in task_files(place):
        try:
            heads[file] = head_of(_load(file), name_of(file))
        except UsageError as error:
            if config.on_error == "stop":
                raise error.at(file=file) from error
            drop(Drop("not a task file", str(error.at(file=file)), Origin(str(file), 0, task=name_of(file))))
    heads = _chosen(heads, config.use)
    levels = {head.name: "" for head in heads.values()}
    if config.split == "official":
        levels = {}
        for (file, head), (level, reason) in zip(heads.items(), official_split([*heads.values()], place), strict=True):
            if reason:
                drop(Drop(reason, f"all instances of {head.name}", Origin(str(file), 0, task=head.name)))
            else:
                levels[head.name] = level
    count = Counting(tokenizer) if tokenizer else None
    shown = Shown(config.encoding, config.max_length, config.seed, cut=True, count=count)
    found = [
        _task(file, head, config, shown, levels[head.name], drop) for file, head in heads.items() if head.name in levels
    ]
    if not found:
        raise UsageError("no task is left to read", "change `use` or `split`, or mend the files", file=place)
    return found


def official_split(heads: Sequence[Head], place: Path) -> list[tuple[str, str]]:
    """(level, reason to leave it out) of each task: test tasks have a level, training tasks neither.

    The lists `train_tasks.txt` and `test_tasks.txt` of the original repository are followed where they lie beside the
    tasks or in `splits/default` above them. Without them the rule they follow: English tasks of the twelve test
    categories are tested on; other English tasks are trained on unless they share a source with a test task.
    """
    lists = _lists(place)
    if lists:
        unlisted = "neither a training nor a test task of the official split"
        known = {**dict.fromkeys(lists[0], ("", "")), **dict.fromkeys(lists[1], (HELD, ""))}
        return [known.get(head.name, ("", unlisted)) for head in heads]
    tests = {head.name for head in heads if head.english and test_category(head.categories)}
    tested = {source for head in heads if head.name in tests for source in head.sources}
    return [_place(head, tests, tested) for head in heads]


def name_of(file: Path) -> str:
    """The name of the task in a file."""
    return file.name.split(".json")[0]


def _place(head: Head, tests: set[str], tested: set[str]) -> tuple[str, str]:
    if head.name in tests:
        return HELD, ""
    if not head.english:
        return "", "not an English task"
    return "", "shares a source dataset with a test task" if tested.intersection(head.sources) else ""


def _task(
    file: Path, head: Head, config: SuperNISource, shown: Shown, level: str, drop: Callable[[Drop], None]
) -> Task:
    cluster = test_category(head.categories) or (head.categories[0] if head.categories else head.name)
    origin = Origin(str(file), 0, task=head.name, cluster=cluster, licence=head.licence)

    def rows() -> Iterator[Row]:
        task = _load(file)
        for number, item in _drawn(task["Instances"], head, config, bool(level)):
            try:
                yield Row(str(file), number, checked(item))
            except UsageError as error:
                error = error.at(file=file, line=number)
                if config.on_error == "stop":
                    raise error from None
                drop(Drop("faulty row", str(error), replace(origin, row=number)))

    words = f"definition and examples ({config.encoding}), input -> question, output[] -> answer and references"
    mapping = formats.Mapping("super-ni", f"super-ni: {words}", partial(_read, head, shown))
    languages = tuple(CODES[name] for name in head.languages if name in CODES)
    return Task(
        head.name, cluster, head.licence, rows, (), ("input",), mapping, False, config.on_error, level, languages
    )


def _read(head: Head, shown: Shown, row: Mapping[str, Any], origin: Origin) -> list[Instance]:
    return [instance_of(head, shown, row, origin)]


def _raise(reason: str, error: UsageError) -> None:
    raise error


def _drawn(items: Sequence[Any], head: Head, config: SuperNISource, test: bool) -> list[tuple[int, Any]]:
    """(number, instance): at most `instances_per_task`; of a test task the first ones, of others drawn by the seed."""
    numbered, wanted = list(enumerate(items, 1)), config.instances_per_task
    if wanted is None or test:
        return numbered[:wanted]
    return sorted(sorted(numbered, key=lambda item: digest([config.seed, head.name, item[0]]))[:wanted], key=_first)


def _first(item: tuple[int, Any]) -> int:
    return item[0]


def _load(file: Path) -> dict[str, Any]:
    _, task = next(files.records(file, _raise, "object"))
    if not isinstance(task.get("Instances"), list):
        fix = "a task file is one JSON object with Definition, Positive Examples and Instances"
        raise UsageError("not a task of Super-NaturalInstructions: it has no instances", fix, file=file)
    return task


def task_files(place: Path) -> list[Path]:
    """The task files of a folder, or the one that is named; UsageError if there is none."""
    if place.is_file():
        return [place]
    if not place.exists():
        raise UsageError("no such folder", "check the path; it is relative to the recipe", file=place)
    found = sorted(f for f in place.iterdir() if f.is_file() and f.name.endswith((".json", ".json.gz", ".json.zst")))
    if not found:
        raise UsageError("no task file (*.json) is in this folder", "name the folder that holds them", file=place)
    return found


def _chosen(heads: Mapping[Path, Head], use: Sequence[str]) -> dict[Path, Head]:
    names = [head.name for head in heads.values()]
    for glob in use:
        if not any(matches(name, [glob.removeprefix("!")]) for name in names):
            raise UsageError(f'no task is called "{glob}"', nearest(glob, names), field="use")
    wanted = [glob for glob in use if not glob.startswith("!")] or ["*"]
    unwanted = [glob[1:] for glob in use if glob.startswith("!")]
    return {f: head for f, head in heads.items() if matches(head.name, wanted) and not matches(head.name, unwanted)}


def _lists(place: Path) -> tuple[set[str], set[str]] | None:
    """The lists of training and test tasks, if they lie where the original repository has them."""
    for folder in (place, place / "splits" / "default", place.parent / "splits" / "default"):
        train, test = folder / "train_tasks.txt", folder / "test_tasks.txt"
        if train.is_file() and test.is_file():
            return set(train.read_text("utf-8").split()), set(test.read_text("utf-8").split())
    return None
