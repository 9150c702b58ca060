"""Killed at any moment, the same command ends with the same weights, the same answers and every step logged once.

One process imports everything and forks; each child does the whole run until it is killed. The children kill
themselves at a chosen write, or are killed at a random moment; then the same command is repeated until it is done.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROWS = [{"instruction": f"Say {n} and {n * 7 % 13}.", "input": "", "output": f"{n} {n * 7 % 13}"} for n in range(60)]
RECIPE = """\
name: small
model: {model}
sources: [{{type: file, path: rows.jsonl}}]
build: {{heldout_rows: 6}}
curate: [{{type: length}}]
method: {method}
tune: {{max_steps: 12, batch_size: 4, learning_rate: 1e-3, precision: fp32, checkpoint_minutes: 0, max_length: 128}}
audit: [{{type: stop}}]
"""
METHODS = {
    "full": "{type: full}",
    "lora": "{type: lora, rank: 4, dropout: 0.1}",
    "bitfit": "{type: bitfit}",
    "adapter": "{type: adapter, size: 4}",
    "prompt": "{type: prompt, length: 4}",
}

# argv: recipe, folder of runs, JSON list of plans: ["time", share of a clean run], ["fsync", k], ["step", n] or
# ["signal", share, number]. Shares are of processor time, so that other work on the machine moves no moment.
SERVER = """
import hashlib, json, os, resource, shutil, signal, sys
from pathlib import Path
import peft, torch, transformers
from didact import checkpoint, stages, tune
from didact.audit import gain
from didact.console import Console
from didact.errors import Interrupted
from didact.run import open_run

recipe, runs, plans = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def child(folder, plan):
    if plan[0] == "fsync":
        count, fsync = [0], os.fsync
        def counted(handle):
            count[0] += 1
            if count[0] == plan[1]:
                die()
            return fsync(handle)
        os.fsync = counted
    if plan[0] == "step":
        count, step = [0], tune._step
        def stepped(*a):
            count[0] += 1
            if count[0] == plan[1]:
                die()
            return step(*a)
        tune._step = stepped
    if plan[0] == "signal":
        signal.signal(signal.SIGPROF, lambda *_: os.kill(os.getpid(), plan[2]))
    if plan[0] in ("time", "signal"):  # nobody catches SIGPROF after "time": the process is gone at once
        signal.setitimer(signal.ITIMER_PROF, whole * plan[1])
    try:
        with open_run(recipe, folder, [], Console(quiet=True)) as run:
            run.upto("audit")
    except Interrupted as stopped:
        os._exit(stopped.code)
    os._exit(0)

def start(folder, plan):
    pid = os.fork()
    if pid == 0:
        try:
            child(folder, plan)
        finally:
            import traceback
            traceback.print_exc()
            os._exit(99)
    return pid

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def result(folder):
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    weights = hashlib.sha256((folder / "tuned" / "model.safetensors").read_bytes()).hexdigest()
    findings = json.loads((folder / "audit" / "findings.json").read_text())
    return [weights, [step["step"] for step in steps], [step["loss"] for step in steps], findings]

assert ended(start(runs / "clean", ["none"])) == 0
used = resource.getrusage(resource.RUSAGE_CHILDREN)
whole = used.ru_utime + used.ru_stime
clean = result(runs / "clean")
told = []
for number, plan in enumerate(plans):
    folder = runs / f"killed-{number}"
    code = ended(start(folder, plan))
    while code == 0 and plan[0] in ("time", "signal") and plan[1] > 0.1:  # done before: at an earlier moment then
        shutil.rmtree(folder)
        plan = [plan[0], plan[1] * 0.7, *plan[2:]]
        code = ended(start(folder, plan))
    codes = [code]
    while code:
        code = ended(start(folder, ["none"]))
        codes.append(code)
        assert len(codes) < 4, codes
    told.append({"plan": plan, "codes": codes, "same": result(folder) == clean})
print(json.dumps({"steps": clean[1], "told": told}))
"""


def kill(tmp_path: Path, model: Path, method: str, plans: list[list[Any]]) -> dict[str, Any]:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(model=model, method=METHODS[method]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-c", SERVER, str(tmp_path / "recipe.yaml"), str(tmp_path), json.dumps(plans)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=3000)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["steps"] == list(range(1, 13))
    return found


def prove(found: dict[str, Any], killed: int) -> None:
    assert [told["plan"] for told in found["told"] if not told["same"]] == []
    assert sum(told["codes"][0] != 0 for told in found["told"]) >= killed
    assert {told["codes"][-1] for told in found["told"]} == {0}


@pytest.mark.parametrize(("method", "plans"), [("full", [["step", 1], ["fsync", 40]]), ("lora", [["time", 0.6]])])
def test_killed_in_the_first_step_in_a_save_and_at_random(
    tmp_path: Path, tiny_llama: Path, method: str, plans: list[list[Any]]
) -> None:
    prove(kill(tmp_path, tiny_llama, method, plans), killed=len(plans))


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("method", METHODS)
def test_killed_at_fifty_points(tmp_path: Path, tiny_llama: Path, method: str) -> None:
    """In saves, in step 1, in the audit and everywhere between."""
    plans: list[list[Any]] = [["step", n] for n in (1, 1, 2, 5, 12)]
    plans += [["fsync", k] for k in range(20, 220, 20)]
    plans += [["time", (n + 0.5) / 35] for n in range(35)]
    prove(kill(tmp_path, tiny_llama, method, plans), killed=45)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_signals_at_twenty_moments_each(tmp_path: Path, tiny_llama: Path) -> None:
    plans = [["signal", (n + 0.5) / 20, number] for n in range(20) for number in (2, 15)]
    found = kill(tmp_path, tiny_llama, "full", plans)
    prove(found, killed=30)
    assert {told["codes"][0] for told in found["told"]} <= {0, 130, 143}
