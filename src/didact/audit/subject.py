"""The nouns of an audit: what is examined (Subject, Speaker) and what is found (Finding)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, TypeVar

from didact.errors import UsageError
from didact.instance import Instance

T = TypeVar("T")
KEYS = ("probe", "question", "verdict", "value", "low", "high", "baseline", "n", "examples", "details")


class Reply(Protocol):
    """A generated answer. stopped: it ended by itself, not at the limit; tokens: how many were generated."""

    @property
    def text(self) -> str: ...
    @property
    def stopped(self) -> bool: ...
    @property
    def tokens(self) -> int: ...


class Speaker(Protocol):
    """A model that can be asked. All lists are in the order of the instances."""

    def answer(self, instances: Sequence[Instance]) -> Sequence[Reply]:
        """Greedy answers."""
        ...

    def rank(self, instances: Sequence[Instance]) -> Sequence[Sequence[float]]:
        """Summed log-probability of each choice given the prompt; empty for instances without choices."""
        ...

    def text_loss(self, texts: Sequence[str]) -> Sequence[tuple[float, int]]:
        """Summed negative log-likelihood (nats) and number of tokens of each plain text."""
        ...


@dataclass(frozen=True)
class Subject:
    """What is audited: a model before and after tuning, and the data that were kept from it and given to it.

    heldout carry the tag `level`; left_out more were longer than the model reads. texts are plain prose never tuned on;
    retrain tunes the same base on other instances.
    """

    base: Speaker
    tuned: Speaker
    heldout: Sequence[Instance]
    trained: Sequence[Instance] = ()
    texts: Sequence[str] = ()
    retrain: Callable[[Sequence[Instance]], Speaker] | None = None
    seed: int = 0
    left_out: int = 0


@dataclass(frozen=True)
class Finding:
    """One question, its answer in a sentence, and the figures behind it.

    value with its interval low..high is the answer as a number (a fraction unless details say another unit); baseline
    is what it is compared with; details hold `category`, the tables and the controls.
    """

    probe: str
    question: str
    verdict: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    baseline: float | None = None
    n: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def category(self) -> str:
        return str(self.details.get("category", ""))


def remembering(subject: Subject) -> Subject:
    """The subject with speakers that answer each instance once, however many probes ask."""
    return replace(subject, base=_Remembering(subject.base), tuned=_Remembering(subject.tuned))


class _Remembering:
    def __init__(self, speaker: Speaker) -> None:
        self.speaker = speaker
        self.answers: dict[str, Reply] = {}
        self.ranks: dict[str, Sequence[float]] = {}

    def answer(self, instances: Sequence[Instance]) -> Sequence[Reply]:
        return _recall(self.answers, instances, self.speaker.answer)

    def rank(self, instances: Sequence[Instance]) -> Sequence[Sequence[float]]:
        return _recall(self.ranks, instances, self.speaker.rank)

    def text_loss(self, texts: Sequence[str]) -> Sequence[tuple[float, int]]:
        return self.speaker.text_loss(texts)


def _recall(
    known: dict[str, T], instances: Sequence[Instance], ask: Callable[[Sequence[Instance]], Sequence[T]]
) -> list[T]:
    missing = list({instance.id: instance for instance in instances if instance.id not in known}.values())
    if missing:
        known.update(zip((instance.id for instance in missing), ask(missing), strict=True))
    return [known[instance.id] for instance in instances]


def findings_to_json(findings: Sequence[Finding]) -> str:
    """The text of `audit/findings.json`: a list with exactly the keys of `Finding`; NaN and infinity become null."""
    return json.dumps([_plain(asdict(finding)) for finding in findings], ensure_ascii=False, indent=1) + "\n"


def findings_from_json(text: str) -> list[Finding]:
    """The inverse of `findings_to_json`; raises UsageError where the text is not such a list."""
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"not JSON: {error.msg}", "run `didact audit` again", line=error.lineno) from error
    if not isinstance(items, list):
        raise UsageError("not a list of findings", "run `didact audit` again")
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict) or set(item) != set(KEYS):
            raise UsageError(f"finding {number} has not the keys {', '.join(KEYS)}", "run `didact audit` again")
    return [Finding(**item) for item in items]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # numpy scalars
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
