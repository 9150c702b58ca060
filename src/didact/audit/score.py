"""Measures of one answer: exact match, ROUGE-L, validity, ranked credit. All lie between 0 and 1."""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache

from rapidfuzz.distance import LCSseq

from didact.errors import missing_extra
from didact.instance import Instance

_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, no punctuation, white space collapsed; articles are kept (Super-NaturalInstructions' exact match).

    A text of punctuation only ("+", "-") is kept as it is, so that such labels stay apart.
    """
    lowered = " ".join(text.lower().split())
    bare = "".join(c for c in lowered.translate(_ASCII_PUNCTUATION) if not unicodedata.category(c).startswith("P"))
    return " ".join(bare.split()) or lowered


def fold(choices: Sequence[str]) -> Callable[[str], str]:
    """The normalisation that keeps the choices distinct: `normalise`, or case and white space only ("C", "C++")."""
    if len({normalise(choice) for choice in choices}) == len(set(choices)):
        return normalise
    return lambda text: " ".join(text.lower().split())


def by_rouge(instance: Instance, longest: int) -> bool:
    """Is a free answer judged by ROUGE-L rather than exact match? The tag `metric` says so; else its length in words.

    Super-NaturalInstructions sets the tag by category (Wang et al. 2022).
    """
    named = instance.tags.get("metric")
    if named in ("rouge_l", "exact_match"):
        return named == "rouge_l"
    return not instance.choices and min(len(words(answer)) for answer in right_answers(instance)) > longest


def right_answers(instance: Instance) -> tuple[str, ...]:
    """The instance's answer and its references, without repeats."""
    return tuple(dict.fromkeys((instance.answer, *instance.references)))


def exact_match(text: str, references: Sequence[str], choices: Sequence[str] = ()) -> float:
    """1.0 if the text equals any reference after normalisation, else 0.0."""
    same = fold(choices)
    return float(any(same(text) == same(reference) for reference in references))


def words(text: str, stem: bool = False) -> list[str]:
    """Lower-case runs of letters and digits; `stem` applies Porter's stemmer to words over three letters.

    On ASCII text these are the tokens of `rouge_score`; beyond ASCII that package drops letters and we keep them.
    """
    found = re.findall(r"[^\W_]+", text.lower())
    return [_stemmer()(word) if len(word) > 3 else word for word in found] if stem else found


def rouge_l(text: str, references: Sequence[str], stem: bool = False) -> float:
    """ROUGE-L F1, the maximum over the references; 0.0 where either side has no word (Lin 2004)."""
    said = words(text, stem)
    return max((_lcs_f1(said, words(reference, stem)) for reference in references), default=0.0)


def _lcs_f1(said: list[str], wanted: list[str]) -> float:
    if not said or not wanted:
        return 0.0
    common = LCSseq.similarity(said, wanted)
    return 2 * common / (len(said) + len(wanted))


def in_form(text: str, stopped: bool, choices: Sequence[str]) -> float:
    """1.0 if the answer has the right form whatever it says: a choice; without choices, ended and not empty."""
    if choices:
        same = fold(choices)
        return float(same(text) in {same(choice) for choice in choices})
    return float(stopped and bool(text.strip()))


def right_choices(instance: Instance) -> tuple[int, ...]:
    """Indices of the choices that are right; empty if the answer is not among the choices."""
    same = fold(instance.choices)
    right = {same(reference) for reference in right_answers(instance)}
    return tuple(i for i, choice in enumerate(instance.choices) if same(choice) in right)


def ranked_credit(scores: Sequence[float], right: Sequence[int]) -> float:
    """Rank classification: is the choice with the highest log-probability right? Ties share the credit (T0).

    Scores are summed over tokens, not divided by length. NaN anywhere means no ranking: 0.0.
    """
    if not scores or any(math.isnan(score) for score in scores):
        return 0.0
    best = max(scores)
    top = [i for i, score in enumerate(scores) if score == best]
    return sum(i in right for i in top) / len(top)


def normalised_average(raw: float, chance: float, ceiling: float = 1.0) -> float:
    """`raw` on a scale where chance is 0 and the ceiling 100 (Flan-PaLM); below chance is negative."""
    return 100 * (raw - chance) / (ceiling - chance)


@lru_cache(maxsize=1)
def _stemmer() -> Callable[[str], str]:
    try:
        from nltk.stem import porter  # type: ignore[import-untyped]
    except ImportError as error:
        raise missing_extra("nltk", "dev") from error
    stem: Callable[[str], str] = lru_cache(maxsize=100_000)(porter.PorterStemmer().stem)
    return stem
