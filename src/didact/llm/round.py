"""One round of asking an endpoint: workers, retries, deadlines, waiting and the budget; replies leave in order."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from didact.errors import UsageError
from didact.llm.budget import Budget
from didact.llm.endpoint import Endpoint, Fault, Outcome, Refused, Wait
from didact.llm.log import Log
from didact.llm.nouns import Answer, Reply, Request, State, repeats
from didact.llm.pace import Pace
from didact.llm.transport import Connection, TransportError

GROUP = 0.01  # seconds in which answers gather before they are flushed to the disk together
REFUSED_AT_FIRST = 3  # so many refusals before any answer: it is not the prompt


class Asking(Protocol):
    """What a round uses of the teacher it belongs to: its log, budget, pace, connections and counts."""

    log: Log
    budget: Budget
    pace: Pace
    idle: list[Connection]

    def known(self, key: str) -> Reply | None: ...
    def record(self, reply: Reply) -> None: ...
    def count(self, reply: Reply, known: bool) -> None: ...


@dataclass(slots=True)
class Job:
    """A prompt on its way. calls: sent so far; opened, reserved: calls, tokens and money set aside for it."""

    request: Request
    body: bytes
    key: str
    future: asyncio.Future[Reply]
    calls: int = 0
    opened: int = 0
    reserved: tuple[int, float] = (0, 0.0)


class Round:
    """One call of `each`: workers take prompts from an iterator, replies leave in order through a bounded window."""

    def __init__(self, llm: Asking, teacher: Endpoint, requests: Iterator[Request]) -> None:
        self.llm, self.teacher, self.requests = llm, teacher, requests
        self.window: deque[tuple[asyncio.Future[Reply], bool]] = deque()
        self.most = max(1024, 16 * teacher.config.slots)
        self.open: dict[str, asyncio.Future[Reply]] = {}
        self.unsynced: list[tuple[Job, Reply]] = []
        self.workers: list[asyncio.Task[None]] = []
        self.stop: BaseException | None = None
        self.exhausted = False
        self.answered = time.monotonic()
        self.refusals: int | None = 0  # None after the first answer
        self.unreached = 0
        self.broke = 0  # calls set aside by prompts that wait for the budget
        self._random = random.Random()

    # ---- the side of the reader

    async def ready(self) -> list[Reply]:
        """The next replies that are there, at least one; none at the end."""
        if not self.workers:
            self._events()
        while True:
            if self.stop is not None:
                raise self.stop
            replies = []
            while self.window and self.window[0][0].done():
                future, known = self.window.popleft()
                replies.append(future.result())
                self.llm.count(replies[-1], known)
            if replies:
                self.room.set()
                return replies
            if self.exhausted and not self.window:
                return []
            self.news.clear()
            if not self.window or not self.window[0][0].done():
                await self.news.wait()

    def _events(self) -> None:
        self.news, self.room, self.dirty = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.workers = [asyncio.ensure_future(self._work()) for _ in range(self.teacher.config.slots)]
        self.workers.append(asyncio.ensure_future(self._flush()))

    async def close(self) -> None:
        """End the workers; what was answered is on the disk."""
        for worker in self.workers:
            worker.cancel()
        await asyncio.gather(*self.workers, return_exceptions=True)
        self.llm.log.sync()

    # ---- the side of the teacher

    async def _work(self) -> None:
        connection = self.llm.idle.pop() if self.llm.idle else self.teacher.connection()
        try:
            while self.stop is None and (job := await self._take()) is not None:
                await self._settle(connection, job)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # it ends the round: the reader raises it
            self.stop = self.stop or error
            self.llm.pace.wake()
            self.news.set()
        finally:
            self.llm.idle.append(connection)

    async def _take(self) -> Job | None:
        """The next prompt that must be sent; those the log can answer are answered on the way."""
        while not self.exhausted and self.stop is None:
            if len(self.window) >= self.most:
                self.room.clear()
                await self.room.wait()
                continue
            request = next(self.requests, None)
            if request is None:
                self.exhausted = True
                self.room.set()
                self.news.set()
                return None
            body = self.teacher.body(request)
            key = self.teacher.key(request, body)
            if key in self.open:  # the same prompt is on its way: one call for both
                self.window.append((self.open[key], True))
                continue
            future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            reply = self.llm.known(key)
            self.window.append((future, reply is not None))
            if reply is None:
                self.open[key] = future
                return Job(request, body, key, future)
            future.set_result(reply)
            self.news.set()
            if len(self.window) % 256 == 0:
                await asyncio.sleep(0)
        return None

    async def _settle(self, connection: Connection, job: Job) -> None:
        """Ask until there is an answer, or none is to be had."""
        config, pace, faults, why = self.teacher.config, self.llm.pace, 0, ""
        try:
            while faults <= config.retries:
                await self._afford(job)
                sent = await pace.enter()
                if self.stop is not None:
                    pace.leave()
                    return
                try:
                    outcome = await self._call(connection, job)
                finally:
                    pace.leave()
                if isinstance(outcome, (Answer, Refused)):
                    self._finish(job, outcome)
                    return
                if isinstance(outcome, Wait):
                    pace.overloaded(sent, self._waited(outcome.seconds))
                    continue
                if outcome.overloaded:
                    pace.overloaded(sent, 0.0)
                pace.faulted()
                why = outcome.why
                self._patience(outcome)
                if not outcome.unreachable:
                    faults += 1
                    if faults > config.retries:
                        break
                pause = min(config.longest_wait, config.backoff * 2 ** max(0, faults - 1))
                await asyncio.sleep(max(outcome.seconds, pause * self._random.uniform(0.5, 1.0)))
            self._record(job, Reply("failed", why=why, key=job.key, calls=job.calls))
        finally:
            self.llm.budget.close(job.opened, *job.reserved)
            self.llm.pace.wake()

    async def _call(self, connection: Connection, job: Job) -> Outcome:
        job.calls += 1
        try:
            async with asyncio.timeout(self.teacher.config.deadline):
                response = await connection.post(job.body)
        except TimeoutError:
            return Fault("no whole answer before the deadline")
        except TransportError as error:
            job.calls -= error.unreachable
            return Fault(self.teacher.redact(error.why), unreachable=error.unreachable)
        outcome = self.teacher.outcome(response)
        if isinstance(outcome, Fault) and response.status == 200:
            connection.close()  # what is left in the stream cannot be trusted
        return outcome

    def _finish(self, job: Job, outcome: Answer | Refused) -> None:
        if isinstance(outcome, Answer):
            self.refusals, self.answered = None, time.monotonic()
            self.llm.pace.answered()
            self._record(job, ended(outcome, job.request, job.key, job.calls))
            return
        if self.refusals is not None:
            self.refusals += 1
            if self.refusals >= REFUSED_AT_FIRST:
                fix = "check api, limit_name and extra of this teacher, and what the model can take"
                raise UsageError(f"every prompt is {outcome.why}", fix, file=self.teacher.config.base_url)
        self._record(job, Reply("failed", why=outcome.why, key=job.key, calls=job.calls))

    def _record(self, job: Job, reply: Reply) -> None:
        self.llm.record(reply)
        self.unsynced.append((job, reply))
        self.dirty.set()

    async def _flush(self) -> None:
        """Flush answers to the disk in groups; only then they count."""
        try:
            while True:
                await self.dirty.wait()
                await asyncio.sleep(GROUP)
                self.dirty.clear()
                group, self.unsynced = self.unsynced, []
                await asyncio.get_running_loop().run_in_executor(None, self.llm.log.sync)
                for job, reply in group:
                    self.open.pop(job.key, None)
                    job.future.set_result(reply)
                self.news.set()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.stop = self.stop or error
            self.news.set()

    async def _afford(self, job: Job) -> None:
        """Set the worst case of the next call aside; the budget is reached when nothing in flight could free some."""
        budget, teacher = self.llm.budget, self.teacher
        first, tokens, money = job.reserved == (0, 0.0), 0, 0.0
        if job.opened > job.calls:  # the last one never reached the teacher
            return
        if first:
            written = job.request.max_tokens
            tokens = worst(job.request)
            money = ((tokens - written) * teacher.input_price + written * teacher.output_price) / 1e6
        while not budget.allows(1, tokens, money):
            if budget.open_requests <= self.broke + job.opened:  # all that is set aside belongs to those who wait here
                raise budget.reached(1, tokens, money)
            self.broke += job.opened
            await self.llm.pace.change()
            self.broke -= job.opened
            if self.stop is not None:
                return
        job.opened += 1
        budget.open(1, tokens, money)
        if first:
            job.reserved = (tokens, money)

    def _waited(self, seconds: float | None) -> float:
        """How long to leave the teacher alone; UsageError if that is longer than anyone waits."""
        config = self.teacher.config
        if seconds is None:
            self._patience(Fault("it asks to wait"))
            return min(config.longest_wait, config.backoff)
        if seconds > config.patience:
            problem = f"the teacher asks to wait {seconds:,.0f} seconds, longer than patience ({config.patience:,.0f})"
            raise UsageError(problem, "repeat the command later, or raise patience", file=config.base_url)
        self.answered = max(self.answered, time.monotonic() + seconds)
        return seconds

    def _patience(self, fault: Fault) -> None:
        """UsageError if the teacher cannot be reached from the start, or has long been silent."""
        config, why = self.teacher.config, fault.why
        if fault.unreachable and not self.llm.pace.trusted:
            self.unreached += 1
            if self.unreached >= REFUSED_AT_FIRST:
                raise UsageError(why, "start the teacher, or check base_url", file=config.base_url)
        quiet = time.monotonic() - self.answered
        if quiet > config.patience:
            problem = f"no answer for {quiet:,.0f} seconds; the last try: {why}"
            raise UsageError(problem, "see to the teacher and repeat: all answers are kept", file=config.base_url)


def ended(answer: Answer, request: Request, key: str, calls: int) -> Reply:
    """The reply that an answer makes; one that only repeats the prompt is no use to anybody."""
    why = answer.why or ("the answer repeats the prompt" if repeats(answer.text, request.last) else "")
    text = "" if why.startswith("the answer") else answer.text  # too long, blank or not to be written
    state: State = "rejected" if why else "ok"
    return Reply(state, text, why, answer.finish, key, answer.tokens_in, answer.tokens_out, calls)


def worst(request: Request) -> int:
    """Tokens that a call can use at most: one per two bytes read, and all it may write."""
    return len(request.text.encode("utf-8", "replace")) // 2 + 16 + request.max_tokens
