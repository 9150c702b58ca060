"""LoRA's linear layer as one operation: the numbers of peft's, and its own way wherever there is more to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft.tuners.lora.layer import Linear

from didact.methods import fused


def layer(bias: bool = True, dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> Any:
    from peft import LoraConfig

    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=5, lora_dropout=dropout)
    made = Linear(torch.nn.Linear(8, 6, bias=bias), "default", config=config, r=3, lora_alpha=5, lora_dropout=dropout)
    made.lora_B["default"].weight.data.normal_()
    made.base_layer.requires_grad_(False)
    return made.to(dtype)


def called(made: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    made.zero_grad()
    x = x.clone().requires_grad_()
    out = made(x)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)).sum().backward()
    a, b = made.lora_A["default"].weight, made.lora_B["default"].weight
    return {"out": out.detach(), "x": x.grad, "a": a.grad.clone(), "b": b.grad.clone()}  # type: ignore[dict-item]


def runs(made: Any, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a call goes through the one operation."""
    count, operation = [0], fused._operation()

    def counted(*inputs: Any) -> Any:
        count[0] += 1
        return operation(*inputs)

    monkeypatch.setattr(fused, "_operation", lambda: counted)
    made(x)
    return count[0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 8), (7, 8)])
def test_outputs_and_gradients_are_pefts(bias: bool, shape: tuple[int, ...]) -> None:
    plain, one = layer(bias), layer(bias)
    fused.fuse(one)
    x = torch.randn(*shape, dtype=torch.float64)
    expected, found = called(plain, x), called(one, x)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-12, atol=1e-12), name
    assert found["out"].shape == (*shape[:-1], 6)


@pytest.mark.parametrize("what", ["plain", "dropout", "merged", "disabled", "hook", "trained base", "asking", "dtype"])
def test_with_anything_more_it_is_pefts_own_way(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = layer(dropout=0.5 if what == "dropout" else 0.0, dtype=torch.float32)
    fused.fuse(made)
    x = torch.randn(4, 8)
    if what == "merged":
        made.merge()
    if what == "disabled":
        made.enable_adapters(False)
    if what == "hook":
        made.base_layer.register_forward_hook(lambda *_: None)
    if what == "trained base":
        made.base_layer.requires_grad_(True)
    if what == "dtype":
        made.base_layer.to(torch.bfloat16)
        x = x.bfloat16()
    with torch.set_grad_enabled(what != "asking"):
        assert runs(made, x, monkeypatch) == (what == "plain")
