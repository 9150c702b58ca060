"""Encoding by words: the same ids and spans as the tokenizer's own, or left to it."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from didact import words
from didact.words import GPT2, Words

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    "The cat's hat isn't 1234 years old.\n\n### Answer:\n  yes, it IS!",
    "we'll see\tx = y + 12;  // done\r\n",
    "naïve",
]


def trained(pattern: str, *, trim: bool = True, normalizer: Any = None) -> Tokenizer:
    """A small byte-level BPE tokenizer with a stop token, cut by a pattern of some family."""
    tokenizer = Tokenizer(models.BPE())
    if pattern == GPT2:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split, level = (
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS * 5, trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.add_tokens(["<think>"])
    return tokenizer


def made(tokenizer: Tokenizer) -> Words:
    return Words(tokenizer, tokenizer.to_str())


def texts(n: int) -> list[str]:
    """Blanks of all kinds, contractions, digits, punctuation, added tokens, and letters of other scripts."""
    draw = random.Random(0)
    blanks, odd = [" ", "  ", "\n", "\r\n", "\t", "\v"], ["\x1c", "\x00", "\x7f", "é", "中", "İ", "\u00a0", "ſ"]
    plain = ["'s", "'LL", "'", "a", "The", "cat", "HAT", "x1", "12345", ".", "?!", "###", "/", "_", "<"]
    some = [*blanks, *odd, *plain, "</s>", "<s>", "<think>"]
    return ["".join(draw.choice(some) for _ in range(draw.randrange(12))) for _ in range(n)]


@pytest.mark.parametrize("pattern", [GPT2, LLAMA3, GPT4O])
@pytest.mark.parametrize("trim", [True, False])
def test_ids_and_spans_are_the_tokenizers(pattern: str, trim: bool) -> None:
    tokenizer = trained(pattern, trim=trim, normalizer=normalizers.NFC() if trim else None)
    ours, all_ = made(tokenizer), texts(6000)
    found = ours.encode(all_)
    for text, (ids, spans) in zip(all_, found, strict=True):
        expected = tokenizer.encode(text, add_special_tokens=False)
        assert (ids, spans) == (expected.ids, expected.offsets), text
    assert ours._pattern is not None


def test_ascii_is_not_given_to_the_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "PROOFS", 0)
    ours, given = made(trained(GPT2)), list[str]()
    real = ours._whole
    monkeypatch.setattr(ours, "_whole", lambda some: (given.extend(some), real(some))[1])
    ours.encode(["The cat's hat.</s>", "naïve", "x = 12"])
    assert given == ["naïve"]


def test_a_difference_leaves_all_to_the_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a later version of the library cuts in another way."""
    tokenizer = trained(LLAMA3)
    ours = made(tokenizer)
    ours._pattern = words._ascii(GPT2)
    all_ = ["fine", "a.\n\nb ### \n c"]
    found = ours.encode(all_)
    assert found == [((e := tokenizer.encode(text)).ids, e.offsets) for text in all_]
    assert ours._pattern is None


@pytest.mark.parametrize("kind", ["wordpiece", "prefix", "other pattern", "lstrip", "lowercase", "groups"])
def test_what_is_not_known_is_left_to_the_tokenizer(kind: str) -> None:
    tokenizer = trained(r"(\p{L}+)|." if kind == "groups" else r"\p{Han}+|\S+|\s+" if kind == "other pattern" else GPT2)
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    elif kind == "prefix":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif kind == "lstrip":
        tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    elif kind == "lowercase":
        tokenizer.normalizer = normalizers.Lowercase()
    ours = made(tokenizer)
    assert ours._pattern is None
    assert ours.encode(["a Hat <mask>"])[0][0] == tokenizer.encode("a Hat <mask>", add_special_tokens=False).ids


def test_words_are_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MOST", 3)
    monkeypatch.setattr(words, "BATCH", 2)
    tokenizer = trained(GPT2)
    ours, all_ = made(tokenizer), [f"w{n} v{n}" for n in range(200)]
    assert [ids for ids, _ in ours.encode(all_)] == [tokenizer.encode(text).ids for text in all_]
    assert len(ours._ids) < 20


def test_the_tokenizer_is_read_as_it_is_written() -> None:
    """What is read of it: should the library write otherwise, nothing would be taken."""
    told = json.loads(trained(LLAMA3).to_str())
    assert told["pre_tokenizer"]["pretokenizers"][0]["behavior"] == "Isolated"
    assert words._pattern(told) is not None
