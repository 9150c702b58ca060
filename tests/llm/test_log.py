"""The log of answers: nothing that was written is lost, nothing that is damaged is believed, one process writes."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from didact.errors import UsageError
from didact.llm.log import Log, _Places


def key(i: int) -> str:
    return f"{i * 0x9E3779B97F4A7C15 % (1 << 64):016x}{i:016x}"


def answer(i: int) -> dict[str, object]:
    text = f"answer {i} \n é 😀 " + "x" * (i * 37 % 90)
    return {"key": key(i), "state": "ok", "text": text, "in": 2, "out": i, "calls": 1, "cost": 0.5}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    with Log(tmp_path / "calls.jsonl") as log:
        for i in range(12):
            log.add(answer(i))
        log.sync()
    return tmp_path / "calls.jsonl"


def texts(log: Log) -> list[int]:
    """Which answers are there, each as it was written."""
    found = [(i, log.find(key(i))) for i in (*range(12), 20, 21, 30)]
    assert all(record in (None, answer(i)) for i, record in found)
    return [i for i, record in found if record]


def test_what_was_written_is_found_and_summed(written: Path) -> None:
    with Log(written) as log:
        assert texts(log) == list(range(12))
        assert (log.requests, log.tokens, log.money, len(log)) == (12, 24 + 66, 6.0, 12)
        log.add(answer(30))
        assert texts(log)[-1] == 30


def test_a_log_cut_at_any_byte_loses_the_torn_answer_only_and_goes_on(written: Path) -> None:
    data = b"".join(written.read_bytes().splitlines(keepends=True)[:7])
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for cut in sorted({*range(0, len(data), 5), *range(ends[-3] - 2, len(data)), *ends}):
        written.write_bytes(data[:cut])
        told: list[str] = []
        with Log(written, told.append) as log:
            whole = sum(end <= cut for end in ends)
            assert texts(log) == list(range(whole)), cut
            assert len(told) == (cut not in (0, *ends))
            log.add(answer(20))
        with Log(written, told.append) as log:
            assert texts(log) == [*range(whole), 20], cut  # the next answer is not glued to the torn one


def test_a_flipped_byte_anywhere_is_told_by_its_line_and_costs_that_answer_only(written: Path) -> None:
    data = written.read_bytes()
    rng = random.Random(0)
    for place in [*range(60), *rng.sample(range(len(data)), 150)]:
        flipped = data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
        number = data[:place].count(b"\n")  # the line it is in, from 0
        written.write_bytes(flipped)
        told: list[str] = []
        with Log(written, told.append) as log:
            kept = texts(log)
            lost = set(range(12)) - set(kept)
            assert number in lost
            assert lost <= {number, number + 1}  # a newline gone glues two
            assert len(lost) == 1 or data[place] == 10
            for i in lost:
                log.add(answer(i))
        assert len(told) == 1
        assert f"calls.jsonl:{number + 1}: damaged" in told[0] or "cut off" in told[0]
        with Log(written, told.append) as log:
            assert texts(log) == list(range(12))
        assert len(told) == 1  # it is put aside, so it is told once


def test_a_second_writer_is_refused(written: Path) -> None:
    with Log(written), pytest.raises(UsageError, match="another process is writing these answers"):
        Log(written).__enter__()
    with Log(written) as log:
        assert texts(log) == list(range(12))


def test_of_many_writers_at_once_one_wins(tmp_path: Path) -> None:
    """All start at one word; the winner holds the log until the others have given up, however slow they are."""
    code = (
        "import sys; from pathlib import Path; from didact.llm.log import Log\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "with Log(Path(sys.argv[1])): print('mine', flush=True); sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "log")]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.stdout.readline() for racer in racers if racer.stdout is not None]  # "" of one that ended
    assert sorted(said) == ["", "", "", "mine\n"]
    for racer in racers:
        racer.communicate()
    assert sorted(racer.returncode for racer in racers) == [0, 1, 1, 1]


def test_a_full_disk_leaves_whole_lines(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = written.read_bytes()
    real = os.pwrite
    with Log(written) as log:

        def full(handle: int, data: bytes, place: int) -> int:
            return real(handle, data[: len(data) // 2], place)  # the disk took a part

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left") as caught:
            log.add(answer(20))
        assert caught.value.errno == errno.ENOSPC
        assert written.read_bytes() == whole
        monkeypatch.setattr(os, "pwrite", real)
        log.add(answer(21))
        assert texts(log) == [*range(12), 21]


def test_failures_are_counted_and_asked_again(tmp_path: Path) -> None:
    with Log(tmp_path / "log") as log:
        log.add({"key": key(1), "state": "failed", "why": "x", "calls": 3, "text": ""})
        assert log.find(key(1)) is None
        assert log.requests == 3
    with Log(tmp_path / "log") as log:
        assert log.find(key(1)) is None
        assert log.requests == 3


def test_the_table_of_places_holds_as_a_dictionary_does() -> None:
    rng, table, truth = random.Random(0), _Places(), dict[int, int]()
    for _ in range(20000):
        number = rng.choice((rng.randrange(1 << 64), rng.randrange(3000), rng.randrange(64) << 40))
        table[number] = truth[number] = rng.randrange(1 << 40)
    assert all(table[number] == place for number, place in truth.items())
    assert len(table) == len(truth)
    assert [table[rng.randrange(1 << 64)] for _ in range(100)] == [-1] * 100


def test_what_is_left_of_a_long_torn_answer_does_not_stand_behind_a_short_one(written: Path) -> None:
    with written.open("ab") as file:
        file.write(b'{"sum":"' + b"x" * 5000)
    told: list[str] = []
    with Log(written, told.append) as log:
        log.add(answer(20))
    with Log(written, told.append) as log:
        assert texts(log) == [*range(12), 20]
    assert len(told) == 1


def test_it_is_let_go_only_when_no_flush_runs(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush runs in a thread of its own; while it does, the kernel keeps the lock of the file, closed or not."""
    import threading
    import time

    real = os.fdatasync

    def slow(handle: int) -> None:
        time.sleep(0.3)
        real(handle)

    monkeypatch.setattr(os, "fdatasync", slow)
    log = Log(written).__enter__()
    thread = threading.Thread(target=log.sync)
    thread.start()
    time.sleep(0.1)
    before = time.monotonic()
    log.__exit__()
    assert time.monotonic() - before > 0.1
    thread.join()
    log.sync()  # too late: nothing to flush, and no error
