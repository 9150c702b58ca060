"""What filters may look at besides the instances they judge. All of it is handed in by the run as plain callables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from didact.errors import UsageError
from didact.instance import Instance, Message

Conversation = tuple[Message, ...]
Ask = Callable[[Sequence[Conversation], str], Sequence[str | None]]
Row = tuple[int, tuple[str, ...]]  # number of a row in its file, and its texts


class HasWeights(Protocol):
    """A rendered instance: one loss weight per token, zero for context."""

    @property
    def weights(self) -> Sequence[float]: ...


def _no_benchmarks(file: str) -> Iterable[Row]:
    raise UsageError("no benchmark file can be read here", "take benchmarks out of decontaminate")


@dataclass(frozen=True)
class Context:
    """heldout: what the model will be judged on. tokens: renders an instance as for training. max_length: in tokens.

    benchmarks: rows of a benchmark's file. ask: many conversations at once of a named teacher; an answer each, or None.
    loss: mean nats per answer token of each instance under the base. embed: texts to vectors of a named model.
    """

    heldout: Sequence[Instance] = ()
    tokens: Callable[[Instance], HasWeights] | None = None
    max_length: int = 512
    benchmarks: Callable[[str], Iterable[Row]] = _no_benchmarks
    ask: Ask | None = None
    loss: Callable[[Sequence[Instance]], Sequence[float]] | None = None
    embed: Callable[[Sequence[str], str], Any] | None = None
