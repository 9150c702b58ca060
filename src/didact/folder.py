"""The folder of a run on disk: one process at a time, whole files or none, and a journal of what made what.

Every file is written beside its place, flushed to the disk and renamed over it, so a kill at any moment leaves either
the old file or the new one. `run.json` is the journal: for each stage what went in, what came out, and their hashes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from didact.errors import UsageError
from didact.instance import PICTURES

KEPT = "pictures.json"  # names and sizes of the pictures that instances name
PICTURE = re.compile(rb'"%s/([0-9a-f]{16}\.[a-z]{3,4})"' % PICTURES.encode())
FULL = (errno.ENOSPC, errno.EDQUOT)


class Folder:
    """The folder of one run, held by this process between `with` and its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.staging = path / ".staging"
        self.note = ""  # what was found when the lock was taken, if it is worth telling
        self._lock = -1

    def __enter__(self) -> Folder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock, self.note = _take(self.path / "lock")
            try:
                shutil.rmtree(self.staging, ignore_errors=True)
                self.staging.mkdir()
            except BaseException:
                _release(self._lock)
                raise
        except OSError as error:
            raise disk_error(error, self.path) from error
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.staging, ignore_errors=True)
        _release(self._lock)

    def write(self, name: str, text: str) -> None:
        """Put a text file in its place, whole or not at all."""
        self.write_lines(name, [text])

    def write_lines(self, name: str, lines: Iterable[str | bytes], keep: int = 0) -> int:
        """Put lines (each with its newline) or blocks of them in a file, whole or not at all; returns how many.

        keep: bytes at the head of the file that stand there now and stay.
        """
        place, staged, count = self.path / name, self.staging / name.replace("/", "_"), 0
        try:
            with staged.open("wb") as file:
                if keep:
                    with place.open("rb") as old:
                        file.write(old.read(keep))
                for line in lines:
                    file.write(line.encode("utf-8") if isinstance(line, str) else line)
                    count += 1
                file.flush()
                os.fsync(file.fileno())
            place.parent.mkdir(parents=True, exist_ok=True)
            staged.replace(place)
            _sync(place.parent)
        except BaseException as error:
            with contextlib.suppress(OSError):
                staged.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise disk_error(error, place) from error
            raise
        return count

    def link(self, name: str, other: str) -> None:
        """Let a finished file stand under another name, too; no second copy where the disk can do without."""
        place, staged = self.path / other, self.staging / other.replace("/", "_")
        try:
            try:
                os.link(self.path / name, staged)
            except OSError:
                shutil.copyfile(self.path / name, staged)
            place.parent.mkdir(parents=True, exist_ok=True)
            staged.replace(place)
            _sync(place.parent)
        except OSError as error:
            staged.unlink(missing_ok=True)
            raise disk_error(error, place) from error

    def move(self, staged: Path, name: str) -> None:
        """Put a finished folder from `staging` in its place; the one that stood there goes."""
        place, old = self.path / name, self.staging / f"old-{name}"
        for file in sorted(staged.rglob("*")):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        if place.exists():
            place.rename(old)
        staged.rename(place)
        _sync(self.path)
        shutil.rmtree(old, ignore_errors=True)

    def remove(self, name: str) -> None:
        """Take a file or folder away, if it is there."""
        place = self.path / name
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def journal(self) -> dict[str, Any]:
        """What `run.json` says; empty for a new folder or a damaged file."""
        return read_journal(self.path)

    def print_of(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Size and SHA-256 of files, and of the files in folders, by their path in the run folder."""
        found: dict[str, dict[str, Any]] = {}
        for name in names:
            place = self.path / name
            for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
                if file.is_file():
                    found[str(file.relative_to(self.path))] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
        return found

    def damaged(self, outputs: Mapping[str, Mapping[str, Any]]) -> str:
        """What is wrong with the outputs of a stage: the first file that is missing or not as it was written, or ""."""
        for name, made in outputs.items():
            place = self.path / name
            if not place.is_file():
                return f"{name} is missing"
            size = place.stat().st_size
            # A later stage appends its own drops to dropped.jsonl, so there the head is what counts.
            if size < made["bytes"] or (size > made["bytes"] and name != "dropped.jsonl"):
                return f"{name} was changed"
            if sha256(place, made["bytes"]) != made["sha256"]:
                return f"{name} was changed"
            if name == KEPT and (lost := self._lost_picture(json.loads(place.read_text("utf-8")))):
                return lost
        return ""

    def sweep_pictures(self, names: Iterable[str]) -> int:
        """Write down which pictures files of instances name, take all others away; returns how many stay."""
        named: set[str] = set()
        for name in names:
            if (self.path / name).is_file():
                with (self.path / name).open("rb") as file:
                    named.update(found.decode() for line in file for found in PICTURE.findall(line))
        for place in (self.path / PICTURES).iterdir() if (self.path / PICTURES).is_dir() else ():
            if place.name not in named:
                place.unlink()
        if not named:
            self.remove(PICTURES)
            self.remove(KEPT)
            return 0
        sizes = {name: (self.path / PICTURES / name).stat().st_size for name in sorted(named)}
        self.write(KEPT, json.dumps(sizes, indent=0) + "\n")
        return len(sizes)

    def link_pictures(self, names: Iterable[str], folder: str) -> None:
        """Let these pictures, and no others, stand in the pictures of a folder of the run, too."""
        place, wanted = self.path / folder / PICTURES, set(names)
        there = {file.name for file in place.iterdir()} if place.is_dir() else set()
        for name in there - wanted:
            (place / name).unlink()
        if not wanted:
            return
        place.mkdir(parents=True, exist_ok=True)
        for name in sorted(wanted - there):
            try:
                os.link(self.path / PICTURES / name, place / name)
            except OSError:
                try:
                    shutil.copyfile(self.path / PICTURES / name, place / name)
                except OSError as error:
                    raise disk_error(error, place / name) from error
        _sync(place)

    def _lost_picture(self, sizes: Mapping[str, int]) -> str:
        for name, size in sizes.items():
            place = self.path / PICTURES / name
            if not place.is_file() or place.stat().st_size != size:
                return f"{PICTURES}/{name} is missing or was changed"
        return ""


def read_journal(path: Path) -> dict[str, Any]:
    """The content of a run folder's `run.json`; empty if there is none or it is damaged."""
    try:
        journal = json.loads((path / "run.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return journal if isinstance(journal, dict) and isinstance(journal.get("stages"), dict) else {}


def sha256(path: Path, size: int | None = None) -> str:
    """Hex SHA-256 of a file, or of its first `size` bytes."""
    state, left = hashlib.sha256(), path.stat().st_size if size is None else size
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            state.update(block)
            left -= len(block)
    return state.hexdigest()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSON-lines file that didact wrote."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise UsageError("damaged line", "repeat the command that made it", file=path, line=number) from error


def json_line(record: Mapping[str, Any]) -> str:
    """The record as one line of JSON, with its newline."""
    text = json.dumps(record, ensure_ascii=False) + "\n"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair: written as an escape
        text = json.dumps(record) + "\n"
    return text


def disk_error(error: OSError, path: Path) -> UsageError:
    """What the disk refused, in one line."""
    place = Path(error.filename) if isinstance(error.filename, str) else path
    if error.errno in FULL:
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free
            problem = f"the disk is full ({free / 2**20:.1f} MiB free)"
            return UsageError(problem, "free some space and repeat the command; finished stages are kept", file=place)
        return UsageError("the disk is full", "free some space and repeat the command", file=place)
    fix = "check the permissions, or give another folder with --out"
    return UsageError((error.strerror or str(error)).lower(), fix, file=place)


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _take(path: Path) -> tuple[int, str]:
    """Take the lock, or say who holds it. The kernel lets go when a process dies, however it dies."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        holder = _holder(handle)
        who = f"pid {holder.get('pid', '?')} on {holder.get('host', '?')}"
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            problem = f"another didact ({who}) is working in this folder"
            raise UsageError(problem, "wait for it, or give another folder with --out", file=path) from error
        host = socket.gethostname()
        if holder and holder.get("host") != host:
            # A lock is not seen across every network file system, so another machine's is believed.
            problem = f"{who} did not let go of this folder"
            raise UsageError(problem, "if that process is gone, delete this file and repeat the command", file=path)
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"pid": os.getpid(), "host": host, "since": now()}).encode(), 0)
    except BaseException:
        os.close(handle)
        raise
    return handle, f"taking over from {who}, which is gone" if holder else ""


def _holder(handle: int) -> dict[str, Any]:
    try:
        holder = json.loads(os.pread(handle, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _release(handle: int) -> None:
    os.ftruncate(handle, 0)
    os.close(handle)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
