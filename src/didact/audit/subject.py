"""The nouns of an audit: what is examined (Subject, Speaker) and what is found (Finding)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from didact.errors import UsageError
from didact.instance import Instance, Message

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
class Arm:
    """A training in miniature, one arm of a comparison: other instances, or other settings of the recipe.

    changes: dotted setting -> value, as `--set` takes them: {"tune.seed": 1, "model": "small"}.
    """

    name: str
    instances: Sequence[Instance]
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Overlap:
    """What a held-out instance shares with training: why it counts, how much, and the nearest training instance."""

    reason: str
    score: float | None
    near: str


class Shelf(Protocol):
    """Where answers are kept between two audits, by a key that changes with whatever decides them."""

    def read(self, key: str) -> dict[str, Any]: ...
    def write(self, key: str, answers: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Subject:
    """What is audited: a model before and after tuning, and the data that were kept from it and given to it.

    heldout carry the tag `level`; left_out more were longer than the model reads. texts are plain prose never tuned on;
    epochs: how often training sees each instance; seconds_per_instance: what one costs each time, 0 if not known.

    What a probe may ask of the run, each None where it cannot: retrain tunes the base anew as an arm says, key
    names what decides an arm's answers; overlap finds what held-out instances share with training ones (words in a row,
    similarity); fits says which prompts the model can read; reworded puts rows into all wordings of their tasks;
    sampled gives "base" or "tuned" at a temperature with a seed; ask puts conversations to a named teacher; harness
    gives (base, tuned) figures of lm-evaluation-harness by task, metric and item. shelf keeps answers, under keys for
    base and tuned.
    """

    base: Speaker
    tuned: Speaker
    heldout: Sequence[Instance]
    trained: Sequence[Instance] = ()
    texts: Sequence[str] = ()
    retrain: Callable[[Arm], Speaker] | None = None
    seed: int = 0
    left_out: int = 0
    key: Callable[[Arm], str] | None = None
    keys: tuple[str, str] = ("", "")
    shelf: Shelf | None = None
    overlap: Callable[[Sequence[Instance], int, float], Sequence[Overlap | None]] | None = None
    fits: Callable[[Sequence[Instance]], Sequence[bool]] | None = None
    reworded: Callable[[Sequence[Instance]], Sequence[Sequence[Instance]]] | None = None
    sampled: Callable[[str, float, int], Speaker] | None = None
    ask: Callable[[Sequence[Sequence[Message]], str], Sequence[str | None]] | None = None
    harness: Callable[[Any], Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]] | None = None
    epochs: float = 1.0
    seconds_per_instance: float = 0.0

    def readable(self, instances: Sequence[Instance]) -> list[bool]:
        """Which prompts the model can read with room for an answer."""
        return [True] * len(instances) if self.fits is None else list(self.fits(instances))


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
