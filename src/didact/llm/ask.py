"""Ask a teacher many things at once: retries, waiting, deadlines, budget and the durable log are here only.

The interface is synchronous and in order; strategies neither wait nor retry. Replies depend on the answers alone, never
on how many calls were in flight.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from didact.errors import Interrupted
from didact.llm.budget import Budget, BudgetConfig
from didact.llm.endpoint import Endpoint
from didact.llm.local import Local
from didact.llm.log import Log
from didact.llm.nouns import Counts, Reply, Request
from didact.llm.pace import Pace
from didact.llm.round import Round, ended, worst
from didact.llm.transport import Connection


class Llm:
    """One teacher with its log. counts: what became of all prompts; report is called now and then with this object."""

    def __init__(
        self,
        teacher: Endpoint | Local,
        log: Log,
        budget: Budget | None = None,
        report: Callable[[Llm], None] = lambda llm: None,
    ) -> None:
        self.teacher, self.log, self.report = teacher, log, report
        self.budget = budget or Budget(BudgetConfig(), log)
        self.counts = Counts()
        self.pace = Pace(teacher.config.slots, trusted=False) if isinstance(teacher, Endpoint) else Pace(1)
        self.idle: list[Connection] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = 0.0

    @property
    def name(self) -> str:
        """What identifies the teacher in an instance's origin."""
        return self.teacher.model

    def ask(self, requests: Iterable[Request]) -> list[Reply]:
        """All replies, in order. Raises UsageError if the teacher cannot be asked at all or the budget is reached."""
        return list(self.each(requests))

    def each(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """The replies one after the other as they come, in order; memory does not grow with their number."""
        if isinstance(self.teacher, Local):
            yield from self._each_local(self.teacher, iter(requests))
            return
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._loop.set_exception_handler(_complain)
        began = time.monotonic()
        work = Round(self, self.teacher, iter(requests))
        try:
            while replies := self._loop.run_until_complete(work.ready()):
                self.counts.seconds += time.monotonic() - began
                self._tell()
                yield from replies
                began = time.monotonic()
        finally:
            self._loop.run_until_complete(work.close())
            self.counts.waits = self.pace.waits
            self._tell(last=True)

    def close(self) -> None:
        """Let go of connections."""
        for connection in self.idle:
            connection.close()
        self.idle.clear()
        if self._loop is not None:
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()
            self._loop = None

    def _tell(self, last: bool = False) -> None:
        if last or time.monotonic() - self._told > 0.2:
            self._told = time.monotonic()
            self.report(self)

    def known(self, key: str) -> Reply | None:
        """The reply in the log under a key."""
        record = self.log.find(key)
        if record is None:
            return None
        return Reply(
            record["state"],
            record["text"],
            record.get("why", ""),
            record.get("finish", ""),
            key,
            record.get("in", 0),
            record.get("out", 0),
            record.get("calls", 0),
        )

    def record(self, reply: Reply) -> None:
        """Put a reply in the log; it counts after the next `log.sync`."""
        price = self._price(reply)
        self.counts.calls += reply.calls
        record: dict[str, Any] = {"key": reply.key, "state": reply.state, "model": self.name, "text": reply.text}
        record |= {"why": reply.why} if reply.why else {}
        record |= {"finish": reply.finish, "in": reply.tokens_in, "out": reply.tokens_out, "calls": reply.calls}
        self.log.add(record | ({"cost": price} if price else {}))

    def count(self, reply: Reply, known: bool) -> None:
        """Count a reply that is given on; each answer's cost once, whichever command paid it."""
        self.counts.add(reply, known)
        if not known or self.log.earlier(reply.key):
            self.counts.tokens += reply.tokens_in + reply.tokens_out
            self.counts.money += self._price(reply)

    def _price(self, reply: Reply) -> float:
        return (reply.tokens_in * self.teacher.input_price + reply.tokens_out * self.teacher.output_price) / 1e6

    def _each_local(self, teacher: Local, requests: Iterator[Request]) -> Iterator[Reply]:
        while some := list(islice(requests, teacher.batch)):
            began = time.monotonic()
            keys = [teacher.key(request) for request in some]
            found = {key: self.known(key) for key in keys}
            new = {key: request for key, request in zip(keys, some, strict=True) if found[key] is None}
            estimate = sum(worst(request) for request in new.values())
            if new and not self.budget.allows(len(new), estimate, 0.0):
                raise self.budget.reached(len(new), estimate, 0.0)
            answers = teacher.speak(list(new.values())) if new else []
            for key, answer in zip(new, answers, strict=True):
                found[key] = reply = ended(answer, new[key], key, 1)
                self.record(reply)
            if new:
                self.log.sync()
            self.counts.seconds += time.monotonic() - began
            for key in keys:
                known = found[key]
                assert known is not None
                self.count(known, new.pop(key, None) is None)
                self._tell()
                yield known


def _complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A stop that comes while a call is written is raised again by who reads its answer, so it is no news here."""
    if not isinstance(context.get("exception"), Interrupted):
        loop.default_exception_handler(context)
