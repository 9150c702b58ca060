"""Drop training instances that overlap with held-out ones: the same 13 words in a row, or the same question and answer.

Overlap is looked for in what comes from the row (parts of slot `input`) and in answers, not in the words of templates:
instances of one template share those, whatever they ask about. An instance without such parts is compared whole.
Texts shorter than `n` words are compared exactly. The leak check of OPT-IML (Iyer et al. 2022, arXiv 2212.12017).
Limits: rephrased or translated copies pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.curate.context import Context
from didact.curate.words import all_words, own_texts
from didact.instance import Instance, Verdict

Gram = tuple[str, ...]


class DecontaminateConfig(BaseModel):
    """How much may be shared with what is held out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["decontaminate"] = Field("decontaminate", description="overlap with the held-out instances")
    n: int = Field(13, ge=2, description="words in a row that may not be shared")


def decontaminate(config: DecontaminateConfig, instances: Sequence[Instance], context: Context) -> list[Verdict]:
    """One verdict per instance; `near` shares most with it, the score is the share of its n-grams."""
    grams: dict[Gram, list[int]] = {}
    exact: dict[tuple[str, str], str] = {}
    for number, instance in enumerate(context.heldout):
        for gram in set(_grams(instance, config.n)):
            grams.setdefault(gram, []).append(number)
        exact.setdefault(_whole(instance), instance.id)
    return [_verdict(instance, grams, exact, context.heldout, config.n) for instance in instances]


def _verdict(
    instance: Instance,
    grams: dict[Gram, list[int]],
    exact: dict[tuple[str, str], str],
    heldout: Sequence[Instance],
    n: int,
) -> Verdict:
    near = exact.get(_whole(instance))
    if near is not None:
        return Verdict(False, "same as a held-out instance", 1.0, near)
    if grams.keys().isdisjoint(_grams(instance, n)):
        return Verdict(True)
    own = set(_grams(instance, n))
    shared = Counter(number for gram in own for number in grams.get(gram, ()))
    most = min(shared, key=lambda number: (-shared[number], number))
    reason = f"shares {n} words in a row with a held-out instance"
    return Verdict(False, reason, sum(gram in grams for gram in own) / len(own), heldout[most].id)


def _grams(instance: Instance, n: int) -> Iterator[Gram]:
    for text in own_texts(instance):
        words = all_words(text)
        if len(words) >= n:
            yield from zip(*(words[i:] for i in range(n)), strict=False)


def _whole(instance: Instance) -> tuple[str, str]:
    return " ".join(all_words(instance.prompt)), " ".join(all_words(instance.answer))
