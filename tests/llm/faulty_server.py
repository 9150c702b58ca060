"""A scripted OpenAI-compatible server: what it answers is a function of the request; faults are planned per prompt.

`with Server(script) as server` serves from a thread; a client of another process can be killed at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from hashlib import blake2b
from typing import Any


@dataclass
class Say:
    """One thing to do with a request. raw: bytes sent as they are; drip: seconds between bytes; close: afterwards."""

    status: int = 200
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()
    raw: bytes | None = None
    length: int | None = None
    chunked: bool = False
    wait: float = 0.0
    drip: float = 0.0
    reset_after: int | None = None
    hang: bool = False
    close: bool = False
    hangup: bool = False  # after the answer, unannounced


def completion(
    text: str | None, finish: str = "stop", tokens: tuple[int, int] = (10, 5), **message: Any
) -> dict[str, Any]:
    """A body as an OpenAI-compatible server sends it, for chat and completions at once."""
    choice = {
        "index": 0,
        "finish_reason": finish,
        "text": text,
        "message": {"role": "assistant", "content": text, **message},
    }
    return {"id": "x", "object": "chat.completion", "choices": [choice],
            "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}}  # fmt: skip


def ok(text: str, **more: Any) -> Say:
    return Say(body=completion(text, **more))


def embedding(numbers: list[Any], tokens: int = 7) -> Say:
    """An answer of /embeddings."""
    return Say(body={"data": [{"index": 0, "embedding": numbers}], "usage": {"prompt_tokens": tokens}})


def http_date(seconds: float = 0.0) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


def prompt_of(data: dict[str, Any]) -> str:
    return str(data["messages"][-1]["content"] if "messages" in data else data.get("prompt", data.get("input")))


def echo_hash(data: dict[str, Any]) -> str:
    """A text that is a function of the request."""
    return "answer " + blake2b(json.dumps(data, sort_keys=True).encode(), digest_size=6).hexdigest()


# What goes wrong with a teacher, each with what the server does.
FAULTS: dict[str, Say] = {
    "500": Say(500, {"error": "x"}),
    "502 page": Say(502, b"<html>Bad gateway</html>"),
    "503 overloaded": Say(503, b""),
    "529": Say(529, {"error": {"message": "overloaded"}}),
    "page": Say(200, b"<!doctype html><p>hello"),
    "cut json": Say(200, json.dumps(completion("x")).encode()[:-9]),
    "empty body": Say(200, b""),
    "wrong schema": Say(200, {"answer": "x"}),
    "no choices": Say(200, {"choices": []}),
    "number for text": Say(200, completion(7)),  # type: ignore[arg-type]
    "error in 200": Say(200, {"error": {"message": "internal"}}),
    "reset at once": Say(200, completion("x"), reset_after=0),
    "reset in the middle": Say(200, completion("x"), reset_after=90),
    "length too long": Say(200, completion("x"), length=5000, close=True),
    "length too short": Say(200, completion("x"), length=20),
    "not http": Say(raw=b"SSH-2.0-OpenSSH_9.6\r\n"),
    "length is no number": Say(raw=b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n{}"),
    "compressed": Say(200, b"\x1f\x8b", headers=(("content-encoding", "gzip"),)),
    "429": Say(429, {"error": {"message": "slow down"}}),
    "429 seconds": Say(429, b"", headers=(("retry-after", "0.01"),)),
    "429 date": Say(429, b"", headers=(("retry-after", http_date()), ("date", http_date()))),
    "429 nonsense": Say(429, b"", headers=(("retry-after", "soon"),)),
}


TEXT = """
amber barn cedar dune ember fern glade heron inlet jetty kiln loom maple nest oxbow plume quill reed slate
thatch umber vale wharf yarrow zinc acorn brook crane drift easel flint gourd hedge iris juniper kelp lathe
mire nook orchard pewter quarry rudder sable tallow upland vetch willow yoke arbour bramble copper delta
"""
WORDS = TEXT.split()


def tasks(data: dict[str, Any]) -> str:
    """What a teacher of Self-Instruct says, as a function of the prompt alone: lists, kinds and instances."""
    prompt = prompt_of(data)
    rng = random.Random(prompt)
    if prompt.startswith("Think of a series"):
        items = [f"Tell of {' '.join(rng.sample(WORDS, rng.randint(5, 9)))}" for _ in range(7)]
        return " " + "".join(f"{item}\n{10 + i}. " for i, item in enumerate(items)).rsplit("\n", 1)[0]
    if prompt.endswith("Classification:"):
        return rng.choice([" Yes", " No", " No"])
    words = [" ".join(rng.sample(WORDS, 4)) for _ in range(4)]
    if "Class label: now" in prompt:
        return f"Class label: warm\n{words[0]}\nClass label: cold\n{words[1]}"
    return f"Example 1\nInput: {words[0]}\nOutput: {words[1]}\nExample 2\nInput: {words[2]}\nOutput: {words[3]}"


Script = Callable[[dict[str, Any], int], Say]  # the request, how often its prompt came before


class Server:
    """script: what to do with a request. calls, seen: how many came, and how often each prompt did."""

    def __init__(self, script: Script, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.script, self.context, self.port = script, context, port
        self.calls, self.busy, self.peak = 0, 0, 0
        self.seen: Counter[str] = Counter()
        self.heads: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self._ready, self._loop = threading.Event(), asyncio.new_event_loop()

    @property
    def url(self) -> str:
        return f"http{'s' if self.context else ''}://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Server:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(self.start())
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        with contextlib.suppress(Exception):
            self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.context, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._one(reader, writer):
                pass
        with contextlib.suppress(Exception):
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        size = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.lower().startswith("content-length"))
        data = json.loads(await reader.readexactly(size))
        prompt = prompt_of(data)
        before = self.seen[prompt]
        self.seen[prompt] += 1
        self.calls += 1
        if len(self.bodies) < 1000:
            self.heads.append(head)
            self.bodies.append(data)
        self.busy += 1
        self.peak = max(self.peak, self.busy)
        try:
            return await self._say(self.script(data, before), writer)
        finally:
            self.busy -= 1

    async def _say(self, say: Say, writer: asyncio.StreamWriter) -> bool:
        if say.wait:
            await asyncio.sleep(say.wait)
        if say.hang:
            await asyncio.sleep(3600)
        body = say.body if isinstance(say.body, bytes) else json.dumps(say.body).encode()
        head = f"HTTP/1.1 {say.status} X\r\n" + "".join(f"{name}: {value}\r\n" for name, value in say.headers)
        if say.chunked:
            size = max(7, len(body) // 16)
            pieces = [body[i : i + size] for i in range(0, len(body), size)]
            coded = b"".join(b"%x;note=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nx: y\r\n\r\n"
            answer = head.encode() + b"transfer-encoding: chunked\r\n\r\n" + coded
        elif say.close and say.length is None:
            answer = head.encode() + b"connection: close\r\n\r\n" + body
        else:
            length = len(body) if say.length is None else say.length
            answer = head.encode() + b"content-length: %d\r\n\r\n" % length + body
        answer = answer if say.raw is None else say.raw
        if say.reset_after is not None:
            writer.write(answer[: say.reset_after])
            await writer.drain()
            await asyncio.sleep(0.005)
            writer.transport.abort()
            return False
        if say.drip:
            for i in range(len(answer)):
                writer.write(answer[i : i + 1])
                await writer.drain()
                await asyncio.sleep(say.drip)
        else:
            writer.write(answer)
            await writer.drain()
        return not (say.close or say.hangup)
