"""The sets of templates that come with didact: every template of every set, on rows as the hub has them."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import need_material

from didact.instance import Drop
from didact.sources import FileSource, Task, open_source
from didact.template import Rendered, TemplateDrop
from didact.template_set import load_set

FOLDER = Path(__file__).resolve().parents[1] / "src" / "didact" / "templates"
SETS = sorted(file.stem for file in FOLDER.glob("*.yaml"))
ROWS: dict[str, list[dict[str, Any]]] = yaml.safe_load(
    (Path(__file__).parent / "data" / "template_rows.yaml").read_text("utf-8")
)
CLUSTERS = {
    "sentiment", "topic classification", "nli", "paraphrase", "similarity", "reading comprehension", "extractive qa",
    "closed-book qa", "commonsense", "multilingual commonsense", "coreference", "summarisation", "data-to-text",
    "translation", "math", "named entity recognition", "acceptability", "toxicity",
}  # fmt: skip
# Templates that say nothing about some rows: there is no first entity to ask about, or the row should not be imitated.
SILENT = {("crossner", "type_of_first"): {1}, ("hate_speech_offensive", "write_harmless"): {1, 2}}


@cache
def task_of(name: str, folder: Path) -> Task:
    """The set over its rows, with nothing told but its name."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
    drops: list[Drop] = []
    task = open_source(FileSource(path=f"{name}.jsonl", templates=name), folder, drops.append)[0]
    assert not drops
    return task


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


def words(rendered: Rendered) -> str:
    return "".join(part.value for part in rendered.parts)


def test_there_are_sets_for_all_clusters_and_rows_for_all_sets() -> None:
    assert {load_set(FOLDER / f"{name}.yaml").cluster for name in SETS} == CLUSTERS
    assert sorted(ROWS) == SETS
    assert len(SETS) >= 40


@pytest.mark.parametrize("name", SETS)
def test_a_set_has_its_templates_and_tells_of_its_dataset(name: str) -> None:
    found = load_set(FOLDER / f"{name}.yaml")
    assert 8 <= len(found.templates) <= 10
    assert 1 <= sum(template.inverted for template in found.templates) <= 3
    assert found.dataset
    assert found.fields
    assert all("languages" in template.metadata for template in found.templates)
    assert all("metrics" in template.metadata for template in found.templates)


@pytest.mark.parametrize("name", SETS)
def test_every_template_renders_every_row(name: str, folder: Path) -> None:
    task = task_of(name, folder)
    rows = list(task.rows())
    assert len(rows) == 3
    for template in task.templates:
        for number, row in enumerate(rows):
            if number in SILENT.get((name, template.name), ()):
                with pytest.raises(TemplateDrop):
                    template.render(row.data)
                continue
            rendered = template.render(row.data)
            assert words(rendered).strip() == words(rendered) != ""
            assert rendered.answer == rendered.answer.strip() != ""
            assert not rendered.choices or rendered.answer in rendered.choices, template.name
            assert len(set(rendered.choices)) == len(rendered.choices) != 1, template.name
            assert "{{" not in words(rendered) + rendered.answer
            assert not template.inverted or not rendered.choices, template.name


@pytest.mark.parametrize("name", SETS)
def test_no_two_templates_ask_alike(name: str, folder: Path) -> None:
    task = task_of(name, folder)
    for row in task.rows():
        asked: dict[str, str] = {}
        for template in task.templates:
            try:
                prompt = words(template.render(row.data))
            except TemplateDrop:
                continue
            assert prompt not in asked, f"{template.name} and {asked[prompt]}"
            asked[prompt] = template.name


@pytest.mark.parametrize("name", SETS)
def test_an_answer_that_is_chosen_differs_where_the_label_does(name: str, folder: Path) -> None:
    """Every label has a word of its own in every template that is not turned around."""
    for template in task_of(name, folder).templates:
        for column, meanings in template.labels.items():
            assert len(set(meanings.values())) == len(meanings), f"{template.name}: {column}"


def test_promptsource_is_not_repeated() -> None:
    """Our wordings are our own: no line of a prompt stands in promptsource's templates."""
    theirs = {
        " ".join(line.split()).casefold()
        for file in need_material("p3", "promptsource_templates").rglob("templates.yaml")
        for template in load_set(file).templates
        for line in template.prompt.splitlines()
    }
    for name in SETS:
        for template in load_set(FOLDER / f"{name}.yaml").templates:
            for line in "\n".join((template.prompt, template.instruction)).splitlines():
                plain = " ".join(line.split()).casefold()
                letters = "".join(c for c in plain.replace("{{", " {{").split("{{")[0] if c.isalpha())
                assert plain not in theirs or len(letters) < 15, f"{name}/{template.name}: {line}"


def test_the_page_about_templates_lists_the_sets() -> None:
    page = (FOLDER.parents[2] / "docs" / "templates.md").read_text("utf-8")
    for name in SETS:
        cluster = load_set(FOLDER / f"{name}.yaml").cluster
        assert any(line.startswith(f"| {cluster} |") and f"`{name}`" in line for line in page.splitlines()), name
    readme = (FOLDER.parents[2] / "README.md").read_text("utf-8")
    assert f"{len(SETS)} sets of them" in readme


def test_the_set_on_the_page_is_one(tmp_path: Path) -> None:
    page = (FOLDER.parents[2] / "docs" / "templates.md").read_text("utf-8")
    (tmp_path / "films.yaml").write_text(page.split("```yaml\n")[2].split("```")[0])
    (tmp_path / "rows.jsonl").write_text('{"review": {"body": "Fine."}, "label": 1}\n')
    task = open_source(FileSource(path="rows.jsonl", templates="films.yaml"), tmp_path, [].append)[0]
    (row,) = task.rows()
    assert [template.render(row.data).answer for template in task.templates] == ["great", "yes", "Fine."]


HUB = {
    "sst2": "glue/sst2", "imdb": "imdb/plain_text", "rotten_tomatoes": "rotten_tomatoes/default",
    "yelp_polarity": "yelp_polarity/plain_text", "ag_news": "ag_news/default", "dbpedia_14": "dbpedia_14/dbpedia_14",
    "snli": "snli/plain_text", "mnli": "glue/mnli", "rte": "glue/rte", "cb": "super_glue/cb", "wnli": "glue/wnli",
    "qnli": "glue/qnli", "anli": "anli/plain_text", "mrpc": "glue/mrpc", "qqp": "glue/qqp", "cola": "glue/cola",
    "paws": "paws/labeled_final", "boolq": "super_glue/boolq", "multirc": "super_glue/multirc",
    "copa": "super_glue/copa", "piqa": "piqa/plain_text", "wsc": "super_glue/wsc.fixed",
}  # fmt: skip
# What the hub calls only neg and pos, or by numbers.
NAMELESS = {("neg", "pos"), ("0", "1"), ("1", "2"), ("False", "True")}


def test_the_labels_that_sets_suggest_are_those_of_the_hub() -> None:
    with gzip.open(need_material("p3", "hf_features.json.gz"), "rt", encoding="utf-8") as file:
        hub = json.load(file)
    checked = 0
    for name, dataset in HUB.items():
        for column, suggested in load_set(FOLDER / f"{name}.yaml").labels.items():
            feature = ((hub.get(dataset) or {}).get(column) or {}).get("names")
            if feature:
                checked += 1
                assert feature == suggested or (len(feature) == len(suggested) and tuple(feature) in NAMELESS), name
    assert checked >= 18
