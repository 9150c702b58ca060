"""The folder of a model, found and looked at before anything of it is loaded: whole, known, no code of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from didact.errors import UsageError
from didact.kinds import Kind, kind_of

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
HARMLESS = frozenset(
    {"_name_or_path", "_commit_hash", "_from_model_config", "_diffusers_version", "_remove_final_layer_norm"}
    | {"_pad_token_id"}
)
HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")


def find(name: str, files: Sequence[str] = HUB_FILES) -> Path:
    """The local folder of a model; of a hub id such files are downloaded (by default safetensors and text)."""
    if name == "starter":
        from didact.starter import base_folder

        return Path(base_folder())
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UsageError("this is a file, not a model folder", "name the folder that holds config.json", file=path)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UsageError(f'there is no model "{name}"', 'use "starter", a folder, or a hub id such as Qwen/Qwen3-0.6B')
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        problem = f'the model "{name}" could not be fetched: {str(error).splitlines()[0]}'
        raise UsageError(problem, "check the name and the network, or name a local folder") from error


def inspect(folder: Path) -> None:
    """Refuse a model folder that is incomplete, would need a pickle to be opened, or asks for code to be run."""
    config = folder / "config.json"
    if not config.is_file():
        raise UsageError("the model folder has no config.json", "name a folder saved by save_pretrained", file=folder)
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        if pickles:
            raise UsageError(
                f"the weights are only there as a pickle ({pickles[0]}), which can run code and is never opened",
                "convert them to safetensors in a place you trust",
                file=folder,
            )
        raise UsageError("the model folder has no weights", "add model.safetensors", file=folder)
    if not (folder / "tokenizer.json").is_file() and not (folder / "tokenizer_config.json").is_file():
        raise UsageError("the model folder has no tokenizer", "add tokenizer.json", file=folder)
    for path in sorted(folder.glob("*.json")):
        if path.name in ("tokenizer.json", "vocab.json") or path.name.endswith(".index.json"):
            continue
        for key, value in _walk(read_json(path)):
            # a number names no code; Gemma 3 has one that begins so
            odd = key.startswith("_") and key not in HARMLESS and isinstance(value, (str, list, dict))
            kernel = key.endswith("attn_implementation") and "/" in str(value)
            if key in ("auto_map", "trust_remote_code") or odd or kernel:
                raise UsageError(
                    f'the model asks for code of its own to be run ("{key}")', "remove the key", file=path, field=key
                )


def read_json(path: Path) -> Any:
    """A JSON file of a model; raises UsageError if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"not valid JSON: {error}", "download the model again", file=path) from error


def _walk(data: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield key, value
            yield from _walk(value)
    elif isinstance(data, list):
        for value in data:
            yield from _walk(value)


def kind_in(folder: Path) -> Kind:
    """How the model writes; refuses what transformers does not know, and what is no language model."""
    from transformers import __version__
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    config, path = read_json(folder / "config.json"), folder / "config.json"
    kind, classes = config.get("model_type"), [str(name) for name in config.get("architectures") or ()]
    if kind not in CONFIG_MAPPING_NAMES:
        problem = f'transformers {__version__} does not know the architecture "{kind}"'
        fix = "pip install -U transformers, or take a model of an architecture it has"
        raise UsageError(problem, fix, file=path, field="model_type")
    found = kind_of(config)
    if found is None:
        problem = f'"{classes[0] if classes else kind}" is no language model'
        fix = "take a causal, a masked or an encoder-decoder language model"
        raise UsageError(problem, fix, file=path, field="model_type")
    return found


def sums_of(folder: Path) -> list[str]:
    """The hash of each file of weights."""
    import hashlib

    sums = []
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as handle:
            sums.append(hashlib.file_digest(handle, "sha256").hexdigest())
    return sums
