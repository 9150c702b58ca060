"""What filters may look at besides the instances they judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from didact.instance import Instance


class HasWeights(Protocol):
    """A rendered instance: one loss weight per token, zero for context."""

    @property
    def weights(self) -> Sequence[float]: ...


@dataclass(frozen=True)
class Context:
    """heldout: what the model will be judged on. tokens: renders an instance as for training. max_length: in tokens."""

    heldout: Sequence[Instance] = ()
    tokens: Callable[[Instance], HasWeights] | None = None
    max_length: int = 512
