"""Sources: from a recipe's lines to tasks with rows. The only module of the data side that knows files and hubs.

Settings name a column as the file calls it; templates see it under its new name. A row is filtered by `where`, its
labels are turned from numbers into names, and then it is renamed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from didact import files, formats, layouts
from didact.errors import UsageError, missing_extra
from didact.instance import Drop, Origin
from didact.labels import LabelConfig, bind, check_columns, columns_after
from didact.template import Template, TemplateDrop, choose, expand, template_file
from didact.template_set import TemplateSet, load_set

Records = Callable[[files.Fault], Iterator[files.Record]]
T = TypeVar("T")
LOOKED_AT = 100  # rows from which the format of ready-made instructions is recognised


@dataclass(frozen=True, slots=True)
class Row:
    """One annotated row: `number` is its 1-based line or record in `source`; label columns hold names."""

    source: str
    number: int
    data: dict[str, Any]


@dataclass(frozen=True)
class Task:
    """Rows, and the templates that make instances of them; without templates the rows are instructions already.

    rows: gives the rows anew at each call. group: columns whose equal values keep rows on one side of the split.
    mapping: how rows without templates are read. references: rows of one group are right answers to one question.
    on_error: what a row's fault leads to. level: at which level the source itself holds the whole task out.
    """

    name: str
    cluster: str
    licence: str
    rows: Callable[[], Iterator[Row]]
    templates: tuple[Template, ...] = ()
    group: tuple[str, ...] = ()
    mapping: formats.Mapping | None = None
    references: bool = False
    on_error: Literal["stop", "drop"] = "stop"
    level: str = ""


Name = Annotated[str, Field(description="name of the task; the file's name unless given")]
Cluster = Annotated[str, Field(description="cluster of tasks it belongs to, for holding whole clusters out")]
Licence = Annotated[str, Field(description="licence of the data, kept with every instance")]
Templates = Annotated[
    str,
    Field(description="template file (didact's or promptsource's YAML), or the name of a set that comes with didact"),
]
Use = Annotated[list[str], Field(description='globs of template names to use, "!name" to leave out; all unless given')]
Rename = Annotated[
    dict[str, str], Field(description="column: the name by which templates know it; inside a column: answer.text.0")
]
Where = Annotated[
    dict[str, Any], Field(description="column: value or list of values; only such rows are read, e.g. split: train")
]
Limit = Annotated[int | None, Field(ge=1, description="read at most this many rows")]
Group = Annotated[
    list[str], Field(description="columns whose equal values keep rows on one side of train and held-out")
]
References = Annotated[
    bool, Field(description="rows of one group answer one question: a held-out one is judged by all their answers")
]
Labels = Annotated[
    dict[str, LabelConfig],
    Field(
        description="label column: [name of 0, name of 1, ...], or names with the choices that templates use for them"
    ),
]
OnError = Annotated[
    Literal["stop", "drop"], Field(description="what a faulty row leads to: stop, or drop it and count the reason")
]
Format = Annotated[
    Literal["auto"] | formats.Name,
    Field(description="how rows without templates are written; recognised unless given"),
]


Fill = Annotated[
    dict[str, str], Field(description="NAME: what stands for {{NAME}} in ready-made rows that nobody has filled in")
]


class FileSource(BaseModel):
    """Rows of a file: jsonl, json, csv, tsv, yaml, parquet, Arrow, CoNLL, SQuAD or bare lines, plain, .gz or .zst."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["file"] = Field("file", description="a file")
    path: str = Field(description="the file, relative to the recipe; ${NAME} and ${NAME:-default} are filled in")
    layout: files.Layout = Field(
        "auto",
        description="how the file is written, if its name does not tell; lines: column text; object: one row to unroll",
    )
    encoding: str = Field("utf-8", description="text encoding of the file")
    columns: list[str] = Field(
        [], description="column names of a csv or tsv file without a header, of CoNLL fields, of arrays in splits"
    )
    quoted: bool | None = Field(None, description="whether double quotes enclose fields (csv: yes, tsv: no)")
    pattern: str = Field(
        "", description="regular expression for bare lines; its named groups, (?P<label>...), become the columns"
    )
    beside: dict[str, str] = Field(
        {}, description="column: another file, each of whose lines belongs to one row: labels or translations"
    )
    unroll: dict[str, str] = Field(
        {},
        description="column: where a list lies in the row (passage.questions); each item makes a row with that column",
    )
    task: Name = ""
    cluster: Cluster = ""
    licence: Licence = ""
    templates: Templates = ""
    use: Use = []
    rename: Rename = {}
    where: Where = {}
    limit: Limit = None
    group: Group = []
    references: References = False
    labels: Labels = {}
    on_error: OnError = "stop"
    format: Format = "auto"
    fill: Fill = {}

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str) -> str:
        try:
            "a".encode(encoding)
        except LookupError as error:
            raise ValueError(f'no text encoding is called "{encoding}"') from error
        return encoding

    @field_validator("pattern")
    @classmethod
    def _with_groups(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groupindex
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        if pattern and not groups:
            raise ValueError("it names no column: write (?P<text>.*) for one")
        return pattern

    @model_validator(mode="after")
    def _references_need_group(self) -> FileSource:
        return _check_references(self)


class HubSource(BaseModel):
    """Rows of a dataset on the Hugging Face hub, or of a folder that the `datasets` library reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["hub"] = Field("hub", description="a dataset of the hub")
    name: str = Field(description="name on the hub, or a folder relative to the recipe")
    subset: str | None = Field(None, description="configuration of the dataset")
    split: str = Field("train", description="split to read")
    revision: str | None = Field(None, description="commit, tag or branch; a commit makes the run repeatable")
    offline: bool = Field(False, description="use only what is in the local cache")
    task: Name = ""
    cluster: Cluster = ""
    licence: Licence = ""
    templates: Templates = ""
    use: Use = []
    rename: Rename = {}
    where: Where = {}
    limit: Limit = None
    group: Group = []
    references: References = False
    labels: Labels = {}
    on_error: OnError = "stop"
    format: Format = "auto"
    fill: Fill = {}

    @model_validator(mode="after")
    def _references_need_group(self) -> HubSource:
        return _check_references(self)


class StarterSource(BaseModel):
    """The embedded starter world: annotated tasks over a small world, made from a seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["starter"] = Field("starter", description="the embedded starter world")
    rows_per_task: int = Field(100, ge=2, description="rows of each task")
    only: list[str] = Field([], description="names of the tasks to make; all unless given")
    seed: int = Field(0, ge=0, description="seed of the rows")


class SuperNISource(BaseModel):
    """A folder of task files of Super-NaturalInstructions (Wang et al. 2022); each is a task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["super-ni"] = Field("super-ni", description="task files of Super-NaturalInstructions")
    path: str = Field(description="the folder of task files, or one file, relative to the recipe")
    use: list[str] = Field([], description='globs of task names to use, "!name" to leave out; all unless given')
    encoding: formats.Encoding = Field(
        "positive",
        description="what is shown: definition; examples (two, without definition); positive (definition and two "
        "examples); negative (and two that are wrong); explanations (positive ones explained); mixed (drawn for each)",
    )
    max_length: int = Field(
        1024,
        ge=1,
        description="tokens of a prompt, about: examples that do not fit stay out, then the input is cut at its end",
    )
    instances_per_task: int | None = Field(None, ge=1, description="at most this many instances of each task")
    split: Literal["none", "official"] = Field(
        "none", description="official: English tasks, the twelve test categories held out, none that shares a source"
    )
    seed: int = Field(0, ge=0, description="decides which instances and outputs are drawn, and mixed encodings")
    on_error: OnError = "stop"


Source = Annotated[FileSource | HubSource | StarterSource | SuperNISource, Field(discriminator="type")]


def open_source(
    config: FileSource | HubSource | StarterSource | SuperNISource, folder: Path, drop: Callable[[Drop], None]
) -> list[Task]:
    """The tasks of a source; its first row is looked at, so that a wrong setting is told at once.

    folder: where the recipe lies. drop: gets every row that is left out, with its reason. Raises UsageError.
    """
    if isinstance(config, StarterSource):
        from didact import starter

        made: list[Task] = starter.tasks(config.rows_per_task, config.seed, only=config.only)
        return made
    if isinstance(config, SuperNISource):
        from didact.superni import open_tasks

        return open_tasks(config, folder, drop)
    if isinstance(config, FileSource):
        path = folder / expand(config.path)
        name, source = config.task or path.name.split(".")[0], expand(config.path)

        return [_task(config, name, source, path, folder, _reader(config, path, folder), drop, config.labels)]
    dataset = _load(config, folder)
    declared = {
        column: LabelConfig(names=list(names))
        for column, feature in (getattr(dataset, "features", None) or {}).items()
        if (names := getattr(getattr(feature, "feature", feature), "names", None))  # a label, or a list of labels
    }
    source = ":".join(part for part in (config.name, config.subset, config.split) if part)
    name = config.task or config.name.rsplit("/", 1)[-1]

    def numbered(fault: files.Fault) -> Iterator[files.Record]:
        return ((number, dict(row)) for number, row in enumerate(dataset, 1))

    return [_task(config, name, source, Path(source), folder, numbered, drop, {**declared, **config.labels})]


def _reader(config: FileSource, path: Path, folder: Path) -> Records:
    """What gives the rows of a file source anew at each call, put together from all the files it names."""

    def lines(other: Path) -> Callable[[], Iterator[files.Record]]:
        return lambda: files.records(other, _raise, "lines", config.encoding)

    others = {column: (folder / expand(name), lines(folder / expand(name))) for column, name in config.beside.items()}

    def read(fault: files.Fault) -> Iterator[files.Record]:
        if others:  # a line left out would shift all that follow
            fault = _raise
        rows = files.records(path, fault, config.layout, config.encoding, config.columns, config.quoted)
        if config.pattern:
            rows = layouts.matched(rows, re.compile(config.pattern), path, fault)
        if others:
            rows = layouts.beside(rows, path, others)
        if config.unroll:
            rows = layouts.unrolled(rows, config.unroll, path, fault)
        return rows

    return read


def _suggested(
    config: FileSource | HubSource,
    found: TemplateSet,
    row: Mapping[str, Any],
    labels: Mapping[str, LabelConfig],
    file: Path,
) -> tuple[FileSource | HubSource, dict[str, LabelConfig]]:
    """The source's settings and labels, filled up with what its template set suggests for columns like its own."""
    rename = dict(config.rename)
    for old, new in found.rename.items():
        if new not in row and new not in rename.values() and old not in rename and layouts.reach(row, old) is not None:
            rename[old] = new
    names = {rename.get(column, column) for column in row} | set(rename.values())
    named = dict(labels)
    for column, told in found.labels.items():
        old = next((old for old, new in rename.items() if new == column), column)
        if column in row and column not in rename:
            old = column
        declared = named[old].all_names() if old in named and old not in config.labels else ()
        # The hub's own names for the same numbers may be mere "neg" and "pos", or "0" and "1".
        other = isinstance(told, list) and len(declared) == len(told) and set(declared) != set(told)
        if other or (old not in named and (old in row or old in rename)):
            try:
                named[old] = LabelConfig.model_validate(told)
            except ValidationError as error:
                raise UsageError(
                    error.errors()[0]["msg"], "mend the set", file=file, field=f"labels.{column}"
                ) from error
    group = [next((old for old, new in rename.items() if new == column), column) for column in found.group]
    fits = bool(group) and not config.group and set(found.group) <= names
    told = {"rename": rename} | ({"group": group, "references": config.references or found.references} if fits else {})
    return config.model_copy(update=told), named


def _task(
    config: FileSource | HubSource,
    name: str,
    source: str,
    path: Path,
    folder: Path,
    read: Records,
    drop: Callable[[Drop], None],
    labels: Mapping[str, LabelConfig],
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
    raw = next(read(look), (0, {}))[1]
    config, labels = _suggested(config, found, raw, labels, file)
    places = [*config.rename, *config.where, *config.group, *labels]
    if any("." in place for place in places):
        unreached = read

        def read(fault: files.Fault) -> Iterator[files.Record]:
            return layouts.reached(unreached(fault), places)

    def rows() -> Iterator[Row]:
        return islice(_rows(config, source, read, fault, labels), config.limit)

    first = _peek(config, path, read, look)
    for setting, columns in (("rename", config.rename), ("labels", labels), ("group", config.group)):
        try:
            check_columns(list(columns), first[1], setting)
        except UsageError as error:
            raise error.at(file=path, line=first[0]) from error
    group = tuple(config.rename.get(column, column) for column in config.group)
    task = Task(name, origin.cluster, config.licence, rows, (), group, None, config.references, on_error)
    if config.templates:
        chosen = choose(found.templates, config.use, config.templates)
        renamed = columns_after(labels, config.rename)
        bound = tuple(bind(template, renamed) for template in chosen)
        _try(bound, next(_rows(config, source, read, look, labels), None), path)
        return replace(task, templates=bound)
    looked_at = [row.data for row in islice(_rows(config, source, read, look, labels), LOOKED_AT)]
    try:
        mapping = formats.detect(looked_at, config.format)
        formats.refuse_unfilled(looked_at, config.fill)
        return replace(task, mapping=mapping)
    except UsageError as error:
        raise error.at(file=path) from error


def _try(templates: Sequence[Template], row: Row | None, path: Path) -> None:
    """Put the first row into the words of every template, so that a wrong column is told before anything is written."""
    if row is None:
        return
    for template in templates:
        try:
            template.render(row.data)
        except TemplateDrop:
            continue
        except UsageError as error:
            raise error if error.file else error.at(file=path, line=row.number) from error


def _peek(config: FileSource | HubSource, path: Path, read: Records, look: files.Fault) -> files.Record:
    """The first readable record as it is; UsageError if there is none, or if `where` leaves none."""
    first = next(read(look), None)
    if first is None:
        next(read(_raise), None)  # tells the first fault
        raise UsageError("the file holds no rows", "give a file with rows", file=path)
    if config.where:
        try:
            check_columns(list(config.where), first[1], "where")
        except UsageError as error:
            raise error.at(file=path, line=first[0]) from error
        if not any(_wanted(config.where, data) for _, data in read(_ignore)):
            column, value = next(iter(config.where.items()))
            there = Counter(str(data.get(column)) for _, data in read(_ignore))
            shown = ", ".join(value for value, _ in there.most_common(8))
            raise UsageError(f"no row has {column} = {value}", f"it holds: {shown}", file=path, field="where")
    return first


def _rows(
    config: FileSource | HubSource, source: str, read: Records, fault: files.Fault, labels: Mapping[str, LabelConfig]
) -> Iterator[Row]:
    for number, data in read(fault):
        if config.where and not _wanted(config.where, data):
            continue
        try:
            yield Row(source, number, _prepared(config, data, labels))
        except UsageError as error:
            fault("faulty row", error.at(line=number))


def _wanted(where: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    return all(
        str(data.get(column)) in [str(v) for v in (value if isinstance(value, list) else [value])]
        for column, value in where.items()
    )


def _prepared(
    config: FileSource | HubSource, data: dict[str, Any], labels: Mapping[str, LabelConfig]
) -> dict[str, Any]:
    for column, label in labels.items():
        check_columns([column], data, "labels")
        value = data[column]
        if isinstance(value, list):
            data[column] = [label.name_of(item, column) for item in value]
        else:
            data[column] = label.name_of(value, column)
    if config.fill:
        data = formats.filled(data, config.fill)
    if data.get("_split", "train") not in ("train", "heldout"):
        raise UsageError(f"{data['_split']!r} is no side of the split", "write train or heldout", field="_split")
    if not config.rename:
        return data
    check_columns(list(config.rename), data, "rename")
    moved = {config.rename.get(column, column): value for column, value in data.items() if column not in config.rename}
    for old, new in config.rename.items():
        if new in moved:
            raise UsageError(f'rename {old}: {new} meets a column called "{new}"', "choose another name", field=new)
        moved[new] = data[old]
    return moved


def _load(config: HubSource, folder: Path) -> Any:
    """The dataset behind a hub source, through the `datasets` library."""
    try:
        import datasets
    except ImportError as error:
        raise missing_extra("datasets", "hub") from error
    local = folder / expand(config.name)
    try:
        if (local / "dataset_info.json").exists() or (local / "dataset_dict.json").exists():
            found = datasets.load_from_disk(str(local))
            return found[config.split] if (local / "dataset_dict.json").exists() else found
        download = datasets.DownloadConfig(local_files_only=config.offline)
        name = str(local) if local.is_dir() else config.name
        return datasets.load_dataset(
            name, config.subset, split=config.split, revision=config.revision, download_config=download
        )
    except Exception as error:  # the library raises many kinds, all of them about this name or the network
        told = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        where = (
            "it is not in the local cache: fetch it once without offline"
            if config.offline
            else "check name and network"
        )
        raise UsageError(f'the dataset "{config.name}" cannot be read: {told}', where, field="name") from error


def _check_references(source: T) -> T:
    if getattr(source, "references", False) and not getattr(source, "group", []):
        raise ValueError("references need group: the columns that hold the question")
    return source


def _ignore(reason: str, error: UsageError) -> None:
    """A fault while looking ahead: it is told when the rows are read in earnest."""


def _raise(reason: str, error: UsageError) -> None:
    raise error
