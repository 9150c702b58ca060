"""Drop training instances that overlap with what the model will be judged on: held-out instances and named benchmarks.

Three ways to overlap: the same question and answer; `n` words in a row (the leak check of OPT-IML, Iyer et al. 2022,
arXiv 2212.12017); nearly the same text (Jaccard similarity of word 3-grams), which finds copies with a word changed
here and there. Overlap is looked for in what comes from the row and in answers, not in the words of templates:
instances of one template share those, whatever they ask about. Limits: rephrased or translated copies pass.
"""

from __future__ import annotations

import os.path
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.curate.alike import Nearest, nearest_alike
from didact.curate.context import Context
from didact.curate.words import all_words, own_texts
from didact.instance import Instance, Verdict

Gram = tuple[str, ...]
NGRAM = 3  # of nearly equal texts
HELDOUT = "a held-out instance"


class DecontaminateConfig(BaseModel):
    """How much may be shared with what is held out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["decontaminate"] = Field("decontaminate", description="overlap with the held-out instances")
    n: int = Field(13, ge=2, description="words in a row that may not be shared")
    near: float = Field(
        0.8, gt=0, le=1, description="Jaccard similarity of word 3-grams from which two texts are the same; 1: equal"
    )
    shortest: int = Field(8, ge=1, description="texts of fewer words are not looked at for being nearly the same")
    benchmarks: list[str] = Field([], description="files whose rows are kept out too, each of their texts")


@dataclass(frozen=True, slots=True)
class _Judged:
    """Something that is held out: what it is, which one, and its texts."""

    kind: str
    name: str
    texts: tuple[str, ...]


def decontaminate(config: DecontaminateConfig, instances: Sequence[Instance], context: Context) -> list[Verdict]:
    """One verdict per instance; `near` shares most with it, the score is its share of n-grams or the similarity."""
    judged = [_Judged(HELDOUT, instance.id, tuple(own_texts(instance))) for instance in context.heldout]
    for file in config.benchmarks:
        judged += [_Judged(file, f"{file}:{row}", texts) for row, texts in context.benchmarks(file)]
    grams: dict[Gram, list[int]] = {}
    for number, held in enumerate(judged):
        for gram in set(_grams(held.texts, config.n)):
            grams.setdefault(gram, []).append(number)
    exact: dict[tuple[str, ...], str] = {}
    for instance in context.heldout:
        exact.setdefault(_whole(instance), instance.id)
    verdicts = [_verdict(instance, grams, exact, judged, config.n) for instance in instances]
    rest = [number for number, verdict in enumerate(verdicts) if verdict.keep]
    for number, (score, near) in zip(rest, _nearly([instances[i] for i in rest], judged, config), strict=True):
        if near >= 0:
            verdicts[number] = Verdict(False, f"nearly the same as {judged[near].kind}", score, judged[near].name)
    return verdicts


def _verdict(
    instance: Instance, grams: dict[Gram, list[int]], exact: dict[tuple[str, ...], str], judged: list[_Judged], n: int
) -> Verdict:
    near = exact.get(_whole(instance))
    if near is not None:
        return Verdict(False, "same as a held-out instance", 1.0, near)
    texts = own_texts(instance)
    if grams.keys().isdisjoint(_grams(texts, n)):
        return Verdict(True)
    own = set(_grams(texts, n))
    shared = Counter(number for gram in own for number in grams.get(gram, ()))
    most = judged[min(shared, key=lambda number: (-shared[number], number))]
    reason = f"shares {n} words in a row with {most.kind}"
    return Verdict(False, reason, sum(gram in grams for gram in own) / len(own), most.name)


def _nearly(instances: Sequence[Instance], judged: Sequence[_Judged], config: DecontaminateConfig) -> list[Nearest]:
    """Of each instance the held-out thing of which one text is nearly the same as one of its own, (0.0, -1) if none."""
    texts: list[str] = []
    owners: list[int] = []
    for number, own in enumerate([*(held.texts for held in judged), *map(own_texts, instances)]):
        long = [text for text in own if len(all_words(text)) >= config.shortest]
        texts += long
        owners += [number] * len(long)
    references = sum(owner < len(judged) for owner in owners)
    best: list[Nearest] = [(0.0, -1)] * len(instances)
    for owner, (score, near) in zip(owners, nearest_alike(texts, config.near, NGRAM, references), strict=True):
        if near >= 0 and score > best[owner - len(judged)][0]:
            best[owner - len(judged)] = (score, owners[near])
    return best


def _grams(texts: Sequence[str], n: int) -> Iterator[Gram]:
    for text in texts:
        words = all_words(text)
        if len(words) >= n:
            yield from zip(*(words[i:] for i in range(n)), strict=False)


def _whole(instance: Instance) -> tuple[str, ...]:
    pictures = map(os.path.basename, instance.images)
    return " ".join(all_words(instance.prompt)), " ".join(all_words(instance.answer)), *pictures
