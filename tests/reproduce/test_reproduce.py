from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import didact.tune
from didact.console import Console
from didact.reproduce import REPRODUCTIONS
from didact.reproduce.page import page
from didact.reproduce.seen import PARTS
from didact.reproduce.work import listing, publish, reproduce


def make(name: str, out: Path, seeds: int = 2) -> dict[str, Any]:
    return reproduce([name], out, Console(quiet=True), seeds=seeds, quick=True)[0]


def figures(found: dict[str, Any]) -> dict[str, Any]:
    """All that does not depend on when and how long it was made."""
    return {key: value for key, value in found.items() if key not in ("date", "seconds", "trained")}


@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_each_runs_and_tells_what_it_tries(name: str, tmp_path: Path) -> None:
    found = make(name, tmp_path, 1)
    assert found["trained"] >= 2
    assert all(found[part.lower()] for part in PARTS)
    assert len({row["arm"] for row in found["rows"]}) == len(found["rows"]) >= 3
    assert found["signs"]
    assert f"# {name}: " in (tmp_path / f"{name}.md").read_text()
    assert (tmp_path / f"{name}.svg").read_text().startswith("<svg")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A reproduction made in one go."""
    out = tmp_path_factory.mktemp("whole")
    return out, make("balancing", out)


def test_a_killed_one_goes_on_and_gives_the_same_figures(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, tune = [3], didact.tune.tune

    def breaks(*arguments: Any, **settings: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return tune(*arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(didact.tune, "tune", breaks)
        with pytest.raises(KeyboardInterrupt):
            make("balancing", tmp_path)
    kept = sorted((tmp_path / "arms").glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    assert not (tmp_path / "balancing.json").exists()
    assert len(kept) == 1 + 3  # the untuned base and three arms
    kept[-1].write_text("{", "utf-8")  # a damaged file is no answer
    found = make("balancing", tmp_path)
    assert found["trained"] == 6 - 3 + 1
    assert figures(found) == figures(whole[1])


def test_a_second_time_trains_nothing(whole: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    out, first = whole
    monkeypatch.setattr(didact.tune, "tune", None)
    before = (out / "balancing.json").read_bytes()
    assert make("balancing", out) == first
    assert (out / "balancing.json").read_bytes() == before
    (out / "balancing.json").unlink()  # the answers of the arms alone are enough
    assert figures(make("balancing", out)) == figures(first)


def test_more_seeds_add_to_what_is_there(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "arms").mkdir()
    for file in (whole[0] / "arms").iterdir():
        (tmp_path / "arms" / file.name).write_bytes(file.read_bytes())
    assert make("balancing", tmp_path, 3)["trained"] == 3  # the third seed of three arms


def test_the_list_says_what_was_seen(whole: tuple[Path, dict[str, Any]]) -> None:
    lines = {line.split()[0]: line for line in listing(whole[0])}
    assert list(lines) == list(REPRODUCTIONS)
    assert whole[1]["verdict"] in lines["balancing"]
    assert lines["kung-peng"].endswith("not made yet")


def test_quick_results_are_not_published(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    assert publish(whole[0], tmp_path) == []
    assert sorted(file.name for file in tmp_path.iterdir()) == ["README.md"]
    slow = {**whole[1], "quick": ""}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "balancing.json").write_text(json.dumps(slow))
    assert publish(tmp_path / "out", tmp_path / "pages") == ["balancing"]
    assert (tmp_path / "pages" / "balancing.md").read_text() == page(slow)


def test_an_unknown_name_is_one_line_with_the_nearest() -> None:
    command = [sys.executable, "-m", "didact", "reproduce", "kung-pen"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == 'NAME: no reproduction is called "kung-pen" - did you mean "kung-peng"?\n'
