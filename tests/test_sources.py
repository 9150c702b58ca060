"""Sources: settings that pick, name and group rows; every wrong setting is told before a row is built."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from conftest import need_material

from didact.errors import UsageError
from didact.instance import Drop
from didact.sources import FileSource, HubSource, Task, open_source

ROWS = [
    {"text": "good film", "label": 1, "split": "train"},
    {"text": "bad film", "label": 0, "split": "train"},
    {"text": "odd film", "label": -1, "split": "test"},
]
TEMPLATES = """
templates:
  - {name: one, prompt: "{{ text }}", answer: "{{ answer_choices[label] }}", answer_choices: "good ||| bad"}
  - {name: two, prompt: "{{ text }}?", answer: "{{ label }}", labels: {label: {neg: "no", pos: "yes"}}}
"""
LABELS: dict[str, Any] = {"label": {"names": ["neg", "pos"], "choices": {"neg": "bad", "pos": "good"}}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "mine.yaml").write_text(TEMPLATES)
    return tmp_path


def opened(folder: Path, drops: list[Drop] | None = None, **settings: Any) -> Task:
    config = FileSource.model_validate({"path": "rows.jsonl", **settings})
    (task,) = open_source(config, folder, (drops if drops is not None else []).append)
    return task


def test_rows_are_filtered_named_renamed_and_limited(folder: Path) -> None:
    task = opened(
        folder, templates="mine.yaml", where={"split": "train"}, labels=LABELS, limit=1, group=["split"], licence="MIT"
    )
    (row,) = task.rows()
    assert (row.source, row.number, row.data) == (
        "rows.jsonl",
        1,
        {"text": "good film", "label": "pos", "split": "train"},
    )
    assert (task.name, task.cluster, task.licence, task.group) == ("rows", "rows", "MIT", ("split",))
    assert [template.render(row.data).answer for template in task.templates] == ["good", "yes"]


def test_labels_and_group_follow_a_renamed_column(folder: Path) -> None:
    (folder / "rows.jsonl").write_text('{"text": "t", "my-label": 0}\n')
    task = opened(
        folder,
        templates="mine.yaml",
        rename={"my-label": "label"},
        labels={"my-label": LABELS["label"]},
        group=["my-label"],
    )
    (row,) = task.rows()
    assert row.data == {"text": "t", "label": "neg"}
    assert task.group == ("label",)
    assert task.templates[0].render(row.data).answer == "bad"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"where": {"spilt": "train"}},
            '1:spilt: where names the column "spilt", which the row lacks - did you mean "split"?',
        ),
        ({"where": {"split": "dev"}}, "where: no row has split = dev - it holds: train, test"),
        ({"rename": {"txt": "t"}}, '1:txt: rename names the column "txt", which the row lacks - did you mean "text"?'),
        ({"group": ["txt"]}, '1:txt: group names the column "txt", which the row lacks - did you mean "text"?'),
        (
            {"labels": {"lable": ["a"]}},
            '1:lable: labels names the column "lable", which the row lacks - did you mean "label"? '
            "or drop such rows: on_error: drop",
        ),
        (
            {"rename": {"text": "label"}},
            '1:label: rename text: label meets a column called "label" - choose another name',
        ),
        (
            {"rename": {"text": "sentence"}, "labels": LABELS, "templates": "mine.yaml"},
            '1:text: the template needs the column "text", which the row lacks (template "one") - use one of: label, '
            "sentence, split (rename: {COLUMN: text} gives it that name), or drop such rows: on_error: drop",
        ),
        (
            {},
            " the columns (label, split, text) are no format of ready-made instructions that is known - give the "
            "source `templates`, or rename columns to instruction, input and output",
        ),
    ],
)
def test_wrong_settings_are_told_at_once(folder: Path, settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError) as raised:
        opened(folder, **settings)
    assert str(raised.value) == f"{folder / 'rows.jsonl'}:{line}"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"use": ["thre"]}, 'use: no template of mine.yaml is called "thre" - use one of: one, two'),
        ({"use": ["!one", "!two"]}, "use: `use` leaves none of the templates of mine.yaml - name at least one"),
        ({"labels": {}}, 'labels: template "one" picks among good, bad by the number in column "label" - say what the'),
        (
            {"templates": "your.yaml"},
            'templates: no template file "your.yaml" - give a path, or use one of: ag_news, anli, aqua_rat',
        ),
    ],
)
def test_wrong_templates_are_told_at_once(folder: Path, settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError) as raised:
        opened(folder, **{"templates": "mine.yaml", "labels": LABELS, **settings})
    assert str(raised.value).startswith(line)


def test_a_faulty_row_stops_with_its_line_or_is_dropped_and_counted(folder: Path) -> None:
    line = "3:label: the label -1 is outside the choices (neg, pos) - mend `labels` or the row, or drop such rows: "
    line += "on_error: drop"
    with pytest.raises(UsageError) as raised:
        list(opened(folder, templates="mine.yaml", labels=LABELS).rows())
    assert str(raised.value) == f"{folder / 'rows.jsonl'}:{line}"
    drops: list[Drop] = []
    task = opened(folder, drops, templates="mine.yaml", labels=LABELS, on_error="drop")
    assert len(list(task.rows())) == 2
    assert [(drop.reason, drop.origin.row, drop.origin.task) for drop in drops] == [("faulty row", 3, "rows")]


def test_rows_come_anew_at_each_call(folder: Path) -> None:
    task = opened(folder, templates="mine.yaml", labels=LABELS, where={"split": ["train"]})
    assert list(task.rows()) == list(task.rows())


def test_the_split_column_is_checked(folder: Path) -> None:
    (folder / "rows.jsonl").write_text('{"prompt": "p", "completion": "c", "_split": "test"}\n')
    with pytest.raises(
        UsageError, match=r"rows.jsonl:1:_split: 'test' is no side of the split - write train or heldout$"
    ):
        opened(folder)


def test_ready_made_instructions_show_their_mapping(folder: Path) -> None:
    (folder / "rows.jsonl").write_text('{"instruction": "i", "output": "o", "id": 3}\n')
    mapping = opened(folder).mapping
    assert mapping is not None
    assert mapping.description == (
        "alpaca: instruction -> instruction, input -> input, output -> answer; kept beside: id (1 of 1 rows looked at)"
    )


def test_paths_may_hold_variables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWS", str(folder))
    task = opened(Path("/nowhere"), path="${ROWS}/rows.jsonl", templates="${ROWS}/mine.yaml", labels=LABELS)
    assert next(task.rows()).number == 1


def test_a_trec_question_about_a_description_is_answered_description() -> None:
    names = ["DESC", "ENTY", "ABBR", "HUM", "NUM", "LOC"]
    words = {
        "ABBR": "Abbreviation", "ENTY": "Entity", "DESC": "Description", "HUM": "Person", "LOC": "Location",
        "NUM": "Quantity",
    }  # fmt: skip
    task = opened(
        Path("/"),
        path=str(need_material("annotated", "trec.jsonl.gz")),
        templates=str(need_material("p3", "promptsource_templates", "trec")),
        use=["!fine_grained*"],
        rename={"label-coarse": "coarse_label"},
        labels={"label-coarse": {"names": names, "choices": words}},
    )
    assert len(task.templates) == 5
    asked: dict[str, set[str]] = {}
    for row in task.rows():
        for template in task.templates:
            rendered = template.render(row.data)
            assert rendered.choices == ("Abbreviation", "Entity", "Description", "Person", "Location", "Quantity")
            asked.setdefault(row.data["fine"].split(":")[0], set()).add(rendered.answer)
    # `fine` holds the label as text, independent of the number in label-coarse.
    assert asked == {name: {word} for name, word in words.items()}


def test_trec_choices_that_do_not_match_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r'^labels: template ".*": its choice "Person" is none of the names declared for co'
    ):
        opened(
            Path("/"),
            path=str(need_material("annotated", "trec.jsonl.gz")),
            templates=str(need_material("p3", "promptsource_templates", "trec")),
            use=["trec1"],
            rename={"label-coarse": "coarse_label"},
            labels={"label-coarse": ["Description", "Entity", "Abbreviation", "HUM", "NUM", "LOC"]},
        )


class Features(dict[str, Any]):
    """What a dataset of the `datasets` library tells of its columns."""


class FakeDataset(list[dict[str, Any]]):
    features = Features(text=None, label=types.SimpleNamespace(names=["neg", "pos"]))


def test_a_hub_dataset_brings_its_label_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def load_dataset(name: str, subset: str | None, **options: Any) -> FakeDataset:
        asked.update(name=name, subset=subset, **options)
        return FakeDataset({"text": row["text"], "label": row["label"]} for row in ROWS[:2])

    fake = types.SimpleNamespace(load_dataset=load_dataset, DownloadConfig=lambda **options: options)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    config = HubSource(
        name="someone/films", subset="en", offline=True, templates="mine.yaml", use=["two"], revision="abc"
    )
    (task,) = open_source(config, folder, lambda drop: None)
    assert [(row.number, row.data["label"]) for row in task.rows()] == [(1, "pos"), (2, "neg")]
    assert task.name == "films"
    assert next(task.rows()).source == "someone/films:en:train"
    assert asked["download_config"] == {"local_files_only": True}
    assert (asked["name"], asked["subset"], asked["split"], asked["revision"]) == (
        "someone/films",
        "en",
        "train",
        "abc",
    )


def test_a_set_has_its_own_names_for_the_numbers_of_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub calls IMDB's labels neg and pos; the set, written for it, calls 0 negative and 1 positive."""

    def load_dataset(*_: Any, **__: Any) -> FakeDataset:
        return FakeDataset({"text": row["text"], "label": row["label"]} for row in ROWS[:2])

    fake = types.SimpleNamespace(load_dataset=load_dataset, DownloadConfig=lambda **options: options)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    (task,) = open_source(HubSource(name="stanfordnlp/imdb", templates="imdb"), folder, lambda drop: None)
    assert [row.data["label"] for row in task.rows()] == ["positive", "negative"]
    monkeypatch.setattr(FakeDataset, "features", Features(label=types.SimpleNamespace(names=["positive", "negative"])))
    (task,) = open_source(HubSource(name="stanfordnlp/imdb", templates="imdb"), folder, lambda drop: None)
    assert [row.data["label"] for row in task.rows()] == ["negative", "positive"]  # the same names: the hub's order


def test_a_hub_dataset_that_cannot_be_had_is_told_in_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("Couldn't find it\nin many lines")

    fake = types.SimpleNamespace(load_dataset=load_dataset, DownloadConfig=lambda **options: options)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    with pytest.raises(UsageError) as raised:
        open_source(HubSource(name="no/such", offline=True), folder, lambda drop: None)
    assert str(raised.value) == (
        'name: the dataset "no/such" cannot be read: Couldn\'t find it - it is not in the local cache: fetch it once '
        "without offline"
    )
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"^datasets is not installed - pip install 'didact\[hub\]'$"):
        open_source(HubSource(name="no/such"), folder, lambda drop: None)


def test_a_folder_saved_by_the_datasets_library_is_read(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "pos"]))
    rows = [{"text": row["text"], "label": row["label"]} for row in ROWS[:2]]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(folder / "saved"))
    (task,) = open_source(HubSource(name="saved", templates="mine.yaml", use=["two"]), folder, lambda drop: None)
    assert [row.data["label"] for row in task.rows()] == ["pos", "neg"]


SET = """
cluster: sentiment
fields: [text, label]
rename: {review.body: text, stars: label}
labels: {label: [bad, good]}
group: [text]
references: true
templates:
  - {name: one, prompt: "{{ text }}", answer: "{{ label }}", labels: {label: {bad: poor, good: great}}}
"""


def test_a_set_suggests_names_labels_group_and_cluster(folder: Path) -> None:
    (folder / "films.yaml").write_text(SET)
    task = opened(folder, templates="films.yaml", where={"split": "train"})
    assert [task.templates[0].render(row.data).answer for row in task.rows()] == ["great", "poor"]
    assert (task.cluster, task.group, task.references) == ("sentiment", ("text",), True)
    (folder / "rows.jsonl").write_text('{"review": {"body": "fine", "by": "me"}, "stars": 1}\n')
    task = opened(folder, templates="films.yaml", cluster="mine")
    (row,) = task.rows()
    assert row.data == {"review": {"body": "fine", "by": "me"}, "text": "fine", "label": "good"}
    assert (task.cluster, task.group, task.references) == ("mine", ("text",), True)


def test_what_a_source_says_goes_before_what_its_set_suggests(folder: Path) -> None:
    (folder / "films.yaml").write_text(SET)
    settings = {"where": {"split": "train"}, "labels": {"label": ["good", "bad"]}, "group": ["split"]}
    task = opened(folder, templates="films.yaml", **settings)
    assert [row.data["label"] for row in task.rows()] == ["bad", "good"]
    assert (task.group, task.references) == (("split",), False)
    with pytest.raises(UsageError, match="its labels are bad, good; the source declares good, poor for label"):
        opened(folder, templates="films.yaml", labels={"label": ["good", "poor"]})


def test_lists_of_labels_get_their_names(folder: Path) -> None:
    (folder / "rows.jsonl").write_text('{"tokens": ["Ada", "ran"], "tags": [1, 0]}\n')
    (folder / "echo.yaml").write_text("templates: [{name: n, prompt: '{{ row }}', answer: x}]")
    task = opened(folder, templates="echo.yaml", labels={"tags": ["O", "B-PER"]})
    assert next(iter(task.rows())).data == {"tokens": ["Ada", "ran"], "tags": ["B-PER", "O"]}


def test_languages_are_those_of_the_source_else_of_its_templates(folder: Path) -> None:
    assert opened(folder, templates="mine.yaml", labels=LABELS).languages == ()
    told = opened(folder, templates="mine.yaml", labels=LABELS, languages=["fr", "de"])
    assert told.languages == ("fr", "de")
    (folder / "theirs.yaml").write_text(TEMPLATES.replace("templates:", "languages: [en, de]\ntemplates:", 1))
    assert opened(folder, templates="theirs.yaml", labels=LABELS).languages == ("en", "de")
    assert opened(folder, templates="theirs.yaml", labels=LABELS, languages=["fr"]).languages == ("fr",)
    with pytest.raises(ValueError, match="languages"):
        FileSource.model_validate({"path": "rows.jsonl", "languages": ["English"]})
