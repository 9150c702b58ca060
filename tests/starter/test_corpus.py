"""The prose: deterministic, fast, varied, true to its marks, and without anything that evaluation is about."""

from __future__ import annotations

import re
import time
from collections import Counter
from itertools import islice
from random import Random
from typing import Any

import pytest

from didact.starter import corpus, pieces, plain_text
from didact.starter.corpus import DRILLED, LAYOUTS, MIX, STYLES, document, documents, plain, stand_in
from didact.starter.pieces import listed
from didact.starter.world import is_reserved, table, world


@pytest.fixture(scope="module")
def prose() -> list[str]:
    return list(islice(documents(0), 4000))


def test_a_seed_gives_the_same_bytes(prose: list[str]) -> None:
    assert "\n".join(islice(documents(0), 4000)).encode() == "\n".join(prose).encode()
    assert list(islice(documents(1), 10)) != prose[:10]


def test_it_is_fast_enough_for_pretraining() -> None:
    best = 0.0
    for _ in range(3):
        start = time.process_time()
        tokens = sum(len(text.split(" ")) for text in islice(documents(5), 2000))
        best = max(best, tokens / (time.process_time() - start))
    assert best >= 300_000, f"{best:.0f} tokens a second"


def test_it_has_many_words(prose: list[str]) -> None:
    assert len({word for text in prose for word in text.replace("^", "").split()}) > 1500


def test_no_reserved_person_is_in_the_prose(prose: list[str]) -> None:
    words = {word for text in prose for word in text.replace("^", "").split()}
    assert set(world().names) <= words
    assert not words & set(world().reserved_names)


def test_reserved_phrases_are_not_in_the_prose(prose: list[str]) -> None:
    aspects = {aspect for aspects in world().data["reviewed"].values() for aspect in aspects}
    said = {(a, g) for text in prose for a, g in re.findall(r"The (\w+) of the \w+ was (\w+) \.", text) if a in aspects}
    assert said
    assert not [pair for pair in said if is_reserved(pair, 6)]
    everything = "\n".join(prose).lower()
    for topic, lines in world().data["topics"].items():
        found = [line in everything for line in lines]
        assert sum(found) == len(found) - 1, topic  # the one line that only held-out reports have


@pytest.mark.parametrize("held", [False, True])
def test_a_list_of_words_is_either_for_training_or_for_evaluation(held: bool) -> None:
    rng, w = Random(0), world()
    for _ in range(50):
        words = listed(rng, w, held, 5, "mixed").asks[0].choices
        assert is_reserved(words, 8) == held


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [text for part in (value.values() if isinstance(value, dict) else value) for text in strings(part)]


def test_instruction_words_occur_in_ordinary_prose() -> None:
    prose = " ".join(islice(documents(0, {"prose": 1.0}), 500)) + " ".join(islice(documents(0), 3000))
    seen = {word.lower() for word in re.findall(r"[A-Za-z]+", prose)}
    text = re.sub(r"\{\{.*?\}\}", " ", " ".join(strings(table("instructions"))))
    assert {word.lower() for word in re.findall(r"[A-Za-z]{2,}", text)} - seen == set()


def test_no_instruction_is_in_the_prose() -> None:
    def words(text: str) -> str:
        return " ".join(re.findall(r"\w+", text.lower()))

    prose = "\n".join(words(line) for text in islice(documents(7), 5000) for line in re.split("[.;?!\n]", plain(text)))
    checked = 0
    for phrasing in strings(table("instructions")["operations"]):
        sentence = re.split(r"[.?] ", phrasing + " ")[0]  # its first sentence, with up to three words for each column
        parts = [re.escape(words(part)) for part in re.split(r"\{\{.*?\}\}", sentence)]
        if sum(len(part.split()) for part in parts) < 3:
            continue
        checked += 1
        pattern = r" ?(?:\w+ ){0,2}?\w* ?".join(parts)
        assert not re.search(rf"^{pattern}$", prose, re.M), phrasing
    assert checked > 60


def test_what_stands_in_for_people_is_no_person_and_nothing_they_could_have() -> None:
    rng, w = Random(2), world()
    people = set(w.names) | set(w.reserved_names)
    for layout in LAYOUTS:
        text = document(rng, w, "scene", layout)
        other = stand_in(rng, w, text)
        pairs = list(zip(text.replace("^", "").split(" "), other.replace("^", "").split(" "), strict=True))
        changed = {(a, b) for a, b in pairs if a != b}
        assert {a for a, _ in changed} == {a for a, _ in pairs if a in people}
        assert len({a for a, _ in changed}) == len({b for _, b in changed}) == len(changed)
        assert not {b for _, b in changed} & (people | set(w.kind_of) | set(w.values["city"]))
        assert text.count("^") == other.count("^")


def test_claims_and_pairs_are_true_to_their_scene_and_as_often_one_as_the_other() -> None:
    rng, w = Random(4), world()
    for style in STYLES:
        slots = rng.sample(w.slots, 2)
        scene = pieces.scene(rng, w, False, 3, slots, style, twins=True)
        had = {(ask.fields["n"], ask.slot): ask.answer for ask in scene.asks if ask.skill == "look"}
        claims, pairs = pieces.claims(scene), pieces.pairs(scene, slots[0])
        for ask in claims:
            assert ask.answer == ("yes" if had[ask.fields["n"], ask.slot] == ask.fields["v"] else "no")
        for ask in pairs:
            one, other = (had[ask.fields[name], slots[0].name] for name in "nm")
            assert ask.answer == ("same" if one == other else "different")
        for asks in (claims, pairs):
            counts = Counter(ask.answer for ask in asks)
            assert len(counts) == 2
            assert max(counts.values()) <= 1.5 * min(counts.values())


@pytest.mark.parametrize(
    ("layout", "ahead"), [("ahead", True), ("dense", False), ("brief", False), ("thoughts", False)]
)
def test_an_ask_stands_ahead_of_the_text_or_after_it(layout: str, ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "wonder", lambda rng, w, ask: ("ASK", ask.answer))
    texts = [document(Random(i), world(), "scene", layout) for i in range(20)]
    assert [text.startswith("ASK ") for text in texts] == [layout == "ahead"] * 20


@pytest.mark.parametrize("sort", [*MIX, *DRILLED])
def test_every_sort_marks_what_it_determines(sort: str) -> None:
    rng = Random(1)
    for layout in LAYOUTS:
        texts = [document(rng, world(), sort, layout) for _ in range(20)]
        assert all("  " not in text and "{" not in text for text in texts)
        assert sort == "prose" or all("^" in text for text in texts)


def test_plain_text_is_not_what_pretraining_drew(prose: list[str]) -> None:
    held = plain_text(50, 0)
    assert held == plain_text(50, 0)
    assert not set(held) & {plain(text) for text in prose}
    assert not any("^" in text for text in held)
