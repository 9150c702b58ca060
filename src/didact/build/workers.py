"""Shards made by several processes: each is told a number, makes that shard's file, and says so.

Processes are started anew (not forked), so that nothing of this one is shared; they read rows and items from the
folder, and end by themselves when this process is gone. They import no tensor library.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Generator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from didact.build.budget import counting
from didact.build.config import BuildConfig
from didact.build.mixing import Mixture
from didact.build.plan import Plan, stripped
from didact.build.rows import Rows
from didact.build.shards import TOKENIZER, Tally, Work, make
from didact.build.split import templates_of
from didact.errors import UsageError
from didact.sources import Task

ARRAYS = ("held", "heldout", "train")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    work: Work, kind: str, numbers: Sequence[int], processes: int
) -> Generator[tuple[int, Tally], None, None]:
    """Make shards in so many processes; yields each as it is finished, in any order.

    Raises the UsageError or OSError that one of them met, and UsageError if one was killed.
    """
    for name in ARRAYS:
        np.save(work.folder / f"{name}.npy", getattr(work.plan, name))
    context = multiprocessing.get_context("spawn")
    waiting, running = list(numbers)[::-1], dict[Connection, Any]()
    told = (work.folder, work.key, stripped(work.plan.tasks), work.plan.config, dict(work.bounds), kind)
    try:
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, *told), daemon=True)
            process.start()
            theirs.close()
            running[ours] = process
            _ask(ours, waiting.pop())
        while running:
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                yield _answer(connection)
                if waiting:
                    _ask(connection, waiting.pop())
                else:
                    _ask(connection, None)
                    running.pop(connection).join()
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()


def _ask(connection: Connection, number: int | None) -> None:
    try:
        connection.send(number)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise _killed() from error


def _answer(connection: Connection) -> tuple[int, Tally]:
    try:
        answer = connection.recv()
    except (EOFError, ConnectionResetError) as error:
        raise _killed() from error
    if answer[0] == "usage":
        raise UsageError(answer[1], answer[2], **answer[3])
    if answer[0] == "disk":
        raise OSError(*answer[1:])
    if answer[0] == "bug":
        raise RuntimeError(f"a process of the build failed:\n{answer[1]}")
    return answer[1], Tally.from_json(answer[2])


def _killed() -> UsageError:
    problem = "a process of the build was killed (was there not enough memory?)"
    return UsageError(problem, "repeat the command; fewer processes need less memory", field="build.workers")


def serve(
    connection: Connection,
    folder: Path,
    key: str,
    tasks: Sequence[Task],
    config: BuildConfig,
    bounds: dict[str, Sequence[int]],
    kind: str,
) -> None:
    """Make the shards whose numbers come through the connection, until None or the end of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks for shards decides when to stop
    held, heldout, train = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS)
    templates = [templates_of(task, config) for task in tasks]
    count = counting(config, (folder / TOKENIZER).read_text("utf-8"))
    plan = Plan(tasks, config, Rows.load(folder), held, heldout, train, templates, (), Mixture({}, {}), (), count)
    prints = None
    if kind == "train" and config.leak_check and len(heldout):
        names = ("prints-whole.npy", "prints-runs.npy")
        prints = (np.load(folder / names[0], mmap_mode="r"), np.load(folder / names[1], mmap_mode="r"))
    work = Work(plan, folder, key, bounds, prints)
    with suppress(EOFError, ConnectionError):  # the process that asked is gone
        while (number := connection.recv()) is not None:
            connection.send(_made(work, kind, number))


def _made(work: Work, kind: str, number: int) -> tuple[Any, ...]:
    try:
        return "made", number, make(work, kind, number).to_json()
    except UsageError as error:
        return "usage", error.problem, error.fix, {"file": error.file, "line": error.line, "field": error.field}
    except OSError as error:
        return "disk", error.errno, error.strerror, error.filename
    except Exception:
        return "bug", traceback.format_exc()
