"""Seed tasks in every form people have them; what is missing, empty, double or of another form is told in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from didact.errors import UsageError
from didact.generate.seeds import SeedTask, load_seeds
from didact.instance import Instance, Message, Origin, Part


def load(path: Path, text: str, name: str = "seeds.jsonl") -> list[SeedTask]:
    (path / name).write_text(text, "utf-8")
    return load_seeds(name, path, lambda: ())


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_every_known_form_is_read(tmp_path: Path) -> None:
    task = {"id": "1", "instruction": "Add", "instances": [{"input": "1 2", "output": "3"}], "is_classification": True}
    assert load(tmp_path, lines(task)) == [SeedTask("Add", (("1 2", "3"),), True)]
    assert load(tmp_path, lines({"instruction": "Add"})) == [SeedTask("Add")]
    assert load(tmp_path, lines({"instruction": "Add", "input": "1", "output": "2"})) == [
        SeedTask("Add", (("1", "2"),))
    ]
    assert load(tmp_path, "Sing a song\nDance a dance\n", "s.txt") == [
        SeedTask("Sing a song"),
        SeedTask("Dance a dance"),
    ]
    chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}
    assert load(tmp_path, lines(chat)) == [SeedTask("Hi", (("", "Yo"),))]


def test_an_instruction_that_comes_twice_is_one_seed_with_all_examples(tmp_path: Path) -> None:
    rows = [{"instruction": "Add", "input": str(i % 3), "output": "x"} for i in range(5)]
    assert load(tmp_path, lines(*rows)) == [SeedTask("Add", (("0", "x"), ("1", "x"), ("2", "x")))]


def test_the_runs_own_instances_are_seeds() -> None:
    asked = (Part("Add\n", "instruction"), Part("1 2", "input"))
    own = Instance.of(
        (Message("user", asked), Message("assistant", (Part("3", "answer"),))), Origin("f", 1), choices=("3", "4")
    )
    assert load_seeds("built", Path(), lambda: [own]) == [SeedTask("Add", (("1 2", "3"),), True)]
    with pytest.raises(UsageError, match="no seed task has an instruction"):
        load_seeds("built", Path(), list)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("none.jsonl", None, "none.jsonl: there is no such file of seed tasks"),
        ("s.jsonl", "", "holds no rows|no seed task in the file"),
        (
            "s.jsonl",
            lines({"instruction": "x", "instances": "y"}),
            "s.jsonl:1:instances: not a list of inputs and outputs",
        ),
        ("s.jsonl", lines({"instruction": "x", "instances": [{"input": "y"}]}), "s.jsonl:1:instances: not a list"),
        (
            "s.jsonl",
            lines({"instruction": "x", "instances": []}, {"instruction": " ", "instances": []}),
            "s.jsonl:2:instr",
        ),
        (
            "s.jsonl",
            lines({"instruction": "a"}, {"instruction": 7}),
            "s.jsonl:2:instruction: the instruction holds no text",
        ),
        ("s.jsonl", lines({"question": "a"}), "s.jsonl: the columns .question. are no format"),
        ("s.jsonl", '{"instruction": "a"}\n{"instruction": "b', "s.jsonl:2"),
        ("s.jsonl", "[1, 2]\n", "s.jsonl:1"),
    ],
)
def test_bad_seeds_are_told_in_one_line(tmp_path: Path, name: str, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(UsageError, match=told) as caught:
        load_seeds(name, tmp_path, lambda: ())
    assert "\n" not in str(caught.value)
