"""How many calls may be in flight: one more for each round of answers, half as many when the teacher is overloaded.

Additive increase and multiplicative decrease, as in TCP (Chiu and Jain 1989). Until the first call has been accepted
only three are sent: a wrong key, address or model costs no more than that.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque

CAREFUL = 3  # calls before the first one is accepted
BELIEVED = 5.0  # seconds without a refusal after which the rest may go too


class Pace:
    """Lets calls through. limit: how many now; waits: how often the teacher asked to wait."""

    def __init__(self, most: int, trusted: bool = False) -> None:
        self.most, self.trusted = most, trusted
        self.limit = float(most)
        self.in_flight, self.waits = 0, 0
        self._resume, self._cut, self._first, self._sent = 0.0, -1.0, 0.0, 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._random = random.Random()

    def _may_go(self, now: float) -> bool:
        careful = not self.trusted and (not self._first or now - self._first < BELIEVED)
        return self.in_flight < int(self.limit) and not (careful and self._sent >= CAREFUL)

    async def enter(self) -> float:
        """Wait for a slot; returns the time it was given, which `overloaded` wants back."""
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            if now < self._resume:
                await asyncio.sleep(self._resume - now + self._random.random() * min(1.0, self._resume - now))
            elif self._may_go(now):
                self.in_flight += 1
                self._sent += 1
                self._first = self._first or now
                return now
            else:
                await self.change(BELIEVED if not self.trusted else None)

    async def change(self, longest: float | None = None) -> None:
        """Wait until some call has ended."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        if longest is None:
            await future
        else:
            await asyncio.wait([future], timeout=longest)

    def leave(self) -> None:
        """A call has ended, one way or another."""
        self.in_flight -= 1
        self.wake()

    def wake(self) -> None:
        """Let all that wait look again, as many as could go."""
        for _ in range(len(self._waiting)):
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)

    def answered(self) -> None:
        """The teacher answered: a little faster, if it was slowed down."""
        self.trusted = True
        if self.limit < self.most:
            self.limit = min(float(self.most), self.limit + 1.0 / self.limit)

    def faulted(self) -> None:
        """A call came to nothing for reasons of its own: it says nothing of key, address and model."""
        if not self.trusted:
            self._sent -= 1

    def overloaded(self, sent: float, seconds: float) -> None:
        """The teacher has too much to do: half as many calls, none for some seconds.

        Calls sent before the last cut say nothing new.
        """
        self.waits += 1
        self.trusted = True  # the key was accepted
        now = asyncio.get_running_loop().time()
        if sent >= self._cut:
            self.limit, self._cut = max(1.0, self.limit / 2), now
        self._resume = max(self._resume, now + seconds)
