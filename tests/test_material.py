"""Real files as found in the wild: each gives the right rows, or one line saying file, line, field and cure."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import need_material

from didact.build import BuildConfig, build
from didact.errors import UsageError
from didact.instance import Drop
from didact.recipe import load_recipe
from didact.sources import FileSource, Row, Task, open_source

NO_FORMAT = "are no format of ready-made instructions that is known - give the source `templates`, or rename columns"
NO_LAYOUT = "its name does not tell how to read it - add `layout:`"
ONE_OBJECT = "holds one JSON object, not an array of rows - save its rows as JSON lines, one object per line"
ECHO = "templates:\n  - {name: echo, prompt: 'Echo {{ row }}', answer: 'x'}\n"


def opened(folder: Path, drops: list[Drop], *parts: str, **settings: Any) -> Task:
    (folder / "echo.yaml").write_text(ECHO)
    path = str(need_material(*parts))
    return open_source(FileSource.model_validate({"path": path, **settings}), folder, drops.append)[0]


def rows_of(folder: Path, *parts: str, **settings: Any) -> list[Row]:
    """The rows of a file read with a template that fits everything, so that only the reading is tested."""
    drops: list[Drop] = []
    rows = list(opened(folder, drops, *parts, templates="echo.yaml", **settings).rows())
    assert bool(drops) == (settings.get("on_error") == "drop")
    return rows


def instances_of(folder: Path, *parts: str, **settings: Any) -> tuple[int, Counter[str]]:
    drops: list[Drop] = []
    task = opened(folder, drops, *parts, **settings)
    found = list(build([task], BuildConfig(heldout_rows=0), drops.append))
    return len(found), Counter(drop.reason for drop in drops)


@pytest.mark.parametrize(
    ("parts", "settings", "count", "column"),
    [
        (("messy", "fewclue_bustm.json"), {}, 1772, "sentence2"),
        (("messy", "triviaqa_nel_char.jsonl"), {}, 60, "answer"),
        (("messy", "mpe_garbled_premises.csv"), {}, 400, "hypothesis"),
        (("messy", "array_named_jsonl.jsonl"), {"layout": "json"}, 29, "text"),
        (("messy", "self_instruct_generated_with_duplicates.jsonl.gz"), {}, 25378, "instruction"),
        (("annotated_raw", "e2e_devset.csv.gz"), {}, 4672, "ref"),
        (("annotated_raw", "multirc_train.jsonl.gz"), {}, 32, "passage"),
        (("annotated_raw", "piqa_valid.jsonl.gz"), {}, 1838, "goal"),
        (("annotated_raw", "piqa_valid-labels.lst"), {"layout": "lines"}, 1838, "text"),
        (("annotated_raw", "rt-polarity.neg"), {"layout": "lines", "encoding": "latin-1"}, 1000, "text"),
        (("annotated_raw", "TREC.train"), {"layout": "lines", "encoding": "latin-1"}, 5452, "text"),
        (("annotated_raw", "tatoeba.deu-eng.deu"), {"layout": "lines"}, 1000, "text"),
        (("annotated_raw", "tatoeba.deu-eng.eng"), {"layout": "lines"}, 1000, "text"),
        (("annotated_raw", "sgd_dev_dialogues_007.json.gz"), {}, 68, "turns"),
        (("annotated_raw", "sgd_dev_schema.json.gz"), {}, 17, "slots"),
        (
            ("annotated_raw", "cola_out_of_domain_dev.tsv"),
            {"columns": ["source", "label", "mark", "sentence"]},
            516,
            "sentence",
        ),
        (("annotated_nc", "msr_paraphrase_test.tsv"), {}, 1725, "#2 String"),
        (
            ("annotated_nc", "ag_news_sample.csv"),
            {
                "columns": ["class", "title", "description"],
                "labels": {"class": {"names": {1: "World", 2: "Sports", 3: "Business", 4: "Sci/Tech"}}},
            },
            1021,
            "title",
        ),
    ],
)
def test_rows_are_read_whole(
    tmp_path: Path, parts: tuple[str, ...], settings: dict[str, Any], count: int, column: str
) -> None:
    rows = rows_of(tmp_path, *parts, **settings)
    assert len(rows) == count
    assert all(column in row.data for row in rows)


def test_lines_that_are_broken_are_named_and_counted(tmp_path: Path) -> None:
    parts = ("messy", "instructwild_v2_user_2.jsonl")
    with pytest.raises(
        UsageError, match=r"user_2.jsonl:134: malformed JSON: invalid \\escape.* at column \d+ - mend the line, or"
    ):
        rows_of(tmp_path, *parts)
    drops: list[Drop] = []
    rows = list(opened(tmp_path, drops, *parts, templates="echo.yaml", on_error="drop").rows())
    assert len(rows) == 246
    assert {drop.origin.row for drop in drops if drop.reason == "malformed JSON"} == {134, 168}


@pytest.mark.parametrize(
    ("parts", "settings", "count", "drops"),
    [
        (
            ("messy", "alpaca_zh_12345_mostly_untranslated.json.gz"),
            {},
            2970,
            {"the answer is empty": 2, "the answer only says that there is none": 6},
        ),
        (
            ("messy", "alpaca_zh_6382.json.gz"),
            {"on_error": "drop"},
            3015,
            {"the answer is empty": 2, "the answer only says that there is none": 4, "faulty row": 1},
        ),
        (("messy", "ko_seed_crlf.jsonl"), {}, 124, {}),
        (("messy", "openai_messages_array_per_line.jsonl"), {}, 128, {}),
        (
            ("messy", "array_named_jsonl.jsonl"),
            {"layout": "json", "rename": {"text": "instruction"}},
            28,
            {"the answer only says that there is none": 1},
        ),
        (("messy", "blank_lines_multimodal.jsonl"), {"on_error": "drop"}, 0, {"faulty row": 24}),
        (("annotated_raw", "xquad.hi.json.gz"), {}, 1190, {}),
        (("annotated_raw", "wnut17_dev.conll.gz"), {}, 1009, {}),
    ],
)
def test_ready_made_files_build(
    tmp_path: Path, parts: tuple[str, ...], settings: dict[str, Any], count: int, drops: dict[str, int]
) -> None:
    assert instances_of(tmp_path, *parts, **settings) == (count, drops)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (
            ("messy", "array_named_jsonl.jsonl"),
            "1: a JSON array, where each line should hold one object - rename the file",
        ),
        (("messy", "strings_per_line.jsonl"), "1: holds a JSON string, not an object - write an object, such as"),
        (
            ("messy", "alpaca_zh_9407_unfinished.json.gz"),
            "14007: malformed JSON: a comma before the closing bracket at column 1",
        ),
        (
            ("messy", "alpaca_zh_6382.json.gz"),
            '442:instruction: the field "instruction" is empty - fill it, or drop such',
        ),
        (
            ("messy", "blank_lines_multimodal.jsonl"),
            ':1:messages.0.content.0.image_url: there is no picture "data/mllm_demo_data/1.jpg" - check the name',
        ),
        (("messy", "fewclue_bustm.json"), NO_FORMAT),
        (("messy", "mpe_garbled_premises.csv"), NO_FORMAT),
        (("messy", "self_instruct_generated_with_duplicates.jsonl.gz"), "questions without answers"),
        (
            ("annotated_raw", "clinc150_small.json.gz"),
            "arrays without names - name the 2 values in the source: columns",
        ),
        (("annotated_raw", "TREC.train"), NO_LAYOUT),
        (("annotated_raw", "rt-polarity.neg"), NO_LAYOUT),
        (
            ("annotated_raw", "cola_out_of_domain_dev.tsv"),
            '1: the first line looks like data: "1" cannot be a column name',
        ),
        (("annotated_nc", "ag_news_sample.csv"), '1: the first line looks like data: "3" cannot be a column name'),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(tmp_path: Path, parts: tuple[str, ...], told: str) -> None:
    with pytest.raises(UsageError) as raised:
        instances_of(tmp_path, *parts)
    line = str(raised.value)
    assert told in line
    assert parts[-1] in line
    assert "\n" not in line


def test_undeclared_latin_1_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"rt-polarity.neg:\d+: not utf-8 text \(byte 0x.* such as encoding: latin-1$"):
        rows_of(tmp_path, "annotated_raw", "rt-polarity.neg", layout="lines")


def test_rows_without_a_label_are_refused_or_dropped(tmp_path: Path) -> None:
    settings = {
        "templates": str(need_material("p3", "promptsource_templates", "super_glue", "copa")),
        "labels": {"label": {"names": ["choice1", "choice2"]}},
    }
    with pytest.raises(UsageError, match=r':1:label: labels names the column "label", which the row lacks'):
        instances_of(tmp_path, "annotated", "copa_unlabeled.jsonl.gz", **settings)


def test_the_recipe_on_real_sets_builds_all_four_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIDACT_MATERIAL", str(need_material("annotated").parents[1]))
    path = Path(__file__).resolve().parents[1] / "recipes" / "real-annotated.yaml"
    recipe, _ = load_recipe(path)
    drops: list[Drop] = []
    tasks = [task for source in recipe.sources for task in open_source(source, path.parent, drops.append)]
    instances = list(build(tasks, recipe.build, drops.append))
    levels: dict[str, set[str]] = {}
    for instance in instances:
        levels.setdefault(instance.tags.get("level", "train"), set()).add(instance.origin.task)
    trained = {"sst2", "trec", "boolq", "gsm8k", "e2e_nlg"}
    assert levels == {
        "train": trained,
        "seen_template": trained,
        "heldout_template": trained,
        "heldout_task": {"rotten_tomatoes"},
        "heldout_cluster": {"rte", "snli_dev", "commonsense_qa"},
    }
    assert {drop.reason for drop in drops} == {"the answer is none of the choices"}  # a fifth option in four letters
    for instance in instances:
        assert not instance.choices or instance.answer in instance.choices
    assert any(instance.references for instance in instances if instance.origin.task == "e2e_nlg")
