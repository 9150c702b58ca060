"""The starter's tokenizer: one token for each word of the world, bytes for the rest, any text comes back as it was.

A stock `tokenizers` BPE without merges that takes whole words first (`ignore_merges`). A space is put before the first
word of a text, after each special token and after each line end, and taken away again by the decoder: so a word is the
same token wherever it stands.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from didact.starter.pieces import ORDINALS
from didact.starter.world import WORLD_SEED, table, world

PAD, BEGIN, STOP, SYSTEM, USER, ASSISTANT = SPECIAL = (
    "<|pad|>",
    "<|begin|>",
    "<|stop|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
)
EXTRA = "Today good bad positive negative last spring summer autumn winter an An"
POINTS = [*".,:;?!", "'s", "\n"]  # written close to the word before them
SIGNS = ["|", "-", "=", ">", "/"]  # written with a space before them
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def vocabulary(seed: int = WORLD_SEED) -> list[str]:
    """All words with a token of their own: the lexicon, the frames and the instructions, and common capitals."""
    words = set(world(seed).words)
    text = " ".join((_strings(table("frames")), _strings(table("instructions")), " ".join(ORDINALS), EXTRA))
    text = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|\{\w+\}|<\|\w+\|>", " ", text)
    seen = set(re.findall(r"[A-Za-z]+", text))
    plain = {word for word in words | seen if not word[0].isdigit()}
    capitals = {
        word.capitalize()
        for word in seen | set(table("words")["kinds"]) | set(table("words")["slots"])
        if len(word) > 1
    }
    return sorted(words | plain | capitals | {word.lower() for word in seen})


def _strings(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return " ".join([*map(str, value), *map(_strings, value.values())])
    return " ".join(map(_strings, value)) if isinstance(value, list) else ""


def make_tokenizer(folder: Path, seed: int = WORLD_SEED) -> Any:
    """Write the tokenizer of a world to `folder` and return it as a transformers fast tokenizer."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "'s", "ĊĠĊ"]
    pieces += [f"Ġ{sign}" for sign in SIGNS] + [f"Ġ{word}" for word in vocabulary(seed)]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(" "), normalizers.Replace(Regex("\n"), "\n ")])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    undo = [decoders.Replace(f"{token} ", token) for token in SPECIAL]
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Strip(" ", 1, 0), *undo, decoders.Replace("\n ", "\n")]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=STOP,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return fast


def word_ids(vocab: dict[str, int]) -> dict[str, int]:
    """Token id of every word of a document; words marked with `^` have 2^16 added."""
    ids = {piece[1:]: i for piece, i in vocab.items() if piece.startswith("Ġ") and len(piece) > 1}
    ids |= {point: vocab["Ċ" if point == "\n" else point] for point in POINTS}
    return ids | {f"^{word}": i + (1 << 16) for word, i in ids.items()}
