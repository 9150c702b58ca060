"""A model that took on a teacher's manner and not its facts is called an imitation; one with the facts is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted_runs import SEEDS, teacher_run


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", SEEDS)
def test_manner_without_facts_is_called_imitation(tmp_path: Path, seed: int) -> None:
    told = teacher_run(tmp_path, seed, told=False)
    assert told.category == "imitation"
    changes = told.details["changes"]
    assert min(changes[f"{side} style"]["low"] for side in ("supported", "unsupported")) > 0.5
    assert max(abs(changes[f"{side} content"]["value"]) for side in ("supported", "unsupported")) < 0.05
    assert {row["instances"] for row in told.details["arms"]} == {60}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_same_manner_with_the_facts_is_skill(tmp_path: Path) -> None:
    assert teacher_run(tmp_path, 0, told=True).category == "style and skill"
