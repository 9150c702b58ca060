from __future__ import annotations

from pathlib import Path

import pytest

import didact
from didact import fingerprint
from didact.sources import FileSource

PACKAGE = Path(didact.__file__).parent
# What no stage's result depends on.
AROUND = {
    *("__init__.py", "__main__.py", "chat.py", "cli.py", "console.py", "disk.py", "doctor.py", "errors.py"),
    "certificate.py",
    *(
        "fingerprint.py",
        "folder.py",
        "init.py",
        "init.yaml",
        "py.typed",
        "recipe.py",
        "run.py",
        "show.py",
        "show_page.py",
        "show.html.jinja",
        "containers.py",
        "assemble.py",
        "convert.py",
        "lineage.py",
        "starter_commands.py",
        "compare",
        "versus.py",
    ),
}


def test_every_module_counts_for_a_stage_or_is_known_not_to() -> None:
    named = {name for names in fingerprint.CODE.values() for name in names}
    assert {item.name for item in PACKAGE.iterdir() if item.name != "__pycache__"} - named == AROUND & {
        item.name for item in PACKAGE.iterdir()
    }
    assert all((PACKAGE / name).exists() for name in named)


@pytest.mark.parametrize("setting", ["path", "templates"])
def test_the_content_of_what_a_source_names_counts(tmp_path: Path, setting: str) -> None:
    (tmp_path / "rows.jsonl").write_text("1")
    (tmp_path / "own.yaml").write_text("1")
    source = FileSource(path="rows.jsonl", templates="own.yaml")
    before = fingerprint.sources([source], tmp_path)
    (tmp_path / str(getattr(source, setting))).write_text("2")
    after = fingerprint.sources([source], tmp_path)
    assert [key for key in before if before[key] != after[key]] == [f"sources.0.{setting}: content"]


def test_a_picture_that_was_exchanged_counts(tmp_path: Path) -> None:
    (tmp_path / "seen").mkdir()
    (tmp_path / "rows.jsonl").write_text("1")
    (tmp_path / "seen" / "a.png").write_bytes(b"1")
    source = FileSource(path="rows.jsonl", pictures="seen")
    before = fingerprint.sources([source], tmp_path)
    (tmp_path / "seen" / "a.png").write_bytes(b"22")
    after = fingerprint.sources([source], tmp_path)
    assert [key for key in before if before[key] != after[key]] == ["sources.0.pictures: content"]
    assert "sources.0.pictures: content" not in fingerprint.sources([FileSource(path="rows.jsonl")], tmp_path)


def test_variables_in_a_path_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIDACT_TEST_ROWS", str(tmp_path))
    (tmp_path / "rows.jsonl").write_text("1")
    assert fingerprint.sources([FileSource(path="${DIDACT_TEST_ROWS}/rows.jsonl")], Path("/nowhere"))


def test_a_model_is_known_by_the_bytes_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = fingerprint.model(str(tmp_path))
    assert before == fingerprint.model(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"2")
    assert before != fingerprint.model(str(tmp_path))
    assert fingerprint.model("someone/something") == "someone/something"


def test_settings_lie_flat_under_their_names() -> None:
    assert fingerprint.flat("a", {"b": [1, {"c": 2}], "d": {}}) == {"a.b.0": 1, "a.b.1.c": 2, "a.d": []}


@pytest.mark.parametrize(
    ("key", "old", "new", "told"),
    [
        ("tune.epochs", 1, 2, "tune.epochs changed (1 -> 2)"),
        ("kept.jsonl", "3f", "4a", "kept.jsonl changed"),
        ("code", "3f", "4a", "code changed"),
        ("sources.0.path: content", "3f", "4a", "sources.0.path: content changed"),
        ("build.heldout_tasks.0", "x" * 50, "y" * 50, "build.heldout_tasks.0 changed"),
    ],
)
def test_a_change_is_told_without_hashes(key: str, old: object, new: object, told: str) -> None:
    assert fingerprint.change(key, old, new) == told
