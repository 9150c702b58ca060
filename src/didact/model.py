"""Load a base model with its tokenizer, and save what was tuned. Safetensors only; nothing in a folder is executed.

A save is staged beside its place, flushed to disk, loaded again and compared with the live model before it is renamed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from didact import lean, processor
from didact.conversation import PLAIN, plain_template, text_to_text_template
from didact.conversation import sees as with_pictures
from didact.direct import direct
from didact.disk import flush, room
from didact.errors import UsageError, missing_extra
from didact.instance import digest
from didact.kinds import Kind, decoder_start, sees
from didact.model_files import find, inspect, kind_in, read_json, sums_of
from didact.render import Renderer
from didact.vision import SAMPLE

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from didact.methods.attached import Attached
    from didact.vision import Vision

TOLERANCE = 1e-4


@dataclass
class Loaded:
    """A model ready to be tuned or asked. hash: of its weights, configuration and renderer; weights: of these alone.

    kind: how it writes; attached: the method it carries, if one was attached and not merged; vision: what it says of
    pictures, if it sees.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    renderer: Renderer
    name: str
    hash: str
    folder: Path
    kind: Kind = "causal"
    weights: str = ""
    attached: Attached | None = None
    vision: Vision | None = None

    @property
    def virtual(self) -> list[int]:
        """Ids that every row begins with."""
        return [] if self.attached is None else list(self.attached.virtual)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def max_positions(self) -> int | None:
        """The longest row the model can read, if it has a limit."""
        config = self.model.config if self.vision is None else self.model.config.get_text_config()
        value = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        places = [m for m in self.model.modules() if getattr(m, "position_embeddings", None) is not None]
        skipped = [getattr(m.position_embeddings, "padding_idx", None) for m in places]
        lost = [padding + 1 for padding in skipped if padding is not None]  # RoBERTa counts from behind its padding
        return int(value) - max(lost, default=0) - len(self.virtual) if value else None

    @property
    def mask_id(self) -> int:
        """The id that a masked model is asked at."""
        found: int = self.tokenizer.mask_token_id
        return found

    @property
    def pad_id(self) -> int:
        """An id for padding; it is never looked at. Not the declared one, whose sight makes transformers warn."""
        return 1 if self.model.config.get_text_config().pad_token_id == 0 else 0


def load(name: str, *, chat_template: str | None = None, device: str = "auto", turns: str = "all") -> Loaded:
    """A model in fp32 by name: "starter", a folder, or a hub id.

    chat_template: "plain" for the built-in one, or a path to a Jinja file; default is the model's own.
    Raises UsageError in one line for whatever is missing, unsafe or does not fit.
    """
    try:
        with lean.imports():
            return _load(name, chat_template, device, turns)
    except ImportError as error:
        raise missing_extra(str(error.name), "tune") from error


def _load(name: str, chat_template: str | None, device: str, turns: str) -> Loaded:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    from didact.methods.attached import beside, read

    folder = find(name)
    inspect(folder)
    kind = kind_in(folder)
    config = read_json(folder / "config.json")
    vision = processor.load(folder, config) if sees(config) else None
    tokenizer = _tokenizer(folder) if vision is None else vision.tokenizer
    if vision is not None and not tokenizer.chat_template:
        tokenizer.chat_template = vision.processor.chat_template
    if kind != "causal":
        _complete(tokenizer, kind, folder)
    if chat_template is not None:
        tokenizer.chat_template = plain_template() if chat_template == PLAIN else _read_template(Path(chat_template))
        if chat_template == PLAIN and vision is not None:
            tokenizer.chat_template = with_pictures(plain_template(), vision.mark)
    try:
        renderer = Renderer(tokenizer, "last" if turns == "last" else "all", vision)
    except UsageError as error:
        raise error.at(file=folder) from error
    model = _weights(folder, kind)
    if kind == "encoder-decoder":
        decoder_start(model)
    rows = int(model.get_input_embeddings().weight.shape[0])
    largest = max(tokenizer.get_vocab().values()) + 1
    if largest > rows:
        raise UsageError(
            f"the tokenizer has {largest} tokens, but the embedding of the model only {rows} rows",
            "use the tokenizer this model was trained with",
            file=folder,
        )
    model.to(_device(device)).eval()
    if vision is not None:
        vision.bind(model)
    weights = sums_of(folder)
    hashed = _hash(folder, renderer, weights)
    loaded = Loaded(model, tokenizer, renderer, name, hashed, folder, kind, digest(weights, 64), vision=vision)
    kept = beside(folder)
    if kept is not None:
        read(loaded, kept)
    return loaded


def load_tuned(folder: Path, device: str = "auto") -> Loaded:
    """The model in a `tuned/` folder; an interrupted replacement is completed first."""
    old = _old(folder)
    if not folder.exists() and old.exists():
        old.rename(folder)
    return load(str(folder), device=device)


def save(
    loaded: Loaded,
    folder: Path,
    *,
    adapter: Callable[[Path], None] | None = None,
    merge: Callable[[], None] | None = None,
) -> None:
    """Write the model, its tokenizer, template and stop ids to `folder`, all or nothing.

    adapter writes the adapter's own files into a folder it is given; merge folds it into the base weights. Without a
    merge what was added stays beside the base. A merge that changes nothing or gives other logits, and a save that
    reads back differently, are refused; the old folder stays.
    """
    from didact.methods import attached

    folder.parent.mkdir(parents=True, exist_ok=True)
    stage, old = folder.with_name(f".{folder.name}.partial"), _old(folder)
    shutil.rmtree(stage, ignore_errors=True)
    size = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    probe, seen = _probe(loaded)
    live = _logits(loaded.model, probe, seen)
    if not bool(live.isfinite().all()):
        raise UsageError("the model gives logits that are not finite; it was not saved", "lower the learning rate")
    try:
        with room(folder.parent, size + (8 << 20)):
            stage.mkdir()
            if adapter is not None:
                adapter(stage / attached.FOLDER)
            if merge is not None:
                merge()
                _close(live, _logits(loaded.model, probe, seen), "merging the adapter changed the model's answers")
            _write(loaded, stage)
            again = replace(loaded, model=_weights(stage, loaded.kind).to(loaded.device).eval(), attached=None)
            if adapter is not None:
                again.weights = digest(sums_of(stage), 64)
                attached.seal(stage / attached.FOLDER, again.weights)
                if attached.beside(stage) is not None:
                    attached.read(again, stage / attached.FOLDER)
            _close(live, _logits(again.model, probe, seen), "the saved model reads back differently")
            flush(stage)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    stage.rename(folder)
    flush(folder.parent, deep=False)
    shutil.rmtree(old, ignore_errors=True)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _write(loaded: Loaded, stage: Path) -> None:
    from didact.methods import attached

    generation, stops = getattr(loaded.model, "generation_config", None), list(loaded.renderer.stop_ids)
    if generation is not None:  # a masked model has none
        generation.eos_token_id = stops if len(stops) > 1 else stops[0]
        if generation.pad_token_id is None:
            pad = loaded.tokenizer.pad_token_id
            generation.pad_token_id = stops[0] if pad is None else pad
    state = attached.base_state(loaded) if attached.stays(loaded) else None
    loaded.model.save_pretrained(stage, state_dict=state)
    loaded.tokenizer.save_pretrained(stage)
    if loaded.vision is not None:
        processor.save(loaded.folder, stage)
    (stage / "chat_template.jinja").write_text(str(loaded.tokenizer.chat_template), encoding="utf-8")


def _close(expected: torch.Tensor, found: torch.Tensor, problem: str) -> None:
    gap = float((expected - found).abs().max() / max(1.0, float(expected.abs().max())))
    if not gap <= TOLERANCE:
        raise UsageError(f"{problem} (logits differ by {gap:.2g})", "report this as a bug; the old folder is untouched")


def _probe(loaded: Loaded) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Ids that a model is asked before and after, with a picture in front where it sees, and its inputs for that."""
    import torch

    config = loaded.model.config if loaded.vision is None else loaded.model.config.get_text_config()
    text = [i % config.vocab_size for i in range(3, 51)]
    if loaded.vision is None:
        return torch.tensor([[*loaded.virtual, *text]], device=loaded.device), {}
    ids = [*loaded.virtual, *loaded.vision.sample.ids, *(i for i in text if i != loaded.vision.image_id)]
    ids_BT = torch.tensor([ids], device=loaded.device)
    return ids_BT, loaded.vision.inputs((SAMPLE,), ids_BT, [(0, len(ids))])


def _logits(
    model: PreTrainedModel, ids_BT: torch.Tensor, seen: Mapping[str, torch.Tensor] = MappingProxyType({})
) -> torch.Tensor:
    import torch

    was = model.training
    model.eval()
    with torch.no_grad():
        both = {"decoder_input_ids": ids_BT} if model.config.is_encoder_decoder else {}
        logits: torch.Tensor = model(input_ids=ids_BT, **both, **seen).logits.float()
    model.train(was)
    return logits


def head_of(kind: Kind, folder: Path) -> Any:
    """The class of transformers that loads a kind of language model."""
    import transformers

    if kind == "causal" and sees(read_json(folder / "config.json")):
        return transformers.AutoModelForImageTextToText
    if kind == "causal":
        return transformers.AutoModelForCausalLM
    return transformers.AutoModelForMaskedLM if kind == "masked" else transformers.AutoModelForSeq2SeqLM


def _weights(folder: Path, kind: Kind = "causal") -> PreTrainedModel:
    import torch
    from safetensors import SafetensorError

    mapped = direct(folder, head_of(kind, folder))
    if mapped is not None:
        return mapped
    try:
        model, info = head_of(kind, folder).from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise UsageError(f"the weights cannot be loaded: {first}", "download the model again", file=folder) from error
    missing = sorted(info["missing_keys"])
    if missing:
        problem = f"{len(missing)} weights are missing, the first is {missing[0]}"
        raise UsageError(problem, "the file is cut or belongs to another config.json", file=folder)
    return model


def _complete(tokenizer: PreTrainedTokenizerBase, kind: Kind, folder: Path) -> None:
    """What BERT calls [CLS] and [SEP] begins and ends a row; a model without a chat template reads plain text."""
    if tokenizer.eos_token is None:
        tokenizer.eos_token = tokenizer.sep_token
    if tokenizer.bos_token is None and tokenizer.cls_token is not None:
        tokenizer.bos_token = tokenizer.cls_token
    needed = {"a mask token": kind != "masked" or tokenizer.mask_token, "an end token": tokenizer.eos_token}
    for name, there in needed.items():
        if not there:
            raise UsageError(f"the tokenizer has no {name.partition(' ')[2]}", f"give it {name}", file=folder)
    if not tokenizer.chat_template:
        tokenizer.chat_template = text_to_text_template()


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library raises a different class for each kind of broken file
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"the tokenizer cannot be loaded: {first}", "add its tokenizer.json", file=folder) from error


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the chat template cannot be read: {error}", "name a Jinja file in UTF-8", file=path
        ) from error


def _device(device: str) -> str:
    import torch

    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _hash(folder: Path, renderer: Renderer, weights: Sequence[str]) -> str:
    """Of config.json, the renderer, the weights, and what is attached to them."""
    from didact.methods.attached import FOLDER, beside

    added = sums_of(folder / FOLDER) if beside(folder) is not None else []
    return digest([read_json(folder / "config.json"), renderer.hash, [*weights, *added]], 64)
