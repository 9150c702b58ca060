"""The rows of a hub dataset, or of a folder that the `datasets` library reads, and the labels it declares."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from didact.errors import UsageError, missing_extra
from didact.labels import LabelConfig
from didact.sources.config import HubSource
from didact.template import expand


def load(config: HubSource, folder: Path) -> Any:
    """The dataset behind a hub source, through the `datasets` library."""
    try:
        import datasets
    except ImportError as error:
        raise missing_extra("datasets", "hub") from error
    local = folder / expand(config.name)
    try:
        if (local / "dataset_info.json").exists() or (local / "dataset_dict.json").exists():
            found = datasets.load_from_disk(str(local))
            return undecoded(found[config.split] if (local / "dataset_dict.json").exists() else found)
        download = datasets.DownloadConfig(local_files_only=config.offline)
        name = str(local) if local.is_dir() else config.name
        return undecoded(
            datasets.load_dataset(
                name, config.subset, split=config.split, revision=config.revision, download_config=download
            )
        )
    except Exception as error:  # the library raises many kinds, all of them about this name or the network
        told = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        where = (
            "it is not in the local cache: fetch it once without offline"
            if config.offline
            else "check name and network"
        )
        raise UsageError(f'the dataset "{config.name}" cannot be read: {told}', where, field="name") from error


def declared(dataset: Any) -> dict[str, LabelConfig]:
    """The label columns of a dataset whose names it knows: a label each, or a list of them."""
    return {
        column: LabelConfig(names=list(names))
        for column, feature in (getattr(dataset, "features", None) or {}).items()
        if (names := getattr(getattr(feature, "feature", feature), "names", None))
    }


def undecoded(dataset: Any) -> Any:
    """The dataset with its pictures as the bytes that they are, so that they are checked before they are decoded."""
    for column, feature in (getattr(dataset, "features", None) or {}).items():
        if type(feature).__name__ == "Image":
            dataset = dataset.cast_column(column, replace(feature, decode=False))
            continue
        inner: Any = getattr(feature, "feature", None)
        if type(inner).__name__ == "Image":
            dataset = dataset.cast_column(column, replace(feature, feature=replace(inner, decode=False)))
    return dataset


def root(config: HubSource, folder: Path) -> Path:
    """The folder in which files that its rows name must lie: the dataset's own, or the library's cache."""
    local = folder / expand(config.name)
    if local.is_dir():
        return local
    cache = os.environ.get("HF_DATASETS_CACHE") or os.environ.get("HF_HOME") or "~/.cache/huggingface"
    return Path(cache).expanduser()
