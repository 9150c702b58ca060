from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from didact.errors import UsageError
from didact.folder import Folder, read_journal, read_lines, sha256

HOLD = """
import sys, time
from pathlib import Path
from didact.folder import Folder
with Folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_at_once_and_told_who_is_there(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        start = time.monotonic()
        with pytest.raises(UsageError, match=f"pid {process.pid} on {socket.gethostname()}"), Folder(tmp_path):
            pass
        assert time.monotonic() - start < 1
    finally:
        process.kill()
        process.wait()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    process = hold(tmp_path)
    process.kill()
    process.wait()
    with Folder(tmp_path) as folder:
        assert f"pid {process.pid}" in folder.note
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert (tmp_path / "lock").read_text() == ""


def test_of_many_that_start_together_one_wins(tmp_path: Path) -> None:
    code = HOLD.replace("time.sleep(60)", "time.sleep(1.5)")
    command = [sys.executable, "-c", code, str(tmp_path)]
    several = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(4)]
    assert sum(process.communicate()[0] == b"held\n" for process in several) == 1


def test_another_machine_is_believed(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with pytest.raises(UsageError, match="pid 1 on elsewhere"), Folder(tmp_path):
        pass


def test_a_damaged_lock_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("{nonsense")
    with Folder(tmp_path):
        pass


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    def lines() -> Any:
        yield "new\n"
        raise ValueError("broken source")

    with Folder(tmp_path) as folder:
        folder.write("a.txt", "old\n")
        with pytest.raises(ValueError, match="broken source"):
            folder.write_lines("a.txt", lines())
        assert (tmp_path / "a.txt").read_text() == "old\n"
        assert list(folder.staging.iterdir()) == []


def test_every_file_is_flushed_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("sync"), sync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (calls.append("rename"), replace(self, to))[1])
    with Folder(tmp_path) as folder:
        folder.write("a.txt", "text")
    assert calls == ["sync", "rename", "sync"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path) -> None:
    with Folder(tmp_path) as folder:
        folder.write("a.txt", "old\n")
        (folder.staging / "a.txt").symlink_to("/dev/full")
        with pytest.raises(UsageError, match="the disk is full") as caught:
            folder.write("a.txt", "x" * 100_000)
        assert "\n" not in str(caught.value)
        assert "free some space" in str(caught.value)
        assert (tmp_path / "a.txt").read_text() == "old\n"


def test_a_full_disk_at_the_flush_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Folder(tmp_path) as folder:
        folder.write("a.txt", "old\n")
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(UsageError, match="the disk is full"):
                folder.write("a.txt", "new\n")
        assert (tmp_path / "a.txt").read_text() == "old\n"
        assert list(folder.staging.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="check the permissions"), Folder(tmp_path / "file" / "run"):
        pass


def test_what_a_killed_process_left_half_done_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".staging").mkdir()
    (tmp_path / ".staging" / "built.jsonl").write_text("half")
    with Folder(tmp_path) as folder:
        assert list(folder.staging.iterdir()) == []
    assert not (tmp_path / ".staging").exists()


def test_a_folder_is_put_in_the_place_of_another(tmp_path: Path) -> None:
    with Folder(tmp_path) as folder:
        for text in ("old", "new"):
            (folder.staging / "tuned").mkdir()
            (folder.staging / "tuned" / "weights").write_text(text)
            folder.move(folder.staging / "tuned", "tuned")
    assert (tmp_path / "tuned" / "weights").read_text() == "new"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda path: path.write_text("abX\n"), "a.jsonl was changed"),
        (lambda path: path.write_text("ab"), "a.jsonl was changed"),
        (lambda path: path.write_text("abc\nmore\n"), "a.jsonl was changed"),
        (lambda path: path.unlink(), "a.jsonl is missing"),
        (lambda path: None, ""),
    ],
)
def test_a_changed_output_is_seen(tmp_path: Path, change: Any, told: str) -> None:
    with Folder(tmp_path) as folder:
        folder.write("a.jsonl", "abc\n")
        made = folder.print_of(["a.jsonl"])
        change(tmp_path / "a.jsonl")
        assert folder.damaged(made) == told


def test_lines_are_added_after_a_head_that_stays(tmp_path: Path) -> None:
    with Folder(tmp_path) as folder:
        folder.write("dropped.jsonl", '{"a": 1}\n')
        made = folder.print_of(["dropped.jsonl"])
        for number in (2, 3):  # the second time replaces the first
            folder.write_lines("dropped.jsonl", [f'{{"a": {number}}}\n'], keep=made["dropped.jsonl"]["bytes"])
        assert [record["a"] for record in read_lines(tmp_path / "dropped.jsonl")] == [1, 3]
        assert folder.damaged(made) == ""


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    path.write_text('{"a": 1}\n{"a"\n')
    with pytest.raises(UsageError, match=r"kept\.jsonl:2: damaged line"):
        list(read_lines(path))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stages": 3}'])
def test_a_damaged_journal_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    assert read_journal(tmp_path) == {}


def test_the_hash_of_a_head_is_the_hash_of_those_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "b").write_bytes(b"123")
    assert sha256(tmp_path / "a", 3) == sha256(tmp_path / "b")


def test_a_file_under_a_second_name_is_the_same_or_a_copy_where_the_disk_has_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    with Folder(tmp_path) as folder:
        folder.write("a", "one")
        folder.link("a", "b/c")
        assert (tmp_path / "b" / "c").stat().st_ino == (tmp_path / "a").stat().st_ino
        folder.write("a", "two")  # takes the place of the file and leaves the other name
        assert (tmp_path / "b" / "c").read_text() == "one"
        monkeypatch.setattr(os, "link", refuse)
        folder.link("a", "b/c")
        assert (tmp_path / "b" / "c").read_text() == "two"
        assert (tmp_path / "b" / "c").stat().st_ino != (tmp_path / "a").stat().st_ino
