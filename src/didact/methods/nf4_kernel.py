"""bitsandbytes' kernel for making weights out of NF4 codes, where it is installed and gives our reference's numbers.

Its processor kernel in 0.50.2 gives wrong weights where rows end within a block (64 x 96). Blocks are laid out over the
flat weights, so it is given them as rows; every layer is compared once all the same.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch


@cache
def _functional() -> Any:
    """The module with the kernels; None where it is not installed or cannot be loaded on this machine."""
    try:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of other kernels that we do not use
        from bitsandbytes import functional
    except (ImportError, OSError, RuntimeError):
        return None
    return functional


def dequantise(parts: Mapping[str, torch.Tensor], shape: torch.Size) -> torch.Tensor | None:
    """The weights in fp32 that the codes stand for; None where the kernel does not run.

    parts: as `nf4.quantise` gives them, on any device.
    """
    from didact.methods import nf4

    functional, codes = _functional(), parts["codes"]
    if functional is None or codes.device.type == "meta" or math.prod(shape) % 2:
        return None
    state = functional.QuantState
    sizes = state(
        absmax=parts["scales"], code=nf4.dynamic(codes.device), blocksize=nf4.GROUP, dtype=torch.float32
    )  # of the blocks, quantised in turn
    blocks, rest = divmod(math.prod(shape), nf4.BLOCK)
    flat = shape if rest else torch.Size([blocks, nf4.BLOCK])  # its rows must not end within a block
    whole = state(
        absmax=parts["sizes"], shape=flat, code=nf4.levels(codes.device), blocksize=nf4.BLOCK, quant_type="nf4",
        dtype=torch.float32, offset=parts["mean"], state2=sizes,
    )  # fmt: skip
    try:
        made: torch.Tensor = functional.dequantize_4bit(codes[:, None], whole)
    except (RuntimeError, NotImplementedError, ValueError, AttributeError):
        return None
    return made.view(shape)


def agrees(parts: Mapping[str, torch.Tensor], shape: torch.Size) -> bool:
    """Whether the kernel runs here and makes the very numbers of the reference."""
    from didact.methods import nf4

    made = dequantise(parts, shape)
    return made is not None and torch.equal(made, nf4.dequantise(dict(parts), shape))
