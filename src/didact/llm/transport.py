"""HTTP/1.1 over asyncio streams: one kept connection per worker, POST only, nothing followed and no proxy.

At 64 connections this costs a fraction of what general clients do, and it is only as complicated as an endpoint needs:
bodies by content-length, in chunks or up to the close, bounded in size.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass

LARGEST = 64 << 20  # bytes of a body
HEADERS = 64 << 10  # bytes of all headers


class TransportError(Exception):
    """The call did not come to a whole answer. unreachable: it was never sent."""

    def __init__(self, why: str, unreachable: bool = False) -> None:
        super().__init__(why)
        self.why, self.unreachable = why, unreachable


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Address:
    """Where to send: host, port, path; secure: a TLS context, or None. head: the headers up to content-length."""

    host: str
    port: int
    secure: ssl.SSLContext | None
    head: bytes


class Connection:
    """One connection, opened when it is needed and kept as long as both sides agree."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, body: bytes) -> Response:
        """Send a body and read the answer; raises TransportError."""
        kept = self._writer is not None
        try:
            return await self._exchange(body)
        except (TransportError, OSError, EOFError) as error:
            self.close()
            if kept and isinstance(error, _Stale):  # closed while it was idle: the server has not seen the request
                return await self.post(body)
            raise error if isinstance(error, TransportError) else TransportError(_why(error)) from error
        except BaseException:  # a deadline or a stop leaves half an answer in the stream
            self.close()
            raise

    async def _exchange(self, body: bytes) -> Response:
        if self._writer is None:
            await self._open()
        assert self._writer is not None
        assert self._reader is not None
        try:
            self._writer.write(b"%b%d\r\n\r\n%b" % (self.address.head, len(body), body))
            if self._writer.transport.get_write_buffer_size():
                await self._writer.drain()
            line = await self._reader.readuntil(b"\r\n")
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            if isinstance(error, asyncio.IncompleteReadError) and error.partial:
                raise TransportError("the answer is cut off") from error
            raise _Stale("the connection was reset before the answer") from error
        except asyncio.LimitOverrunError as error:
            raise TransportError("not an HTTP answer") from error
        return await self._answer(self._reader, line)

    async def _answer(self, reader: asyncio.StreamReader, line: bytes) -> Response:
        status = _status(line)
        headers = await _headers(reader)
        while 100 <= status < 200:
            status = _status(await reader.readuntil(b"\r\n"))
            headers = await _headers(reader)
        keep = line.startswith(b"HTTP/1.1") and headers.get("connection", "").lower() != "close"
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise TransportError("the answer is compressed, which was not asked for")
        try:
            if headers.get("transfer-encoding", "").lower() == "chunked":
                body = await _chunks(reader)
            elif "content-length" in headers:
                body = await reader.readexactly(_size(headers["content-length"], 10))
            else:
                body, keep = await _rest(reader), False
        except asyncio.IncompleteReadError as error:
            raise TransportError("the answer is cut off") from error
        except ConnectionError as error:
            raise TransportError("the connection was reset in the middle of the answer") from error
        if not keep:
            self.close()
        return Response(status, headers, body)

    async def _open(self) -> None:
        where = self.address
        try:
            self._reader, self._writer = await asyncio.open_connection(
                where.host, where.port, ssl=where.secure, limit=HEADERS
            )
        except ssl.SSLCertVerificationError as error:
            raise TransportError(f"the certificate is not trusted: {error.verify_message}", unreachable=True) from error
        except OSError as error:
            raise TransportError(f"no connection to {where.host}:{where.port}: {_why(error)}", True) from error

    def close(self) -> None:
        """Let go of the connection; the next call opens another."""
        if self._writer is not None:
            with contextlib.suppress(Exception):
                self._writer.transport.abort()
        self._reader = self._writer = None


class _Stale(TransportError):
    """Nothing of an answer was read: on a kept connection the server closed it while idle."""


def _why(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()).lower() or type(error).__name__


def _status(line: bytes) -> int:
    parts = line.split(None, 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
        raise TransportError("not an HTTP answer")
    return int(parts[1])


async def _headers(reader: asyncio.StreamReader) -> dict[str, str]:
    headers: dict[str, str] = {}
    size = 0
    while True:
        try:
            line = await reader.readuntil(b"\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError) as error:
            raise TransportError("the answer is cut off") from error
        size += len(line)
        if line == b"\r\n":
            return headers
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or size > HEADERS:
            raise TransportError("not an HTTP answer")
        headers[name.strip().lower()] = value.strip()


def _size(text: str, base: int) -> int:
    try:
        size = int(text, base)
    except ValueError as error:
        raise TransportError("the length of the answer is no number") from error
    if not 0 <= size <= LARGEST:
        raise TransportError(f"the answer is longer than {LARGEST >> 20} MiB")
    return size


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    total = 0
    while True:
        size = _size((await reader.readuntil(b"\r\n")).split(b";")[0].strip().decode("latin-1"), 16)
        if size == 0:
            break
        total = _size(str(total + size), 10)
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":  # trailers
        pass
    return b"".join(parts)


async def _rest(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    total = 0
    while block := await reader.read(1 << 16):
        total = _size(str(total + len(block)), 10)
        parts.append(block)
    return b"".join(parts)
