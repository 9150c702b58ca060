"""What the folder of a model holds, looked at before anything of it is loaded: whole, and without code of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from didact.errors import UsageError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
HARMLESS = frozenset(
    {"_name_or_path", "_commit_hash", "_from_model_config", "_diffusers_version", "_remove_final_layer_norm"}
)


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
            odd = key.startswith("_") and key not in HARMLESS
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
