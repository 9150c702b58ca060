"""The tokenizer: one token a word wherever it stands, any text comes back, the chat template as it should be."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from didact.starter import base_folder
from didact.starter.corpus import documents, plain
from didact.starter.tokens import make_tokenizer, vocabulary, word_ids
from didact.starter.world import world


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_folder())


def encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_the_shipped_tokenizer_is_the_one_the_code_makes(tokenizer: Any, tmp_path: Any) -> None:
    assert make_tokenizer(tmp_path).get_vocab() == tokenizer.get_vocab()
    assert (tmp_path / "tokenizer.json").read_bytes() == (base_folder() / "tokenizer.json").read_bytes()


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_comes_back(tokenizer: Any, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return
    assert tokenizer.decode(encode(tokenizer, text)) == text


@pytest.mark.parametrize("text", [" a", "\n", "\n\n x", "Zürich 3.14", "tea\r\n\ttea", "x <|stop|> y", "  ", "Ġ"])
def test_awkward_texts_come_back(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(encode(tokenizer, text)) == text


def test_a_word_is_one_token_and_the_same_everywhere(tokenizer: Any) -> None:
    alone = {word: encode(tokenizer, word) for word in vocabulary()}
    assert [word for word, ids in alone.items() if len(ids) != 1] == []
    tea = alone["tea"]
    for text in ("hot tea", "x\ntea", "<|assistant|>tea", "x\n\ntea"):
        assert encode(tokenizer, text)[-1:] == tea, text


def test_answers_are_single_tokens(tokenizer: Any) -> None:
    w = world()
    for word in (*w.names, *w.reserved_names, *w.kind_of, *w.kinds, *w.opposites, *w.labels, "yes", "no", "positive"):
        assert len(encode(tokenizer, word)) == 1, word


def test_documents_and_their_plain_text_have_the_same_tokens(tokenizer: Any) -> None:
    ids = word_ids(tokenizer.get_vocab())
    for text in (document.removesuffix(" \n") for document in islice(documents(11), 500)):
        assert [ids[word] & 0xFFFF for word in text.split(" ")] == encode(tokenizer, plain(text))


def test_the_chat_template_ends_each_answer_and_keeps_history(tokenizer: Any) -> None:
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What?"},
        {"role": "assistant", "content": "tea"},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "milk"},
    ]
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    assert whole.count("<|begin|>") == 1
    assert whole.count("<|stop|>") == 2
    asked = tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
    assert whole == asked + "milk<|stop|>"
