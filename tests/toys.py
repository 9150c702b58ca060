"""Toy models that see: random weights, the shapes of real architectures, saved as their folders are published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

LISTS = (
    "{{% for message in messages %}}<|im_start|>{{{{ message['role'] }}}}\n{{% if message['content'] is string %}}"
    "{{{{ message['content'] }}}}{{% else %}}{{% for part in message['content'] %}}"
    "{{% if part['type'] == 'image' %}}{mark}"
    "{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}{{% endif %}}<|im_end|>\n{{% endfor %}}"
    "{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)
# as LLaVA's: first all pictures of a turn, then its texts
FIRST = (
    "{% for message in messages %}{{ message['role'] | upper }}: "
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }} {% endfor %}"
    "{% if message['role'] == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
SMOL = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
PALI = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ message['content'][0]['text'] }}"
    "{{ eos_token }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% endif %}"
    "{% endfor %}{{ bos_token }}{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{{ '\n' }}{% endif %}{% endfor %}"
)
SHAPES = ("llava", "llava_onevision", "idefics3", "smolvlm", "qwen2_5_vl", "qwen3_vl", "paligemma", "instructblip")
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def tokenizer_of(template: str, *more: str, **named: str) -> Any:
    """A byte-level tokenizer with such special tokens. named: tokens it knows by a name, such as image_token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<bos>", *more]
    vocabulary = {token: i for i, token in enumerate(special + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={**named} if named else list(special),
    )
    made.add_special_tokens({"additional_special_tokens": special} if not named else {})
    made.chat_template = template
    return made


def make_seeing(folder: Path, kind: str, seed: int = 0) -> Path:
    """Write a random model of one of SHAPES with its processor."""
    import torch
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(seed)
    config, processor = MAKE[kind]()
    tokenizer = processor.tokenizer
    text = config.get_text_config()
    config.eos_token_id = text.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = text.pad_token_id = tokenizer.pad_token_id
    config.bos_token_id = text.bos_token_id = None
    model = AutoModelForImageTextToText.from_config(config)
    for weight in model.parameters():  # first values are often too small to tell two things apart
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.15)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    save_processor(processor, folder)
    return folder


def save_processor(processor: Any, folder: Path) -> None:
    """What `save_pretrained` writes of a processor, without a video part."""
    import json

    processor.tokenizer.save_pretrained(folder)
    image = processor.image_processor.to_dict() | {"processor_class": type(processor).__name__}
    (folder / "preprocessor_config.json").write_text(json.dumps(image, default=str), encoding="utf-8")
    names = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens", "num_image_tokens")
    names = (*names, "image_seq_len", "vision_aspect_ratio", "num_query_tokens")
    settings = {name: getattr(processor, name) for name in names if hasattr(processor, name)}
    settings["processor_class"] = type(processor).__name__
    (folder / "processor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    if hasattr(processor, "qformer_tokenizer"):
        processor.qformer_tokenizer.save_pretrained(folder / "qformer_tokenizer")


def without_video(made: Any, *parts: Any, **settings: Any) -> Any:
    """A processor whose video part is left out."""
    silent = type(made.__name__, (made,), {"check_argument_for_proper_class": lambda *given: None})
    return silent(*parts, None, **settings)


def _llava() -> tuple[Any, Any]:
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaProcessor,
    )

    tokenizer = tokenizer_of(FIRST, "<image>")
    tower = CLIPVisionConfig(**TOWER, image_size=32, patch_size=8)
    text = LlamaConfig(vocab_size=len(tokenizer), **TEXT)
    config = LlavaConfig(vision_config=tower, text_config=text, image_token_index=_id(tokenizer), image_seq_length=16)
    image = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    settings = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return config, LlavaProcessor(image, tokenizer, **settings)


def _llava_onevision() -> tuple[Any, Any]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionImageProcessorPil,
        LlavaOnevisionProcessor,
        Qwen2Config,
        SiglipVisionConfig,
    )

    tokenizer = tokenizer_of(LISTS.format(mark="<image>"), "<image>", "<video>")
    tower = SiglipVisionConfig(**TOWER, image_size=32, patch_size=8, vision_use_head=False)
    text = Qwen2Config(vocab_size=len(tokenizer), **TEXT)
    pins = [[32, 32], [32, 64], [64, 32], [64, 64]]
    config = LlavaOnevisionConfig(
        vision_config=tower, text_config=text, image_token_index=_id(tokenizer), image_grid_pinpoints=pins,
        video_token_index=_id(tokenizer, "<video>"), vision_feature_select_strategy="full", vision_feature_layer=-1,
    )  # fmt: skip
    image = LlavaOnevisionImageProcessorPil(size={"height": 32, "width": 32}, image_grid_pinpoints=pins)
    settings = {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}
    return config, without_video(LlavaOnevisionProcessor, image, tokenizer, **settings)


def _idefics3(smol: bool = False) -> tuple[Any, Any]:
    from transformers import (
        Idefics3Config,
        Idefics3ImageProcessorPil,
        Idefics3Processor,
        Idefics3VisionConfig,
        LlamaConfig,
        SmolVLMConfig,
        SmolVLMImageProcessorPil,
        SmolVLMProcessor,
        SmolVLMVisionConfig,
    )

    tiles = [f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6)]
    more = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *tiles]
    tokenizer = tokenizer_of(SMOL, *more)
    tower = (SmolVLMVisionConfig if smol else Idefics3VisionConfig)(**TOWER, image_size=32, patch_size=8)
    text = LlamaConfig(vocab_size=len(tokenizer), **TEXT)
    config = (SmolVLMConfig if smol else Idefics3Config)(
        vision_config=tower, text_config=text, image_token_id=_id(tokenizer), scale_factor=2
    )
    image = (SmolVLMImageProcessorPil if smol else Idefics3ImageProcessorPil)(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
    )
    if smol:
        return config, without_video(SmolVLMProcessor, image, tokenizer, image_seq_len=4)
    return config, Idefics3Processor(image, tokenizer, image_seq_len=4)


def _qwen(new: bool) -> tuple[Any, Any]:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessorPil,
        Qwen3VLConfig,
        Qwen3VLProcessor,
    )

    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = tokenizer_of(LISTS.format(mark="<|vision_start|><|image_pad|><|vision_end|>"), *marks)
    ids = {f"{name}_token_id": _id(tokenizer, f"<|{mark}|>") for name, mark in
           (("vision_start", "vision_start"), ("vision_end", "vision_end"), ("image", "image_pad"),
            ("video", "video_pad"))}  # fmt: skip
    tower = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 32}
    tower |= {"patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {"vocab_size": len(tokenizer), **TEXT, "rope_parameters": rope}
    if new:
        tower |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
        text |= {"head_dim": 8}
    else:
        tower |= {"window_size": 32, "fullatt_block_indexes": [1]}
    config = (Qwen3VLConfig if new else Qwen2_5_VLConfig)(vision_config=tower, text_config=text, **ids)
    image = Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, size={"shortest_edge": 256, "longest_edge": 64 * 64})
    return config, without_video(Qwen3VLProcessor if new else Qwen2_5_VLProcessor, image, tokenizer)


def _paligemma() -> tuple[Any, Any]:
    from transformers import (
        GemmaConfig,
        PaliGemmaConfig,
        PaliGemmaProcessor,
        SiglipImageProcessorPil,
        SiglipVisionConfig,
    )

    tokenizer = tokenizer_of(PALI, "<image>")
    image = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    image.image_seq_length = 16
    processor = PaliGemmaProcessor(image, tokenizer)
    tower = SiglipVisionConfig(**TOWER, image_size=32, patch_size=8, vision_use_head=False)
    text = GemmaConfig(vocab_size=len(tokenizer), **TEXT, head_dim=8)
    settings = {"image_token_index": _id(tokenizer), "projection_dim": 32}
    return PaliGemmaConfig(vision_config=tower, text_config=text, **settings), processor


def _instructblip() -> tuple[Any, Any]:
    from transformers import (
        BlipImageProcessorPil,
        InstructBlipConfig,
        InstructBlipProcessor,
        InstructBlipQFormerConfig,
        InstructBlipVisionConfig,
        OPTConfig,
    )

    template = PALI.replace("{{ bos_token }}", "")  # OPT's own BOS is left out: the toy's tokenizer adds none
    tokenizer, reader = tokenizer_of(template, "<image>"), tokenizer_of("")
    image = BlipImageProcessorPil(size={"height": 32, "width": 32})
    processor = InstructBlipProcessor(image, tokenizer, reader, num_query_tokens=4)
    tower = InstructBlipVisionConfig(**TOWER, image_size=32, patch_size=8)
    former = InstructBlipQFormerConfig(**TOWER, vocab_size=len(reader), encoder_hidden_size=32)
    sizes = {
        "hidden_size": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
    }
    text = OPTConfig(vocab_size=len(tokenizer), **sizes, max_position_embeddings=512)
    config = InstructBlipConfig(
        vision_config=tower,
        qformer_config=former,
        text_config=text,
        num_query_tokens=4,
        image_token_index=_id(tokenizer),
    )
    return config, processor


def _id(tokenizer: Any, token: str = "<image>") -> int:
    found: int = tokenizer.convert_tokens_to_ids(token)
    return found


MAKE: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava": _llava,
    "llava_onevision": _llava_onevision,
    "idefics3": _idefics3,
    "smolvlm": lambda: _idefics3(smol=True),
    "qwen2_5_vl": lambda: _qwen(new=False),
    "qwen3_vl": lambda: _qwen(new=True),
    "paligemma": _paligemma,
    "instructblip": _instructblip,
}


def make_picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 32)) -> Path:
    """Write a picture of random coarse patches."""
    import numpy as np
    from PIL import Image

    values = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(values).resize(size, Image.Resampling.NEAREST).save(path)
    return path
