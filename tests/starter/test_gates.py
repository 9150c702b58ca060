"""The gates: what they ask is about reserved people and lists, what they print is what the shipped base does."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from random import Random
from typing import Any

import pytest

from didact.starter import base_folder, corpus
from didact.starter.gates import GATES, accuracy, probes, wilson
from didact.starter.world import table, world


@pytest.mark.parametrize("name", GATES)
def test_probes_are_fresh_and_need_their_text(name: str) -> None:
    some = probes(name, GATES[name][0], 40, 0)
    assert len(set(some)) > 20
    assert some == probes(name, GATES[name][0], 40, 0)
    assert all("^" not in prompt and answer for prompt, answer in some)
    if name in ("lookup", "reverse"):
        assert all(answer in prompt.split(" ") for prompt, answer in some)
        assert all(set(world().reserved_names) & set(prompt.split(" ")) for prompt, _ in some)


@pytest.mark.parametrize("name", ["yes/no", "same", "polarity"])
def test_two_way_gates_are_balanced(name: str) -> None:
    answers = [answer for _, answer in probes(name, GATES[name][0], 300, 0)]
    first = sum(
        answer in ("yes", "true", "right", "correct", "same", "alike", "equal", "good", "positive")
        for answer in answers
    )
    assert 0.35 < first / 300 < 0.65


@pytest.mark.parametrize("name", ["lookup", "reverse", "pick", "position", "before", "yes/no", "label"])
def test_a_gate_stays_as_hard_as_it_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two probes of five ask ahead of their text and about half have words between question and answer."""
    calls: Counter[str] = Counter()
    for part in ("wonder", "settle"):
        made = getattr(corpus, part)
        monkeypatch.setattr(corpus, part, lambda *a, part=part, made=made: (calls.update([part]), made(*a))[1])
    some = probes(name, GATES[name][0], 400, 0)
    assert 0.33 < calls["wonder"] / 400 < 0.47
    assert 0.44 < calls["settle"] / 400 < 0.62
    if name in ("lookup", "reverse", "yes/no"):  # three people, two things each
        w = world()
        for prompt, _ in some[:50]:
            words = set(prompt.split(" "))
            assert len(words & set(w.reserved_names)) == 3
            assert len(words & {value for values in w.values.values() for value in values}) >= 4


@pytest.mark.parametrize(("name", "skill"), [("lookup", "look"), ("pick", "pick")])
def test_a_gate_keeps_the_statements_its_target_was_set_on(name: str, skill: str, monkeypatch: Any) -> None:
    """What the corpus gained since would dilute the statements that leave open what is asked for."""
    frames = table("frames")
    assert len(frames[skill]["say"]) == {"look": 10, "pick": 5}[skill]
    marked = {**frames, skill: {**frames[skill], "also": ["MARK ^{a}"] * 50}}
    monkeypatch.setattr(corpus, "table", lambda _: marked)
    assert not any("MARK" in prompt for prompt, _ in probes(name, GATES[name][0], 400, 0))
    assert any("MARK" in text for text in islice(corpus.documents(0, {"owners": 1, "listed": 1}), 50))


def test_accuracy_counts_right_next_words(tmp_path: object) -> None:
    """A model that always says one word is right exactly where that word is the answer."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_folder())
    tea = tokenizer.convert_tokens_to_ids("Ġtea")

    class Body(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> object:
            return type("Out", (), {"last_hidden_state": torch.zeros(*input_ids.shape, 1)})

    class Model(torch.nn.Module):
        device = torch.device("cpu")
        model = Body()

        def lm_head(self, hidden: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.full((len(hidden),), tea), len(tokenizer)).float()

    items = [("Ben drinks", "tea"), ("Mia often drinks", "milk"), ("Leo drinks", "tea"), ("so", "wine")]
    assert accuracy(Model(), tokenizer, items) == 0.5


def test_the_interval_holds_the_share() -> None:
    low, high = wilson(0.95, 200)
    assert low < 0.95 < high
    assert high - low == pytest.approx(0.062, abs=0.01)


@pytest.mark.slow
def test_the_shipped_base_does_what_its_card_says() -> None:
    """Every figure of the card holds on fresh probes within sampling error; gates it lists as passed do pass."""
    from didact.starter.gates import check

    card = json.loads((base_folder() / "gates.json").read_text())
    found = {gate.name: gate for gate in check(base_folder(), 200, seed=Random(0).randrange(1, 100))}
    for gate in card:
        now = found[gate["name"]]
        assert now.low <= gate["high"], gate
        assert now.high >= gate["low"], gate
