"""Making the base: the same seed gives the same weights, a stopped run goes on, the circuit copies before training."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file

from didact.starter.drills import DRILLS, FIRST, SECOND
from didact.starter.make import SCHEDULE, Phase, batches, introduce, make, new_model, rate
from didact.starter.tokens import BEGIN, make_tokenizer, word_ids
from didact.starter.world import world

SHORT = (
    Phase("drills", 6, (2e-3, 2e-3), 1.0, 0.0, tokens=256),
    Phase("prose", 4, (1e-3, 1e-4), 0.2, 0.1, stand_ins=0.5, tokens=256),
)


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    def quiet(text: str) -> None: ...

    whole = weights(make(tmp_path / "whole", schedule=SHORT, report=quiet, every=10))
    make(tmp_path / "cut", schedule=SHORT, steps=7, report=quiet, every=7)
    assert not same(weights(tmp_path / "cut"), whole)
    assert same(weights(make(tmp_path / "cut", schedule=SHORT, report=quiet, every=10)), whole)
    assert not same(weights(make(tmp_path / "other", seed=1, schedule=SHORT, report=quiet, every=10)), whole)


@pytest.mark.slow
def test_200_steps_of_the_real_schedule_give_identical_weights(tmp_path: Path) -> None:
    made = [weights(make(tmp_path / name, steps=200, report=lambda text: None)) for name in ("a", "b")]
    assert same(*made)


def test_the_rate_warms_up_and_falls() -> None:
    assert rate(SCHEDULE, 0) == pytest.approx(SCHEDULE[0].rates[0] / 100)
    last = sum(phase.steps for phase in SCHEDULE) - 1
    assert 0 < rate(SCHEDULE, last) < SCHEDULE[0].rates[0]


def test_only_marked_words_weigh_fully_and_padding_weighs_nothing(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path)
    ids, begin = word_ids(tokenizer.get_vocab()), tokenizer.convert_tokens_to_ids(BEGIN)
    phase = replace(SHORT[1], rest=0.0, steps=5)
    for tokens_BT, weights_BT in batches(ids, begin, 0, (phase,), 0):
        assert (tokens_BT[:, 0] == begin).all()
        assert set(weights_BT.unique().tolist()) == {0.0, 1.0}
        assert not weights_BT[tokens_BT == tokenizer.pad_token_id].any()


def test_the_circuit_looks_back_and_finds_what_followed(tmp_path: Path) -> None:
    """Layer 0 looks one and two words back; layer 1, at a word seen before, looks at the word that came after it."""
    tokenizer = make_tokenizer(tmp_path)
    words = torch.randperm(1500, generator=torch.Generator().manual_seed(0))[:12] + 400
    ids_BT, here = torch.cat([words, words[:6]])[None], 17  # the sixth word again; the seventh stands at 6
    looks = {}
    for circuit in (True, False):
        with torch.no_grad():
            model = new_model(len(tokenizer), tokenizer, 0, circuit=circuit)
            found = model(input_ids=ids_BT, output_attentions=True).attentions
        looks[circuit] = [found[0][0, 0, here, here - 1], found[0][0, 1, here, here - 2], found[1][0, 0, here, 6]]
    assert looks[True][0] > 0.95
    assert looks[True][1] > 0.95
    assert looks[True][2] > 2 * looks[False][2]


def test_reserved_people_are_moved_together_and_nothing_else_is(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path)
    model = new_model(len(tokenizer), tokenizer, 0)
    before = model.get_input_embeddings().weight.detach().clone()
    introduce(model, tokenizer)
    moved = model.get_input_embeddings().weight.detach() - before
    reserved = tokenizer.convert_tokens_to_ids([f"Ġ{name}" for name in world().reserved_names])
    assert set(moved.abs().sum(1).nonzero()[:, 0].tolist()) == set(reserved)
    assert torch.allclose(moved[reserved], moved[reserved[0]].expand(len(reserved), -1), atol=1e-6)


@pytest.mark.parametrize("name", DRILLS)
def test_drills_mark_only_what_the_words_before_determine(name: str) -> None:
    """Any marked word stood before it in the drill, or is one of its fixed answers."""
    words = [f"w{chr(97 + i)}{chr(97 + j)}" for i in range(20) for j in range(20)]
    for i in range(20):
        line = DRILLS[name](Random(i), words).split(" ")
        assert any(word.startswith("^") for word in line)
        for at, word in enumerate(line):
            if word.startswith("^"):
                assert word[1:] in {w.removeprefix("^") for w in line[:at]} | {"yes", "no", "same", "different"}
    assert set(FIRST) <= set(SECOND) <= set(DRILLS)


@pytest.mark.parametrize("name", ["claim", "asked"])
def test_claims_of_drills_are_true_where_they_say_yes(name: str) -> None:
    words = [f"w{chr(97 + i)}{chr(97 + j)}" for i in range(20) for j in range(20)]
    said: Counter[str] = Counter()
    for i in range(60):
        line = DRILLS[name](Random(i), words)
        pairs = re.findall(r"(w\w\w) (?:[:=]|is|has) (w\w\w)( ;)?", line)
        true = {(k, v) for k, v, stated in pairs if stated}
        claims = [(k, v) for k, v, stated in pairs if not stated]
        answers = re.findall(r"\^(yes|no)", line)
        assert len(claims) == len(answers)
        assert [answer == "yes" for answer in answers] == [claim in true for claim in claims]
        said.update(answers)
    assert 0.6 < said["yes"] / said["no"] < 1.6
