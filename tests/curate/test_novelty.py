"""Novelty: the decisions of the package rouge_score, pair by pair, whatever was left out on the way."""

from __future__ import annotations

import importlib
import json
import random
import time

import numpy as np
import pytest
from conftest import need_material
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from didact.curate import STRATEGIES, Context, NoveltyConfig, rouge
from didact.curate.novelty import NoveltyIndex, compared
from didact.curate.rouge import encode, rouge_l_each
from didact.curate.words import all_words, rouge_words
from didact.instance import Instance, Message, Origin, Part

novelty_module = importlib.import_module("didact.curate.novelty")  # the package's own `novelty` is the function
SCORER = RougeScorer(["rougeL"], use_stemmer=False)
# Few and skewed words, so that pairs at and about the threshold are common.
WORDS = st.sampled_from([*"aaabbcdefghi"])
TEXTS = st.lists(WORDS, max_size=14).map(" ".join)


def theirs(a: str, b: str) -> float:
    return float(SCORER.score(a, b)["rougeL"].fmeasure)


def brute(texts: list[str], threshold: float) -> list[tuple[float, int]]:
    """Self-Instruct's way: every pair with what was kept; the first of the nearest, if it is too near."""
    kept: list[int] = []
    found = []
    for i, text in enumerate(texts):
        scores = [theirs(text, texts[j]) for j in kept]
        best = max(scores, default=0.0)
        found.append((best, scores.index(best)) if best > threshold else (0.0, -1))
        if best <= threshold:
            kept.append(i)
    return found


def ours(texts: list[str], threshold: float) -> list[tuple[float, int]]:
    index = NoveltyIndex(threshold)
    found = []
    for text in texts:
        found.append(index.nearest(text))
        if found[-1][1] < 0:
            index.add(text)
    return found


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXTS, min_size=2, max_size=40), st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.75, 0.9]), st.integers(0, 30))
def test_decisions_scores_and_neighbours_are_those_of_rouge_score(
    texts: list[str], threshold: float, scan: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(novelty_module, "SCAN", scan)  # with and without the index, built once or often
        assert ours(texts, threshold) == brute(texts, threshold)


def test_random_pairs_have_the_very_value_of_rouge_score() -> None:
    rng = random.Random(1)
    ties = 0
    for _ in range(3000):
        a, b = ([rng.choice("abcdef") for _ in range(rng.randint(0, 25))] for _ in "ab")
        value = theirs(" ".join(a), " ".join(b))
        if a and b:
            sizes = np.array([len(b)])
            assert rouge_l_each(encode([ord(c) for c in a]), [encode([ord(c) for c in b])], sizes)[0] == value
            ties += abs(value - 0.5) < 1e-9
    assert ties > 50


def test_what_lies_at_the_threshold_stays_as_in_the_original() -> None:
    one = "write a short poem about the sea for my friend"  # ten words
    three_others = "write a short poem about the sea on its waves"
    assert theirs(one, three_others) == pytest.approx(0.7)
    for first, second in ((one, three_others), (three_others, one)):
        index = NoveltyIndex(0.7)
        index.add(first)
        assert (index.nearest(second)[1] < 0) == (theirs(first, second) <= 0.7)
    # 0.769 of the fact sheets
    index = NoveltyIndex()
    index.add("write a short poem about the ocean")
    assert index.nearest("write a poem about the sea") == (pytest.approx(10 / 13), 0)


def test_ties_that_round_up_are_dropped_as_rouge_score_drops_them() -> None:
    """Exactly equal fractions differ in their last bit by how they are formed; both sides of 0.7 occur."""
    over, under = 0, 0
    for m in range(1, 60):
        for n in range(1, 60):
            common = 7 * (m + n)
            if common % 20 or common // 20 > min(m, n):
                continue
            common //= 20
            a = [f"s{i}" for i in range(common)] + [f"a{i}" for i in range(m - common)]
            b = [f"s{i}" for i in range(common)] + [f"b{i}" for i in range(n - common)]
            index = NoveltyIndex(0.7)
            index.add(" ".join(a))
            value = theirs(" ".join(b), " ".join(a))
            assert (index.nearest(" ".join(b))[1] < 0) == (value <= 0.7)
            over, under = over + (value > 0.7), under + (value <= 0.7)
    assert over > 10
    assert under > 10


def test_words_are_those_of_rouge_score() -> None:
    from rouge_score.tokenize import tokenize

    for text in ("It's 3.5% of\tÉmile's K\u0130 \u212a ﬁne_x-y\n\n", "", "北京", "\ud800 a", "A\u0130B"):
        assert rouge_words(text) == tokenize(text, None)


def test_other_scripts_are_new_to_rouge_score_and_compared_on_demand() -> None:
    rows = [made("写一首关于大海的诗"), made("写一首关于大海的诗")]
    drop = [not v.keep for v in STRATEGIES["novelty"][1](NoveltyConfig(), rows, Context())]
    assert drop == [False, False]
    verdicts = STRATEGIES["novelty"][1](NoveltyConfig(words="all"), rows, Context())
    assert [v.keep for v in verdicts] == [True, False]
    assert all_words("写诗 now") == ["写", "诗", "now"]


def test_more_words_than_there_are_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rouge, "LAST", 6)
    texts = ["a b c d e f g h i j", "k l m n o p q r s t", "a b c d e f g h i x", "k l m n o p q r s y"]
    assert ours(texts, 0.7) == brute(texts, 0.7)
    assert isinstance(encode([1, 7]), list)


def made(instruction: str, given: str = "", via: str = "format:alpaca") -> Instance:
    parts = (Part(instruction, "instruction"), *((Part(given, "input"),) if given else ()))
    return Instance.of((Message("user", parts), Message("assistant", (Part("yes", "answer"),))), Origin("r", 1, via))


def test_a_verdict_names_reason_neighbour_and_score() -> None:
    rows = [made("Write a short poem about the ocean."), made("List three fruits"), made("Write a poem about the sea")]
    verdicts = STRATEGIES["novelty"][1](NoveltyConfig(), rows, Context())
    assert [v.keep for v in verdicts] == [True, True, False]
    assert (verdicts[2].reason, verdicts[2].near) == ("too like an earlier instruction", rows[0].id)
    assert verdicts[2].score == pytest.approx(10 / 13)
    assert all(v.keep for v in STRATEGIES["novelty"][1](NoveltyConfig(threshold=0.8), rows, Context()))


def test_the_instruction_is_compared_and_for_rows_of_a_template_all_that_is_asked() -> None:
    alike = [made("Translate into French:", "cats purr"), made("Translate into French:", "dogs bark")]
    judge = STRATEGIES["novelty"][1]
    assert [v.keep for v in judge(NoveltyConfig(), alike, Context())] == [True, False]
    assert [v.keep for v in judge(NoveltyConfig(text="prompt"), alike, Context())] == [True, True]
    rendered = [made("Translate into French:", text, "template:t") for text in ("cats purr", "dogs bark")]
    assert [v.keep for v in judge(NoveltyConfig(), rendered, Context())] == [True, True]
    assert compared(Instance.of((Message("user", (Part("bare"),)),), Origin("r", 1))) == "bare"


def test_real_instructions_are_judged_as_rouge_score_judges_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    file = need_material("instruct", "self_instruct_generated_gpt4omini.jsonl.gz")
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")[:3000]
    texts = [json.loads(line)["instruction"] for line in lines]
    monkeypatch.setattr(novelty_module, "SCAN", 60)
    assert ours(texts[:300], 0.7) == brute(texts[:300], 0.7)
    pruned = ours(texts, 0.7)
    monkeypatch.setattr(novelty_module, "SCAN", 10**9)
    assert pruned == ours(texts, 0.7)
    assert 0 < sum(near >= 0 for _, near in pruned) < len(texts)


def test_thousands_take_seconds() -> None:
    rng = random.Random(0)
    words = [f"w{int(rng.paretovariate(0.7))}" for _ in range(100_000)]
    texts = [" ".join(rng.choices(words, k=rng.randint(5, 40))) for _ in range(6000)]
    start = time.process_time()
    ours(texts, 0.7)
    assert time.process_time() - start < 6


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=30), TEXTS, st.integers(1, 12))
def test_the_most_similar_and_the_mean_are_those_of_every_pair(texts: list[str], text: str, count: int) -> None:
    index = NoveltyIndex(0.7)
    for known in texts:
        index.add(known)
    scores = [theirs(text, known) for known in texts]
    most, mean = index.most_alike(text, count)
    assert most == [(scores[i], i) for i in sorted(range(len(texts)), key=lambda i: (-scores[i], i))[:count]]
    assert mean == pytest.approx(sum(scores) / len(scores))


def test_nothing_is_most_similar_to_the_first() -> None:
    assert NoveltyIndex(0.7).most_alike("any text", 10) == ([], 0.0)
