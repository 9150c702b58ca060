"""What `didact show` tells: how data is read, the slots of an instance, where it comes from and where it went."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from didact.console import Console
from didact.errors import UsageError
from didact.instance import Drop, Instance, Message, Origin, Part
from didact.lineage import fate, find, lineage
from didact.show import _turn, is_data, show_data, show_instance


@pytest.fixture
def console() -> Console:
    made = Console()
    made.rich.file = io.StringIO()
    return made


def said(console: Console) -> str:
    assert isinstance(console.rich.file, io.StringIO)
    return console.rich.file.getvalue()


def made(answer: str = "3", **tags: str) -> Instance:
    parts = (Part("One: 1\n", "demo"), Part("Add.\n", "instruction"), Part("1 2", "input"))
    origin = Origin("sums.csv", 7, "template:add", task="sums", cluster="math", licence="MIT", parents=("sums.csv:3",))
    return Instance.of((Message("user", parts), Message("assistant", (Part(answer, "answer"),))), origin, tags=tags)


def test_lineage_tells_dataset_row_template_options_examples_and_licence() -> None:
    tags = {"template": "add", "options": "letters", "shots": "2", "cot": "steps", "inverted": "yes", "odd": "1"}
    assert lineage(made(**tags, split="train")) == [
        "row sums.csv:7, task sums, cluster math, licence MIT",
        "made by template:add, template add, answer options shown (letters), 2 examples before it, "
        "reasoning asked for (steps), turned around, train, odd 1",
        "grown from sums.csv:3",
    ]
    bare = Instance.of((Message("user", (Part("q"),)),), Origin("rows.jsonl", 1, teacher="big-model"))
    assert lineage(bare) == ["row rows.jsonl:1, licence not told", "teacher big-model"]


def test_slots_are_named_where_there_are_several_and_coloured(console: Console) -> None:
    show_instance(console, made())
    told = said(console)
    assert "  user: [demo] One: 1\n    [instruction] Add.\n    [input] 1 2\n  assistant: 3\n" in told
    styles = ["aside", "demo", "aside", "instruction", "aside", "input"]
    assert [span.style for span in _turn(made().messages[0]).spans] == styles
    assert all(console.rich.get_style(style) for style in styles)


def test_control_characters_of_a_text_have_no_power(console: Console) -> None:
    show_instance(console, made("\x1b[31mred [bold]"))
    assert "\\x1b[31mred [bold]" in said(console)


def write_run(folder: Path) -> tuple[Instance, Instance, Instance]:
    kept, dropped, held = made("3"), made("4"), made("5", split="heldout", level="heldout_task")

    def lines(*records: object) -> str:
        return "".join(json.dumps(record) + "\n" for record in records)

    (folder / "built.jsonl").write_text(lines(kept.to_json(), dropped.to_json()))
    (folder / "heldout.jsonl").write_text(lines(held.to_json()))
    (folder / "kept.jsonl").write_text(lines(kept.to_json()))
    drop = Drop("near a held-out text", f"near {held.id}, score 0.9", dropped.origin, dropped)
    (folder / "dropped.jsonl").write_text(lines({"stage": "curate", **drop.to_json()}))
    return kept, dropped, held


def test_what_became_of_an_instance(tmp_path: Path, console: Console) -> None:
    kept, dropped, held = write_run(tmp_path)
    assert fate(tmp_path, kept.id) == ["in built.jsonl", "curate kept it"]
    assert fate(tmp_path, dropped.id) == [
        "in built.jsonl",
        f"curate dropped it: near a held-out text (near {held.id}, score 0.9)",
    ]
    assert fate(tmp_path, held.id) == ["in heldout.jsonl"]  # where others name it does not count
    assert fate(tmp_path, "0" * 16) == []
    show_instance(console, dropped, tmp_path)
    assert "curate dropped it: near a held-out text" in said(console)


def test_an_instance_is_found_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    kept, _, held = write_run(tmp_path)
    assert find(tmp_path, kept.id[:8]) == kept
    assert find(tmp_path, held.id) == held
    with pytest.raises(UsageError, match='no instance of this run is called "zz"'):
        find(tmp_path, "zz")
    with pytest.raises(UsageError, match=r"3 instances begin with \"\" - give more of the id"):
        find(tmp_path, "")


def test_a_file_is_told_in_three_instances_and_counts(tmp_path: Path, console: Console) -> None:
    rows = [{"instruction": f"Say {n}.", "output": str(n) if n != 2 else ""} for n in range(6)] + [{"instruction": 3}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert is_data(path)
    show_data(path, 1, console)
    told = said(console)
    assert f"{path} is read as alpaca: instruction -> instruction" in told.split("\n")[0]
    assert [f"Say {n}." in told for n in range(6)] == [True, True, False, True, False, False]
    assert "7 rows, 5 instances, 2 rows dropped" in told
    assert f"1 the answer is empty; first: {path}:3\n" in told
    assert f"1 faulty row; first: {path}:7:instruction: holds a number where text should be - mend it" in told
    with pytest.raises(
        UsageError, match=r"instance 9: 7 rows gave 5 - dropped: 1 the answer is empty; 1 .*; first: .*rows.jsonl:3$"
    ):
        show_data(path, 9, console)


def test_recipes_and_runs_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: x")
    (tmp_path / "recipe.json").write_text("{}")
    assert not is_data(tmp_path / "r.yaml")
    assert not is_data(tmp_path)
    assert not is_data(tmp_path / "missing")
    (tmp_path / "tasks").mkdir()
    assert is_data(tmp_path / "tasks")
