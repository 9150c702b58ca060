"""Measures of one answer, against the published package and by hand."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import NAMES, instance

from didact.audit.score import (
    exact_match,
    fold,
    in_form,
    normalise,
    normalised_average,
    ranked_credit,
    right_choices,
    rouge_l,
)
from didact.instance import Instance, Message, Origin, Part


def ask(answer: str, choices: tuple[str, ...], references: tuple[str, ...] = ()) -> Instance:
    messages = (Message("user", (Part("?"),)), Message("assistant", (Part(answer, "answer"),)))
    return Instance.of(messages, Origin("f", 1), references, choices)


@pytest.mark.parametrize(
    ("said", "wanted", "score"),
    [
        ("The  Blue\tCar.", "the blue car", 1.0),
        ("blue car", "the blue car", 0.0),  # articles are kept
        ("Zürich!", "zürich", 1.0),
        ("it’s «so»", "its so", 1.0),  # punctuation beyond ASCII
        ("+", "-", 0.0),  # punctuation alone is a label, not nothing
        ("", "x", 0.0),
    ],
)
def test_exact_match(said: str, wanted: str, score: float) -> None:
    assert exact_match(said, [wanted]) == score


def test_exact_match_takes_the_best_reference() -> None:
    assert exact_match("two", ["one", "Two"]) == 1.0


def test_labels_that_differ_in_punctuation_stay_apart() -> None:
    choices = ("C", "C++")
    assert fold(choices)("C++") != fold(choices)("c")
    assert exact_match("c", ["C++"], choices) == 0.0
    assert exact_match("c++", ["C++"], choices) == 1.0
    assert right_choices(ask("C++", choices)) == (1,)


@given(st.text())
def test_normalise_is_idempotent(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_rouge_l_by_hand() -> None:
    assert rouge_l("write a poem about the sea", ["write a short poem about the ocean"]) == pytest.approx(10 / 13)
    assert rouge_l("a b c", ["x", "a c"]) == pytest.approx(0.8)
    assert rouge_l("", ["x"]) == rouge_l("x", [""]) == 0.0


@pytest.mark.parametrize("stem", [False, True])
def test_rouge_l_equals_the_published_package(stem: bool) -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=stem)
    generator = random.Random(0)
    vocabulary = [
        "running",
        "was",
        "wa",
        "cats",
        "cat",
        "the",
        "under_score",
        "it's",
        "3.5",
        "Happily",
        "a",
        *NAMES[:5],
    ]
    for _ in range(300):
        said, wanted = (" ".join(generator.choices(vocabulary, k=generator.randrange(0, 12))) for _ in range(2))
        published = scorer.score(wanted, said)["rougeL"].fmeasure
        assert rouge_l(said, [wanted], stem) == pytest.approx(published, abs=1e-12)


def test_rouge_l_keeps_letters_beyond_ascii() -> None:
    assert rouge_l("größe", ["größe"]) == 1.0
    assert rouge_l("größe", ["gr e"]) == 0.0


def test_form_is_apart_from_content() -> None:
    assert in_form(" No. ", False, ("yes", "no")) == 1.0
    assert in_form("no idea", True, ("yes", "no")) == 0.0
    assert in_form("anything", True, ()) == 1.0
    assert in_form("anything", False, ()) == 0.0
    assert in_form("  ", True, ()) == 0.0


def test_ranked_credit() -> None:
    assert ranked_credit([-1.0, -2.0], [0]) == 1.0
    assert ranked_credit([-1.0, -2.0], [1]) == 0.0
    assert ranked_credit([-1.0, -1.0, -3.0], [1]) == 0.5  # a tie is not won by coming first
    assert ranked_credit([math.nan, -1.0], [1]) == 0.0
    assert ranked_credit([], [0]) == 0.0


@given(st.lists(st.integers(-20, 0), min_size=2, max_size=5), st.integers(-50, 50))
def test_ranking_ignores_a_constant(scores: list[int], shift: int) -> None:
    assert ranked_credit([float(s) for s in scores], [0]) == ranked_credit([float(s + shift) for s in scores], [0])


def test_right_choices_counts_references() -> None:
    assert right_choices(ask("red", ("red", "crimson", "blue"), ("Crimson",))) == (0, 1)
    assert right_choices(ask("green", ("red", "blue"))) == ()
    assert right_choices(instance("seen_template", "extract", "t", 1)) == ()


def test_normalised_average() -> None:
    assert normalised_average(0.5, 0.5) == 0.0
    assert normalised_average(1.0, 0.25) == 100.0
    assert normalised_average(0.1, 0.5) < 0
