"""Shared fixtures: tiny models with random weights that look like real model folders, and the shared material."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def material() -> Path:
    """Where the shared test material lies; the one place that knows."""
    return Path(os.environ.get("DIDACT_MATERIAL", Path(__file__).resolve().parents[2] / "shared"))


def need_material(*parts: str) -> Path:
    """A file of the shared material, or a skip that says what is missing."""
    path = material().joinpath("data", *parts)
    if not path.exists():
        pytest.skip(f"{path} is missing: set DIDACT_MATERIAL to the folder that holds it")
    return path


def make_model(
    folder: Path, kind: str = "llama", chat_template: str | None = CHATML, seed: int = 0, tied: bool | None = None
) -> Path:
    """Write a random model of architecture `kind` (llama, qwen3, gpt2, opt, gpt_neox) with a byte-level tokenizer.

    tied: whether head and embedding share their weights; None is what the kind usually does.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        AutoModelForCausalLM,
        GPT2Config,
        GPTNeoXConfig,
        LlamaConfig,
        OPTConfig,
        PreTrainedTokenizerFast,
        Qwen3Config,
    )

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: i for i, token in enumerate(special + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>" if chat_template else "<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=special,
    )
    if chat_template is not None:
        fast.chat_template = chat_template
    size = len(vocabulary)
    sizes = {"vocab_size": size, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    plain = {key: sizes[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers")}
    plain |= {"num_attention_heads": 4, "max_position_embeddings": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    config = {
        "llama": lambda: LlamaConfig(**sizes, **heads, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
        "qwen3": lambda: Qwen3Config(**sizes, **heads, head_dim=8),
        "gpt2": lambda: GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=4, n_positions=512),
        "opt": lambda: OPTConfig(**plain, ffn_dim=64, word_embed_proj_dim=32),
        "gpt_neox": lambda: GPTNeoXConfig(**plain, intermediate_size=64),
    }[kind]()
    if tied is not None:
        config.tie_word_embeddings = tied
    config.eos_token_id, config.pad_token_id, config.bos_token_id = fast.eos_token_id, fast.pad_token_id, None
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = fast.eos_token_id
    model.generation_config.pad_token_id = fast.pad_token_id
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def make_other_model(folder: Path, kind: str = "bert", seed: int = 0, dropout: float = 0.0) -> Path:
    """Write a random masked (bert, roberta) or encoder-decoder (t5, bart) model with a tokenizer of its own kind."""
    import string

    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import (
        AutoModelForMaskedLM,
        AutoModelForSeq2SeqLM,
        BartConfig,
        BertConfig,
        PreTrainedTokenizerFast,
        RobertaConfig,
        T5Config,
    )

    letters = sorted(set(string.printable) - set(string.whitespace))
    if kind == "bert":
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
        tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        named = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "pad_token": "[PAD]"}
        ends = [("[CLS]", 2), ("[SEP]", 3)]
        named["unk_token"] = "[UNK]"
    elif kind == "t5":
        tokens = ["<pad>", "</s>", "<unk>", "\u2581", *letters]
        tokenizer = Tokenizer(models.Unigram([(token, -1.0 - i / 100) for i, token in enumerate(tokens)], unk_id=2))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        named, ends = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}, [("</s>", 1)]
    else:
        tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        named = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
        named |= {"mask_token": "<mask>", "unk_token": "<unk>"}
        ends = [("<s>", 0), ("</s>", 2)]
    single = f"{ends[0][0]} $A {ends[-1][0]}" if len(ends) == 2 else f"$A {ends[0][0]}"
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ends)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    size, sizes = len(tokens), {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
    masked = {**sizes, "vocab_size": size, "intermediate_size": 64}
    masked |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    sides = {f"{side}_{name}": n for side in ("encoder", "decoder")
             for name, n in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))}  # fmt: skip
    ids = {"pad_token_id": fast.pad_token_id, "eos_token_id": fast.eos_token_id}
    config = {
        "bert": lambda: BertConfig(**masked, pad_token_id=0, max_position_embeddings=256),
        "roberta": lambda: RobertaConfig(**masked, max_position_embeddings=258, type_vocab_size=1, **ids),
        "t5": lambda: T5Config(
            vocab_size=size, d_model=32, d_ff=64, d_kv=8, num_layers=2, num_heads=4, dropout_rate=dropout, **ids,
            decoder_start_token_id=0,
        ),
        "bart": lambda: BartConfig(
            vocab_size=size, d_model=32, max_position_embeddings=256, dropout=dropout, **sides, **ids,
            bos_token_id=0, decoder_start_token_id=2,
        ),
    }[kind]()  # fmt: skip
    torch.manual_seed(seed)
    made = (AutoModelForMaskedLM if kind in ("bert", "roberta") else AutoModelForSeq2SeqLM).from_config(config)
    if kind == "bart":
        made.generation_config.forced_bos_token_id = 0
    made.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a two-layer random Llama (biases on) and a ChatML template. Do not write into it."""
    return make_model(tmp_path_factory.mktemp("tiny-llama"))
