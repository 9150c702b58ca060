"""Tokens are counted as the model's own tokenizer counts them, whatever form its files have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from didact.build.budget import fitting
from didact.errors import UsageError
from didact.starter import base_folder
from didact.token_count import counter, tokenizer_json

STARTER = tokenizer_json("starter")


def test_a_text_has_as_many_tokens_as_the_model_reads() -> None:
    from transformers import AutoTokenizer

    whole, count = AutoTokenizer.from_pretrained(base_folder()), counter(STARTER)
    for text in ("", "The ball is red.", "Zürich, 北京\n\n\tx", "<|user|> " * 3):
        assert count(text) == len(whole(text, add_special_tokens=False)["input_ids"])


def test_a_tokenizer_that_cuts_and_pads_counts_all_the_same(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    made = Tokenizer.from_str(STARTER)
    made.enable_truncation(4)
    made.enable_padding(length=12)
    made.save(str(tmp_path / "tokenizer.json"))
    count = counter(tokenizer_json(str(tmp_path)))
    assert [count("red"), count("red " * 40)] == [counter(STARTER)("red"), counter(STARTER)("red " * 40)]


def test_an_older_form_is_converted(tmp_path: Path) -> None:
    from tokenizers import pre_tokenizers

    vocabulary = {token: i for i, token in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), "re", "red"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nr e\nre d\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert counter(tokenizer_json(str(tmp_path)))("red rex") == 4


def test_what_is_no_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match='there is no model "nowhere"'):
        tokenizer_json("nowhere")
    with pytest.raises(UsageError, match=r"no tokenizer can be read here: .* - add its tokenizer.json"):
        tokenizer_json(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match=r"tokenizer.json: not a tokenizer: .* - take the file"):
        tokenizer_json(str(tmp_path))


@given(
    st.lists(st.text(max_size=60), max_size=6), st.text(max_size=20), st.text(max_size=60), st.integers(1, 200),
    st.integers(0, 30),
)  # fmt: skip
@example(["red\n\n", "\n", "é"], "", "\n", 12, 0)
def test_examples_and_question_are_never_beyond_the_budget(
    texts: list[str], head: str, question: str, limit: int, picture: int
) -> None:
    count = counter(STARTER)
    lines = [f"{text}\n" for text in texts]
    kept = fitting([(line, picture) for line in lines], head, (question, picture), limit, count)
    whole = head + "".join(lines[place] for place in kept) + question
    assert not kept or count(whole) + picture * (len(kept) + 1) <= limit
    if count(head + "".join(lines) + question) + picture * (len(lines) + 1) <= limit:
        assert kept == list(range(len(lines)))
