"""What a process of didact's own does not load to tune a model, and that nothing else is different in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import make_model

LEFT_OUT = ("torch._dynamo", "torch._inductor", "torch.distributed.tensor", "torch.distributed.fsdp", "sympy",
            "torch.fx.experimental.symbolic_shapes", "torch.onnx", "pandas", "scipy", "sklearn",
            "torchvision", "datasets", "matplotlib")  # fmt: skip
TUNE = """
import gc, hashlib, json, sys
from didact import lean
if OWN: lean.own_process()
from didact.instance import Instance, Message, Origin, Part
from didact.methods.full import FullConfig
from didact.methods.lora import LoraConfig
from didact.model import load
from didact.tune import TuneConfig, tune
loaded = load(FOLDER)
rows = []
for word in ("red", "blue and green", "violet"):
    asked, said = Part(f"Say {word}", "instruction"), Part(word, "answer")
    rows.append(Instance.of((Message("user", (asked,)), Message("assistant", (said,))), Origin("x", 1)))
config = TuneConfig(precision="fp32", epochs=2, batch_size=2, learning_rate=1e-3)
tune(loaded, METHOD, loaded.renderer.render_all(rows), config)
weights = hashlib.sha256(b"".join(w.detach().numpy().tobytes() for w in loaded.model.parameters())).hexdigest()
found = {"weights": weights, "modules": sorted(sys.modules), "collects": gc.isenabled()}
"""  # fmt: skip


def run(code: str, folder: Path, own: bool, method: str = "FullConfig()", **variables: str) -> dict[str, Any]:
    """What a fresh interpreter finds."""
    code = TUNE.replace("OWN", str(own)).replace("FOLDER", repr(str(folder))).replace("METHOD", method) + code
    code += "\nprint(json.dumps(found))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **variables}, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("lean"), "qwen3")


def test_a_tune_of_its_own_loads_no_compiler_and_ends_in_the_same_weights(folder: Path) -> None:
    own, others = run("", folder, own=True), run("", folder, own=False)
    assert [name for name in LEFT_OUT if name in own["modules"]] == []
    assert "torch._dynamo" in others["modules"]  # a process of others has all that transformers brings
    assert own["weights"] == others["weights"]
    assert own["collects"]


def test_the_compiler_is_there_when_it_is_asked_for(folder: Path) -> None:
    """Also by what transformers marked for it, and by the names under which it is asked for."""
    code = """
import torch, torch._dynamo
from didact import lean
from transformers.integrations import eager_paged
marked = [function for _, function in lean._marked]
lean.tell_compiler()
found["told"] = bool(marked) and not lean._marked
found["real"] = torch._dynamo.__spec__ is not None
found["compiled"] = float(torch.compile(lambda x: x * 2 + 1, backend="eager")(torch.ones(3)).sum())
found["reset"] = callable(torch._dynamo.reset)
import torch.distributed.fsdp
found["available"] = torch.distributed.is_available()
"""
    found = run(code, folder, own=True)
    assert found["told"]
    assert found["real"]
    assert found["compiled"] == 9.0
    assert found["reset"]
    assert found["available"]


def test_an_adapter_is_attached(folder: Path) -> None:
    own = run("", folder, own=True, method="LoraConfig(rank=2)")
    assert own["weights"] == run("", folder, own=False, method="LoraConfig(rank=2)")["weights"]


def test_a_rank_leaves_nothing_out(folder: Path) -> None:
    assert "torch.distributed.tensor" in run("", folder, own=True, RANK="0")["modules"]


def test_asked_for_more_a_stand_in_makes_way() -> None:
    code = """
import sys
from didact import lean
lean.own_process()
with lean.imports():
    import torch
    assert type(sys.modules["torch._dynamo"]).__name__ == "_StandIn"
    plain = torch.compiler.disable(lambda x: x + 1)
    assert plain(1) == 2 and type(sys.modules["torch._dynamo"]).__name__ == "_StandIn"
    assert callable(torch._dynamo.reset)
    assert type(sys.modules["torch._dynamo"]).__name__ == "module" and torch._dynamo is sys.modules["torch._dynamo"]
    assert plain(1) == 2
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_what_is_thrown_away_later_is_collected() -> None:
    code = """
import gc, weakref
from didact import lean
import transformers
class Loop: pass
with lean.imports():
    one = Loop(); one.self = one; seen = weakref.ref(one); del one
gc.collect()
assert seen() is None
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
