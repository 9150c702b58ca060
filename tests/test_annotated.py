"""Every annotated file of the shared material: a few lines of a source make instances of it, or one line refuses it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import need_material

from didact.build import BuildConfig, build
from didact.errors import UsageError
from didact.instance import Drop
from didact.sources import FileSource, Task, open_source

TOLD = yaml.safe_load((Path(__file__).parent / "data" / "annotated.yaml").read_text("utf-8"))
FILES: dict[str, dict[str, Any]] = TOLD["files"]


def opened(folder: Path, name: str, drops: list[Drop]) -> Task:
    settings = {key: value for key, value in FILES[name].items() if key not in ("rows", "drops", "refused")}
    for template, text in TOLD["templates"].items():
        (folder / f"{template}.yaml").write_text(text)
        if settings.get("templates") == template:
            settings["templates"] = f"{template}.yaml"
    settings["beside"] = {c: str(need_material(*other.split("/"))) for c, other in settings.get("beside", {}).items()}
    config = FileSource.model_validate({"path": str(need_material(*name.split("/"))), **settings})
    return open_source(config, folder, drops.append)[0]


def test_no_file_is_forgotten() -> None:
    folders = [need_material(name) for name in ("annotated", "annotated_nc", "annotated_raw")]
    there = {f"{folder.name}/{file.name}" for folder in folders for file in folder.iterdir()}
    assert there - {"annotated/SCHEMAS.json"} == set(FILES)


@pytest.mark.parametrize("name", [name for name, told in FILES.items() if "rows" in told])
def test_every_row_becomes_an_instance_or_a_drop_with_its_reason(tmp_path: Path, name: str) -> None:
    drops: list[Drop] = []
    task = opened(tmp_path, name, drops)
    config = BuildConfig(heldout_rows=0, heldout_templates=0)
    found = 0
    for instance in build([task], config, drops.append):
        found += 1
        assert not instance.choices or instance.messages[-1].text in instance.choices
    assert (found, dict(Counter(drop.reason for drop in drops))) == (FILES[name]["rows"], FILES[name].get("drops", {}))


@pytest.mark.parametrize("name", [name for name, told in FILES.items() if "refused" in told])
def test_what_holds_no_examples_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError) as raised:
        opened(tmp_path, name, [])
    line = str(raised.value)
    assert FILES[name]["refused"] in line
    assert name.split("/")[1] in line
    assert "\n" not in line


def test_labels_mean_what_they_say(tmp_path: Path) -> None:
    """The names that a set suggests are those of the files' own second labels, wherever these have one."""
    coarse = {(row.data["coarse_label"], row.data["fine"][:4]) for row in _rows(tmp_path, "annotated/trec.jsonl.gz")}
    assert all(fine.startswith(name[:3]) for name, fine in coarse)
    right = {"entailment": 0, "contradiction": 0, "neutral": 0}
    for row in _rows(tmp_path, "annotated/cb.jsonl.gz"):
        right[row.data["label"]] += 1
    assert min(right, key=right.__getitem__) == "neutral"  # 21 of 306, as the bank's authors report
    joined = [row.data["label"] for row in _rows(tmp_path, "annotated_raw/piqa_valid.jsonl.gz")]
    assert joined == [row.data["label"] for row in _rows(tmp_path, "annotated/piqa.jsonl.gz")]


def _rows(folder: Path, name: str) -> list[Any]:
    return list(opened(folder, name, []).rows())


def test_entities_of_conll_files_are_in_their_sentences(tmp_path: Path) -> None:
    rows = _rows(tmp_path, "annotated_raw/wnut17_dev.conll.gz")
    assert [e["text"] for e in rows[1].data["entities"]] == ["Redondo Beach Blvd", "Gardena", "Compton"]
    for row in rows:
        for entity in row.data["entities"]:
            assert entity["text"] == " ".join(row.data["tokens"][entity["start"] : entity["end"]])
    assert sum(tag.startswith("B-") for row in rows for tag in row.data["ner_tags"]) == sum(
        len(row.data["entities"]) for row in rows
    )


def test_answers_of_squad_files_stand_where_they_say(tmp_path: Path) -> None:
    for language in ("ar", "zh"):
        for row in _rows(tmp_path, f"annotated_raw/xquad.{language}.json.gz"):
            answers, context = row.data["answers"], row.data["context"]
            for text, start in zip(answers["text"], answers["answer_start"], strict=True):
                assert context[start : start + len(text)] == text
