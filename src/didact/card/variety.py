"""How large and how varied the texts of a dataset are: lengths, scripts, words, verbs, nearest neighbours."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from didact.card.grammar import root
from didact.card.made import Fact, evenly
from didact.curate.novelty import compared
from didact.curate.rouge import encode, rouge_l_each
from didact.curate.words import all_words, rouge_words, shares_instruction
from didact.instance import Instance

NEIGHBOURS, QUERIES = 4000, 400  # instances compared with one another, and those whose nearest is looked for
VERBS, OBJECTS = 20, 4


def scripts(some: Sequence[Instance]) -> list[Fact]:
    """Scripts by share of letters; told apart by the names that Unicode gives to letters."""
    letters = Counter(c for i in evenly(some, 2000) for c in f"{i.prompt[:400]} {i.answer[:400]}" if c.isalpha())
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        scripts[unicodedata.name(letter, "OTHER").split(" ")[0].capitalize()] += count
    total = max(1, scripts.total())
    return [{"script": s, "share": round(n / total, 4)} for s, n in scripts.most_common(6) if n / total >= 0.001]


def lengths(texts: Iterable[str]) -> Fact:
    """Words by powers of two: bin k holds texts of 2**(k-1) to 2**k - 1 words, bin 0 those without any."""
    sizes = sorted(len(all_words(text)) for text in texts)
    bins = Counter(size.bit_length() for size in sizes)
    middle = [sizes[int(share * (len(sizes) - 1))] for share in (0.05, 0.5, 0.95)] if sizes else [0, 0, 0]
    histogram = [bins[k] for k in range(max(bins, default=0) + 1)]
    return {"p5": middle[0], "median": middle[1], "p95": middle[2], "longest": max(sizes, default=0), "bins": histogram}


def verbs(some: Sequence[Instance]) -> Fact:
    """Verbs and objects of instructions; what templates say in many rows counts once per task and wording."""
    texts = {(i.origin.task, compared_instruction(i)) if shares_instruction(i) else (i.id, compared(i)) for i in some}
    found = Counter(root(text) for _, text in sorted(texts))
    none = found.pop(("", ""), 0)
    by_verb: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for (verb, thing), count in found.items():
        by_verb[verb][thing] += count
    top = sorted(by_verb.items(), key=lambda item: (-item[1].total(), item[0]))
    rows = [
        {"verb": verb, "count": things.total(), "objects": [[t, n] for t, n in things.most_common() if t][:OBJECTS]}
        for verb, things in top[:VERBS]
    ]
    pairs = sum(1 for verb, thing in found if thing)
    return {"instructions": len(texts), "not_found": none, "verbs": len(by_verb), "pairs": pairs, "top": rows}


def compared_instruction(instance: Instance) -> str:
    """The words of the template alone."""
    parts = [p.value for message in instance.context for p in message.parts if p.slot == "instruction"]
    return " ".join(parts) or instance.prompt


def neighbours(kept: Sequence[Instance]) -> Fact:
    """ROUGE-L F of instructions with their nearest neighbour; ten bins from 0 to 1, the last one closed."""
    some = evenly(kept, NEIGHBOURS)
    numbers: dict[str, int] = {}
    texts = [[numbers.setdefault(w, len(numbers)) for w in rouge_words(compared(i)[:2000])] for i in some]
    texts = [text for text in texts if text]
    encoded, sizes_N = [encode(text) for text in texts], np.array([len(text) for text in texts])
    step = max(1, math.ceil(len(texts) / QUERIES))
    best: list[float] = []
    for place in range(0, len(texts), step) if len(texts) > 1 else ():
        scores_N = rouge_l_each(encoded[place], encoded, sizes_N)
        scores_N[place] = 0
        best.append(float(scores_N.max()))
    bins = np.histogram(best, bins=10, range=(0, 1))[0].tolist() if best else []
    above = round(sum(score > 0.7 for score in best) / len(best), 4) if best else None
    mean = round(sum(best) / len(best), 4) if best else None
    without = len(some) - len(texts)
    return {"of": len(best), "among": len(texts), "without": without, "bins": bins, "mean": mean, "above_0.7": above}


def variety(some: Sequence[Instance]) -> Fact:
    """Distinct-n: different n-grams over all n-grams of the first 100,000 words; and shares of different texts."""
    found: Fact = {}
    for name, texts in (("question", [compared(i) for i in some]), ("answer", [i.answer for i in some])):
        left, grams = 100_000, {1: Counter[Any](), 2: Counter[Any]()}
        for text in texts:
            words = all_words(text)[:left]
            left -= len(words)
            grams[1].update(words)
            grams[2].update(pairwise(words))
            if left <= 0:
                break
        distinct = {f"distinct_{n}": round(len(c) / max(1, c.total()), 4) for n, c in grams.items()}
        found[name] = {**distinct, "different": round(len(set(texts)) / max(1, len(texts)), 4)}
    return found
