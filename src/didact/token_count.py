"""How many tokens a text has for a model, told by the model's tokenizer alone: budgets of data that is being built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from didact.errors import UsageError, missing_extra
from didact.model_files import find, read_json

Count = Callable[[str], int]
FILES = ("tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt", "config.json")  # no weights


def tokenizer_json(name: str) -> str:
    """The tokenizer of a model, named as `model` names one, as the `tokenizers` library writes it down.

    Of a model on the hub only the tokenizer is fetched. Raises UsageError where there is none that can be read.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise missing_extra("tokenizers", "tune") from error
    folder = find(name, FILES)
    written = folder / "tokenizer.json"
    if written.is_file():
        try:
            return str(tokenizers.Tokenizer.from_file(str(written)).to_str())
        except Exception as error:  # the library raises plain Exception for every fault of the file
            raise UsageError(
                f"not a tokenizer: {error}", "take the file that the model came with", file=written
            ) from error
    return _converted(folder)


def counter(tokenizer: str) -> Count:
    """Counts the tokens of a text with what `tokenizer_json` gave, without those that begin or end a sequence."""
    from tokenizers import Tokenizer

    made = Tokenizer.from_str(tokenizer)
    made.no_truncation()
    made.no_padding()
    return lambda text: len(made.encode(text, add_special_tokens=False).ids)


def picture_tokens(name: str) -> int:
    """How many tokens a picture takes for a model, if that is the same for every picture; else 0."""
    file = find(name, FILES) / "config.json"
    told = read_json(file) if file.is_file() else {}  # a tokenizer alone says nothing of pictures
    kind, tower = told.get("model_type"), told.get("vision_config", {})
    if kind == "llava":
        return int(told.get("image_seq_length", 576))
    if kind == "instructblip":
        return int(told.get("num_query_tokens", 32))
    if kind == "paligemma":
        return (int(tower.get("image_size", 224)) // int(tower.get("patch_size", 14))) ** 2
    return 0


@dataclass(frozen=True)
class Counting:
    """Counts as `counter` does, and can be handed to another process, which makes the tokenizer anew."""

    tokenizer: str

    def __call__(self, text: str) -> int:
        return _made(self.tokenizer)(text)


@lru_cache(maxsize=2)
def _made(tokenizer: str) -> Count:
    return counter(tokenizer)


def _converted(folder: Path) -> str:
    """The tokenizer of a folder that holds only an older form of it."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise missing_extra("transformers", "tune") from error
    try:
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return str(found.backend_tokenizer.to_str())
    except Exception as error:  # the library raises a different class for each kind of broken file
        told = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"no tokenizer can be read here: {told}", "add its tokenizer.json", file=folder) from error
