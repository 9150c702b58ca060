"""The loop: the right loss, the same gradient however it is cut, exact resume, and refusals."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import make_model

from didact import attention
from didact import tune as module
from didact.errors import Interrupted, UsageError
from didact.forward import Forward
from didact.instance import Instance, Message, Origin, Part
from didact.methods.full import FullConfig
from didact.methods.lora import LoraConfig
from didact.model import Loaded, load
from didact.pack import Batch
from didact.ranks import Ranks
from didact.render import Tokens
from didact.tune import Step, TuneConfig, tune

EXACT = TuneConfig(precision="fp32", batch_size=6, learning_rate=2e-3, epochs=2, checkpoint_minutes=0)


def instances(n: int = 24) -> list[Instance]:
    words = ["red", "blue and green", "a", "violet"]
    return [
        Instance.of(
            (
                Message("user", (Part(f"Say {words[i % 4]} {'please ' * (i % 3)}", "instruction"),)),
                Message("assistant", (Part(words[i % 4], "answer"),)),
            ),
            Origin("data.jsonl", i + 1),
        )
        for i in range(n)
    ]


def rendered(loaded: Loaded, n: int = 24) -> list[Tokens]:
    return loaded.renderer.render_all(instances(n))


def weights(loaded: Loaded) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in loaded.model.named_parameters()}


@pytest.fixture(scope="module", params=["llama", "qwen3", "gpt2"])
def kind_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.mark.parametrize("max_tokens", [1, 100, 250])
def test_the_cut_into_micro_batches_changes_nothing(
    kind_folder: Path, max_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients of one step with answers of unlike length, whole and accumulated, relative to each tensor's norm."""
    found: list[list[torch.Tensor]] = []
    calls: list[int] = []
    real_norm, real_loss = module._gradient_norm, Forward.loss

    def norm(some: object, clip: float) -> float:
        kept = list(some)
        found.append([weight.grad.clone() for weight in kept])
        return real_norm(kept, clip)

    def loss(*args: object) -> torch.Tensor:
        calls[-1] += 1
        return real_loss(*args)

    monkeypatch.setattr(module, "_gradient_norm", norm)
    monkeypatch.setattr(Forward, "loss", loss)
    for limit in (100_000, max_tokens):
        loaded = load(str(kind_folder))
        for part in loaded.model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        calls.append(0)
        config = TuneConfig(precision="fp32", batch_size=12, max_steps=1, max_tokens=limit)
        tune(loaded, FullConfig(), rendered(loaded, 12), config)
    whole, cut = found
    assert calls[1] > calls[0]
    assert max(float((a - b).norm() / (a.norm() + 1e-12)) for a, b in zip(whole, cut, strict=True)) < 1e-5


def one_by_one(loaded: Loaded, data: list[Tokens]) -> float:
    plain = Forward()
    return sum(plain.loss(loaded, plain.batch(loaded, data, [i])).item() for i in range(len(data)))


def test_only_supervised_tokens_count(tiny_llama: Path) -> None:
    """The reported loss is the mean over supervised tokens, and changing context labels cannot touch it."""
    loaded = load(str(tiny_llama))
    data = rendered(loaded, 6)
    steps: list[Step] = []
    tune(loaded, FullConfig(), data, EXACT.model_copy(update={"max_steps": 1}), report=steps.append)
    again = load(str(tiny_llama))
    total = one_by_one(again, data)
    assert steps[0].supervised_tokens == sum(tokens.supervised for tokens in data)
    assert steps[0].loss == pytest.approx(total / steps[0].supervised_tokens, rel=1e-5)


def test_it_learns_and_reports_every_step(kind_folder: Path) -> None:
    loaded, steps = load(str(kind_folder)), list[Step]()
    config = TuneConfig(precision="fp32", batch_size=8, epochs=12, learning_rate=5e-3)
    result = tune(loaded, FullConfig(), rendered(loaded), config, report=steps.append)
    assert [step.step for step in steps] == list(range(1, 37))
    assert steps[-1].loss < 0.5 * steps[0].loss
    assert result.trainable == result.parameters


@pytest.mark.parametrize("method", [FullConfig(), LoraConfig(rank=4, dropout=0.2)])
def test_a_stop_saves_within_a_step_and_the_same_call_goes_on_exactly(
    tiny_llama: Path, tmp_path: Path, method: FullConfig | LoraConfig
) -> None:
    clean = load(str(tiny_llama))
    tune(clean, method, rendered(clean), EXACT, folder=tmp_path / "clean")
    slow = EXACT.model_copy(update={"checkpoint_minutes": 60.0})
    logged: list[int] = []
    for last in (3, 4, 99):
        again, first = load(str(tiny_llama)), list[int]()
        run = {"folder": tmp_path / "cut", "report": lambda s: logged.append(s.step), "resumed": first.append}
        if last == 99:
            tune(again, method, rendered(again), slow, **run)
        else:
            with pytest.raises(Interrupted, match=f"after step {last} of 8"):
                tune(again, method, rendered(again), slow, stop=lambda last=last: logged[-1] >= last, **run)
        assert first == [{3: 0, 4: 3, 99: 4}[last]]
    assert logged == list(range(1, 9))
    expected, found = weights(clean), weights(again)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def clean_run(folder: Path, method: str) -> str:
    """The digest that KILLED prints, of a run that is left alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the killed process: sums are grouped by thread
    try:
        loaded = load(str(folder))
        config = FullConfig() if method == "full" else LoraConfig(rank=4, dropout=0.1)
        tune(loaded, config, rendered(loaded), EXACT.model_copy(update={"epochs": 3.0}))
    finally:
        torch.set_num_threads(threads)
    total = hashlib.sha256()
    for _, weight in sorted(weights(loaded).items()):
        total.update(weight.numpy().tobytes())
    return total.hexdigest()


KILLED = """
import hashlib, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_tune import EXACT, rendered, weights
from didact.methods.{method} import *
from didact.model import load
from didact.tune import tune
loaded = load({folder!r})
config = {{"full": lambda: FullConfig(), "lora": lambda: LoraConfig(rank=4, dropout=0.1)}}["{method}"]()
def report(step):
    print(step.step, flush=True)
tune(loaded, config, rendered(loaded), EXACT.model_copy(update=dict(epochs=3.0)), folder=Path({out!r}), report=report)
total = hashlib.sha256()
for name, weight in sorted(weights(loaded).items()):
    total.update(weight.numpy().tobytes())
print(total.hexdigest(), flush=True)
"""


@pytest.mark.parametrize("method", ["full", "lora"])
def test_kill_9_and_the_same_command_give_the_same_weights(tiny_llama: Path, tmp_path: Path, method: str) -> None:
    tests = str(Path(__file__).parent)

    def start(out: str) -> subprocess.Popen[str]:
        code = KILLED.format(tests=tests, folder=str(tiny_llama), out=str(tmp_path / out), method=method)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)

    first = start("killed")
    assert first.stdout is not None
    for line in first.stdout:
        if int(line) == 7:
            time.sleep(0.004)  # somewhere in the next step or its save
            first.send_signal(signal.SIGKILL)
            break
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    second = start("killed").communicate()[0].split()
    assert int(second[0]) >= 7
    assert second[-1] == clean_run(tiny_llama, method)


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tiny_llama: Path, tmp_path: Path) -> None:
    loaded = load(str(tiny_llama))
    tune(loaded, FullConfig(), rendered(loaded), EXACT, folder=tmp_path)
    expected = weights(loaded)
    (newest,) = tmp_path.glob("*/step-00000008")
    path = newest / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    again, notes, first = load(str(tiny_llama)), list[str](), list[int]()
    tune(again, FullConfig(), rendered(again), EXACT, folder=tmp_path, note=notes.append, resumed=first.append)
    assert first == [7]
    assert any("step-00000008" in note and "checksum" in note for note in notes)
    assert all(torch.equal(expected[name], weight) for name, weight in weights(again).items())


def test_checkpoints_of_other_settings_are_left_alone(tiny_llama: Path, tmp_path: Path) -> None:
    loaded = load(str(tiny_llama))
    tune(loaded, FullConfig(), rendered(loaded), EXACT, folder=tmp_path)
    for change in ({"learning_rate": 1e-3}, {"seed": 1}, {"clip": 0.5}):
        other, first = load(str(tiny_llama)), list[int]()
        tune(
            other, FullConfig(), rendered(other), EXACT.model_copy(update=change), folder=tmp_path, resumed=first.append
        )
        assert first == [0]


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_numbers_that_are_not_finite_stop_before_the_step(
    tiny_llama: Path, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, steps = load(str(tiny_llama)), list[int]()
    states: list[dict[str, torch.Tensor]] = []
    real = Forward.loss

    def poisoned(forward: Forward, some: Loaded, one: Batch) -> torch.Tensor:
        loss = real(forward, some, one)
        if 4 not in one.rows or len(steps) < 1:
            return loss
        states.append(weights(loaded))
        if where == "loss":
            return loss * float("nan")
        loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    monkeypatch.setattr(Forward, "loss", poisoned)
    config = EXACT.model_copy(update={"epochs": 3.0})
    with pytest.raises(UsageError, match=rf"the {where} of step \d is not finite \(rows .*data.jsonl:5") as caught:
        tune(
            loaded, FullConfig(), rendered(loaded), config, folder=tmp_path, report=lambda step: steps.append(step.step)
        )
    assert "\n" not in str(caught.value)
    assert all(torch.equal(weight, states[0][name]) for name, weight in weights(loaded).items())
    (place,) = tmp_path.iterdir()
    assert max(int(path.name[-8:]) for path in place.iterdir()) == steps[-1]


def test_rows_that_cannot_be_trained_are_refused(tiny_llama: Path) -> None:
    loaded = load(str(tiny_llama))
    data = rendered(loaded, 6)
    blank = [*data[:3], replace(data[3], weights=[0.0] * len(data[3].ids))]
    with pytest.raises(UsageError, match=r"data.jsonl:4: the row has no supervised token"):
        tune(loaded, FullConfig(), blank, EXACT)
    with pytest.raises(UsageError, match="nothing to train on"):
        tune(loaded, FullConfig(), [], EXACT)
    for limit, config in ((512, TuneConfig(max_length=5000)), (40, TuneConfig(max_length=40))):
        long = [replace(data[0], ids=[5] * 600, weights=[1.0] * 600)]
        with pytest.raises(
            UsageError, match=rf"data.jsonl:1: 1 rows are longer than {limit} tokens, the first has 600"
        ):
            tune(loaded, FullConfig(), long, config)


def test_several_ranks_and_compiled_layers_are_refused_together(tiny_llama: Path) -> None:
    loaded = load(str(tiny_llama))
    with pytest.raises(UsageError, match=r"tune.compile: tune.compile is for one process"):
        tune(loaded, FullConfig(), rendered(loaded), TuneConfig(compile=True), ranks=Ranks(0, 2))


def test_dropout_computes_shared_beginnings_for_each_row_and_says_so(tiny_llama: Path) -> None:
    for rate, told in ((0.0, False), (0.2, True)):
        loaded, notes = load(str(tiny_llama)), list[str]()
        config = EXACT.model_copy(update={"max_steps": 1})
        tune(loaded, LoraConfig(rank=4, dropout=rate), rendered(loaded), config, note=notes.append)
        assert any(note.startswith("shared beginnings are computed for each row") for note in notes) is told


def test_rate_rises_and_falls(tiny_llama: Path) -> None:
    loaded, steps = load(str(tiny_llama)), list[Step]()
    config = TuneConfig(precision="fp32", batch_size=4, epochs=4, warmup=0.25, learning_rate=1e-3)
    tune(loaded, FullConfig(), rendered(loaded), config, report=steps.append)
    rates = [step.learning_rate for step in steps]
    assert rates[:6] == sorted(rates[:6])
    assert rates[6] == pytest.approx(1e-3)
    assert rates[6:] == sorted(rates[6:], reverse=True)
    assert 0 < rates[-1] < 2e-5


def test_clipping_bounds_the_gradient() -> None:
    weight = torch.nn.Parameter(torch.zeros(4))
    weight.grad = torch.full((4,), 3.0)
    assert module._gradient_norm([weight], 1.0) == pytest.approx(6.0)
    assert float(weight.grad.norm()) == pytest.approx(1.0, rel=1e-4)
    weight.grad = torch.full((4,), 3.0)
    module._gradient_norm([weight], 0.0)
    assert float(weight.grad.norm()) == pytest.approx(6.0)


def test_saved_and_loaded_again_it_says_the_same(kind_folder: Path, tmp_path: Path) -> None:
    loaded = load(str(kind_folder))
    tune(loaded, FullConfig(), rendered(loaded), EXACT)
    module.save(loaded, FullConfig(), tmp_path / "tuned")
    ids = torch.arange(30)[None]
    assert torch.equal(load(str(tmp_path / "tuned")).model(ids).logits, loaded.model(ids).logits)
    assert json.loads((tmp_path / "tuned" / "generation_config.json").read_text())["eos_token_id"] == 2


def test_packed_and_not_packed_end_in_the_same_weights(kind_folder: Path) -> None:
    """A whole run, so also the way from rows to batches and the optimiser; clipping included."""
    found = []
    for changes in ({"packing": False}, {"packing": True}, {"packing": True, "max_tokens": 130}):
        loaded, steps = load(str(kind_folder)), list[Step]()
        for name in ("embd_pdrop", "attn_pdrop", "resid_pdrop"):
            if hasattr(loaded.model.config, name):
                setattr(loaded.model.config, name, 0.0)
        for part in loaded.model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        tune(loaded, FullConfig(), rendered(loaded), EXACT.model_copy(update=changes), report=steps.append)
        found.append((weights(loaded), [step.loss for step in steps]))
    for other, losses in found[1:]:
        assert losses == pytest.approx(found[0][1], rel=1e-5)
        moved = {name: float((weight - other[name]).norm() / weight.norm()) for name, weight in found[0][0].items()}
        assert max(gap for name, gap in moved.items() if not name.endswith("k_proj.bias")) < 1e-3


def test_a_step_has_the_loss_of_transformers(kind_folder: Path) -> None:
    loaded, steps = load(str(kind_folder)), list[Step]()
    loaded.model.train = lambda mode=True: loaded.model  # no dropout in gpt2
    data = rendered(loaded, 8)
    plain = Forward().batch(loaded, data, range(8))
    labels = torch.full_like(plain.ids_BT, -100).flatten()
    labels[plain.reads_N + 1] = plain.labels_N
    theirs = loaded.model(input_ids=plain.ids_BT, labels=labels.view_as(plain.ids_BT)).loss.item()
    tune(loaded, FullConfig(), data, EXACT.model_copy(update={"batch_size": 8, "max_steps": 1}), report=steps.append)
    assert steps[0].loss == pytest.approx(theirs, abs=1e-4)


def test_packing_that_cannot_be_is_refused(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, notes = load(str(tiny_llama)), list[str]()
    monkeypatch.setattr(type(loaded.model), "_can_set_attn_implementation", lambda *_: False)
    tune(loaded, FullConfig(), rendered(loaded, 6), EXACT, note=notes.append)
    assert "one sequence per row" in notes[0]
    with pytest.raises(UsageError, match=r"tune\.packing: this model cannot be packed - set tune.packing to auto"):
        tune(load(str(tiny_llama)), FullConfig(), rendered(loaded, 6), EXACT.model_copy(update={"packing": True}))


@pytest.mark.parametrize("method", [FullConfig(), LoraConfig(rank=4)])
def test_bf16_learns_like_fp32_and_leaves_fp32_weights(kind_folder: Path, method: FullConfig | LoraConfig) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        loaded, steps = load(str(kind_folder)), list[Step]()
        before = weights(loaded)
        config = EXACT.model_copy(update={"precision": precision, "epochs": 4.0})
        result = tune(loaded, method, rendered(loaded), config, report=steps.append)
        assert result.precision == precision
        losses[precision] = [step.loss for step in steps]
        after = weights(loaded)
        assert {weight.dtype for weight in after.values()} == {torch.float32}
        if isinstance(method, LoraConfig):
            same = [
                torch.equal(after[name.replace(".base_layer", "")], w) for name, w in before.items() if name in after
            ]
            assert all(same)
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.03)


def test_auto_measures_and_says_so(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10_000))
    monkeypatch.setattr("time.process_time", lambda: float(next(ticks)))  # each pass takes as long: fp32 stays
    loaded, notes = load(str(tiny_llama)), list[str]()
    result = tune(
        loaded, FullConfig(), rendered(loaded, 6), EXACT.model_copy(update={"precision": "auto"}), note=notes.append
    )
    assert result.precision == "fp32"
    assert notes[-1] == "computes in fp32 (bf16 is 1.0 times as fast)"


def short_of(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that holds no more than so many tokens in a forward."""
    real = Forward.loss

    def limited(forward: Forward, some: Loaded, one: Batch) -> torch.Tensor:
        if one.ids_BT.numel() > tokens:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
        return real(forward, some, one)

    monkeypatch.setattr(Forward, "loss", limited)


def test_what_memory_does_not_hold_is_cut_again_and_changes_nothing(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EXACT.model_copy(update={"packing": False})
    clean, short, notes = load(str(tiny_llama)), load(str(tiny_llama)), list[str]()
    tune(clean, FullConfig(), rendered(clean), config)
    short_of(200, monkeypatch)
    tune(short, FullConfig(), rendered(short), config, note=notes.append)
    assert any("memory does not hold a micro-batch of step 1: now" in note for note in notes)
    expected, found = weights(clean), weights(short)
    assert all(torch.allclose(expected[name], found[name], atol=1e-4) for name in expected)


def test_a_row_that_memory_does_not_hold_ends_with_three_changes(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load(str(tiny_llama))
    short_of(5, monkeypatch)
    with pytest.raises(
        UsageError, match=r"does not hold a single row of \d+ tokens - .* saves .*; .* saves .*; .* saves"
    ):
        tune(loaded, FullConfig(), rendered(loaded), EXACT)


@pytest.mark.parametrize("where", ["settle", "measure"])
def test_memory_that_ends_before_the_first_step_is_one_line_too(
    where: str, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*others: object) -> None:
        raise MemoryError

    loaded = load(str(tiny_llama))
    monkeypatch.setattr(f"didact.prepare.{where}", full)
    with pytest.raises(UsageError, match=r"does not hold a single row of \d+ tokens - .* saves "):
        tune(loaded, FullConfig(), rendered(loaded), EXACT.model_copy(update={"precision": "auto"}))


def test_other_errors_are_not_taken_for_a_lack_of_memory(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(forward: Forward, some: Loaded, one: Batch) -> torch.Tensor:
        raise RuntimeError("sizes do not match")

    monkeypatch.setattr(Forward, "loss", broken)
    loaded = load(str(tiny_llama))
    with pytest.raises(RuntimeError, match="sizes"):
        tune(loaded, FullConfig(), rendered(loaded), EXACT)


def test_activations_computed_again_change_nothing(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, calls = [], list[int]()
    real = attention.isolated
    monkeypatch.setattr(attention, "isolated", lambda *x, **y: (calls.append(1), real(*x, **y))[1])
    for again in (False, True):
        loaded = load(str(tiny_llama))
        calls.clear()
        tune(loaded, FullConfig(), rendered(loaded), EXACT.model_copy(update={"activation_checkpointing": again}))
        found.append((weights(loaded), len(calls)))
    assert found[1][1] - found[0][1] == 8  # in each of 8 steps the first of two layers again; the last is still there
    assert all(torch.equal(weight, found[1][0][name]) for name, weight in found[0][0].items())


@pytest.mark.slow
def test_compiled_layers_learn_the_same_and_the_cost_is_told(tiny_llama: Path) -> None:
    found, notes = [], list[str]()
    for compiled in (False, True):
        loaded = load(str(tiny_llama))
        config = EXACT.model_copy(update={"compile": compiled})
        tune(loaded, FullConfig(), rendered(loaded), config, note=notes.append)
        assert all(layer._compiled_call_impl is None for layer in loaded.model.model.layers)
        found.append(weights(loaded))
    assert notes[-1].startswith("compiled: the first step took ")
    assert max(float((weight - found[1][name]).abs().max()) for name, weight in found[0].items()) < 1e-4
