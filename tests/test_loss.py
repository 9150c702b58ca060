"""Head and loss in pieces: the numbers and gradients of torch's own, whatever the cut."""

from __future__ import annotations

import pytest
import torch

from didact import loss
from didact.precision import bf16


def made(dtype: torch.dtype, bias: bool) -> tuple[torch.Tensor, torch.nn.Linear, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 50, bias=bias).to(dtype)
    hidden = torch.randn(23, 16, dtype=dtype, requires_grad=True)
    return hidden, head, torch.randint(0, 50, (23,)), torch.rand(23)


def found(hidden: torch.Tensor, head: torch.nn.Linear, value: torch.Tensor, scale: float) -> list[torch.Tensor]:
    hidden.grad, head.weight.grad = None, None
    (value * scale).backward()
    assert hidden.grad is not None
    assert head.weight.grad is not None
    gradients = [hidden.grad, head.weight.grad]
    if head.bias is not None:
        assert head.bias.grad is not None
        gradients.append(head.bias.grad)
        head.bias.grad = None
    return [value.detach(), *gradients]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("piece", [1 << 28, 2000])
def test_it_equals_plain_cross_entropy(bias: bool, scale: float, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "PIECE", piece)
    monkeypatch.setattr(loss, "BLOCK", 150)
    hidden, head, labels, weights = made(torch.float64, bias)
    ours = found(hidden, head, loss.cross_entropy(hidden, head, labels, weights), scale)
    plain = torch.nn.functional.cross_entropy(head(hidden), labels, reduction="none")
    theirs = found(hidden, head, (plain * weights).sum(), scale)
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(ours, theirs, strict=True))


def test_a_frozen_head_gets_no_gradient_and_asking_needs_none() -> None:
    hidden, head, labels, weights = made(torch.float32, False)
    head.requires_grad_(False)
    loss.cross_entropy(hidden, head, labels, weights).backward()
    assert head.weight.grad is None
    assert hidden.grad is not None
    with torch.no_grad():
        value = loss.cross_entropy(hidden, head, labels, weights)
    assert torch.allclose(value, loss.of_logits(head(hidden), labels, weights))


def test_a_head_that_is_more_than_linear_is_called() -> None:
    hidden, head, labels, weights = made(torch.float64, False)
    double = torch.nn.Sequential(head, torch.nn.Tanh())
    value = loss.cross_entropy(hidden, double, labels, weights)
    assert torch.allclose(value, loss.of_logits(torch.tanh(head(hidden)), labels, weights))


def test_bf16_loses_little_and_a_hopeless_token_stays_finite() -> None:
    hidden, head, labels, weights = made(torch.float32, True)
    exact = loss.cross_entropy(hidden, head, labels, weights)
    rounded = loss.cross_entropy(hidden.bfloat16(), head.bfloat16(), labels, weights)
    assert rounded.item() == pytest.approx(exact.item(), rel=0.01)
    far = torch.nn.Linear(1, 2, bias=False)
    far.weight.data[:] = torch.tensor([[500.0], [-500.0]])
    assert loss.cross_entropy(torch.ones(1, 1), far, torch.tensor([1]), torch.ones(1)).item() == pytest.approx(1000)


class Half(torch.nn.Module):
    """A head that `precision.bf16` makes bf16."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = torch.nn.Linear(16, 50, bias=False)


@pytest.mark.parametrize("piece", [1 << 28, 500])
def test_the_gradient_of_a_bf16_head_is_summed_in_fp32(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over pieces, in the memory of the fp32 weight; of later micro-batches it is added."""
    monkeypatch.setattr(loss, "PIECE", piece)
    monkeypatch.setattr(loss, "ROWS", 7)
    hidden, _, labels, weights = made(torch.float32, False)
    hidden = hidden.detach().bfloat16()
    model = Half()
    exact, kept = model.head.weight, set[int]()
    with bf16(model) as refresh:
        for _ in range(3):
            one = torch.nn.Linear(16, 50, bias=False, dtype=torch.float64)
            one.weight.data = model.head.weight.detach().double()
            loss.cross_entropy(hidden.double(), one, labels, weights).backward()
            for times in (1, 2):
                loss.cross_entropy(hidden, model.head, labels, weights).backward()
                assert exact.grad is not None
                assert exact.grad.dtype == torch.float32
                gap = (exact.grad - times * one.weight.grad).norm() / (times * one.weight.grad).norm()
                assert gap < 4e-3  # bf16 keeps 8 bits of each product
            kept.add(exact.grad.data_ptr())
            exact.grad = None
            refresh()
    assert len(kept) == 1


def test_two_losses_before_their_backward_do_not_share_memory() -> None:
    hidden, _, labels, weights = made(torch.float32, False)
    hidden = hidden.detach().bfloat16()
    model = Half()
    exact = model.head.weight
    with bf16(model):
        first, second = (loss.cross_entropy(hidden, model.head, labels, scale * weights) for scale in (1.0, 10.0))
        first.backward()
        alone = exact.grad.clone()
        second.backward()
        assert (exact.grad - 11 * alone).norm() < 0.01 * exact.grad.norm()


def test_memory_that_was_lent_in_vain_is_lent_again_in_the_next_step() -> None:
    hidden, _, labels, weights = made(torch.float32, False)
    model = Half()
    with bf16(model) as refresh:
        sums = model.head.weight.exact
        loss.cross_entropy(hidden.detach().bfloat16(), model.head, labels, weights)  # and no backward
        assert sums.lend() is None
        refresh()
        assert sums.lend() is not None
