"""The tasks: how many, what they ask, and that no held-out row is about anything that a training row is about."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter, defaultdict
from typing import Any

import pytest
from rapidfuzz import fuzz, process

from didact.build import BuildConfig, build
from didact.starter import tasks
from didact.starter.tasks import specs
from didact.starter.world import world

ROWS = 25


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, Any]]]:
    return {task.name: [row.data for row in task.rows()] for task in tasks(ROWS, 0)}


def test_there_are_enough_tasks_in_enough_clusters_with_enough_templates() -> None:
    made = tasks(2, 0)
    assert 150 <= len(made) <= 300
    assert 12 <= len({task.cluster for task in made}) <= 16
    assert len({task.name for task in made}) == len(made)
    assert {len(task.templates) for task in made} <= {8, 9, 10}
    assert all(len({template.name for template in task.templates}) == len(task.templates) for task in made)


def test_importing_the_starter_does_not_import_torch() -> None:
    code = "import sys, didact.starter; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_seed_gives_the_same_rows(rows: dict[str, list[dict[str, Any]]]) -> None:
    again = {task.name: [row.data for row in task.rows()] for task in tasks(ROWS, 0, only=["lookup", "odd/*"])}
    assert again == {name: rows[name] for name in again}
    assert len(again) == 49
    other = [row.data for row in tasks(ROWS, 1, only=["odd/4"])[0].rows()]
    assert other != rows["odd/4"]


def test_every_task_has_rows_on_both_sides_of_the_split(rows: dict[str, list[dict[str, Any]]]) -> None:
    for name, some in rows.items():
        sides = Counter(row["_split"] for row in some)
        assert sides["train"] >= 12, name
        assert sides["heldout"] >= 3, name


def test_no_key_text_or_person_is_on_both_sides(rows: dict[str, list[dict[str, Any]]]) -> None:
    sides: dict[str, set[str]] = defaultdict(set)
    people = {"train": set(world().reserved_names), "heldout": set(world().names)}
    for some in rows.values():
        for row in some:
            if row["text"]:
                sides[row["_split"]].add(row["text"])
            assert not people[row["_split"]] & set(re.findall(r"\w+", row["text"])), row
    assert not sides["train"] & sides["heldout"]
    for name, some in rows.items():
        keys = {side: {row["key"] for row in some if row["_split"] == side} for side in ("train", "heldout")}
        assert not keys["train"] & keys["heldout"], name


def test_no_heldout_input_is_nearly_a_training_input(rows: dict[str, list[dict[str, Any]]]) -> None:
    """Texts that differ in one word of many would be near-duplicates; the words in common must leave more than that."""

    def inputs(side: str) -> list[str]:
        return [
            " ".join([row["text"], *row["choices"]]) for some in rows.values() for row in some if row["_split"] == side
        ]

    heldout, train = [text for text in inputs("heldout") if len(text) > 40], inputs("train")
    worst = process.cdist(heldout[::4], train, scorer=fuzz.ratio, score_cutoff=95, workers=1)
    assert not worst.any(), heldout[::4][int(worst.max(1).argmax())]


def test_facts_asked_in_evaluation_are_in_no_training_row_of_any_task(rows: dict[str, list[dict[str, Any]]]) -> None:
    for table in ("facts/capital", "facts/river", "opposite/plain", "kind/animal-bird-fruit-vegetable"):
        held = {row["key"] for row in rows[table] if row["_split"] == "heldout"}
        tables = ("facts", "choice", "opposite", "kind")
        chosen = [row for name, some in rows.items() if name.split("/")[0] in tables for row in some]
        asked = {row["key"] for row in chosen if row["_split"] == "train" and not row["text"]}
        assert held
        assert not held & asked


def test_answers_are_choices_and_choices_are_distinct(rows: dict[str, list[dict[str, Any]]]) -> None:
    for some in rows.values():
        for row in some:
            assert row["answer"] in row["choices"]
            assert len(set(row["choices"])) == len(row["choices"]) > 1


def test_the_place_of_the_answer_tells_nothing(rows: dict[str, list[dict[str, Any]]]) -> None:
    places = Counter(row["choices"].index(row["answer"]) for some in rows.values() for row in some if "options" in row)
    total = sum(places.values())
    assert places[0] / total < 0.5
    for name in ("check/list/yes", "compare/kinds/same", "compare/drink/same"):
        answers = Counter(row["answer"] for row in rows[name])
        assert max(answers.values()) / len(rows[name]) < 0.75, name


def test_choice_tasks_have_fresh_options_every_time(rows: dict[str, list[dict[str, Any]]]) -> None:
    for kind in world().kinds:
        options = [frozenset(row["choices"]) for row in rows[f"choice/{kind}"]]
        assert len(set(options)) == len(options)


def test_every_template_renders_every_task(rows: dict[str, list[dict[str, Any]]]) -> None:
    for task in tasks(1, 0):
        for template in task.templates:
            rendered = template.render({k: v for k, v in rows[task.name][0].items() if k != "_split"})
            assert rendered.answer in rendered.choices
            assert not re.search(r"[{}]|  ", "".join(part.value for part in rendered.parts))


def test_build_honours_the_split() -> None:
    made = tasks(10, 0, only=["reverse"])
    people = set(world().reserved_names)
    for instance in build(made, BuildConfig(heldout_clusters=[], heldout_templates=1), lambda drop: None):
        assert (instance.tags["split"] == "heldout") == bool(people & set(re.findall(r"\w+", instance.prompt)))


def test_specs_are_in_a_fixed_order() -> None:
    assert [spec.name for spec in specs()] == [spec.name for spec in specs()]
