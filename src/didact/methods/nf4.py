"""NF4 with double quantisation: 4.127 bits per weight (Dettmers 2023, arXiv 2305.14314), on whatever device torch runs.

Sixteen levels, the quantiles of a normal around an exact zero; blocks of 64 weights share their largest size, and 256
of these sizes share a scale in turn, 8 bits each. Layout and numbers are those of bitsandbytes, whose kernel makes the
weights where it is installed and does so exactly (`nf4_kernel`); the code here is the reference and runs everywhere.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch

from didact.methods import nf4_kernel

LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
BLOCK, GROUP = 64, 256


def bits(shape: torch.Size) -> float:
    """Bits per weight of a matrix of this shape."""
    n = math.prod(shape)
    blocks = -(-n // BLOCK)
    return (8 * -(-n // 2) + 8 * blocks + 32 * -(-blocks // GROUP) + 32) / n


def quantise(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """codes: two levels in a byte; sizes: of each block, coded; scales: of each group of sizes; mean: of the sizes."""
    n = weight.numel()
    blocks, bytes_ = -(-n // BLOCK), -(-n // 2)
    if weight.device.type == "meta":
        whole, parts = {"codes": bytes_, "sizes": blocks}, {"scales": -(-blocks // GROUP)}
        empty = {name: torch.empty(size, dtype=torch.uint8, device="meta") for name, size in whole.items()}
        return empty | {name: torch.empty(size, device="meta") for name, size in parts.items()} | {
            "mean": torch.empty((), device="meta")
        }  # fmt: skip
    flat = torch.nn.functional.pad(weight.detach().float().flatten(), (0, blocks * BLOCK - n)).view(blocks, BLOCK)
    size_B = flat.abs().amax(1)
    scaled = flat / torch.where(size_B > 0, size_B, 1.0)[:, None]
    level = _nearest(scaled, levels(weight.device)).flatten()[: 2 * bytes_].to(torch.uint8)
    mean = size_B.mean()
    shifted = torch.nn.functional.pad(size_B - mean, (0, -blocks % GROUP)).view(-1, GROUP)
    scales = shifted.abs().amax(1)
    coded = _nearest(shifted / torch.where(scales > 0, scales, 1.0)[:, None], dynamic(weight.device))
    return {
        "codes": level[::2] << 4 | level[1::2],
        "sizes": coded.flatten()[:blocks].to(torch.uint8),
        "scales": scales,
        "mean": mean,
    }


def dequantise(parts: dict[str, torch.Tensor], shape: torch.Size, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The weights that the codes stand for."""
    codes = parts["codes"]
    n, blocks = math.prod(shape), len(parts["sizes"])
    if codes.device.type == "meta":
        return torch.empty(shape, dtype=dtype, device="meta")
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    level = torch.stack([codes >> 4, codes & 15], 1).flatten().long()
    group = torch.arange(blocks, device=codes.device) // GROUP
    size_B = dynamic(codes.device).to(exact)[parts["sizes"].long()] * parts["scales"].to(exact)[group]
    size_B = size_B + parts["mean"].to(exact)
    flat = torch.nn.functional.pad(levels(codes.device).to(exact)[level], (0, blocks * BLOCK - len(level)))
    return (flat.view(blocks, BLOCK) * size_B[:, None]).flatten()[:n].view(shape).to(dtype)


def levels(device: torch.device) -> torch.Tensor:
    """The sixteen levels."""
    return torch.tensor(LEVELS, device=device)


@cache
def dynamic(device: torch.device) -> torch.Tensor:
    """256 numbers in [-1, 1], dense around 0: sign, power of ten, fraction (Dettmers 2015, arXiv 1511.04561)."""
    found = [0.0, 1.0]
    for power in range(7):
        edges = torch.linspace(0.1, 1, 2**power + 1)
        middles = (10.0 ** (power - 6) * (edges[:-1] + edges[1:]) / 2.0).tolist()
        found += [*middles, *(-value for value in middles)]
    return torch.tensor(sorted(found), device=device)


def _nearest(values: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
    return torch.bucketize(values, (among[:-1] + among[1:]) / 2)


# ---- a layer


class Product(torch.autograd.Function):
    """x W^T with the weights made from their codes, in the backward once more, so that nothing of them is kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Nf4Linear) -> torch.Tensor:
        ctx.layer = layer
        return torch.nn.functional.linear(x, layer.made(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad @ ctx.layer.made(grad.dtype), None


class Nf4Linear(torch.nn.Linear):
    """A frozen linear layer whose weights are kept as codes. across: they are laid out (inputs, outputs)."""

    def __init__(self, layer: torch.nn.Module, across: bool) -> None:
        torch.nn.Module.__init__(self)
        weight: Any = layer.weight
        self.shape, self.across = weight.shape, across
        self.out_features, self.in_features = reversed(weight.shape) if across else weight.shape
        parts = quantise(weight)
        for name, part in parts.items():
            self.register_buffer(name, part)
        self.fast = nf4_kernel.agrees(parts, self.shape)
        self.bias = layer.bias  # type: ignore[assignment]

    def plain(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The weights as the base lays them out."""
        parts = {name: getattr(self, name) for name in ("codes", "sizes", "scales", "mean")}
        made = nf4_kernel.dequantise(parts, self.shape) if self.fast and dtype != torch.float64 else None
        return dequantise(parts, self.shape, dtype) if made is None else made.to(dtype)

    def made(self, dtype: torch.dtype) -> torch.Tensor:
        """The weights (outputs, inputs)."""
        return self.plain(dtype).t() if self.across else self.plain(dtype)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """What peft asks for device and shape."""
        return self.made(torch.float32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = Product.apply(x, self)  # type: ignore[no-untyped-call]
        return out if self.bias is None else out + self.bias
