"""Two ranks on one machine: the same gradients, the same run, resumed by one or two, and a dead rank is named."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model
from safetensors.torch import load_file
from test_tune import rendered

from didact import parallel
from didact.errors import Interrupted, UsageError
from didact.methods import METHODS
from didact.model import load, load_tuned
from didact.ranks import Ranks
from didact.recipe import parse_recipe
from didact.tune import tune

# argv: folder of the model, where to write. The gradient of 5 rows of unlike length in fp64, cut unevenly.
GRADIENT = """
import os, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from safetensors.torch import save_file
from test_tune import rendered
from didact import prepare, tune
from didact.certify.gradients import _double
from didact.methods.full import FullConfig
from didact.model import load
from didact.ranks import ALONE, Ranks, gathered
ranks = ALONE
if "RANK" in os.environ:
    torch.distributed.init_process_group("gloo")
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    ranks = Ranks(int(os.environ["RANK"]), 2, mesh)
loaded = load(sys.argv[1])
loaded.model.double()
for part in loaded.model.modules():
    if isinstance(part, torch.nn.Dropout):
        part.p = 0.0  # gpt2's, drawn anew in each process
data = rendered(loaded, 5)
config = tune.TuneConfig(precision="fp32", max_tokens=70, batch_size=5)
with _double():
    run = prepare.prepare(loaded, FullConfig(), data, config, None, print, ranks)
    loaded.model.train()
    with run.forward.on(loaded):
        loss = tune._backward(run, loaded, data, 0, [0, 1, 2, 3, 4])
    norm = tune._gradient_norm(run.trained.values(), 0.0)
found = {name: gathered(weight.grad) for name, weight in run.trained.items()}
found |= {"loss": torch.tensor(loss, dtype=torch.float64), "norm": torch.tensor(norm, dtype=torch.float64)}
if ranks.first:
    save_file({name: value.contiguous() for name, value in found.items()}, sys.argv[2])
if ranks.count > 1:  # gloo's threads end before the process does
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


def gradient(folder: Path, place: Path, ranks: int) -> dict[str, torch.Tensor]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-c", GRADIENT, str(folder), str(place), str(Path(__file__).parent)]
    plain = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    names = [{"RANK": str(n), "WORLD_SIZE": "2"} for n in range(2)] if ranks == 2 else [{}]
    running = [
        subprocess.Popen(command, env={**plain, **own}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for own in names
    ]
    for one in running:
        told = one.communicate(timeout=250)[0]
        assert one.returncode == 0, told[-3000:]
    return load_file(place)


@pytest.mark.parametrize("kind", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_two_ranks_have_the_gradient_of_one(kind: str, tmp_path: Path) -> None:
    """Relative to each tensor's norm, in fp64, where nothing but a fault could show."""
    folder = make_model(tmp_path / kind, kind)
    alone, both = gradient(folder, tmp_path / "1", 1), gradient(folder, tmp_path / "2", 2)
    assert alone.keys() == both.keys()
    assert len(alone) > 20
    gaps = {name: float((both[name] - right).norm() / right.norm()) for name, right in alone.items()}
    assert max(gaps.values()) <= 1e-10, max(gaps, key=lambda name: gaps[name])


def test_what_ranks_need_is_written_again_where_a_kill_cut_it_off(tmp_path: Path) -> None:
    job = {"id": "a"}
    parallel.prepare(tmp_path / "work", job, [])
    whole = (tmp_path / "work" / parallel.JOB).read_text()
    (tmp_path / "work" / parallel.JOB).write_text(whole[:-3])
    parallel.prepare(tmp_path / "work", job, [])
    assert (tmp_path / "work" / parallel.JOB).read_text() == whole


def test_every_rank_makes_as_many_micro_batches_and_all_rows_count_once() -> None:
    lengths, rows = [9, 30, 4, 12, 30, 7, 1], list(range(7))
    cut = lambda some: [[row] for row in some]  # noqa: E731
    for count in (1, 2, 3, 8):
        shares = [Ranks(n, count).share(rows, lengths, cut) for n in range(count)]
        assert len({len(share) for share in shares}) == 1
        real = [(row, factor) for share in shares for some, factor in share for row in some if factor]
        assert sorted(row for row, _ in real) == rows
        assert {factor for _, factor in real} == {float(count)}


RECIPE = """\
model: {model}
method: {method}
tune:
  {{epochs: 2, max_steps: 6, batch_size: 5, learning_rate: 1e-3, precision: fp32, max_length: 128,
   checkpoint_minutes: 0}}
"""


class Job:
    """A prepared job of six steps on a tiny model, its checkpoints, and the same run in one process."""

    def __init__(self, home: Path, model: Path, method: str) -> None:
        self.recipe = parse_recipe(RECIPE.format(model=model, method=method), "recipe")
        self.model, self.checkpoints, self.folder = model, home / "checkpoints", home / "parallel"
        self.data = rendered(load(str(model)))
        self.job = {
            "id": "this",
            "model": str(model),
            "recipe": self.recipe.model_dump(mode="json"),
            "checkpoints": str(self.checkpoints),
        }
        parallel.prepare(self.folder, self.job, self.data)

    def alone(self, folder: Path | None, stop: Callable[[], bool] = lambda: False, **told: Any) -> torch.Tensor:
        loaded = load(str(self.model))
        tune(loaded, self.recipe.method, self.data, self.recipe.tune, folder=folder, stop=stop, **told)
        merge = METHODS[self.recipe.method.type].merge
        if merge is not None:
            merge(loaded.model)
        return torch.cat([weight.detach().flatten() for _, weight in sorted(loaded.model.named_parameters())])

    def saved(self) -> torch.Tensor:
        model = load_tuned(self.folder / parallel.TUNED).model
        return torch.cat([weight.detach().flatten() for _, weight in sorted(model.named_parameters())])


def test_a_killed_rank_is_named_and_one_process_goes_on(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, started, steps = Job(tmp_path, tiny_llama, "{type: full}"), list[Any](), list[dict[str, Any]]()
    popen = subprocess.Popen

    def start(*arguments: Any, **settings: Any) -> Any:
        started.append(popen(*arguments, **settings))
        return started[-1]

    def tell(said: dict[str, Any]) -> None:
        if "step" in said:
            steps.append(said["step"])
            if said["step"]["step"] == 3:
                os.kill(started[1].pid, signal.SIGKILL)

    monkeypatch.setattr(parallel.subprocess, "Popen", start)
    with pytest.raises(UsageError, match=r"rank 1 of 2 \(pid \d+\) was killed by signal 9 \(SIGKILL\)") as caught:
        parallel.train(job.folder, 2, tell, lambda: False)
    assert "\n" not in str(caught.value)
    assert all(rank.returncode is not None for rank in started)
    assert parallel.finished(job.folder, job.job) is None

    first, losses = list[int](), list[float]()
    went_on = job.alone(job.checkpoints, resumed=first.append, report=lambda step: losses.append(step.loss))
    assert first[0] in (2, 3, 4)
    clean: list[float] = []
    right = job.alone(None, report=lambda step: clean.append(step.loss))
    assert [step["loss"] for step in steps][: first[0]] == pytest.approx(clean[: first[0]], rel=1e-5)
    assert losses == pytest.approx(clean[first[0] :], rel=1e-5)
    assert float((went_on - right).norm() / right.norm()) < 1e-5


def test_two_ranks_go_on_where_one_process_stopped(tmp_path: Path, tiny_llama: Path) -> None:
    job, steps, told = Job(tmp_path, tiny_llama, "{type: lora, rank: 4}"), list[int](), list[dict[str, Any]]()
    with pytest.raises(Interrupted):
        job.alone(job.checkpoints, stop=lambda: len(steps) >= 2, report=lambda step: steps.append(step.step))
    parallel.train(job.folder, 2, told.append, lambda: False)
    assert [said["step"]["step"] for said in told if "step" in said] == [3, 4, 5, 6]
    assert any("goes on after step 2 of 6" in said.get("note", "") for said in told)
    right = job.alone(None)
    assert float((job.saved() - right).norm() / right.norm()) < 1e-5
    done = parallel.finished(job.folder, job.job)
    assert done is not None
    assert done["steps"] == 6
    assert parallel.finished(job.folder, {**job.job, "id": "other"}) is None
    assert (job.folder / parallel.TUNED / "adapter" / "adapter_model.safetensors").exists()
    kinds = {path.suffix for path in job.checkpoints.rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors"}  # no shard is pickled


@pytest.mark.slow
def test_a_stop_is_told_to_all_ranks_and_they_save(tmp_path: Path, tiny_llama: Path) -> None:
    job, steps = Job(tmp_path, tiny_llama, "{type: full}"), list[int]()
    tell = lambda said: steps.append(said["step"]["step"]) if "step" in said else None  # noqa: E731
    with pytest.raises(Interrupted, match="the same command goes on"):
        parallel.train(job.folder, 2, tell, lambda: len(steps) >= 2)
    first: list[int] = []
    went_on = job.alone(job.checkpoints, resumed=first.append)
    assert 2 <= first[0] < 6
    right = job.alone(None)
    assert float((went_on - right).norm() / right.norm()) < 1e-5


@pytest.mark.slow
def test_the_command_line_tunes_in_two_processes(tmp_path: Path, tiny_llama: Path) -> None:
    rows = [{"instruction": f"Say {n}.", "output": f"{n} and {n * 3}"} for n in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = "sources: [{type: file, path: rows.jsonl}]\nbuild: {heldout_rows: 4}\ncurate: [{type: length}]\n"
    (tmp_path / "recipe.yaml").write_text(sources + RECIPE.format(model=tiny_llama, method="{type: full}"))

    def didact(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "didact", "tune", "recipe.yaml", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)

    prepared = didact("--out", "many", "--nproc", "2", "--nodes", "3")
    assert prepared.returncode == 0
    assert "torchrun --nnodes=3 --nproc-per-node=2" in prepared.stdout.replace("\n", "")
    assert (tmp_path / "many" / "parallel" / "rows.jsonl").exists()
    for out, more in (("one", []), ("two", ["--nproc", "2"])):
        done = didact("--out", out, *more)
        assert done.returncode == 0, done.stderr
    lines = {out: (tmp_path / out / "metrics.jsonl").read_text().splitlines() for out in ("one", "two")}
    losses = {out: [json.loads(line)["loss"] for line in found] for out, found in lines.items()}
    assert losses["two"] == pytest.approx(losses["one"], rel=1e-5)
    assert (tmp_path / "two" / "tuned" / "model.safetensors").exists()
    assert not (tmp_path / "two" / "parallel").exists()
