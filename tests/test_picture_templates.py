"""The sets of templates over annotated pictures: each on rows, with its pictures where they belong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from didact.build import BuildConfig, build
from didact.errors import UsageError
from didact.instance import Drop, Instance
from didact.sources import FileSource, open_source
from didact.starter.scenes import png
from didact.template_set import load_set

pytest.importorskip("PIL.Image")
FOLDER = Path(__file__).resolve().parents[1] / "src" / "didact" / "templates" / "pictures"
SETS = sorted(file.stem for file in FOLDER.glob("*.yaml"))
ROWS: dict[str, dict[str, Any]] = {
    "classification": {"img": "0.png", "label": "cat"},
    "captioning": {"image": "0.png", "captions": ["A cat sleeps.", "A cat."]},
    "question_answering": {"image": "0.png", "question": "What sleeps?", "multiple_choice_answer": "a cat"},
    "multiple_choice": {"image": "0.png", "question": "What sleeps?", "choices": ["a cat", "a dog"], "answer": "a cat"},
    "grounding": {"image": "0.png", "phrase": "the cat", "bbox": [0.1, 0.2, 0.5, 0.75]},
    "regions": {"image": "0.png", "phrase": "the cat", "bbox": [0.1, 0.2, 0.5, 0.75]},
    "matching": {"image": "0.png", "caption": "A cat sleeps.", "label": 1},
    "reading": {"image": "0.png", "text": "STOP"},
    "counting": {"image": "0.png", "thing": "cats", "count": 3},
    "comparison": {"left_image": "0.png", "right_image": "1.png", "sentence": "Both show a cat.", "label": 0},
}
ANSWERS = {
    "captioning": {"A cat sleeps."},
    "grounding": {"[0.1, 0.2, 0.5, 0.75]"},
    "regions": {"the cat"},
    "counting": {"3"},
    "matching": {"yes", "true", "right", "match"},
    "comparison": {"false", "no", "wrong", "disagree"},
}


def made(name: str, folder: Path, left_out: list[Drop] | None = None, **row: Any) -> list[Instance]:
    for i in range(2):
        (folder / f"{i}.png").write_bytes(png(np.full((6, 6, 3), i, np.uint8)))
    (folder / "rows.jsonl").write_text(json.dumps({**ROWS[name], **row}) + "\n")
    labels = {"label": ["cat", "dog"]} if name == "classification" else {}
    source = FileSource(path="rows.jsonl", templates=f"pictures/{name}", licence="CC0-1.0", labels=labels)
    drops: list[Drop] = [] if left_out is None else left_out
    tasks = open_source(source, folder, drops.append, folder / "run")
    config = BuildConfig(heldout_rows=0, heldout_templates=0, templates_per_row=20)
    instances = list(build(tasks, config, drops.append))
    assert left_out is not None or not drops
    return instances


def test_each_set_has_its_rows_here() -> None:
    assert sorted(ROWS) == SETS


@pytest.mark.parametrize("name", SETS)
def test_every_template_shows_its_pictures_and_tells_the_answer(name: str, tmp_path: Path) -> None:
    instances = made(name, tmp_path)
    found = load_set(FOLDER / f"{name}.yaml")
    assert len(instances) == len(found.templates) >= 6
    pictures = 2 if name == "comparison" else 1
    for instance in instances:
        assert len(instance.images) == len(set(instance.images)) == pictures
        text = instance.messages[0].text
        assert "<image>" not in text
        assert "\n\n\n" not in text
        assert instance.origin.licence == "CC0-1.0"
        assert instance.origin.cluster == found.cluster
        if instance.choices:
            assert instance.answer in instance.choices
    told = {instance.answer for instance in instances}
    assert told <= ANSWERS.get(name, told)
    assert len({instance.prompt for instance in instances}) == len(instances)


def test_marks_say_where_pictures_stand(tmp_path: Path) -> None:
    instances = {i.tags["template"]: i for i in made("comparison", tmp_path)}
    parts = instances["first_second"].messages[0].parts
    assert [part.kind for part in parts[:4]] == ["text", "image", "text", "image"]
    assert [part.value for part in parts if part.kind == "text"][:2] == ["First picture: ", "Second picture: "]
    assert [part.kind for part in instances["true_or_false"].messages[0].parts[:2]] == ["image", "image"]


def test_a_mark_in_the_data_stays_a_text(tmp_path: Path) -> None:
    instances = made("matching", tmp_path, caption="A page with <image> in it.")
    for instance in instances:
        assert len(instance.images) == 1
        assert "A page with <image> in it." in instance.messages[0].text


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"image": "none.png"}, "rows.jsonl:1:image: there is no picture"),
        ({"image": ["0.png", "1.png"]}, "1 <image> marks in the template, but 2 pictures in the row"),
    ],
)
def test_a_faulty_row_is_named(row: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as told:
        made("matching", tmp_path, **row)
    assert words in str(told.value)


def test_a_row_without_its_picture_is_dropped(tmp_path: Path) -> None:
    drops: list[Drop] = []
    assert made("matching", tmp_path, drops, image=None) == []
    assert {drop.reason for drop in drops} == {"the row has no picture"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image: 3\ntemplates: [{name: a, prompt: b, answer: c}]", "image is no column or list of columns"),
        ("image: [1]\ntemplates: [{name: a, prompt: b, answer: c}]", "image names no column"),
        ("templates: [{name: a, answer: c}]", "needs an answer, and either a prompt"),
        ("fields: [x]\nimage: pic\ntemplates: [{name: a, prompt: b, answer: c}]", 'uses the column "pic"'),
    ],
)
def test_a_set_that_names_no_picture_rightly_is_told(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(UsageError) as told:
        load_set(tmp_path / "own.yaml")
    assert words in str(told.value)
