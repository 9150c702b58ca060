"""Pictures in the folder of a run: kept, swept, missed, shown in the card and in the audit's examples."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from didact.audit.measure import Measured, example
from didact.console import Console
from didact.errors import UsageError
from didact.run import open_run
from didact.show import instances_of
from didact.show_page import Seen, page_html

pytest.importorskip("PIL.Image")
RECIPE = """
name: seen
model: starter
sources: [{type: picture_world, rows_per_task: ROWS, only: [colour]}]
build: {heldout_rows: 2, heldout_templates: 1}
curate: [{type: heuristics}]
"""


def made(tmp_path: Path, rows: int = 12, upto: str = "card") -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("ROWS", str(rows)), "utf-8")
    folder = tmp_path / "run"
    with open_run(tmp_path / "recipe.yaml", folder, [], Console()) as run:
        run.upto(upto)
    return folder


@dataclass(frozen=True)
class Said:
    text: str = "red"
    stopped: bool = True
    tokens: int = 1


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "pictures").iterdir()}


def test_a_run_keeps_the_pictures_of_its_instances_and_no_others(tmp_path: Path) -> None:
    folder = made(tmp_path)
    text = (folder / "built.jsonl").read_text("utf-8") + (folder / "heldout.jsonl").read_text("utf-8")
    assert (
        names(folder)
        == set(re.findall(r'"pictures/([0-9a-f]{16}[^"]+)"', text))
        == set(json.loads((folder / "pictures.json").read_bytes()))
    )
    before = names(folder)
    made(tmp_path, rows=8, upto="build")
    assert names(folder) < before


def test_a_picture_that_is_gone_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made(tmp_path, upto="build")
    capsys.readouterr()
    made(tmp_path, upto="build")
    assert "reused" in capsys.readouterr().out
    lost = sorted((folder / "pictures").iterdir())[0]
    whole = lost.read_bytes()
    for damage in (lost.unlink, lambda: lost.write_bytes(whole[:100])):
        damage()
        made(tmp_path, upto="build")
        assert lost.name in capsys.readouterr().out
        assert lost.read_bytes() == whole


def test_the_card_shows_pictures_and_its_folder_is_whole(tmp_path: Path) -> None:
    folder = made(tmp_path)
    page = (folder / "card" / "card.html").read_text("utf-8")
    assert '<img src="data:image/png;base64,' in page
    assert "img-src data:" in page
    kept = (folder / "card" / "kept.jsonl").read_text("utf-8")
    for name in set(re.findall(r'"(pictures/[0-9a-f]{16}[^"]+)"', kept)):
        assert (folder / "card" / name).is_file()
    assert str(tmp_path) not in page + kept


def test_a_row_is_shown_with_its_picture(tmp_path: Path) -> None:
    made(tmp_path, upto="build")
    with open_run(tmp_path / "run", None, [], Console()) as run:
        row, (instance, *_) = instances_of(run, 3, [])
        assert row.data["image"].startswith("pictures/")
        page = page_html("seen", [Seen(instance, ["row 3"], [], [])])
    assert page.count('<img src="data:image/png;base64,') == 1
    assert "<script" not in page
    assert instance.answer in page


def test_an_example_of_the_audit_has_its_picture(tmp_path: Path) -> None:
    made(tmp_path, upto="build")
    with open_run(tmp_path / "run", None, [], Console()) as run:
        instance = next(run.instances("heldout.jsonl"))
    one = np.ones(1)
    said = Measured([Said()], one, one, one, one, one, one, ["red"], 0)
    parts = example(instance, said, said, 0)["prompt"]
    assert parts[0]["image"].startswith("data:image/png")
    assert re.fullmatch(r"\[image [0-9a-f]{16}\.png 32x32\]", parts[0]["text"])


def test_a_row_that_stops_the_build_leaves_no_pictures_behind(tmp_path: Path) -> None:
    from didact.starter.scenes import png

    rows = [{"prompt": "<image>What?", "completion": "red", "image": name} for name in ("a.png", "none.png")]
    (tmp_path / "a.png").write_bytes(png(np.zeros((4, 4, 3), np.uint8)))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text("name: seen\nmodel: starter\nsources: [{type: file, path: rows.jsonl}]\n")
    with (
        pytest.raises(UsageError, match=r"rows.jsonl:2:image.0: there is no picture"),
        open_run(tmp_path / "recipe.yaml", tmp_path / "run", [], Console()) as run,
    ):
        run.upto("build")
    assert not (tmp_path / "run" / "pictures").exists()
    assert not (tmp_path / "run" / "built.jsonl").exists()
