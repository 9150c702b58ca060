"""A model that sees, put together of a vision tower, a new projector and a language model (LLaVA, arXiv 2304.08485).

The tower's features of each patch are projected by two layers into the space of the language model's embeddings, where
they stand in the places of the token <image>. What comes out is an ordinary folder that transformers loads. With a
Q-Former in between (InstructBLIP, arXiv 2305.06500) a few queries look at the picture after reading the question.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from didact.conversation import plain_template, sees
from didact.disk import flush
from didact.errors import UsageError, missing_extra
from didact.model_files import find, inspect, kind_in, read_json
from didact.processor import FILES
from didact.processor import load as load_vision

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MARK = "<image>"
NEW, FRESH = "new", "fresh"
READ = "instructblip_vision_model"  # a tower that goes before a Q-Former
SAME = ("instructblip", "blip-2", "blip")  # models whose towers have that shape
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
SHAPE = (*SIZES, "hidden_act", "layer_norm_eps", "qkv_bias")
DEVIATION = 0.02


@dataclass(frozen=True, slots=True)
class Tower:
    """A vision tower, its image processor, and the layer that is read. new: sizes of one with random weights."""

    config: Any
    processor: Any
    layer: int
    strategy: str
    state: dict[str, Any] | None = None

    @property
    def extra(self) -> int:
        """Features beside those of the patches."""
        return int(self.config.model_type == "clip_vision_model")


def put_together(
    folder: Path, language: str, vision: str, sizes: tuple[int, int, int, int], queries: int, seed: int
) -> Path:
    """`join` by names; sizes: side, patch, width and layers of a new tower. UsageError where torch is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise missing_extra(str(error.name), "tune") from error
    transformers.utils.logging.disable_progress_bar()
    tower = new_tower(*sizes) if vision == NEW else tower_of(vision)
    return join(tower, language, folder, queries=queries, seed=seed)


def new_tower(side: int = 48, patch: int = 8, width: int = 96, layers: int = 3) -> Tower:
    """A small SigLIP tower with random weights for square pictures of `side` pixels."""
    from transformers import SiglipImageProcessorPil, SiglipVisionConfig

    if side % patch:
        raise UsageError(f"pictures of {side} pixels are not cut into patches of {patch}", f"a multiple of {patch}")
    config = SiglipVisionConfig(
        hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=max(1, width // 24), image_size=side, patch_size=patch, vision_use_head=False,
    )  # fmt: skip
    return Tower(config, _square(SiglipImageProcessorPil, side), -1, "full")


def tower_model(config: Any, queries: bool) -> Any:
    """A tower with random weights: SigLIP's, or for a Q-Former one of these sizes with one state more in front."""
    from transformers import InstructBlipVisionConfig, InstructBlipVisionModel, SiglipVisionModel

    if not queries:
        return SiglipVisionModel(config)
    return InstructBlipVisionModel(InstructBlipVisionConfig(**{name: getattr(config, name) for name in SIZES}))


def tower_of(name: str) -> Tower:
    """The tower of a CLIP, SigLIP, LLaVA, BLIP, BLIP-2 or InstructBLIP model, with its weights and image processor."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText

    folder = find(name)
    raw = read_json(folder / "config.json")
    if not any((folder / file).is_file() for file in FILES):
        raise UsageError("the model has no image processor", "add its preprocessor_config.json", file=folder)
    if "llava" in str(raw.get("model_type")):
        model = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        tower, processor = model.base_model.vision_tower, load_vision(folder, raw).processor.image_processor
        told = model.config.vision_feature_layer, model.config.vision_feature_select_strategy
        return Tower(tower.config, processor, *told, tower.state_dict())
    if raw.get("model_type") in (READ, *SAME):
        return _before_queries(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    tower = getattr(model, "vision_model", model)
    config = getattr(config, "vision_config", config)
    if config.model_type not in ("clip_vision_model", "siglip_vision_model"):
        raise UsageError(
            f'"{config.model_type}" is no known vision tower', "take one of CLIP, SigLIP or BLIP", file=folder
        )
    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    clip = config.model_type == "clip_vision_model"
    state = {name.removeprefix("vision_model."): tensor for name, tensor in tower.state_dict().items()}
    return Tower(config, processor, -2 if clip else -1, "default" if clip else "full", state)


def _before_queries(folder: Path) -> Tower:
    """A tower that goes before a Q-Former, by itself or out of a model; UsageError if its weights are not all there."""
    import torch
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForImageTextToText,
        InstructBlipVisionConfig,
        InstructBlipVisionModel,
    )

    kind = read_json(folder / "config.json")["model_type"]
    how = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    if kind == READ:
        model, told = InstructBlipVisionModel.from_pretrained(folder, **how)
        config, missing = model.config, sorted(told["missing_keys"])
    else:
        whole, told = AutoModelForImageTextToText.from_pretrained(folder, **how)
        model, missing = whole.vision_model, sorted(key for key in told["missing_keys"] if "vision_model." in key)
        own = AutoConfig.from_pretrained(folder, local_files_only=True).vision_config
        config = InstructBlipVisionConfig(**{name: getattr(own, name) for name in SHAPE if hasattr(own, name)})
    if missing:
        problem = f"{len(missing)} weights of the tower are missing, the first is {missing[0]}"
        raise UsageError(problem, "download the model again", file=folder)
    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    return Tower(config, processor, -1, "full", model.state_dict())


def join(tower: Tower, language: str, folder: Path, *, queries: int = 0, seed: int = 0) -> Path:
    """Write the model to `folder`, all or nothing. language: a causal model by name, or "fresh" for a tiny random one.

    queries: so many queries of a Q-Former instead of a place for each patch. Raises UsageError for what does not go.
    """
    import torch

    if folder.exists() and any(folder.iterdir()):
        raise UsageError("the folder is not empty", "name another one", file=folder)
    if tower.config.model_type == READ and not queries:
        raise UsageError("this tower goes before a Q-Former", "say how many queries: --queries 4", field="vision")
    torch.manual_seed(seed)
    text, tokenizer = _language(language)
    if tokenizer.convert_tokens_to_ids(MARK) in (None, tokenizer.unk_token_id):
        tokenizer.add_tokens([_mark()], special_tokens=True)
    tokenizer.chat_template = sees(str(tokenizer.chat_template or plain_template()), MARK)
    if len(tokenizer) > text.get_input_embeddings().weight.shape[0]:
        text.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model, processor = _bridged(tower, text, tokenizer, queries) if queries else _projected(tower, text, tokenizer)
    stage = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    for name in ("eos_token_id", "pad_token_id", "bos_token_id"):
        setattr(model.generation_config, name, getattr(text.generation_config, name))
    model.save_pretrained(stage)
    processor.save_pretrained(stage)
    flush(stage)
    if folder.exists():
        folder.rmdir()
    stage.rename(folder)
    return folder


def _projected(tower: Tower, text: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[Any, Any]:
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    config = LlavaConfig(
        vision_config=tower.config,
        text_config=text.config,
        image_token_index=tokenizer.convert_tokens_to_ids(MARK),
        image_seq_length=(tower.config.image_size // tower.config.patch_size) ** 2,
        vision_feature_layer=tower.layer,
        vision_feature_select_strategy=tower.strategy,
        tie_word_embeddings=bool(text.config.tie_word_embeddings),
    )
    model = LlavaForConditionalGeneration(config)
    for layer in (model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2):
        # features as large as embeddings are, so that the language model is not thrown off at first
        layer.weight.data.normal_(0, layer.in_features**-0.5)
    size = float(text.get_input_embeddings().weight.detach().std())
    model.model.multi_modal_projector.linear_2.weight.data.mul_(size)
    if tower.state is not None:
        model.model.vision_tower.load_state_dict(tower.state)
    _fill(model.model.language_model, model.lm_head, text)
    model.tie_weights()
    settings = {"patch_size": tower.config.patch_size, "vision_feature_select_strategy": tower.strategy}
    return model, LlavaProcessor(tower.processor, tokenizer, **settings, num_additional_image_tokens=tower.extra)


def _bridged(tower: Tower, text: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, queries: int) -> tuple[Any, Any]:
    from transformers import (
        BlipImageProcessorPil,
        InstructBlipConfig,
        InstructBlipForConditionalGeneration,
        InstructBlipProcessor,
        InstructBlipQFormerConfig,
    )

    own = tower.config
    if tower.state is not None and own.model_type != READ:
        cure = "take one of BLIP, BLIP-2 or InstructBLIP, a new one, or that of didact starter eyes FOLDER --queries"
        raise UsageError("a Q-Former has a tower of its own shape", cure, field="queries")
    seen = own if tower.state is not None else tower_model(own, True).config
    width = {"hidden_size": own.hidden_size, "intermediate_size": own.intermediate_size}
    heads = {"num_attention_heads": own.num_attention_heads}
    former = InstructBlipQFormerConfig(
        **width, **heads, num_hidden_layers=2, cross_attention_frequency=1, encoder_hidden_size=own.hidden_size,
        vocab_size=len(tokenizer), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    config = InstructBlipConfig(
        vision_config=seen, qformer_config=former, text_config=text.config, num_query_tokens=queries,
        image_token_index=tokenizer.convert_tokens_to_ids(MARK),
    )  # fmt: skip
    model = InstructBlipForConditionalGeneration(config)
    if tower.state is not None:
        model.vision_model.load_state_dict(tower.state)
    model.query_tokens.data.normal_(0, 1)
    scale = float(text.get_input_embeddings().weight.detach().std())
    model.language_projection.weight.data.normal_(0, scale * own.hidden_size**-0.5)
    model.language_model.load_state_dict(text.state_dict())
    model.language_model.tie_weights()
    image = _square(BlipImageProcessorPil, own.image_size) if tower.state is None else tower.processor
    return model, InstructBlipProcessor(image, tokenizer, tokenizer, num_query_tokens=queries)


def _fill(body: Any, head: Any, text: Any) -> None:
    body.load_state_dict(text.base_model.state_dict())
    head.load_state_dict(text.get_output_embeddings().state_dict())


def _language(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The language model and its tokenizer; "fresh" is a tiny random one that reads the starter's words."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    folder = find("starter" if name == FRESH else name)
    inspect(folder)
    if kind_in(folder) != "causal" or "vision_config" in read_json(folder / "config.json"):
        raise UsageError("this is no language model that writes from left to right", "take another", file=folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if name != FRESH:
        given = {"dtype": torch.float32, "use_safetensors": True, "local_files_only": True}
        return AutoModelForCausalLM.from_pretrained(folder, **given), tokenizer
    known = read_json(folder / "config.json")
    sizes = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {key: known[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings")}
    made = LlamaConfig(**sizes, **ids, num_key_value_heads=4, vocab_size=len(tokenizer), tie_word_embeddings=True)
    made.rope_parameters = {"rope_type": "default", "rope_theta": 500.0}
    return AutoModelForCausalLM.from_config(made), tokenizer


def _square(kind: Any, side: int) -> Any:
    return kind(size={"height": side, "width": side}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def _mark() -> Any:
    from tokenizers import AddedToken

    return AddedToken(MARK, normalized=False, special=True)
