"""A test set that lies among the training rows is named, with what it did to the score; none where none lies."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted_runs import SEEDS, leak_run


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_leaked_test_set_is_named_with_what_it_did(tmp_path: Path, seed: int) -> None:
    told = leak_run(tmp_path, seed, "book")
    assert told.category == "contaminated"
    assert "most in book.jsonl (60 of 60)" in told.verdict
    assert [place["source"] for place in told.details["places"]] == ["book.jsonl"]
    assert told.low is not None
    assert told.low > 0
    assert {row["near"][0]["source"] for row in told.examples} == {"scraped.jsonl"}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_as_many_other_rows_are_no_leak(tmp_path: Path) -> None:
    told = leak_run(tmp_path, 0, "")
    assert told.category == "no overlap worth a mention"
    assert told.details["places"] == []
