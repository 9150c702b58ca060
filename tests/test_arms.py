"""Trainings in miniature: what decides their answers decides their key, and the shelf is whole or empty."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from didact.arms import KEPT, Answers, key_of
from didact.errors import UsageError
from didact.folder import Folder
from didact.instance import Instance, Message, Origin, Part
from didact.recipe import Recipe, changed


def rows(n: int) -> list[Instance]:
    return [
        Instance.of(
            (Message("user", (Part(f"Say {i}."),)), Message("assistant", (Part("x", "answer"),))), Origin("f", i)
        )
        for i in range(n)
    ]


def a_run(folder: Path) -> Any:
    recipe = Recipe.model_validate({"name": "r", "sources": [{"type": "starter"}]})
    return SimpleNamespace(
        recipe=recipe,
        model_name=lambda recipe: recipe.model,
        journal={"precision": "fp32"},
        folder=Folder(folder),
        path=folder,
        home=folder,
    )


def test_a_key_changes_with_all_that_decides_the_answers(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    keys = [
        key_of(run, rows(3), {}),
        key_of(run, rows(2), {}),
        key_of(run, rows(3)[::-1], {}),
        key_of(run, rows(3), {"tune.seed": 1}),
        key_of(run, rows(3), {"method.rank": 2}),
        key_of(run, rows(3), {"model": "other"}),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of(run, rows(3), {"tune.seed": 0}) == keys[0]
    run.journal = {"precision": "bf16"}
    assert key_of(run, rows(3), {}) != keys[0]


def test_a_change_that_no_recipe_allows_is_refused() -> None:
    with pytest.raises(UsageError, match=r"tune\.epochs"):
        changed(Recipe(), {"tune.epochs": -1})
    assert changed(Recipe(), {"tune.epochs": 3}).tune.epochs == 3


def test_a_damaged_file_of_answers_is_asked_anew_and_unused_ones_go(tmp_path: Path) -> None:
    with Folder(tmp_path) as folder:
        run = SimpleNamespace(folder=folder, path=tmp_path)
        Answers(run).write("a", {"answers": {"1": ["x", True, 2]}})  # type: ignore[arg-type]
        Answers(run).write("b", {})  # type: ignore[arg-type]
        shelf = Answers(run)  # type: ignore[arg-type]
        assert shelf.read("a") == {"answers": {"1": ["x", True, 2]}}
        shelf.sweep()
        assert [file.name for file in (tmp_path / KEPT).iterdir()] == ["a.json"]
        (tmp_path / KEPT / "a.json").write_text('{"answers": {"1": ["x"')
        assert shelf.read("a") == {}
