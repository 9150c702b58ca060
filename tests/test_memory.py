"""The estimate is near what is really kept, and the advice saves what it says."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import make_model
from test_attention import loaded, rows

from didact import memory
from didact.forward import Forward
from didact.memory import GIB, Need, Plan, Shape, cheaper, need, shape
from didact.model import Loaded
from didact.pack import Batch
from didact.precision import bf16
from didact.tune import TuneConfig

BILLION = Shape(10**9, ((2048, 2048),) * 100, 10**5, 2048, 8192, 16, 32, 128_000)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_shape_is_read_from_the_files(kind: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / kind, kind)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    found = shape(folder)
    assert found.parameters == sum(weight.numel() for weight in model.parameters())
    assert (found.hidden, found.layers, found.heads, found.vocabulary) == (32, 2, 4, 259)
    assert found.inner == (64 if kind == "llama" else 128)


def kept(some: Loaded, way: Forward, one: Batch) -> int:
    """Bytes that the body's backward really holds, weights not counted."""
    weights = {weight.untyped_storage().data_ptr() for weight in some.model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        way.hidden(some, one)
    return sum(storage.nbytes() for place, storage in storages.items() if place not in weights)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("sizes", [(64, 128), (64, 512), (128, 256)])
def test_the_activations_are_estimated_within_a_third(precision: str, sizes: tuple[int, int]) -> None:
    hidden, inner = sizes
    width = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": 4, "vocab_size": 300}
    some, data = loaded(transformers.LlamaConfig(**width, num_attention_heads=4)), rows(12)
    way = Forward("reads", packed=True)
    one = way.batch(some, data, range(12))
    with way.on(some), bf16(some.model) if precision == "bf16" else nullcontext():
        found = kept(some, way, one)
    model = Shape(0, (), 0, hidden, inner, 4, 4, 300)
    expected = need(model, Plan({"type": "full"}, precision, one.ids_BT.numel(), 99)).activations
    assert expected == pytest.approx(found, rel=0.33)


def test_weights_gradients_and_moments_are_counted() -> None:
    full = need(BILLION, Plan({"type": "full"}, "bf16", 4096, 1024))
    assert (full.weights, full.gradients, full.optimizer) == (6e9, 4e9, 8e9)
    lora = need(BILLION, Plan({"type": "lora", "rank": 8}, "fp32", 4096, 1024))
    trained = 8 * 4096 * 100
    assert (lora.weights, lora.gradients, lora.optimizer) == (4e9 + 4 * trained, 4 * trained, 8 * trained)
    bias = need(BILLION, Plan({"type": "bitfit"}, "fp32", 4096, 1024))
    assert bias.gradients == 4e5


def test_three_changes_each_with_what_it_saves() -> None:
    plan = Plan({"type": "full"}, "fp32", 8192, 2048)
    texts = cheaper(BILLION, plan)
    assert len(texts) == 3
    saved = [float(text.split(" saves ")[1].split()[0]) for text in texts]
    assert saved == sorted(saved, reverse=True)
    assert saved[-1] > 0.1
    least = need(BILLION, Plan({"type": "full"}, "fp32", 8192, 2048, checkpointing=True)).total
    by_text = dict(zip((text.split(" saves ")[0] for text in texts), saved, strict=True))
    found = by_text["tune.activation_checkpointing: true"]
    assert found == pytest.approx((need(BILLION, plan).total - least) / GIB, rel=0.06)


def test_the_line_says_what_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_model(tmp_path / "llama")
    method: dict[str, Any] = {"type": "full"}
    monkeypatch.setattr(memory, "available", lambda: 1e12)
    assert "are free" not in memory.before_loading(folder, method, TuneConfig())
    monkeypatch.setattr(memory, "available", lambda: 1e6)
    text = memory.before_loading(folder, method, TuneConfig())
    assert text.count(" saves ") == 3
    assert "\n" not in text


@pytest.mark.parametrize(
    ("line", "at", "most", "used", "droppable"),
    [
        ("0::/run/didact", "run/didact", "memory.max", "memory.current", "inactive_file"),
        ("0::/run/didact", "", "memory.max", "memory.current", "inactive_file"),  # seen from within a container
        ("4:cpu,memory:/box", "memory/box", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_what_a_container_may_use_is_less_than_what_the_machine_has(
    line: str, at: str, most: str, used: str, droppable: str, tmp_path: Path
) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    assert memory.available(proc, groups) == 8000 * 1024
    (proc / "self" / "cgroup").write_text(f"11:hugetlb:/else\n{line}\n")
    (groups / at).mkdir(parents=True)
    (groups / at / used).write_text("700000\n")
    (groups / at / "memory.stat").write_text(f"anon 5\n{droppable} 200000\n")
    (groups / at / most).write_text("1000000\n")
    assert memory.available(proc, groups) == 500_000
    (groups / at / most).write_text("max\n" if line.startswith("0") else f"{(1 << 63) - 4096}\n")
    assert memory.available(proc, groups) == 8000 * 1024


def test_what_says_that_memory_is_exhausted() -> None:
    assert memory.exhausted(MemoryError())
    assert memory.exhausted(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert memory.exhausted(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not memory.exhausted(RuntimeError("shapes differ"))
    assert Need(1, 1, 1, 1, 1).total == 5
