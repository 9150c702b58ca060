"""Self-Instruct against a server: the accepted set is the same bytes for any number of slots and after any kill."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faulty_server import Say, Server, completion, tasks

SLOTS = 8
# Makes instances into a file; with a point given it is killed there: at the n-th answer, before, in or after its line.
CLIENT = """
import json, os, signal, sys
from pathlib import Path
from didact.generate import GENERATE, Context
from didact.llm import Endpoint, EndpointConfig, Llm, Log
from didact.llm import log as logs

url, folder, slots, point, moment = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
count, add, sync = 0, Log.add, Log.sync

def cut(): os.kill(os.getpid(), signal.SIGKILL)

def add_and_cut(self, record):
    global count
    count += 1
    if count == point and moment == "before": cut()
    if count == point and moment == "inside":
        line = json.dumps(record).encode()
        os.pwrite(self._handle, line[: len(line) * 2 // 3], self._end)
        cut()
    add(self, record)
    if count == point and moment == "after": cut()

def sync_and_cut(self):
    if count >= point > 0 and moment == "sync": cut()
    sync(self)

Log.add, Log.sync = add_and_cut, sync_and_cut
config, strategy, _ = GENERATE["self_instruct"]
with Log(folder / "calls.jsonl") as log:
    llm = Llm(Endpoint(EndpointConfig(base_url=url, model="m", slots=slots, backoff=0.01)), log)
    made = strategy(config(target=60, rounds_in_vain=5), Context(lambda name: llm))
    text = "".join(json.dumps(instance.to_json()) + "\\n" for instance in made)
    (folder / "made.jsonl").write_text(text)
    llm.close()
"""


def client(server: Server, folder: Path, slots: int = SLOTS, point: int = 0, moment: str = "") -> int:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", CLIENT, server.url, str(folder), str(slots), str(point), moment]
    return subprocess.run(command, check=False).returncode


def served() -> Server:
    rng = random.Random(0)
    return Server(lambda data, before: Say(body=completion(tasks(data)), wait=rng.random() * 0.02))


def test_the_accepted_set_is_the_same_for_1_8_and_64_slots(tmp_path: Path) -> None:
    with served() as server:
        made = []
        for slots in (1, 8, 64):
            assert client(server, tmp_path / str(slots), slots) == 0
            made.append((tmp_path / str(slots) / "made.jsonl").read_bytes())
        assert made[0].count(b"\n") > 60
        assert made[0] == made[1] == made[2]


def killed(tmp_path: Path, times: int) -> None:
    rng = random.Random(times)
    with served() as server:
        assert client(server, tmp_path / "clean") == 0
        calls = server.calls
        points = [
            (rng.randint(1, max(2, calls // times)), rng.choice(("before", "inside", "after", "sync")))
            for _ in range(times)
        ]
        for point, moment in points:
            code = client(server, tmp_path / "killed", SLOTS, point, moment)
            assert code in (-signal.SIGKILL, 0)  # 0: it had come to its end before
        assert client(server, tmp_path / "killed") == 0
        assert (tmp_path / "killed" / "made.jsonl").read_bytes() == (tmp_path / "clean" / "made.jsonl").read_bytes()
        assert server.calls - calls <= calls + times * SLOTS  # what is paid twice was in flight


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    killed(tmp_path, 4)


@pytest.mark.slow
def test_killed_at_thirty_moments_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    killed(tmp_path, 30)
