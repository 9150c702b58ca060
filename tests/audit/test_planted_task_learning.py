"""A rule that was learnt is found on the trained clusters, not beyond them; where it holds beyond, it is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted_runs import SEEDS, coin, found, levels, sign, signs_run

NEAR = ("seen_template", "heldout_template", "heldout_task")


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_learnable_task_is_called_task_learning_and_not_beyond_its_cluster(tmp_path: Path, seed: int) -> None:
    run = signs_run(tmp_path, seed, train=sign, beyond=coin)
    assert levels(run) == {**dict.fromkeys(NEAR, "task learning"), "heldout_cluster": "format only"}
    page = (run.path / "audit" / "report.md").read_text("utf-8")
    assert "**Task content was learnt, and it shows on new rows, new wordings and new tasks; only the form" in page


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_where_the_rule_holds_beyond_its_cluster_that_is_found(tmp_path: Path) -> None:
    run = signs_run(tmp_path, 0, train=sign, beyond=sign)
    assert levels(run)["heldout_cluster"] == "task learning"
    far = next(finding for finding in found(run, "gain") if finding.details["level"] == "heldout_cluster")
    assert {row["task"] for row in far.details["tasks"]} == {"game", "shop"}
