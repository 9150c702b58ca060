"""Benchmarks of the harness: paired figures become findings; the harness itself on a task of our own, offline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from planted import subject, untuned

from didact.audit import ExternalConfig, Finding, audit
from didact.errors import UsageError
from didact.harness import _items, harness

CONFIG = ExternalConfig(tasks=["a", "b"])


def ask(scores: dict[str, dict[str, list[tuple[float, float]]]]) -> Finding:
    return audit([CONFIG], subject(untuned(), untuned(), harness=lambda settings: scores))[0]


def test_differences_are_paired_and_corrected() -> None:
    up = [(0.0, 1.0)] * 30 + [(1.0, 1.0)] * 30
    flat = [(1.0, 0.0), (0.0, 1.0)] * 30
    found = ask({"a": {"acc": up, "acc_norm": up}, "b": {"f1": flat}})
    assert found.category == "better"
    assert found.details["tasks"]["a"]["metric"] == "acc_norm"
    assert found.details["tasks"]["a"]["p"] < 0.001 < found.details["tasks"]["b"]["p"]
    assert found.value == pytest.approx(0.25)
    assert "better on a, worse on none" in found.verdict
    assert len(found.details["tables"][0]["rows"]) == 3
    none = ask({"b": {"f1": [*flat, (0.0, 1.0)]}})
    assert none.category == "no difference shown"
    assert "would often be missed" in none.verdict
    assert "No task of a, b has a metric" in ask({"a": {}}).verdict
    assert "name some" in audit([ExternalConfig()], subject(untuned(), untuned()))[0].verdict


def test_only_figures_per_item_are_taken() -> None:
    samples = [
        {"doc_id": 3, "metrics": ["acc", "words", "bad"], "acc": 1.0, "words": ("x", 2), "bad": float("nan")},
        {"doc_id": 4, "metrics": ["acc"], "acc": 0.0},
    ]
    assert _items(samples) == {"acc": {3: 1.0, 4: 0.0}}


def test_without_the_harness_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UsageError, match=r"pip install 'didact\[evaluate\]'"):
        harness(None, None, CONFIG, tmp_path)  # type: ignore[arg-type]


def test_a_task_of_our_own_runs_without_a_network(tiny_llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra evaluate")
    from didact.model import load

    rows = [{"question": f"Say {i}.", "choices": ["one", "two"], "gold": i % 2} for i in range(6)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = f"""
task: own_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "own.jsonl"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: gold
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
    (tmp_path / "own.yaml").write_text(task)
    base, tuned = load(str(tiny_llama)), load(str(tiny_llama))
    settings = ExternalConfig(tasks=["own_choices"], folder=str(tmp_path))
    scores = harness(base, tuned, settings, tmp_path)
    pairs = scores["own_choices"]["acc"]
    assert len(pairs) == 6
    assert all(before == after for before, after in pairs)
    with pytest.raises(UsageError, match="own_choices"):
        harness(base, tuned, settings.model_copy(update={"tasks": ["own_choice"]}), tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        harness(base, tuned, settings.model_copy(update={"folder": str(tmp_path / "gone")}), tmp_path)
