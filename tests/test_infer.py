"""Answers, ranks and losses do not depend on the company they are computed in."""

from __future__ import annotations

import random

import pytest
import torch
from conftest import make_model

from didact.errors import UsageError
from didact.infer import Answerer
from didact.instance import Instance, Message, Origin, Part
from didact.methods.full import FullConfig
from didact.model import Loaded, load
from didact.tune import TuneConfig, tune

WORDS = ["red", "blue", "deep green", "x"]


def ask(text: str, answer: str = "", choices: tuple[str, ...] = ()) -> Instance:
    messages = (Message("user", (Part(text, "instruction"),)), Message("assistant", (Part(answer, "answer"),)))
    return Instance.of(messages, Origin("data.jsonl", 4), choices=choices)


@pytest.fixture(scope="module", params=["llama", "qwen3", "gpt2"])
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Tuned to repeat a word, so that some answers stop early and others late."""
    loaded = load(str(make_model(tmp_path_factory.mktemp(request.param), request.param)))
    instances = [ask(f"Say {word}", word) for word in WORDS]
    config = TuneConfig(precision="fp32", epochs=80, batch_size=4, learning_rate=5e-3)
    tune(loaded, FullConfig(), loaded.renderer.render_all(instances), config)
    return loaded


@pytest.fixture
def questions() -> list[Instance]:
    rng = random.Random(0)
    return [
        ask(f"{'Please ' * rng.randint(0, 9)}Say {rng.choice(WORDS)}", choices=tuple(WORDS[: i % 5])) for i in range(20)
    ]


def test_it_answers_and_stops(tuned: Loaded) -> None:
    answers = Answerer(tuned).answer([ask(f"Say {word}") for word in WORDS])
    assert [answer.text for answer in answers] == WORDS
    assert all(answer.stopped for answer in answers)
    assert [answer.tokens for answer in answers] == [len(word) + 1 for word in WORDS]  # one token per letter


def test_batched_equals_one_by_one(tuned: Loaded, questions: list[Instance]) -> None:
    together = Answerer(tuned, max_new_tokens=12, batch_size=20).answer(questions)
    alone = [Answerer(tuned, max_new_tokens=12).answer([question])[0] for question in questions]
    assert together == alone
    assert len({answer.tokens for answer in together}) > 2


def test_greedy_equals_transformers(tuned: Loaded, questions: list[Instance]) -> None:
    for question in questions[:4]:
        prompt = tuned.renderer.prompt(question)
        theirs = tuned.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=list(tuned.renderer.stop_ids),
        )[0, len(prompt) :].tolist()
        assert Answerer(tuned, max_new_tokens=12).generate([prompt])[0] == theirs


def test_the_limit_is_not_a_stop(tuned: Loaded) -> None:
    (answer,) = Answerer(tuned, max_new_tokens=2).answer([ask("Say blue")])
    assert (answer.stopped, answer.tokens, answer.text) == (False, 2, "bl")


def test_stream_gives_the_same_answer_in_pieces(tuned: Loaded) -> None:
    question = ask("Say deep green")
    pieces = list(Answerer(tuned).stream(question.context))
    assert "".join(pieces) == "deep green"
    assert len(pieces) > 3


def by_hand(loaded: Loaded, question: Instance, choice: str) -> float:
    tokens = loaded.renderer.render(loaded.renderer.complete(question, choice))
    (start, end), ids = tokens.turns[-1], tokens.ids
    with torch.no_grad():
        logs = loaded.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(logs[i - 1, ids[i]]) for i in range(start, end))


def test_rank_is_the_log_probability_of_choice_and_stop(tuned: Loaded, questions: list[Instance]) -> None:
    asker = Answerer(tuned, max_tokens=300)
    scores = asker.rank(questions)
    assert asker._trees is True
    for question, row in zip(questions, scores, strict=True):
        assert row == pytest.approx([by_hand(tuned, question, choice) for choice in question.choices], abs=1e-3)


def test_rank_without_a_mask_of_our_own(tuned: Loaded, questions: list[Instance]) -> None:
    """A model that does not take the mask is found out and asked choice by choice."""
    expected = Answerer(tuned).rank(questions)
    asker = Answerer(tuned)
    body = tuned.model.base_model
    forward = body.forward

    def deaf(*args: object, attention_mask: object = None, **kwargs: object) -> object:
        return forward(*args, **kwargs)

    body.forward = deaf
    try:
        scores = asker.rank(questions)
    finally:
        body.forward = forward
    assert asker._trees is False
    assert all(a == pytest.approx(b, abs=1e-3) for a, b in zip(scores, expected, strict=True))


def test_answer_loss_is_the_mean_over_the_last_answer_and_its_stop(tuned: Loaded) -> None:
    rows = [ask(f"{'Please ' * (i % 7)}Say {word}", word) for i, word in enumerate(WORDS * 3)]
    rows.append(ask("", "red"))
    losses = Answerer(tuned, max_tokens=100).answer_loss(rows)
    for row, loss in zip(rows, losses, strict=True):
        tokens = tuned.renderer.render(row)
        start, end = tokens.turns[-1]
        ids = torch.tensor([tokens.ids[:end]])
        with torch.no_grad():
            log_TV = tuned.model(ids).logits[0].float().log_softmax(-1)
        expected = -log_TV[start - 1 : end - 1].gather(1, ids[0, start:end, None]).mean().item()
        assert loss == pytest.approx(expected, abs=1e-4)
    assert losses[-1] > losses[0]  # it was tuned to repeat what is asked


def test_text_loss_is_the_one_of_transformers(tuned: Loaded) -> None:
    texts = ["red and blue", "a", "", "<|im_end|> is text here", "word " * 150]
    answers = Answerer(tuned, batch_size=3).text_loss(texts)
    assert answers[1:3] == [(0.0, 0), (0.0, 0)]
    for i in (0, 3):
        ids = torch.tensor([tuned.renderer.plain(texts[i])])
        assert 2 not in ids
        assert answers[i][1] == ids.shape[1] - 1
        assert answers[i][0] / answers[i][1] == pytest.approx(tuned.model(ids, labels=ids).loss.item(), rel=1e-4)
    assert answers[4][1] == 5 * 150 - 1  # in two windows: longer than the 512 positions


def test_a_prompt_that_fills_the_model_names_its_row(tuned: Loaded) -> None:
    long = ask("word " * 120, choices=("a",))
    for call in (Answerer(tuned).answer, Answerer(tuned).rank):
        with pytest.raises(
            UsageError, match=r"data\.jsonl:4: the prompt has \d+ tokens, but the model reads at most 512"
        ):
            call([long])
