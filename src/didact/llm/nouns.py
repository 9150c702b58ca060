"""What is asked, what comes back, and what is counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

State = Literal["ok", "rejected", "failed"]
ECHO = 200  # characters of a question that no answer begins with by chance


@dataclass(frozen=True, slots=True)
class Request:
    """One conversation to go on, or a plain text to go on if `messages` is empty.

    messages: (role, text) pairs. sample: tells apart several answers to one prompt. bias: (token id, bias) pairs.
    """

    messages: tuple[tuple[str, str], ...] = ()
    prompt: str = ""
    sample: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    bias: tuple[tuple[int, float], ...] = ()

    @property
    def text(self) -> str:
        """All that the teacher is shown, for estimates."""
        return "\n".join(text for _, text in self.messages) if self.messages else self.prompt

    @property
    def last(self) -> str:
        """What it is to go on from, for finding echoes."""
        return self.messages[-1][1] if self.messages else self.prompt


def repeats(text: str, asked: str) -> bool:
    """Whether a text says nothing but what was asked, or begins as a longer question does."""
    if text.lstrip()[:1].casefold() != asked.lstrip()[:1].casefold():
        return False
    shown, found = (" ".join(words.split()).casefold() for words in (asked, text))
    return found == shown or (len(shown) > ECHO and found.startswith(shown[:ECHO]))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a teacher said: finish is stop, length or what the endpoint calls it; why: it is an answer, but no use."""

    text: str
    finish: str = "stop"
    tokens_in: int = 0
    tokens_out: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """How a prompt ended. key: under it the log has the answer; calls: how often the prompt was sent."""

    state: State
    text: str = ""
    why: str = ""
    finish: str = ""
    key: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    calls: int = 0

    @property
    def ok(self) -> bool:
        return self.state == "ok"


@dataclass
class Counts:
    """What became of all prompts so far. known: answered from the log without a call.

    tokens, money: of all these answers, those included that an earlier command has paid for.
    """

    prompts: int = 0
    ok: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    known: int = 0
    calls: int = 0
    waits: int = 0  # times the teacher asked to wait (429)
    seconds: float = 0.0
    tokens: int = 0
    money: float = 0.0

    def add(self, reply: Reply, known: bool) -> None:
        self.prompts += 1
        self.known += known
        if reply.state == "ok":
            self.ok += 1
        else:
            (self.rejected if reply.state == "rejected" else self.failed)[reply.why] += 1

    @property
    def ended(self) -> int:
        return self.ok + self.rejected.total() + self.failed.total()
