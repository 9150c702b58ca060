"""`didact audit A B`: refusals in one line, and what two recipes differ in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from didact.cli import app
from didact.console import Console
from didact.errors import UsageError
from didact.recipe import Recipe
from didact.versus import _differences, against


def test_runs_without_a_tuned_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no tuned model here"):
        against(tmp_path, tmp_path, Console())


def test_settings_do_not_go_with_two_runs(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["audit", str(tmp_path), str(tmp_path), "--budget", "5m"])
    assert isinstance(done.exception, UsageError)
    assert "two runs are compared as they are" in str(done.exception)


def test_differences_are_told_by_setting() -> None:
    one, other = Recipe.model_validate({}), Recipe.model_validate({"name": "x", "tune": {"epochs": 2}, "seed": 3})
    runs = [SimpleNamespace(recipe=recipe) for recipe in (one, other)]
    told = _differences(runs)  # type: ignore[arg-type]
    assert "tune.epochs 1.0 → 2.0" in told
    assert "name" not in told
    assert _differences([runs[0], runs[0]]) == ""  # type: ignore[list-item]


@pytest.mark.parametrize("time", ["ten", "0m", "5"])
def test_a_budget_that_is_no_time_is_refused(time: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: r\n")
    done = CliRunner().invoke(app, ["audit", str(tmp_path / "r.yaml"), "--budget", time])
    assert isinstance(done.exception, UsageError)
    assert "audit_budget" in str(done.exception)
    assert "write it as 90s, 10m or 1.5h" in str(done.exception)
