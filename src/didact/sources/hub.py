"""The rows of a hub dataset, or of a folder that the `datasets` library reads, and the labels it declares."""

from __future__ import annotations

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
            return found[config.split] if (local / "dataset_dict.json").exists() else found
        download = datasets.DownloadConfig(local_files_only=config.offline)
        name = str(local) if local.is_dir() else config.name
        return datasets.load_dataset(
            name, config.subset, split=config.split, revision=config.revision, download_config=download
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
