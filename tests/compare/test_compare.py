"""Comparing methods: ties are called ties, worse ones worse, arms are kept, and what cannot be tried is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_model

from didact.compare import facts, html, markdown, table
from didact.compare.work import choose, compare
from didact.console import Console
from didact.errors import UsageError
from didact.instance import Instance, Message, Origin, Part
from didact.run import open_run

RECIPE = """
name: pairs
model: MODEL
sources: [{type: file, path: rows.jsonl, format: alpaca}]
build: {heldout_rows: 0.5}
curate: []
method: {type: lora, rank: 2}
tune: {max_steps: 2, precision: fp32, learning_rate: 0.01, batch_size: 4}
"""


def items(n: int = 120) -> list[Instance]:
    return [
        Instance.of(
            (Message("user", (Part(f"q{i}"),)), Message("assistant", (Part("a"),))),
            Origin("rows.jsonl", i),
            tags={"level": "seen_template" if i % 2 else "heldout_task"},
        )
        for i in range(n)
    ]


def arm(share: float, seed: int, n: int = 120, rise: float = 0.0, trained: int = 1000) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "scores": (rng.random(n) < share).astype(float).tolist(), "form": [1.0] * n,
        "nats": [10.0 + rise + 0.1 * i for i in range(20)], "tokens": [5] * 20, "trainable": trained,
        "parameters": 10_000, "rate": 1e-3, "seconds": 3.0, "speed": 10.0,
    }  # fmt: skip


BASE = {"scores": [0.0] * 120, "form": [0.0] * 120, "nats": [10.0 + 0.1 * i for i in range(20)], "tokens": [5] * 20}


def told(arms: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return facts("x", items(), BASE, arms, dict.fromkeys(arms, 2.0**30), {"bitfit": "no biases <b>"})


def test_methods_that_are_alike_tie_and_a_bad_one_is_worse() -> None:
    alike = {"full": [arm(0.8, s) for s in (1, 2, 3)], "lora": [arm(0.8, s) for s in (4, 5, 6)]}
    found = told({**alike, "prompt": [arm(0.3, s, trained=10) for s in (7, 8, 9)]})
    standing = {row["method"]: row["standing"] for row in found["methods"]}
    assert standing["prompt"] == "worse"
    assert sorted((standing["full"], standing["lora"])) == ["best", "tie"]
    assert found["methods"][0]["standing"] == "best"
    assert found["level"] == pytest.approx(1 - 0.05 / 2)
    behind = found["methods"][1]["behind"]
    assert behind["low"] <= 0 <= behind["high"]
    assert "not told apart" in found["headline"]
    assert "Behind it is prompt." in found["headline"]


def test_a_lead_of_one_lucky_seed_is_a_tie() -> None:
    """Each seed alone would call the first better: that seeds differ so much is what makes it a tie."""
    lucky = {"full": [arm(0.95, 1), arm(0.5, 2), arm(0.6, 3)], "lora": [arm(0.5, 4), arm(0.65, 5), arm(0.55, 6)]}
    assert [row["standing"] for row in told(lucky)["methods"]] == ["best", "tie"]
    one = told({name: some[:1] for name, some in lucky.items()})
    assert [row["standing"] for row in one["methods"]] == ["best", "worse"]


def test_forgetting_is_the_rise_in_bits_per_token() -> None:
    found = told({"full": [arm(0.5, s, rise=np.log(2) * 5) for s in (1, 2)]})
    rise = found["methods"][0]["forgetting"]
    assert rise["value"] == pytest.approx(1.0)
    assert told({"full": [arm(0.5, 1)]})["methods"][0]["forgetting"]["value"] == 0
    assert set(found["methods"][0]["levels"]) == {"seen_template", "heldout_task"}


def test_the_page_shows_everything_and_escapes_it() -> None:
    found = told({"full": [arm(0.8, 1)], "<i>x</i>": [arm(0.7, 2, trained=7)]})
    page = html(found)
    assert "<i>x</i>" not in page
    assert "no biases &lt;b&gt;" in page
    assert page.count('class="whisker"') == 4
    assert "http" not in page.replace("Content-Security-Policy", "").replace("http-equiv", "")
    assert "&lt;b&gt;" in markdown(found) or "\\<b\\>" in markdown(found)
    assert "left out: bitfit (no biases <b>)" in table(found)
    assert found["headline"] in table(found)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    folder = make_model(tmp_path / "base", "qwen3")
    rows = [
        {"instruction": f"Say {'red' if i % 2 else 'blue'} {i}", "input": "", "output": "red" if i % 2 else "blue"}
        for i in range(24)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("MODEL", str(folder)))
    return path


def test_arms_are_trained_once_and_what_does_not_work_on_the_base_is_named(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from didact import starter
    from didact.compare import work

    monkeypatch.setattr(starter, "plain_text", lambda n, seed: [f"a text of its own {i}" for i in range(12)])
    real, names = work.trained, list[str]()

    def trained(run: Any, rows: Any, name: str, changes: Any) -> Any:
        names.append(name)
        if len(names) == 2:
            raise KeyboardInterrupt
        return real(run, rows, name, changes)

    monkeypatch.setattr(work, "trained", trained)
    with open_run(recipe, tmp_path / "out", [], Console()) as run:
        run.upto("curate")
        with pytest.raises(KeyboardInterrupt):
            compare(run, "lora,bitfit,ia3", 1, 12)
    assert names == ["lora, seed 1 of 1", "ia3, seed 1 of 1"]
    names.append("again")
    with open_run(recipe, tmp_path / "out", [], Console()) as run:
        run.upto("curate")
        found = compare(run, "lora,bitfit,ia3", 1, 12)
    assert names[2:] == ["again", "ia3, seed 1 of 1"]  # the first was kept
    assert list(found["left_out"]) == ["bitfit"]
    rows = {row["method"]: row for row in found["methods"]}
    assert set(rows) == {"lora", "ia3"}
    assert rows["lora"]["rate"] == 0.01  # the recipe's, for its own method alone
    assert rows["ia3"]["rate"] != 0.01
    assert rows["lora"]["trainable"] > rows["ia3"]["trainable"] > 0
    written = json.loads((tmp_path / "out/compare/compare.json").read_text())
    assert written["headline"] == found["headline"]
    assert "<html" in (tmp_path / "out/compare/report.html").read_text()
    (kept,) = (tmp_path / "out/compare/arms").glob("ia3-*.json")
    kept.write_text(kept.read_text()[:40])  # cut off: trained again
    names.append("third")
    with open_run(recipe, tmp_path / "out", [], Console()) as run:
        assert compare(run, "lora,bitfit,ia3", 1, 12)["methods"] == found["methods"] or names[-1] == "ia3, seed 1 of 1"
    assert names[-2:] == ["third", "ia3, seed 1 of 1"]


def test_a_method_there_is_not(recipe: Path, tmp_path: Path) -> None:
    with open_run(recipe, tmp_path / "out", [], Console()) as run:
        with pytest.raises(UsageError, match='no method "lorra" can be compared - did you mean "lora"'):
            choose(run, "full,lorra")
        with pytest.raises(UsageError, match='"pet" can be compared - write it into the recipe'):
            choose(run, "pet")
        with pytest.raises(UsageError, match="none of these methods works on this base"):
            choose(run, "bitfit")
