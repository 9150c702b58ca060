"""The loop: the right loss, the same gradient however it is cut, exact resume, and refusals."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import make_model

from didact import forward as computing
from didact import tune as module
from didact.errors import Interrupted, UsageError
from didact.forward import Head, Way, loss_sum, measure, targets, ways
from didact.instance import Instance, Message, Origin, Part
from didact.methods.full import FullConfig
from didact.methods.lora import LoraConfig
from didact.model import Loaded, load
from didact.pack import Batch, batch
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


def test_loss_equals_the_one_of_transformers(kind_folder: Path) -> None:
    loaded = load(str(kind_folder))
    data = rendered(loaded)
    one = batch(data, range(8), loaded.pad_id)
    notes: list[str] = []
    ours = loss_sum(head(loaded, one, notes.append), one, loaded.device, "fp32") / one.weights_BT.sum()
    labels = one.ids_BT.masked_fill(one.weights_BT == 0, -100)
    mask = (one.segments_BT > 0).long()
    theirs = loaded.model(input_ids=one.ids_BT, attention_mask=mask, labels=labels).loss
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert notes == []  # the head at supervised positions alone was proved equal


def test_a_model_whose_head_does_more_gets_the_full_pass(tiny_llama: Path) -> None:
    loaded = load(str(tiny_llama))
    forward = loaded.model.forward

    def scaled(*args: object, **kwargs: object) -> object:
        output = forward(*args, **kwargs)
        output.logits = output.logits * 2
        return output

    loaded.model.forward = scaled
    one, notes = batch(rendered(loaded), range(4), 0), list[str]()
    picked = head(loaded, one, notes.append)
    chosen = one.weights_BT != 0
    assert torch.equal(picked(one.ids_BT, chosen), scaled(input_ids=one.ids_BT).logits[chosen])
    assert "other logits" in notes[0]


@pytest.mark.parametrize("max_tokens", [1, 100, 250])
def test_the_cut_into_micro_batches_changes_nothing(
    kind_folder: Path, max_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients of one step with answers of unlike length, whole and accumulated, relative to each tensor's norm."""
    found: list[list[torch.Tensor]] = []
    calls: list[int] = []
    real_norm, real_loss = module._gradient_norm, module.loss_sum

    def norm(some: object, clip: float) -> float:
        kept = list(some)
        found.append([weight.grad.clone() for weight in kept])
        return real_norm(kept, clip)

    def loss(*args: object) -> torch.Tensor:
        calls[-1] += 1
        return real_loss(*args)

    monkeypatch.setattr(module, "_gradient_norm", norm)
    monkeypatch.setattr(module, "loss_sum", loss)
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


def head(loaded: Loaded, one: Batch, say: Callable[[str], None]) -> Head:
    return computing.head(loaded, one.ids_BT, targets(one), say)


def one_by_one(loaded: Loaded, data: list[Tokens]) -> float:
    ones = [batch(data, [i], 0) for i in range(len(data))]
    return sum(loss_sum(head(loaded, one, print), one, loaded.device, "fp32").item() for one in ones)


def test_padding_gets_no_gradient_and_no_say(tiny_llama: Path) -> None:
    loaded = load(str(tiny_llama))
    data = rendered(loaded)
    alone = one_by_one(loaded, data[:8])
    together = batch(data, range(8), loaded.pad_id)
    assert (together.segments_BT == 0).any()
    both = loss_sum(head(loaded, together, print), together, loaded.device, "fp32")
    assert both.item() == pytest.approx(alone, rel=1e-6)


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
    real = module.loss_sum

    def poisoned(forward: object, one: object, *rest: object) -> torch.Tensor:
        loss = real(forward, one, *rest)
        if 4 not in one.rows or len(steps) < 1:
            return loss
        states.append(weights(loaded))
        if where == "loss":
            return loss * float("nan")
        loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    monkeypatch.setattr(module, "loss_sum", poisoned)
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


def test_packing_is_refused_until_it_exists() -> None:
    with pytest.raises(ValueError, match="packing is not there yet"):
        TuneConfig.model_validate({"packing": "best_fit"})
    assert TuneConfig.model_validate({"packing": False}).packing is False


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


def test_bf16_is_measured_and_close_to_fp32(kind_folder: Path) -> None:
    loaded = load(str(kind_folder))
    one = batch(rendered(loaded), range(8), loaded.pad_id)
    forward = head(loaded, one, print)
    exact = loss_sum(forward, one, loaded.device, "fp32").item()
    options = ways(loaded, "auto", 60)
    assert options == [Way("fp32"), Way("bf16"), Way("bf16", "eager")]
    assert Way("bf16", "eager") not in ways(loaded, "auto", 5000)
    for way in options[1:]:
        with way.on(loaded):
            assert loss_sum(forward, one, loaded.device, way.precision).item() == pytest.approx(exact, rel=0.01)
    before = loaded.model.config._attn_implementation
    way, said = measure(loaded, forward, one, options, list(loaded.model.parameters()))
    assert way in options
    assert "instances a second" in said
    assert loaded.model.config._attn_implementation == before
    assert all(weight.grad is None for weight in loaded.model.parameters())


def test_saved_and_loaded_again_it_says_the_same(kind_folder: Path, tmp_path: Path) -> None:
    loaded = load(str(kind_folder))
    tune(loaded, FullConfig(), rendered(loaded), EXACT)
    module.save(loaded, FullConfig(), tmp_path / "tuned")
    ids = torch.arange(30)[None]
    assert torch.equal(load(str(tmp_path / "tuned")).model(ids).logits, loaded.model(ids).logits)
    assert json.loads((tmp_path / "tuned" / "generation_config.json").read_text())["eos_token_id"] == 2
