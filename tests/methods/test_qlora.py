"""NF4 with double quantisation: its table, its size, its error; and a LoRA on top of it that does not merge."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import make_model
from test_tune import EXACT, rendered

from didact.errors import UsageError
from didact.methods import attached, nf4, nf4_kernel
from didact.methods.nf4 import Nf4Linear
from didact.methods.qlora import QloraConfig
from didact.model import load
from didact.tune import save, tune


def rounded(weight: torch.Tensor) -> torch.Tensor:
    return nf4.dequantise(nf4.quantise(weight), weight.shape)


def test_the_levels_are_quantiles_of_the_normal_around_an_exact_zero() -> None:
    normal, offset = torch.distributions.Normal(0, 1), 0.9677083
    above = normal.icdf(torch.linspace(offset, 0.5, 9)[:-1])
    below = -normal.icdf(torch.linspace(offset, 0.5, 8)[:-1])
    expected = torch.cat([below, torch.zeros(1), above.flip(0)]) / above.max()
    assert torch.allclose(torch.tensor(nf4.LEVELS), expected.sort().values, atol=1e-6)
    assert nf4.LEVELS[7] == 0.0
    assert len(nf4.dynamic(torch.device("cpu"))) == 256


def test_a_weight_takes_4_127_bits() -> None:
    weight = torch.randn(1024, 1024)
    parts = nf4.quantise(weight)
    stored = 8 * sum(part.numel() * part.element_size() for part in parts.values())
    assert stored / weight.numel() == pytest.approx(4.127, abs=5e-4)
    assert nf4.bits(weight.shape) == pytest.approx(stored / weight.numel())


@pytest.mark.parametrize("shape", [(64, 64), (3, 5), (1, 65), (100, 130)])
def test_zero_stays_zero_and_rounding_again_moves_only_the_sizes(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape)
    weight[0, 0] = 0.0
    once = rounded(weight)
    assert once.shape == weight.shape
    assert once[0, 0] == 0.0
    assert torch.equal(rounded(torch.zeros(shape)), torch.zeros(shape))
    assert torch.equal(nf4.quantise(once)["codes"], nf4.quantise(weight)["codes"])
    assert torch.allclose(rounded(once), once, atol=0.02 * float(once.abs().max()))


def test_every_weight_goes_to_its_nearest_level() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 64)
    parts = nf4.quantise(weight)
    size = weight.view(-1, 64).abs().amax(1, keepdim=True)
    gaps = (weight.view(-1, 64) / size)[..., None] - torch.tensor(nf4.LEVELS)
    codes = torch.stack([parts["codes"] >> 4, parts["codes"] & 15], 1).view(-1, 64)
    assert torch.equal(codes.long(), gaps.abs().argmin(-1))


def test_on_normal_weights_it_is_closer_than_evenly_spaced_levels_and_than_fp4() -> None:
    torch.manual_seed(0)
    weight = torch.randn(512, 512)
    blocks = weight.view(-1, 64)
    size = blocks.abs().amax(1, keepdim=True)
    errors = {"nf4": float((rounded(weight) - weight).square().mean())}
    e2m1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6]) / 6
    for name, levels in {"int4": torch.arange(-7, 8) / 7, "fp4": torch.cat([-e2m1, e2m1]).unique()}.items():
        nearest = levels[torch.bucketize(blocks / size, (levels[:-1] + levels[1:]) / 2)]
        errors[name] = float((nearest * size - blocks).square().mean())
    assert errors["nf4"] < 0.9 * min(errors["int4"], errors["fp4"]), errors


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_layer_has_the_outputs_and_gradients_of_its_rounded_weights(kind: str, tmp_path: Path) -> None:
    loaded = load(str(make_model(tmp_path / kind, kind)))
    layer = next(m for n, m in loaded.model.named_modules() if n.endswith(("q_proj", "c_attn")))
    kept = Nf4Linear(layer, across=kind == "gpt2")
    layer.weight.data = rounded(layer.weight)
    x = torch.randn(2, 3, 32, requires_grad=True)
    outs = [one(x) for one in (layer, kept)]
    grads = [torch.autograd.grad(out.square().sum(), x)[0] for out in outs]
    assert torch.allclose(*outs, atol=1e-6)
    assert torch.allclose(*grads, atol=1e-5)
    assert not any(p.requires_grad for n, p in kept.named_parameters() if n != "bias")


class Kernel:
    """Stands for bitsandbytes' functions: makes weights as the reference does, off by `error`."""

    def __init__(self, error: float) -> None:
        self.error, self.calls, self.QuantState = error, 0, SimpleNamespace

    def dequantize_4bit(self, codes: torch.Tensor, state: SimpleNamespace) -> torch.Tensor:
        self.calls += 1
        assert (state.blocksize, state.state2.blocksize, state.quant_type) == (64, 256, "nf4")
        parts = {"codes": codes[:, 0], "sizes": state.absmax, "scales": state.state2.absmax, "mean": state.offset}
        return nf4.dequantise(parts, state.shape) + self.error


@pytest.mark.parametrize("error", [0.0, 1e-3])
def test_a_kernel_is_used_only_where_it_makes_the_reference_s_numbers(
    error: float, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(error)
    monkeypatch.setattr(nf4_kernel, "_functional", lambda: kernel)
    layer = load(str(tiny_llama)).model.model.layers[0].self_attn.q_proj
    kept = Nf4Linear(layer, across=False)
    assert kept.fast == (error == 0)
    assert torch.equal(kept.plain(), rounded(layer.weight))
    assert kernel.calls == (2 if error == 0 else 1)
    assert kept.plain(torch.float64).dtype == torch.float64  # more than the kernel has
    assert kernel.calls == (2 if error == 0 else 1)


def test_bitsandbytes_agrees_or_is_not_used() -> None:
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    for shape in ((64, 64), (64, 96), (128, 256), (100, 77)):
        weight = torch.randn(shape)
        codes, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True, blocksize=64)
        parts = nf4.quantise(weight)
        assert torch.equal(codes.flatten(), parts["codes"])
        assert torch.equal(state.state2.absmax, parts["scales"])
        assert (state.absmax == parts["sizes"]).float().mean() > 0.99  # ties go either way
        assert nf4_kernel.agrees(parts, weight.shape) or shape[0] * shape[1] % 64


def test_all_linear_layers_are_rounded_and_only_differences_trained(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "qwen3", "qwen3")
    loaded, losses = load(str(folder)), list[float]()
    config = EXACT.model_copy(update={"epochs": 5.0, "learning_rate": 1e-2})
    tune(loaded, QloraConfig(rank=4), rendered(loaded), config, report=lambda step: losses.append(step.loss))
    kept = [m for m in loaded.model.modules() if isinstance(m, Nf4Linear)]
    assert len(kept) == 2 * 7
    assert all("lora_" in n for n, w in loaded.model.named_parameters() if w.requires_grad)
    assert losses[-1] < losses[0] - 0.1
    save(loaded, QloraConfig(rank=4), tmp_path / "tuned")
    told = json.loads((tmp_path / "tuned" / "adapter" / "didact.json").read_text("utf-8"))
    assert told["stays"]
    assert told["method"]["type"] == "qlora"


def test_a_merge_into_four_bits_is_refused(tiny_llama: Path) -> None:
    loaded = load(str(tiny_llama))
    attached.attach(loaded, QloraConfig(rank=2))
    with pytest.raises(
        UsageError, match=r"kept in 4 bits.* - keep the adapter beside it, or tune with method.type lora"
    ):
        attached.merge(loaded)


def test_the_base_cannot_be_had_back(tiny_llama: Path) -> None:
    loaded = load(str(tiny_llama))
    attached.attach(loaded, QloraConfig(rank=2))
    with pytest.raises(UsageError, match="rewritten the base's weights - load the base again"):
        attached.detach(loaded)


def test_it_loses_little_against_lora(tmp_path: Path) -> None:
    from didact.methods.lora import LoraConfig

    folder, last = make_model(tmp_path / "llama", "llama"), {}
    config = EXACT.model_copy(update={"epochs": 5.0, "learning_rate": 1e-2})
    for method in (LoraConfig(rank=4), QloraConfig(rank=4)):
        loaded, losses = load(str(folder)), list[float]()
        tune(loaded, method, rendered(loaded), config, report=lambda step, losses=losses: losses.append(step.loss))
        last[method.type] = losses[0] - losses[-1]
    assert last["qlora"] > 0.8 * last["lora"] > 0
