"""A local model as teacher: greedy as transformers has it, sampled by each request's own numbers, cut where told."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from didact.llm import Request
from didact.model import Loaded, load
from didact.speak import _pick, speaker


@pytest.fixture(scope="module")
def loaded(tiny_llama: Path) -> Loaded:
    return load(str(tiny_llama))


def plain(text: str, **more: object) -> Request:
    return Request(prompt=text, **{"max_tokens": 12, **more})  # type: ignore[arg-type]


def test_greedy_is_what_transformers_says(loaded: Loaded) -> None:
    for text in ("Once upon", "x", "A longer beginning of it all"):
        ids = loaded.renderer.plain(text)
        theirs = loaded.model.generate(
            torch.tensor([ids]), max_new_tokens=12, do_sample=False, eos_token_id=list(loaded.renderer.stop_ids)
        )[0, len(ids) :].tolist()
        theirs = [i for i in theirs if i not in loaded.renderer.stop_ids]
        (answer,) = speaker(loaded)([plain(text)])
        assert answer.text == loaded.renderer.decode(theirs).strip()


def test_an_answer_does_not_depend_on_its_company(loaded: Loaded) -> None:
    requests = [plain("word " * n, temperature=1.0, sample=s, max_tokens=4 + n) for n in range(1, 5) for s in range(3)]
    together = speaker(loaded)(requests)
    assert [speaker(loaded)([request])[0] for request in requests] == together
    assert speaker(loaded, rows=2)(requests[::-1])[::-1] == together
    assert len({answer.text for answer in together[:3]}) == 3  # samples differ


def test_a_conversation_is_asked_in_the_chat_template(loaded: Loaded) -> None:
    (answer,) = speaker(loaded)([Request((("system", "be"), ("user", "hi")), max_tokens=3)])
    assert answer.tokens_in > len("be") + len("hi")
    assert answer.tokens_out <= 3


def test_it_ends_at_a_stop_text_and_says_when_it_was_cut(loaded: Loaded) -> None:
    (free,) = speaker(loaded)([plain("Once upon", max_tokens=40)])
    assert free.finish == "length"
    stop = free.text[len(free.text) // 2]
    (cut,) = speaker(loaded)([plain("Once upon", max_tokens=40, stop=(stop,))])
    assert stop not in cut.text
    assert free.text.startswith(cut.text)
    assert (cut.finish, cut.tokens_out <= free.tokens_out) == ("stop", True)


def test_a_prompt_that_does_not_fit_is_rejected(loaded: Loaded) -> None:
    long, short = speaker(loaded)([plain("x" * 600), plain("x")])
    assert (long.text, long.why) == ("", "the prompt is longer than the model reads")
    assert short.why == "" or short.why == "the answer is blank"


def test_sampling_follows_the_chances_within_top_p() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    n = 4000
    draws = [(i + 0.5) / n for i in range(n)]

    def shares(temperature: float, top_p: float) -> list[float]:
        requests = [plain("x", temperature=temperature, top_p=top_p)] * n
        counts = Counter(_pick(logits.expand(n, 4), requests, draws).tolist())
        return [round(counts[i] / n, 2) for i in range(4)]

    assert shares(1.0, 1.0) == [0.5, 0.3, 0.15, 0.05]
    assert shares(1.0, 0.79) == [0.62, 0.38, 0.0, 0.0]
    assert shares(1.0, 0.81) == pytest.approx([0.53, 0.32, 0.16, 0.0], abs=0.011)
    assert shares(1.0, 0.1) == [1.0, 0.0, 0.0, 0.0]
    assert shares(0.0, 1.0) == [1.0, 0.0, 0.0, 0.0]
    assert shares(0.5, 1.0) == pytest.approx([0.68, 0.25, 0.06, 0.01], abs=0.011)
