"""Prompts in rounds until enough is made: all of a round are drawn before any is answered, so the order is fixed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from didact.generate.context import Asker, Context
from didact.llm import Reply, Request

Shown = TypeVar("Shown")


class Rounds(Protocol):
    """The settings of a strategy that works in rounds."""

    @property
    def type(self) -> str: ...
    @property
    def target(self) -> int: ...
    @property
    def prompts_per_round(self) -> int: ...
    @property
    def rounds_in_vain(self) -> int: ...


def in_rounds(
    config: Rounds,
    context: Context,
    llm: Asker,
    draw: Callable[[], Shown],
    request: Callable[[Shown, int], Request],
    made: Callable[[], int],
) -> Iterator[tuple[int, Shown, Reply]]:
    """(number, what its prompt showed, reply) of each answered prompt, until `made` says that the target is reached,
    or too many rounds brought nothing. A prompt without an answer is counted here."""
    asked = vain = 0
    while made() < config.target and vain < config.rounds_in_vain:
        shown, before = [draw() for _ in range(config.prompts_per_round)], made()
        replies = llm.ask(request(some, asked + i) for i, some in enumerate(shown))
        for number, (some, reply) in enumerate(zip(shown, replies, strict=True), asked + 1):
            if reply.ok:
                yield number, some, reply
            else:
                context.rejected(config.type, reply, number)
        asked += len(shown)
        vain = 0 if made() > before else vain + 1
        context.progress(made(), config.target)
