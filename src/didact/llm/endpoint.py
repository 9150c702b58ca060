"""An OpenAI-compatible endpoint: a request as its body, and what each kind of answer means."""

from __future__ import annotations

import base64
import json
import math
import ssl
import time
from array import array
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from hashlib import blake2b
from typing import Any
from urllib.parse import urlsplit

from didact.errors import UsageError
from didact.llm.config import EndpointConfig
from didact.llm.nouns import Answer, Request
from didact.llm.secret import read_key, redactor
from didact.llm.transport import Address, Connection, Response

NO_CREDIT = ("insufficient_quota", "billing", "credit balance", "insufficient balance", "insufficient funds", "payment")
LONGEST_TEXT = 200  # characters of what an endpoint says that are shown


@dataclass(frozen=True, slots=True)
class Wait:
    """The teacher asks to be left alone for some seconds (None: it does not say how long)."""

    seconds: float | None


@dataclass(frozen=True, slots=True)
class Fault:
    """Server, network or answer were faulty; another try may help. seconds: not before them."""

    why: str
    seconds: float = 0.0
    unreachable: bool = False
    overloaded: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """The endpoint does not take this request; it would not the next time."""

    why: str


Outcome = Answer | Wait | Fault | Refused


class Endpoint:
    """One model behind one address. The key is read from the environment now and never shown."""

    def __init__(self, config: EndpointConfig) -> None:
        self.config, self.model = config, config.model
        self.input_price, self.output_price = config.input_price, config.output_price
        key = read_key(config.key, "key")
        self.redact = redactor(key)
        parts = urlsplit(config.base_url)
        secure = parts.scheme == "https"
        host = parts.hostname or ""
        path = parts.path.rstrip("/") + ("/chat/completions" if config.api == "chat" else f"/{config.api}")
        head = [
            f"POST {path} HTTP/1.1",
            f"host: {parts.netloc}",
            "content-type: application/json",
            "accept: application/json",
            "accept-encoding: identity",
        ]
        if key:
            head.append(f"{config.key_header}: {'Bearer ' if config.key_header == 'authorization' else ''}{key}")
        self._address = Address(
            host,
            parts.port or (443 if secure else 80),
            _context(config.ca_file) if secure else None,
            ("\r\n".join(head) + "\r\ncontent-length: ").encode(),
        )
        self.where = f"{config.base_url} ({config.model})"

    def __repr__(self) -> str:
        return f"Endpoint({self.where})"

    def connection(self) -> Connection:
        return Connection(self._address)

    def body(self, request: Request) -> bytes:
        """The request as JSON; what is at its default is left to the endpoint, but not the temperature."""
        if self.config.api == "embeddings":
            return _bytes({"model": self.model, "input": request.text, **self.config.extra})
        data: dict[str, Any] = {"model": self.model}
        if self.config.api == "chat":
            turns = request.messages or (("user", request.prompt),)
            data["messages"] = [{"role": role, "content": text} for role, text in turns]
        else:
            data["prompt"] = request.prompt or request.text
        data["temperature"] = request.temperature
        for name, usual in (("top_p", 1.0), ("presence_penalty", 0.0), ("frequency_penalty", 0.0)):
            value = getattr(request, name)
            if value != usual:
                data[name] = value
        data[self.config.limit_name] = request.max_tokens
        if request.stop:
            data["stop"] = list(request.stop)
        if request.bias:
            data["logit_bias"] = {str(token): value for token, value in request.bias}
        return _bytes({**data, **self.config.extra})

    def key(self, request: Request, body: bytes) -> str:
        """Hash of the request and its sample number; the address is left out, so a moved server pays nothing twice."""
        return blake2b(body + f"\n{self.config.api} {request.sample}".encode(), digest_size=16).hexdigest()

    def outcome(self, response: Response) -> Outcome:
        """What an answer means. Raises UsageError for what would meet every other prompt too."""
        data = _json(response.body)
        error = data.get("error") if isinstance(data, dict) else None
        told = self._told(error if error else data, response)
        status = response.status
        if status == 200 and not error:
            return self._answer(data)
        if status in (402,) or (error and _no_credit(error)):
            raise self._stop("the teacher has no credit", told, "add credit, or name another teacher")
        if status in (401, 403):
            why = "a wrong key" if status == 401 else "not allowed"
            name = self.config.key or "a key: the recipe names none"
            raise self._stop(f"the teacher answers {status}, {why}", told, f"check {name}")
        if status == 404 or (isinstance(error, dict) and error.get("code") == "model_not_found"):
            fix = "check base_url (it usually ends in /v1), api and model"
            raise self._stop(f'the teacher answers {status}: no such address or model "{self.model}"', told, fix)
        if 300 <= status < 400:
            place = self.redact(response.headers.get("location", "elsewhere"))[:LONGEST_TEXT]
            raise self._stop(f"the teacher answers {status}", f"it points to {place}", "give that address as base_url")
        seconds = _retry_after(response.headers)
        if status == 429 or (status == 200 and isinstance(error, dict) and "rate" in str(error.get("type", ""))):
            return Wait(seconds)
        if 400 <= status < 500 and status not in (408, 409, 425):
            return Refused(f"refused with {status}: {told}" if told else f"refused with {status}")
        if status == 200:
            return Fault("an error instead of an answer")
        return Fault(f"the teacher answers {status}", seconds or 0.0, overloaded=status in (503, 529))

    def _answer(self, data: Any) -> Outcome:
        if data is None:
            return Fault("the answer is not JSON")
        if self.config.api == "embeddings":
            return _vector(data)
        try:
            choice = data["choices"][0]
            message = choice.get("message") if self.config.api == "chat" else choice
            text = message.get("content") if self.config.api == "chat" else message["text"]
            usage = data.get("usage") or {}
            finish = str(choice.get("finish_reason") or "stop")
            used = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
            refusal = message.get("refusal")
        except (KeyError, IndexError, TypeError, AttributeError, ValueError):
            return Fault("the answer has another form than an OpenAI-compatible one")
        if text is not None and not isinstance(text, str):
            return Fault("the answer has another form than an OpenAI-compatible one")
        text = text or ""
        return Answer(text, finish, *used, why=self._useless(text, finish, bool(refusal)))

    def _useless(self, text: str, finish: str, refusal: bool) -> str:
        if refusal or finish == "content_filter":
            return "the teacher refuses"
        if not text.strip():
            return "the answer is blank"
        if len(text) > self.config.longest:
            return f"the answer is longer than {self.config.longest:,} characters"
        try:
            text.encode()
        except UnicodeEncodeError:
            return "the answer holds half a character"
        return ""

    def _told(self, data: Any, response: Response) -> str:
        """What the endpoint says about it, short and without the key."""
        message = data.get("message", data.get("detail", "")) if isinstance(data, dict) else data
        if not isinstance(message, str) or data is None or message.lstrip().startswith("<"):
            message = ""
        text = " ".join(self.redact(message).split())
        return text[:LONGEST_TEXT] + ("..." if len(text) > LONGEST_TEXT else "")

    def _stop(self, problem: str, told: str, fix: str) -> UsageError:
        return UsageError(f"{problem}{f': {told}' if told else ''}", f"{fix}; then repeat", file=self.config.base_url)


def _vector(data: Any) -> Outcome:
    try:
        numbers = array("f", data["data"][0]["embedding"])
        used = int((data.get("usage") or {}).get("prompt_tokens") or 0)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError):
        return Fault("the answer has another form than an OpenAI-compatible vector")
    if not numbers or not all(map(math.isfinite, numbers)):
        return Fault("the vector is empty or holds what is no number")
    return Answer(base64.b64encode(numbers.tobytes()).decode(), "stop", used, 0)


def vector(text: str) -> array[float]:
    """The numbers of an answer whose text is a vector: float32 in base64, as the log keeps it."""
    return array("f", base64.b64decode(text))


def _bytes(data: dict[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode("ascii")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _no_credit(error: Any) -> bool:
    text = json.dumps(error).lower()
    return any(word in text for word in NO_CREDIT)


def _retry_after(headers: dict[str, str]) -> float | None:
    """Seconds to wait, from a number or a date; a date is read against the server's own clock if it tells it."""
    if headers.get("retry-after-ms", "").isdigit():
        return int(headers["retry-after-ms"]) / 1000
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(value).timestamp()
        now = parsedate_to_datetime(headers["date"]).timestamp() if "date" in headers else time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, then - now)


def _context(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise UsageError("the certificates cannot be read", "give a file in PEM form", file=ca_file) from error
