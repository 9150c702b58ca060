"""bf16 compute over fp32 weights: what is seen, what is kept, and that nothing is lost."""

from __future__ import annotations

import torch

from didact.precision import bf16, join, split


def test_the_two_halves_hold_every_bit() -> None:
    torch.manual_seed(0)
    weight = torch.cat([torch.randn(5000) * 10.0 ** torch.randint(-30, 30, (5000,)), torch.tensor([0.0, -0.0, 1.0])])
    ties = (weight.view(torch.int32) & ~0xFFFF | 0x8000).view(torch.float32)  # exactly between two bf16 numbers
    for some in (weight, ties):
        high, low = split(some)
        assert high.dtype == torch.bfloat16
        assert torch.equal(join(high, low).view(torch.int32), some.view(torch.int32))
    plain = weight[(weight.view(torch.int32) & 0xFFFF) != 0x8000]
    assert torch.equal(split(plain)[0], plain.bfloat16())


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.middle, self.head = torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 9)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.middle(self.embed(ids)))
        return out


def test_gradients_arrive_in_fp32_and_are_summed_there() -> None:
    torch.manual_seed(0)
    model, ids = Tied(), torch.tensor([1, 2, 3])
    before = dict(model.named_parameters())
    with bf16(model) as refresh:
        assert {w.dtype for w in model.parameters()} == {torch.bfloat16}
        assert model.head.weight is model.embed.weight
        model(ids).sum().backward()
        once = before["middle.weight"].grad.clone()
        model(ids).sum().backward()
        assert once.dtype == torch.float32
        assert torch.equal(before["middle.weight"].grad, 2 * once)
        assert model.middle.weight.grad is None
        before["middle.weight"].data += 1
        refresh()
        assert torch.equal(model.middle.weight, before["middle.weight"].bfloat16())
    after = dict(model.named_parameters())
    assert all(after[name] is before[name] for name in before)


def test_frozen_weights_come_back_bit_for_bit_also_after_an_error() -> None:
    model = Tied()
    model.requires_grad_(False)
    model.middle.weight.requires_grad_(True)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    for error in (False, True):
        try:
            with bf16(model):
                held = sum(w.untyped_storage().nbytes() for w in model.parameters())
                assert held < sum(w.untyped_storage().nbytes() for w in before.values())
                if error:
                    raise KeyError
        except KeyError:
            pass
        assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())
