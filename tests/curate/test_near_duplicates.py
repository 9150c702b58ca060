"""Near duplicates: what brute force over true Jaccard similarities says, pair by pair."""

from __future__ import annotations

import importlib
import json
import random

import pytest
from conftest import need_material
from hypothesis import given, settings
from hypothesis import strategies as st

from didact.curate import STRATEGIES, Context, NearDuplicatesConfig
from didact.curate.alike import _packed, nearest_alike
from didact.instance import Instance, Message, Origin, Part

alike = importlib.import_module("didact.curate.alike")
WORDS = st.sampled_from([*"aaabbcdefghi"])
TEXTS = st.lists(WORDS, max_size=16).map(" ".join)


def shingles(text: str, n: int) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))} if words else set()


def brute(texts: list[str], threshold: float, n: int, references: int = 0) -> list[tuple[float, int]]:
    sets = [shingles(text, n) for text in texts]
    kept: list[int] = list(range(references))
    found: list[tuple[float, int]] = [(0.0, -1)] * references
    for i, own in enumerate(sets[references:], references):
        scores = [(len(own & sets[j]) / len(own | sets[j]), -j) for j in kept if own | sets[j]]
        score, minus = max(scores, default=(0.0, 0))
        near = score >= threshold and bool(own)
        found.append((score, -minus) if near else (0.0, -1))
        if not near and not references:
            kept.append(i)
    return found


def variants(rng: random.Random, groups: int, each: int) -> list[str]:
    """Texts in groups, each group one text with ever more words changed."""
    texts = []
    for _ in range(groups):
        words = [f"w{int(rng.paretovariate(0.6)) % 4000}" for _ in range(rng.randint(5, 60))]
        for _ in range(each):
            texts.append(" ".join(words))
            words[rng.randrange(len(words))] = f"x{rng.randrange(10**9)}"
    rng.shuffle(texts)
    return texts


@settings(max_examples=200, deadline=None)
@given(
    st.lists(TEXTS, min_size=1, max_size=40),
    st.sampled_from([0.2, 0.5, 0.7, 0.8, 1.0]),
    st.integers(1, 4),
    st.booleans(),
)
def test_every_decision_score_and_neighbour_is_that_of_brute_force(
    texts: list[str], threshold: float, n: int, as_references: bool
) -> None:
    references = len(texts) // 2 if as_references else 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alike, "FEW", 1)  # the hashed sets are looked at, however few the candidates
        assert nearest_alike(texts, threshold, n, references, exact=True) == brute(texts, threshold, n, references)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_longer_texts_too(threshold: float) -> None:
    texts = variants(random.Random(3), 60, 8)
    found = nearest_alike(texts, threshold, exact=True)
    assert found == brute(texts, threshold, 3)
    assert 30 < sum(near >= 0 for _, near in found) < len(texts) - 30


def test_minhash_invents_nothing_and_misses_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alike, "CHUNK", 70)  # many chunks share one numbering of words
    texts = variants(random.Random(4), 150, 6)
    exact, hashed = (nearest_alike(texts, 0.7, exact=exact) for exact in (True, False))
    dropped, missed = sum(near >= 0 for _, near in exact), 0
    for (true, _), (score, near) in zip(exact, hashed, strict=True):
        missed += true > 0 and near < 0
        if near >= 0:
            assert score >= 0.7
    assert dropped > 200
    assert missed <= 0.02 * dropped
    by_id = [shingles(text, 3) for text in texts]
    for i, (score, near) in enumerate(hashed):
        if near >= 0:
            assert score == len(by_id[i] & by_id[near]) / len(by_id[i] | by_id[near])


def test_minhash_is_taken_where_the_texts_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(alike, "EXACT_CHARACTERS", 10)
    monkeypatch.setattr(alike, "_bands", lambda texts, n: asked.append(n) or (iter(()), None, None))
    assert nearest_alike(["a b c d", "e f"], 0.7) == [(0.0, -1)] * 2
    assert not asked
    nearest_alike(["a b c d", "e f g h"], 0.7)
    assert asked == [3]


def test_no_texts_and_texts_without_words() -> None:
    for exact in (True, False):
        assert nearest_alike([], 0.7, exact=exact) == []
        assert nearest_alike(["", "!", "", "a", "a"], 0.7, exact=exact) == [(0.0, -1)] * 4 + [(1.0, 3)]


def test_n_grams_of_many_words_are_packed_without_mixing_any_up() -> None:
    import numpy as np

    size = 2**22  # five words take 110 bits: the first ones would be pushed out
    rest = [np.full(3, 7), np.full(3, 8), np.full(3, 9), np.full(3, 10)]
    packed = _packed([np.array([1, 2, 1]), *rest], size)
    assert packed[0] == packed[2] != packed[1]
    packed = _packed([*rest, np.array([1, 2, 1])], size)
    assert packed[0] == packed[2] != packed[1]


def made(question: str, answer: str, origin: Origin = Origin("r", 1, "format:alpaca"), given: str = "") -> Instance:  # noqa: B008
    parts = (Part(question, "instruction"), *((Part(given, "input"),) if given else ()))
    return Instance.of((Message("user", parts), Message("assistant", (Part(answer, "answer"),))), origin)


LONG = "the quick brown fox jumps over the lazy dog near the old river bank at dawn while the cat sleeps"


def test_a_verdict_names_reason_neighbour_and_score() -> None:
    rows = [made("Tell me", LONG), made("Say it", "no"), made("Tell me", LONG.replace("sleeps", "purrs"))]
    verdicts = STRATEGIES["near_duplicates"][1](NearDuplicatesConfig(), rows, Context())
    assert [v.keep for v in verdicts] == [True, True, False]
    assert (verdicts[2].reason, verdicts[2].near) == ("near duplicate", rows[0].id)
    assert verdicts[2].score == pytest.approx(19 / 21)
    strict = NearDuplicatesConfig(threshold=0.95, method="minhash")
    assert all(v.keep for v in STRATEGIES["near_duplicates"][1](strict, rows, Context()))


def test_one_row_under_several_templates_and_one_text_in_several_tasks_are_no_duplicates() -> None:
    def rendered(row: int, name: str, task: str = "t") -> Instance:
        return made(f"{name}, please:", "yes", Origin("r", row, f"template:{name}", task=task), LONG)

    rows = [rendered(1, "Rate"), rendered(1, "Judge"), rendered(1, "Rate", "other"), rendered(2, "Weigh")]
    verdicts = STRATEGIES["near_duplicates"][1](NearDuplicatesConfig(), rows, Context())
    assert [v.keep for v in verdicts] == [True, True, True, False]


def test_template_words_make_no_duplicates() -> None:
    rows = [
        made(LONG, "yes", Origin("r", i, "template:t", task="t"), given) for i, given in enumerate(("cats", "dogs"))
    ]
    assert all(v.keep for v in STRATEGIES["near_duplicates"][1](NearDuplicatesConfig(), rows, Context()))


def test_a_real_set_and_its_filtered_copy() -> None:
    import gzip

    rows = json.loads(
        gzip.decompress(need_material("instruct", "gpteacher_toolformer_dedupe_only.json.gz").read_bytes())
    )
    texts = [f"{row['instruction']} {row['input']} {row['response']}".lower() for row in rows[:1500]]
    texts = [" ".join(alike.all_words(text)) for text in texts]
    found = nearest_alike(texts, 0.5, exact=True)
    assert found == brute(texts, 0.5, 3)
    assert sum(near >= 0 for _, near in found) > 100
