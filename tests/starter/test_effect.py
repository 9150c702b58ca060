"""The effect: no run is repeated, rows of another base are refused, the table counts only what the base can do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from didact.errors import UsageError
from didact.starter import base_folder
from didact.starter import effect as module
from didact.starter.effect import Log, effect, weights_digest
from didact.starter.effect_table import SKILL, passed, table
from didact.starter.gates import GATES, WATCHED
from didact.starter.levels import data_of, phrasing, unseen_phrasing
from didact.starter.tasks import specs, tasks

HOLD = (("pick", "order"),)


def test_every_operation_names_a_skill_that_is_measured() -> None:
    assert set(SKILL) == {f"{spec.cluster}:{spec.operation}" for spec in specs()}
    assert set(SKILL.values()) <= {*GATES, *WATCHED}


def test_a_stopped_effect_goes_on_and_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, int, float]] = []

    def fake(base: Path, arm: str, data: Any, seed: int, method: str, rate: float) -> list[dict[str, Any]]:
        if len(ran) == 4:
            raise KeyboardInterrupt
        ran.append((arm, seed, rate))
        assert {item.origin.cluster for item in data.train}.isdisjoint(HOLD[0])
        good = {"full": "1" * 9 + "0", "shuffled": "10" * 5}.get(arm, "0" * 10)
        row = {"operation": "pick:pick", "n": 10, "chance": 0.2, "exact": 0.9 if rate == 1e-3 else 0.5, "valid": 1.0}
        more = {"ranked": 0.9, "rate": rate, "marks_exact": good, "marks_ranked": good, "exact_if_valid": 0.9}
        return [{"level": level, **row, **more} for level in ("heldout_template", "heldout_cluster")]

    def run() -> list[dict[str, Any]]:
        return effect(
            base_folder(), tmp_path / "rows.jsonl", 1, 100, HOLD, ("untuned", "full", "shuffled"), said.append
        )

    said: list[str] = []
    monkeypatch.setattr(module, "run_arm", fake)
    monkeypatch.setattr(module, "CURVE", (2,))
    with pytest.raises(KeyboardInterrupt):
        run()
    first, ran[:] = list(ran), []
    rows = run()
    assert [arm for arm, _, _ in first] == ["full", "full", "untuned", "full"]  # two rates, then the arms
    assert [arm for arm, _, _ in ran] == ["shuffled", "full"]  # the last one is the curve's
    assert {rate for arm, _, rate in ran if arm == "full"} == {1e-3}  # the better one
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
    run()
    assert (tmp_path / "rows.jsonl").read_text().splitlines() == lines
    text = table(rows)
    assert ("pick:pick" in passed(rows)) == ("| pick:pick | 0.90 [" in text)
    with pytest.raises(UsageError, match="another base"):
        effect(base_folder(), tmp_path / "rows.jsonl", 1, 200, HOLD, report=said.append)


def test_the_gap_is_paired_and_only_operations_that_passed_count(tmp_path: Path) -> None:
    log = Log(tmp_path / "rows.jsonl", {"base": weights_digest(base_folder()), "examples": 1}, lambda text: None)
    log.add("gates", [{"gate": "pick", "value": 0.97, "passed": True}, {"gate": "odd", "value": 0.2, "passed": False}])
    for arm, marks in (("full", "1" * 40), ("shuffled", "10" * 20)):
        row = {"level": "heldout_cluster", "n": 40, "chance": 0.25, "exact": 1, "valid": 1, "ranked": 1, "rate": 1e-3}
        both = {"marks_exact": marks, "marks_ranked": marks}
        rows = [{**row, **both, "operation": "pick:pick"}, {**row, **both, "operation": "odd:odd"}]
        log.add("arm", rows, arm, "pick", 0)
    text = table(log.rows)
    assert passed(log.rows) == ["pick:pick"]
    assert "1 operations rest on a skill" in text
    line = next(line for line in text.splitlines() if line.startswith("| pick |"))
    assert "+0.50 [+0.3" in line
    assert "| odd |" not in text
    assert "clear of 0 in 1 of them: pick." in text


@pytest.mark.parametrize(("seed", "number"), [(0, 5), (1, 4), (4, 1), (5, 5)])
def test_each_seed_keeps_another_phrasing_for_the_test(seed: int, number: int) -> None:
    data = data_of(
        tasks(6, seed, only=["lookup/drink/*", "lookup/dish/*", "odd"]),
        ("odd",),
        seed,
        100,
        unseen=unseen_phrasing(seed),
    )
    assert {phrasing(item.tags["template"], number) for item in data.train} == {False}
    by_level = {item.tags["level"]: phrasing(item.tags["template"], number) for item in data.heldout}
    assert by_level["heldout_template"]
    assert not by_level["heldout_cluster"]
