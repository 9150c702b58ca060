"""The stage: what filters are handed, and what is written of those that go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from didact.console import Console
from didact.errors import UsageError
from didact.run import Run, open_run

LONG = "the quick brown fox jumps over the lazy dog near the old river bank at dawn"


@pytest.fixture
def recipe(tmp_path: Path, tiny_llama: Path) -> Path:
    asked = ["Name a fruit", "Name a fruit please", f"Say {LONG}", "Add one and two", "Sing a song of rain"]
    rows = [{"instruction": text, "input": "", "output": f"answer {i}"} for i, text in enumerate(asked)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "bench.jsonl").write_text(json.dumps({"id": 3, "turns": ["short", LONG]}) + "\n")
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"name: x\nmodel: {tiny_llama}\nsources: [{{type: file, path: rows.jsonl}}]\nbuild: {{heldout_rows: 0}}\n"
        "curate:\n- {type: novelty}\n- {type: decontaminate, benchmarks: [bench.jsonl]}\n- {type: quality, most: 9}\n"
    )
    return file


def curated(recipe: Path, folder: Path, *overrides: str) -> Run:
    run = open_run(recipe, folder, overrides, Console(quiet=True))
    with run:
        run.upto("curate")
    return run


def test_drops_are_written_with_strategy_reason_neighbour_and_score(recipe: Path, tmp_path: Path) -> None:
    run = curated(recipe, tmp_path / "run")
    first = next(run.instances("built.jsonl"))
    dropped = [json.loads(line) for line in (run.path / "dropped.jsonl").read_text().splitlines()]
    told = {d["instance"]["id"]: (d["stage"], d["strategy"], d["reason"], d["near"]) for d in dropped}
    assert sorted(told.values()) == [
        ("curate", "decontaminate", "shares 13 words in a row with bench.jsonl", "bench.jsonl:1"),
        ("curate", "novelty", "too like an earlier instruction", first.id),
    ]
    assert {d["strategy"]: d["score"] for d in dropped}["novelty"] == pytest.approx(6 / 7)
    assert run.journal["stages"]["curate"]["counts"] == {"kept": 3, "dropped": 2}


def test_a_changed_benchmark_makes_the_filters_run_again(recipe: Path, tmp_path: Path) -> None:
    before = curated(recipe, tmp_path / "run").journal["stages"]["curate"]["inputs"]
    (tmp_path / "bench.jsonl").write_text('{"id": 3}\n')
    run = curated(recipe, tmp_path / "run")
    after = run.journal["stages"]["curate"]["inputs"]
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"curate.1.benchmarks.0: content"}
    assert run.journal["stages"]["curate"]["counts"]["kept"] == 4


def test_a_missing_or_broken_benchmark_is_told_in_one_line(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "bench.jsonl").write_text('{"id": 3}\n{"id": \n')
    with pytest.raises(UsageError, match=r"bench\.jsonl:2: "):
        curated(recipe, tmp_path / "run")
    (tmp_path / "bench.jsonl").unlink()
    with pytest.raises(UsageError, match=r"bench\.jsonl"):
        curated(recipe, tmp_path / "run")
