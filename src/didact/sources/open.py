"""A source is opened: its settings filled up and tried on its first row, its rows given one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from didact import files, formats, layouts
from didact.album import Album, scratch
from didact.errors import UsageError, nearest
from didact.formats import pictured
from didact.instance import Drop, Origin
from didact.labels import LabelConfig, bind, check_columns, columns_after
from didact.sources import hub
from didact.sources.columns import prepared, suggested, wanted, with_pictures
from didact.sources.config import (
    DigitsSource,
    FileSource,
    HubSource,
    PictureWorldSource,
    Source,
    StarterSource,
    SuperNISource,
)
from didact.sources.file import Records, reader, stop
from didact.sources.task import Row, Task
from didact.tables import DROP
from didact.template import Template, TemplateDrop, choose, expand, template_file
from didact.template_set import TemplateSet, load_set

LOOKED_AT = 100  # rows from which the format of ready-made instructions is recognised


def open_source(
    config: Source,
    folder: Path,
    drop: Callable[[Drop], None],
    home: Path | None = None,
    tokenizer: str = "",
) -> list[Task]:
    """The tasks of a source; its first row is looked at, so that a wrong setting is told at once.

    folder: where the recipe lies. drop: gets every row that is left out, with its reason. home: the folder of a run,
    that keeps their pictures; without it they go with the process. tokenizer: counts the tokens of prompts that come
    with their examples (`token_count`). Raises UsageError.
    """
    home = home or scratch()
    if isinstance(config, StarterSource):
        from didact import starter

        made: list[Task] = starter.tasks(config.rows_per_task, config.seed, only=config.only)
        return made
    if isinstance(config, PictureWorldSource | DigitsSource):
        return [_embedded(task, Album(home)) for task in _drawn(config)]
    if isinstance(config, SuperNISource):
        from didact.superni import open_tasks

        return open_tasks(config, folder, drop, tokenizer)
    if isinstance(config, FileSource):
        path = folder / expand(config.path)
        name, source = config.task or path.name.split(".")[0], expand(config.path)

        album = Album(home, folder / expand(config.pictures) if config.pictures else path.parent, config.picture_urls)
        return [_task(config, name, source, path, folder, reader(config, path, folder), drop, config.labels, album)]
    dataset = hub.load(config, folder)
    source = ":".join(part for part in (config.name, config.subset, config.split) if part)
    name = config.task or config.name.rsplit("/", 1)[-1]

    def numbered(fault: files.Fault) -> Iterator[files.Record]:
        return ((number, dict(row)) for number, row in enumerate(dataset, 1))

    labels = {**hub.declared(dataset), **config.labels}
    root = folder / expand(config.pictures) if config.pictures else hub.root(config, folder)
    album = Album(home, root, config.picture_urls)
    return [_task(config, name, source, Path(source), folder, numbered, drop, labels, album)]


def _drawn(config: PictureWorldSource | DigitsSource) -> list[Task]:
    if isinstance(config, PictureWorldSource):
        from didact.starter.picture_tasks import names, picture_tasks

        made = picture_tasks(config.rows_per_task, config.seed, only=config.only)
        if not made:
            raise UsageError("`only` names no task of the picture world", nearest("", names()), field="only")
        return made
    from didact.starter.handwritten import digits

    return [digits(config.limit, config.scale)]


def _embedded(task: Task, album: Album) -> Task:
    """A task of ours with its pictures kept."""
    columns = tuple(dict.fromkeys(column for template in task.templates for column in template.images))

    def settled(data: dict[str, Any]) -> dict[str, Any]:
        return with_pictures(data, columns, album.keep) if columns else pictured.settled(data, album.keep)

    return replace(task, rows=lambda: (replace(row, data=settled(row.data)) for row in task.rows()), home=album.home)


def _task(
    config: FileSource | HubSource,
    name: str,
    source: str,
    path: Path,
    folder: Path,
    read: Records,
    drop: Callable[[Drop], None],
    labels: Mapping[str, LabelConfig],
    album: Album,
) -> Task:
    on_error = config.on_error
    file = template_file(config.templates, folder) if config.templates else Path()
    found = load_set(file) if config.templates else TemplateSet(())
    origin = Origin(source, 0, task=name, cluster=config.cluster or found.cluster or name, licence=config.licence)

    def fault(reason: str, error: UsageError) -> None:
        error = error.at(file=path)
        if on_error == "stop":
            raise error
        drop(Drop(reason, str(error), replace(origin, row=error.line or 0)))

    look = fault if on_error == "stop" else _ignore
    raw = (_first(read, look, on_error) or (0, {}))[1]
    config, labels = suggested(config, found, raw, labels, file)
    places = [*config.rename, *config.where, *config.group, *labels]
    if any("." in place for place in places):
        unreached = read

        def read(fault: files.Fault) -> Iterator[files.Record]:
            return layouts.reached(unreached(fault), places)

    chosen = choose(found.templates, config.use, config.templates) if config.templates else []
    pictures = tuple(dict.fromkeys(column for template in chosen for column in template.images))

    def settled(data: dict[str, Any]) -> dict[str, Any]:
        return with_pictures(data, pictures, album.keep) if chosen else pictured.settled(data, album.keep)

    def rows(fault: files.Fault = fault) -> Iterator[Row]:
        return islice(_rows(config, source, read, fault, labels, settled), config.limit)

    first = _peek(config, path, read, look)
    for setting, columns in (("rename", config.rename), ("labels", labels), ("group", config.group)):
        try:
            check_columns(list(columns), first[1], setting)
        except UsageError as error:
            raise _cured(error.at(file=path, line=first[0]), first[1], config, path) from error
    group = tuple(config.rename.get(column, column) for column in config.group)
    languages = tuple(config.languages)
    task = Task(
        name,
        origin.cluster,
        config.licence,
        rows,
        (),
        group,
        None,
        config.references,
        on_error,
        languages=languages,
        home=album.home,
    )
    if config.templates:
        renamed = columns_after(labels, config.rename)
        bound = tuple(bind(template, renamed) for template in chosen)
        _try(bound, next(rows(look), None), path, config)
        spoken = (code.strip() for template in bound for code in template.metadata.get("languages", "").split(","))
        return replace(task, templates=bound, languages=languages or tuple(dict.fromkeys(filter(None, spoken))))
    looked_at = [row.data for row in islice(rows(look), LOOKED_AT)]
    looked_at = looked_at or [data for _, data in islice(read(look), LOOKED_AT)]  # all are faulty: dropped one by one
    try:
        mapping = formats.detect(looked_at, config.format)
        formats.refuse_unfilled(looked_at, config.fill)
        by_text = ("context",) if mapping.name == "squad" and not group else group
        return replace(task, mapping=mapping, group=by_text)
    except UsageError as error:
        raise error.at(file=path) from error


def _try(templates: Sequence[Template], row: Row | None, path: Path, config: FileSource | HubSource) -> None:
    """Put the first row into the words of every template, so that a wrong column is told before anything is written."""
    if row is None:
        return
    for template in templates:
        try:
            template.render(row.data)
        except TemplateDrop:
            continue
        except UsageError as error:
            error = error if error.file else error.at(file=path, line=row.number)
            raise _cured(error, row.data, config, path) from error


def _cured(error: UsageError, row: Mapping[str, Any], config: FileSource | HubSource, path: Path) -> UsageError:
    """A column that is missing where a source is opened, with the cure that fits there."""
    if error.field and error.field not in row and "the row lacks" in error.problem:
        fix = error.fix.removesuffix(DROP).rstrip(", ") if config.on_error == "drop" else error.fix
        if isinstance(config, FileSource) and not config.pattern and _layout(config, path) == "lines":
            take = f'pattern: "(?P<{error.field}>\\\\S+) (?P<text>.*)"'
            fix = f"if it stands in the line with the text, take it out: {take}; else rename: {{text: {error.field}}}"
        return UsageError(error.problem, fix, file=error.file, line=error.line, field=error.field)
    return error


def _layout(config: FileSource, path: Path) -> str:
    try:
        return files.layout_of(path) if config.layout == "auto" else config.layout
    except UsageError:
        return ""


def _first(read: Records, look: files.Fault, on_error: str) -> files.Record | None:
    """The first record; where faulty ones are dropped, the first with most columns, since the others may lack some."""
    return max(islice(read(look), LOOKED_AT if on_error == "drop" else 1), key=lambda it: len(it[1]), default=None)


def _peek(config: FileSource | HubSource, path: Path, read: Records, look: files.Fault) -> files.Record:
    """The first readable record as it is; UsageError if there is none, or if `where` leaves none."""
    first = _first(read, look, config.on_error)
    if first is None:
        next(read(stop), None)  # tells the first fault
        raise UsageError("the file holds no rows", "give a file with rows", file=path)
    if config.where:
        try:
            check_columns(list(config.where), first[1], "where")
        except UsageError as error:
            raise error.at(file=path, line=first[0]) from error
        if not any(wanted(config.where, data) for _, data in read(_ignore)):
            column, value = next(iter(config.where.items()))
            there = Counter(str(data.get(column)) for _, data in read(_ignore))
            shown = ", ".join(value for value, _ in there.most_common(8))
            raise UsageError(f"no row has {column} = {value}", f"it holds: {shown}", file=path, field="where")
    return first


def _rows(
    config: FileSource | HubSource,
    source: str,
    read: Records,
    fault: files.Fault,
    labels: Mapping[str, LabelConfig],
    settled: Callable[[dict[str, Any]], dict[str, Any]],
) -> Iterator[Row]:
    for number, data in read(fault):
        if config.where and not wanted(config.where, data):
            continue
        try:
            yield Row(source, number, settled(prepared(config, data, labels)))
        except UsageError as error:
            fault("faulty row", error.at(line=number))


def _ignore(reason: str, error: UsageError) -> None:
    """A fault while looking ahead: it is told when the rows are read in earnest."""
