"""What decides a result: hashes of code, models and sources, and settings laid flat so that a change can be named.

Nothing here imports torch, so a run that has nothing to do ends in a moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from didact.folder import sha256
from didact.instance import digest

# The code whose change makes a stage run again; data files beside it count too.
READING = (
    "formats", "files.py", "json_rows.py", "tables.py", "layouts.py", "entities.py", "labels.py", "sources",
    "album.py", "conll.py", "squad.py", "languages.py", "pictures.py", "superni.py",
    "bounds.py", "reach.py", "sandbox.py", "template.py", "template_set.py", "templates",
)  # fmt: skip
RENDERING = (
    "calling.py", "scaffold.py", "conversation.py", "spans.py", "words.py", "vision.py", "processor.py", "render.py",
    "fit.py",
)  # fmt: skip
TUNING = (
    "adamw.py",
    "direct.py",
    "lean.py",
    "attention.py",
    "kinds.py",
    "pack.py",
    "model.py",
    "model_files.py",
    "methods",
    "forward.py",
    "frozen.py",
    "loss.py",
    "memory.py",
    "precision.py",
    "prepare.py",
    "ranks.py",
    "settle.py",
    "tail.py",
    "tune.py",
    "checkpoint.py",
    "encoded.py",
    "closed.py",
    "programs",
    "programmed.py",
)
TOKENIZER = ("tokenizer", "preprocessor_config", "processor_config", "special_tokens_map", "vocab", "merges")
CODE = {
    "build": ("stages.py", "instance.py", "token_count.py", *READING, "build", "starter"),
    "generate": (
        "generation.py",
        "teachers.py",
        "instance.py",
        *READING,
        "build",
        "starter",
        "generate",
        "llm",
        "speak.py",
    ),
    "curate": (
        "stages.py",
        "consult.py",
        "instance.py",
        "files.py",
        "curate",
        "llm",
        *RENDERING,
        "infer.py",
        "trees.py",
        "embed.py",
    ),
    "card": ("stages.py", "instance.py", "curate", "card"),
    "tune": ("tuning.py", *RENDERING, *TUNING, "parallel.py"),
    "audit": (
        "stages.py",
        "auditing.py",
        "arms.py",
        "harness.py",
        "instance.py",
        *RENDERING,
        *TUNING,
        "infer.py",
        "trees.py",
        "audit",
    ),
    "report": ("stages.py", "audit"),
    "certify": ("certify", *RENDERING, *TUNING),
    "reproduce": (
        "reproduce",
        "instance.py",
        "starter",
        "build",
        "audit",
        "curate",
        *READING,
        *RENDERING,
        *TUNING,
        "infer.py",
        "trees.py",
    ),
}


def code(stage: str) -> str:
    """Hash of the code and data files of the package that decide what a stage makes."""
    root = Path(__file__).parent
    files = [
        f for name in CODE[stage] for f in ([root / name] if (root / name).is_file() else (root / name).rglob("*"))
    ]
    return digest({str(f.relative_to(root)): sha256(f) for f in sorted(files) if f.is_file() and f.suffix != ".pyc"})


def rendering() -> str:
    """Hash of the code that turns instances into tokens."""
    root = Path(__file__).parent
    return digest({name: sha256(root / name) for name in ("instance.py", *RENDERING)})


def speaking() -> str:
    """Hash of the code that decides what a tuned model says, training included."""
    root = Path(__file__).parent
    names = ("instance.py", *RENDERING, *TUNING, "infer.py", "trees.py")
    files = sorted(
        f for name in names for f in ([root / name] if (root / name).is_file() else (root / name).rglob("*.py"))
    )
    return digest({str(f.relative_to(root)): sha256(f) for f in files})


def model(name: str) -> str:
    """What identifies a base model: the bytes of its folder, or its name on the hub."""
    from didact import starter

    folder = starter.base_folder() if name == "starter" else Path(name)
    if not folder.is_dir():
        return name
    return content(folder)


def tokenizer(name: str) -> str:
    """What identifies the tokenizer of a model: the bytes of its files, or the name on the hub."""
    from didact import starter

    folder = starter.base_folder() if name == "starter" else Path(name)
    if not folder.is_dir():
        return name
    files = sorted(f for f in folder.iterdir() if f.is_file() and f.name.startswith(TOKENIZER))
    return digest({f.name: sha256(f) for f in files})


def sources(configs: Iterable[BaseModel], home: Path) -> dict[str, str]:
    """Hashes of the files and folders that sources name, data and templates, by setting."""
    from didact.template import expand, template_file

    found: dict[str, str] = {}
    for number, config in enumerate(configs):
        for setting in ("path", "name", "templates"):
            value = getattr(config, setting, "")
            if not value:
                continue
            place = template_file(value, home) if setting == "templates" else home / expand(value)
            if place.exists():
                found[f"sources.{number}.{setting}: content"] = content(place)
        folder = home / expand(getattr(config, "pictures", ""))
        if folder != home and folder.is_dir():
            found[f"sources.{number}.pictures: content"] = listing(folder)
        for column, value in getattr(config, "beside", {}).items():
            if (home / expand(value)).exists():
                found[f"sources.{number}.beside.{column}: content"] = content(home / expand(value))
    return found


def benchmarks(configs: Iterable[BaseModel], home: Path) -> dict[str, str]:
    """Hashes of the files that filters compare with."""
    from didact.template import expand

    return {
        f"curate.{number}.benchmarks.{place}: content": content(home / expand(file))
        for number, config in enumerate(configs)
        for place, file in enumerate(getattr(config, "benchmarks", ()))
        if (home / expand(file)).is_file()
    }


def method(config: BaseModel, home: Path) -> dict[str, str]:
    """Hashes of what a method reads beside the rows: a space that was found, texts without labels."""
    from didact.template import expand

    named = {"space": Path(getattr(config, "space", ""))}
    named["unlabelled"] = home / expand(getattr(config, "unlabelled", None) or "")
    return {
        f"method.{setting}: content": content(place)
        for setting, place in named.items()
        if getattr(config, setting, None) and place.exists()
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's figures."""
    import platform
    from importlib import metadata

    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("torch", "transformers", "tokenizers", "safetensors", "peft", "numpy", "pydantic"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def content(place: Path) -> str:
    """Hash of a file, or of the files of a folder and their names."""
    files = sorted(f for f in place.rglob("*") if f.is_file()) if place.is_dir() else [place]
    return digest({str(f.relative_to(place)): _file_id(f) for f in files})


def listing(place: Path) -> str:
    """What tells that files of a folder are others, without reading them: names, sizes and times of change."""
    files = sorted(f for f in place.rglob("*") if f.is_file())
    return digest({str(f.relative_to(place)): [f.stat().st_size, f.stat().st_mtime_ns] for f in files})


def _file_id(file: Path) -> str:
    """A file's hash; of files beyond 1 GiB only size and time of change, to keep a start under a second."""
    status = file.stat()
    return sha256(file) if status.st_size <= 2**30 else f"{status.st_size}:{status.st_mtime_ns}"


def flat(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, (list, tuple)):
        value = {str(i): item for i, item in enumerate(value)}
    if isinstance(value, Mapping) and value:
        found: dict[str, Any] = {}
        for key, item in value.items():
            found |= flat(f"{name}.{key}" if name else str(key), item)
        return found
    return {name: [] if value == {} else value}


def change(key: str, old: Any, new: Any) -> str:
    """A changed input in words; hashes are not shown."""
    hashed = key.endswith((".jsonl", ".json", ": content")) or key in ("tuned", "model", "code")
    if hashed or len(f"{old}{new}") > 60:
        return f"{key} changed"
    return f"{key} changed ({old} -> {new})"
