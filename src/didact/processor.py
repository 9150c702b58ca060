"""The processor beside a model that sees: loaded by Pillow alone and without its video part, saved as it is."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from didact.errors import UsageError, missing_extra
from didact.instance import digest
from didact.model_files import read_json
from didact.vision import Vision

FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
READER = "qformer_tokenizer"  # the folder of a second tokenizer


def save(source: Path, folder: Path) -> None:
    """Copy what a model folder says of pictures to another, as it is."""
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if (source / READER).is_dir():
        shutil.copytree(source / READER, folder / READER)


def load(folder: Path, config: Mapping[str, Any]) -> Vision:
    """The processor in a model folder, by Pillow alone and without its video part; UsageError if there is none."""
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise missing_extra("PIL", "images") from error
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES, processor_class_from_name

    kept = {name: read_json(folder / name) for name in FILES if (folder / name).is_file()}
    cure = "add the preprocessor_config.json and processor_config.json that were published with this model"
    if not kept:
        raise UsageError("the model reads pictures, but its folder has no processor", cure, file=folder)
    told = [file.get("processor_class") for file in kept.values()]
    name = next((name for name in told if name), PROCESSOR_MAPPING_NAMES.get(str(config.get("model_type"))))
    made = processor_class_from_name(name) if name else None
    if made is None:
        raise UsageError(f'transformers knows no processor "{name}"', "pip install -U transformers", file=folder)
    try:
        return Vision(_built(made, folder), config, digest([name, kept], 64))
    except ImportError as error:
        first = next((line for line in str(error).splitlines() if line.strip()), str(error))
        raise UsageError(f"the processor {name} needs more: {first}", "install what it names", file=folder) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"the processor cannot be loaded: {first}", cure, file=folder) from error


def _built(made: Any, folder: Path) -> Any:
    """A processor of a class, its video part left out: that alone insists on torchvision."""
    from transformers import AutoImageProcessor

    attributes = made.get_attributes()

    def part(name: str) -> Any:
        if "tokenizer" in name:
            return made._load_tokenizer_from_pretrained(name, folder, local_files_only=True)
        if name == "image_processor":
            return AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
        return None

    def checked(self: Any, name: str, given: Any) -> Any:
        return None if given is None else made.check_argument_for_proper_class(self, name, given)

    silent: Any = type(made.__name__, (made,), {"check_argument_for_proper_class": checked})
    settings, _ = made.get_processor_dict(folder, local_files_only=True)
    return silent.from_args_and_dict([part(name) for name in attributes], dict(settings))
