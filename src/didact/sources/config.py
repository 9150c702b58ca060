"""What a recipe may say of a source; what files and hub datasets share is described once, above them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from didact import files, formats
from didact.labels import LabelConfig

T = TypeVar("T")

Name = Annotated[str, Field(description="name of the task; the file's name unless given")]
Cluster = Annotated[str, Field(description="cluster of tasks it belongs to, for holding whole clusters out")]
Licence = Annotated[str, Field(description="licence of the data, kept with every instance")]
Languages = Annotated[
    list[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]],
    Field(description="ISO 639 codes of the rows' languages, for the card; those of the templates unless given"),
]
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
Pictures = Annotated[
    str,
    Field(description="folder of the pictures that rows name, relative to the recipe; the data's own unless given"),
]
PictureUrls = Annotated[bool, Field(description="fetch pictures that rows name by an http or https URL")]
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
    languages: Languages = []
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
    pictures: Pictures = ""
    picture_urls: PictureUrls = False

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
    languages: Languages = []
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
    pictures: Pictures = ""
    picture_urls: PictureUrls = False

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


class PictureWorldSource(BaseModel):
    """The embedded picture world: small scenes made from a seed, and questions about them in the starter's words."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["picture_world"] = Field("picture_world", description="the embedded picture world")
    rows_per_task: int = Field(200, ge=2, description="rows of each task")
    only: list[str] = Field(
        [],
        description="globs of names or clusters of tasks; all with one question unless given. `bare`: captions without "
        "a question; `talk`: five questions about each picture; `detail`: all that can be said of it; `reason`: what "
        "an answer rests on, and the answer",
    )
    seed: int = Field(0, ge=0, description="seed of the rows and their pictures")


class DigitsSource(BaseModel):
    """Handwritten digits, 1,797 pictures of 8 x 8 pixels, that come with scikit-learn (Alpaydin and Kaynak 1998)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["digits"] = Field("digits", description="the handwritten digits that come with scikit-learn")
    limit: Limit = None
    scale: int = Field(4, ge=1, le=64, description="each pixel becomes a square of so many")


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
        description="tokens of a prompt, as the run's tokenizer counts them (without one, four bytes are a token): "
        "examples that do not fit stay out, then the input is cut at its end",
    )
    instances_per_task: int | None = Field(None, ge=1, description="at most this many instances of each task")
    split: Literal["none", "official"] = Field(
        "none", description="official: English tasks, the twelve test categories held out, none that shares a source"
    )
    seed: int = Field(0, ge=0, description="decides which instances and outputs are drawn, and mixed encodings")
    on_error: OnError = "stop"


Source = Annotated[
    FileSource | HubSource | StarterSource | PictureWorldSource | DigitsSource | SuperNISource,
    Field(discriminator="type"),
]


def _check_references(source: T) -> T:
    if getattr(source, "references", False) and not getattr(source, "group", []):
        raise ValueError("references need group: the columns that hold the question")
    return source
