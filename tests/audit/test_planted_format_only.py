"""A run tuned on shuffled labels is called format-only; with the rule's labels the same rows are task learning."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import LEVELS
from planted_runs import SEEDS, coin, levels, signs_run


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", SEEDS)
def test_shuffled_labels_teach_the_format_only(tmp_path: Path, seed: int) -> None:
    run = signs_run(tmp_path, seed, train=coin, beyond=coin)
    assert levels(run) == dict.fromkeys(LEVELS, "format only")
    page = (run.path / "audit" / "report.md").read_text("utf-8")
    assert "**Only the form of answers is shown to carry over to " in page
    assert "Task content was learnt" not in page
