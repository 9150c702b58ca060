"""A small masked language model, trained here on unlabelled texts: a base that knows words, not what is asked.

BERT's shape with three layers of 128 and word pieces of its own; whole training in some ten minutes of one core. What
is asked later must not be in the texts: `unlabelled` leaves those out.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY, LAYERS, WIDTH, LENGTH = 8000, 3, 128, 128
WORDS = 60  # in a piece of a text
SETS = (  # of the shared material: file, column
    ("annotated/dbpedia_14", "content"),
    ("annotated_nc/ag_news", "text"),
    ("annotated/squad_xquad_en", "context"),
    ("annotated/boolq", "passage"),
    ("annotated/qnli_dev", "sentence"),
)


def letters(text: str) -> str:
    """A text as it is compared: the same in two files that split words and points in different ways."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def unlabelled(folder: Path, without: Sequence[str]) -> list[str]:
    """Pieces of an encyclopedia's and of news texts, none of them twice and none of those given."""
    seen, found = {letters(text) for text in without}, list[str]()
    for name, column in SETS:
        with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as handle:
            texts = [json.loads(line)[column] for line in handle if line.strip()]
        for text in texts:
            if letters(text) in seen:
                continue
            seen.add(letters(text))
            words = text.split()
            found += [" ".join(words[i : i + WORDS]) for i in range(0, len(words), WORDS)]
    return found


def train(texts: Sequence[str], folder: Path, steps: int, say: Callable[[str], None], rows: int = 32) -> None:
    """Word pieces, then masks over 30% of the tokens (Devlin 2019); the folder is written last, whole."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    pieces = BertWordPieceTokenizer(lowercase=True)
    pieces.train_from_iterator(
        texts, vocab_size=VOCABULARY, min_frequency=2, special_tokens=SPECIAL, show_progress=False
    )
    tokenizer = BertTokenizerFast(tokenizer_object=pieces._tokenizer, model_max_length=LENGTH)
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 512}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(vocab_size=pieces.get_vocab_size(), max_position_embeddings=LENGTH, **sizes, **dropout)
    model: Any = BertForMaskedLM(config)
    begin(model, encoded := tokenizer(list(texts), truncation=True)["input_ids"])
    rates = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, betas=(0.9, 0.98))
    rng, began, told = random.Random(0), time.process_time(), 0.0
    batches = batches_of(encoded, rows, rng)
    for step in range(steps):
        for group in rates.param_groups:
            group["lr"] = 1e-3 * min((step + 1) / (0.05 * steps), (steps - step) / (0.95 * steps))
        ids_BT = torch.zeros(rows, LENGTH, dtype=torch.long)
        for i, ids in enumerate(one := next(batches)):
            ids_BT[i, : len(ids)] = torch.tensor(ids)
        ids_BT = ids_BT[:, : max(map(len, one))]
        hidden_BT = (torch.rand(ids_BT.shape) < 0.3) & (ids_BT > SPECIAL.index("[MASK]"))
        shown_BT = ids_BT.masked_fill(hidden_BT & (torch.rand(ids_BT.shape) < 0.9), SPECIAL.index("[MASK]"))
        states_BTC = model.bert(shown_BT, attention_mask=(ids_BT > 0).long()).last_hidden_state
        loss = torch.nn.functional.cross_entropy(model.cls(states_BTC[hidden_BT]), ids_BT[hidden_BT])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rates.step()
        rates.zero_grad()
        told = 0.98 * told + 0.02 * loss.item() if step else loss.item()
        if step % 100 == 99:
            say(f"masked base: step {step + 1} of {steps}, loss {told:.2f}, {time.process_time() - began:.0f} s")
    place = folder.with_name(folder.name + ".new")
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    place.rename(folder)


def begin(model: Any, encoded: Sequence[Sequence[int]]) -> None:
    """Words start near those that stand in the same texts (Deerwester 1990), what is said at its frequency.

    From random embeddings so small a model stays for thousands of steps at what each word's frequency tells.
    """
    import torch

    weight_VC = model.get_input_embeddings().weight
    pairs = sorted({(row, word) for row, ids in enumerate(encoded) for word in ids})
    at_2N = torch.tensor(pairs).T
    texts_V = torch.bincount(at_2N[1], minlength=len(weight_VC))
    rare_V = torch.log(len(encoded) / (1.0 + texts_V)).clamp(min=0)
    size = (len(encoded), len(weight_VC))
    there_RV = torch.sparse_coo_tensor(at_2N, rare_V[at_2N[1]], size, check_invariants=True).coalesce()
    span_VC = torch.randn(weight_VC.shape)
    for _ in range(4):  # towards the largest singular vectors
        span_VC = torch.linalg.qr(there_RV.T @ (there_RV @ span_VC)).Q
    _, sizes_C, turn_CC = torch.linalg.svd(there_RV @ span_VC, full_matrices=False)
    words_VC = torch.nn.functional.normalize(span_VC @ turn_CC.T * sizes_C.sqrt())
    counts_V = torch.bincount(torch.tensor([word for ids in encoded for word in ids]), minlength=len(weight_VC)) + 1.0
    with torch.no_grad():
        weight_VC.copy_(0.5 * words_VC)
        model.cls.predictions.bias.copy_(counts_V.log() - counts_V.log().mean())


def batches_of(encoded: Sequence[list[int]], rows: int, rng: random.Random) -> Iterator[list[list[int]]]:
    """Rows of like length together, in another order each time round."""
    while True:
        order = sorted(encoded, key=lambda ids: len(ids) + 4 * rng.random())
        some = [order[i : i + rows] for i in range(0, len(order) - rows + 1, rows)]
        rng.shuffle(some)
        yield from some
