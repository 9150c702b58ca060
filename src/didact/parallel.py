"""Tuning in several processes: rows prepared before, ranks started and watched, the model gathered at the end.

`train` starts the ranks of one machine; `torchrun ... -m didact.parallel FOLDER` starts them on many. A rank that dies
is named, the others end, and the newest checkpoint stands: it is the same for any number of ranks.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from didact.disk import flush, room
from didact.errors import Interrupted, UsageError
from didact.ranks import Ranks
from didact.render import Tokens

if TYPE_CHECKING:
    from didact.model import Loaded

JOB, ROWS, DONE, TUNED = "job.json", "rows.jsonl", "done.json", "tuned"
PATIENCE = 20.0  # seconds for the last words of the first rank
STOPPED = 128 + signal.SIGTERM
GOOD = (None, 0, STOPPED)


def prepare(folder: Path, job: Mapping[str, Any], data: Sequence[Tokens]) -> None:
    """Write what the ranks need, rows as token ids; done before any process group exists."""
    try:
        if json.loads((folder / JOB).read_text("utf-8")) == job:
            return
    except (OSError, ValueError):  # not there, or cut off by a kill
        pass
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with room(folder, 12 * sum(len(tokens.ids) for tokens in data)):  # about what an id and a weight take
        with (folder / ROWS).open("w", encoding="utf-8") as file:
            for tokens in data:
                row = {"ids": tokens.ids, "weights": tokens.weights, "turns": tokens.turns}
                row |= {"images": tokens.images, "media": tokens.media} if tokens.images else {}
                file.write(json.dumps({**row, "id": tokens.instance_id, "where": tokens.where}) + "\n")
        flush(folder)
        (folder / JOB).write_text(json.dumps(job), encoding="utf-8")
        flush(folder)


def torchrun(folder: Path, count: int, nodes: int) -> str:
    """The command that starts the ranks of many machines."""
    nproc = f"--nnodes={nodes} --nproc-per-node={count}"
    return f"torchrun {nproc} --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 -m didact.parallel {folder.resolve()}"


def finished(folder: Path, job: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the ranks said at their end, if they ended this very job."""
    try:
        done = json.loads((folder / DONE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return dict(done["result"]) if done.get("id") == job["id"] else None


def train(folder: Path, count: int, tell: Callable[[dict[str, Any]], None], stop: Callable[[], bool]) -> None:
    """Start `count` ranks on this machine and wait for them; tell gets what the first one says, a line at a time.

    Raises UsageError naming the rank that failed, and Interrupted when `stop` says so and all have saved.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks: list[subprocess.Popen[str]] = []
    said: queue.Queue[str] = queue.Queue()
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DIDACT_WATCHED": "1"}
    try:
        for number in range(count):
            names = {"RANK": str(number), "LOCAL_RANK": str(number), "GLOO_SOCKET_IFNAME": "lo"}
            with (folder / f"rank-{number}.log").open("w", encoding="utf-8") as log:
                rank = subprocess.Popen(  # noqa: S603 - this very program
                    [sys.executable, "-m", "didact.parallel", str(folder)],
                    env={**os.environ, **shared, **names},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE if number == 0 else log,
                    stderr=log,
                    text=True,
                    start_new_session=True,  # Ctrl-C is for us, and we tell them
                )
            ranks.append(rank)
        listener = threading.Thread(target=_listen, args=(ranks[0].stdout, said), daemon=True)
        listener.start()
        _watch(folder, ranks, lambda: _hear(said, tell), stop)
        listener.join(PATIENCE)  # the last lines may still be on their way
        _hear(said, tell)
        if any(rank.returncode == STOPPED for rank in ranks):
            raise Interrupted("stopped; the same command goes on from the newest checkpoint", STOPPED)
    finally:
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
            rank.wait()


def _listen(stream: IO[str] | None, said: queue.Queue[str]) -> None:
    assert stream is not None
    for line in stream:
        said.put(line)


def _hear(said: queue.Queue[str], tell: Callable[[dict[str, Any]], None]) -> None:
    while not said.empty():
        line = said.get()
        if line.startswith("{"):  # a library may print too
            tell(json.loads(line))


def _watch(
    folder: Path, ranks: Sequence[subprocess.Popen[str]], hear: Callable[[], None], stop: Callable[[], bool]
) -> None:
    """Until all have ended; a stop is passed on to them, and the first that fails is told."""
    asked = False
    while True:
        over = all(rank.poll() is not None for rank in ranks)
        failed = [(number, code) for number, rank in enumerate(ranks) if (code := rank.poll()) not in GOOD]
        if failed:
            raise _failure(folder, ranks, *failed[0])
        if over:
            return
        if stop() and not asked:
            asked = True
            for rank in ranks:
                if rank.poll() is None:
                    rank.terminate()
        hear()
        time.sleep(0.05)


def _failure(folder: Path, ranks: Sequence[subprocess.Popen[str]], number: int, code: int | None) -> UsageError:
    """The rank that failed first, in one line; those that lost it a moment later are not the cause."""
    time.sleep(0.3)
    killed = [n for n, rank in enumerate(ranks) if (rank.poll() or 0) < 0]
    if killed and (code or 0) >= 0 and code != 2:
        number, code = killed[0], ranks[killed[0]].returncode
    lines = (folder / f"rank-{number}.log").read_text("utf-8", errors="replace").strip().splitlines()
    if code is not None and code < 0:
        what = f"was killed by signal {-code} ({signal.Signals(-code).name})"
    elif code == 2 and lines:
        return UsageError(f"rank {number} of {len(ranks)}: {lines[-1]}")
    else:
        what = f"ended with code {code}: {lines[-1] if lines else 'it said nothing'}"
    return UsageError(
        f"rank {number} of {len(ranks)} (pid {ranks[number].pid}) {what}; the others were stopped",
        "the newest checkpoint stands: the same command goes on from there",
        file=folder / f"rank-{number}.log",
    )


# ---- in a rank


def work(folder: Path) -> None:
    """Be one rank: join, tune the shared model, gather it, and let the first rank save it."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh

    from didact.model import load
    from didact.recipe import parse_recipe
    from didact.tune import tune

    job = json.loads((folder / JOB).read_text("utf-8"))
    recipe = parse_recipe(json.dumps(job["recipe"]), folder / JOB)
    data = [_tokens(json.loads(line)) for line in (folder / ROWS).read_text("utf-8").splitlines()]
    stopped, parent = list[int](), os.getppid()
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if cuda else "gloo")
    kind = "cuda" if cuda else "cpu"
    mesh = init_device_mesh(kind, (int(os.environ["WORLD_SIZE"]),))
    ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), mesh)

    def say(kind: str, value: Any) -> None:
        if ranks.first:
            print(json.dumps({kind: value}), flush=True)  # noqa: T201

    loaded = load(job["model"], device=kind)
    result = tune(
        loaded,
        recipe.method,
        data,
        recipe.tune,
        folder=Path(job["checkpoints"]),
        report=lambda step: say("step", asdict(step)),
        note=lambda text: say("note", text),
        stop=lambda: bool(stopped) or ("DIDACT_WATCHED" in os.environ and os.getppid() != parent),
        ranks=ranks,
    )
    whole = ranks.whole(loaded.model.state_dict())
    if ranks.first:
        _save(job, recipe.method, {name: tensor.cpu() for name, tensor in whole.items()}, folder / TUNED)
        told = {"precision": result.precision, "loss": result.loss, "steps": result.steps}
        told |= {"trainable": result.trainable, "examples_per_second": result.examples_per_second}
        staged = folder / f".{DONE}"
        staged.write_text(json.dumps({"id": job["id"], "result": told}), encoding="utf-8")
        flush(folder)
        staged.rename(folder / DONE)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _save(job: Mapping[str, Any], method: Any, whole: Mapping[str, Any], place: Path) -> None:
    """The gathered weights in a fresh model, saved as a single process saves."""
    from didact.methods.attached import attach
    from didact.model import load
    from didact.tune import save

    loaded: Loaded = load(job["model"])
    attach(loaded, method)
    loaded.model.load_state_dict(whole)
    save(loaded, method, place)


def _tokens(row: Mapping[str, Any]) -> Tokens:
    turns = tuple((a, b) for a, b in row["turns"])
    source, number = row["where"]
    images, media = tuple(row.get("images", ())), tuple((a, b) for a, b in row.get("media", ()))
    ids = row["ids"]
    return Tokens(ids, row["weights"], [None] * len(ids), row["id"], images, turns, (source, number), media)


def main() -> None:
    """`python -m didact.parallel FOLDER`, in an environment as torchrun makes it."""
    try:
        work(Path(sys.argv[1]))
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        os._exit(2)  # the other ranks may wait for us in a collective: nothing is to be waited for
    except Interrupted:
        os._exit(STOPPED)


if __name__ == "__main__":
    main()
