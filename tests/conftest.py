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


def make_model(folder: Path, kind: str = "llama", chat_template: str | None = CHATML, seed: int = 0) -> Path:
    """Write a random model of architecture `kind` (llama, qwen3, gpt2) with a byte-level tokenizer to `folder`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedTokenizerFast, Qwen3Config

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
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    config = {
        "llama": lambda: LlamaConfig(**sizes, **heads, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
        "qwen3": lambda: Qwen3Config(**sizes, **heads, head_dim=8),
        "gpt2": lambda: GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=4, n_positions=512),
    }[kind]()
    config.eos_token_id, config.pad_token_id, config.bos_token_id = fast.eos_token_id, fast.pad_token_id, None
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = fast.eos_token_id
    model.generation_config.pad_token_id = fast.pad_token_id
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a two-layer random Llama (biases on) and a ChatML template. Do not write into it."""
    return make_model(tmp_path_factory.mktemp("tiny-llama"))
