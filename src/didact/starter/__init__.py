"""The embedded default: a small seeded world, its annotated tasks, and a tiny base model that reads its prompt."""

from __future__ import annotations

from importlib.resources import files
from itertools import islice
from pathlib import Path

from didact.starter.corpus import documents, plain
from didact.starter.tasks import tasks

__all__ = ["base_folder", "plain_text", "tasks"]


def base_folder() -> Path:
    """The folder of the shipped base: config, safetensors, tokenizer, chat template; `model: starter` means it."""
    return Path(str(files(__package__) / "base"))


def plain_text(n: int, seed: int) -> list[str]:
    """`n` documents of the world's prose that pre-training did not draw, for measuring what tuning forgets."""
    return [plain(document) for document in islice(documents(seed + (1 << 50)), n)]
