"""A checkpoint is whole or not there."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from didact import checkpoint, disk
from didact.errors import UsageError

TENSORS = {"weights/a": torch.arange(6.0).reshape(2, 3), "rng/cpu": torch.arange(5, dtype=torch.uint8)}


def test_round_trip_and_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        checkpoint.write(tmp_path, step, TENSORS, {"loss": 0.5})
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert (found.step, found.state["loss"], found.skipped) == (10, 0.5, ())
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in TENSORS.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000010"]
    kinds = ["manifest.json", "state.json", "tensors.safetensors"]  # nothing that could run code
    assert [path.name for path in sorted((tmp_path / "step-00000010").iterdir())] == kinds


def test_nothing_there(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "absent") is None


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_one_is_named_and_the_good_one_used(tmp_path: Path, name: str, harm: str) -> None:
    checkpoint.write(tmp_path, 1, TENSORS, {"loss": 1.0})
    path = checkpoint.write(tmp_path, 2, TENSORS, {"loss": 2.0}) / name
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 0x10
        path.write_bytes(data)
    elif harm == "cut":
        path.write_bytes(data[:-3])
    else:
        path.unlink()
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found.step == 1
    assert len(found.skipped) == 1
    assert "step-00000002" in found.skipped[0]
    assert checkpoint.write(tmp_path, 2, TENSORS, {"loss": 2.0}).exists()
    assert (again := checkpoint.latest(tmp_path)) is not None
    assert again.step == 2


def test_stopped_after_any_write_the_newest_complete_one_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copy the folder at every fsync and rename of a save: what a power cut there would leave behind."""
    place, copies = tmp_path / "live", []
    checkpoint.write(place, 1, TENSORS, {})

    def snapshot() -> None:
        copies.append(shutil.copytree(place, tmp_path / f"copy-{len(copies)}" / "live"))

    fsync, rename, write, remove = os.fsync, Path.rename, Path.write_text, shutil.rmtree
    monkeypatch.setattr(os, "fsync", lambda handle: (fsync(handle), snapshot())[0])
    monkeypatch.setattr(Path, "rename", lambda self, to: (snapshot(), rename(self, to), snapshot())[1])
    monkeypatch.setattr(Path, "write_text", lambda self, *a, **k: (write(self, *a, **k), snapshot())[0])
    monkeypatch.setattr(shutil, "rmtree", lambda *a, **k: (snapshot(), remove(*a, **k))[1])
    checkpoint.write(place, 2, TENSORS, {})
    checkpoint.write(place, 3, TENSORS, {})  # drops the first
    monkeypatch.undo()
    assert len(copies) >= 20
    steps = [found.step for copy in copies if (found := checkpoint.latest(copy)) is not None]
    assert len(steps) == len(copies)
    assert steps == sorted(steps)
    assert {1, 2, 3} == set(steps)


def test_the_manifest_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it a half-written folder that was renamed by hand still does not count."""
    folder = checkpoint.write(tmp_path, 3, TENSORS, {})
    (folder / "manifest.json").unlink()
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found.step == 0
    assert "manifest.json is missing" in found.skipped[0]


def test_disk_full_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.write(tmp_path, 1, TENSORS, {})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda place: usage._replace(free=10))
    with pytest.raises(UsageError, match=r"disk is full: [\d,]+ bytes are needed, 10 are free"):
        checkpoint.write(tmp_path, 2, TENSORS, {})
    assert (found := checkpoint.latest(tmp_path)) is not None
    assert found.step == 1


def test_a_disk_that_fills_up_at_any_write_is_one_line_and_the_save_is_made_again(tmp_path: Path) -> None:
    """At the k-th call that writes, for every k; the older one stands, and with room again all is as if never."""
    refused = 0
    for k in range(1, 100):
        folder, calls = tmp_path / str(k), count(1)
        checkpoint.write(folder, 1, TENSORS, {"loss": 1.0})

        def fails(of: Any, calls: Iterator[int] = calls, k: int = k) -> Any:
            def some(*arguments: Any, **more: Any) -> Any:
                if next(calls) == k:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return of(*arguments, **more)

            return some

        with pytest.MonkeyPatch.context() as patch:
            for holder, name in (
                *((os, "fsync"), (Path, "write_text"), (Path, "rename")),
                (safetensors.torch, "save_file"),
            ):
                patch.setattr(holder, name, fails(getattr(holder, name)))
            with suppress(UsageError):
                checkpoint.write(folder, 2, TENSORS, {"loss": 2.0})
                refused -= 1
        refused += 1
        assert not list(folder.glob(".*"))
        assert (found := checkpoint.latest(folder)) is not None
        assert found.step in (1, 2)
        assert not found.skipped
        checkpoint.write(folder, 2, TENSORS, {"loss": 2.0})
        assert (found := checkpoint.latest(folder)) is not None
        assert (found.step, found.state["loss"]) == (2, 2.0)
        if refused < k:
            break  # no k-th call: the save was whole
    assert refused >= 10


def test_disk_that_fills_up_during_the_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.write(tmp_path, 1, TENSORS, {})

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="disk is full"):
        checkpoint.write(tmp_path, 2, TENSORS, {})
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_one_flipped_bit_anywhere_is_seen_and_the_one_before_used(tmp_path: Path, start: int) -> None:
    """At 200 places, spread over all files of the newest checkpoint."""
    folder = tmp_path / "run"
    checkpoint.write(folder, 1, TENSORS, {"loss": 1.0})
    newest = checkpoint.write(folder, 2, TENSORS, {"loss": 2.0})
    files = sorted(newest.iterdir())
    sizes = [path.stat().st_size for path in files]
    for number in range(start, start + 50):
        place = number * (sum(sizes) - 1) // 199
        k = next(i for i in range(len(files)) if place < sum(sizes[: i + 1]))
        at, data = place - sum(sizes[:k]), files[k].read_bytes()
        files[k].write_bytes(data[:at] + bytes([data[at] ^ (1 << number % 8)]) + data[at + 1 :])
        found = checkpoint.latest(folder)
        assert found is not None
        assert (found.step, found.state["loss"]) == (1, 1.0), (files[k].name, at)
        assert str(newest) in found.skipped[0]
        files[k].write_bytes(data)
    assert (whole := checkpoint.latest(folder)) is not None
    assert whole.step == 2


def test_a_checkpoint_of_another_run_or_step_is_refused_by_name(tmp_path: Path) -> None:
    theirs = checkpoint.write(tmp_path / "theirs", 9, TENSORS, {})
    checkpoint.write(tmp_path / "mine", 1, TENSORS, {})
    shutil.copytree(theirs, tmp_path / "mine" / "step-00000009")
    found = checkpoint.latest(tmp_path / "mine")
    assert found is not None
    assert found.step == 1
    assert "belongs to another run (theirs, step 9)" in found.skipped[0]
