"""The first recipe: small, commented, and fitted to a data file if there is one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from itertools import islice
from pathlib import Path

from didact.console import Console
from didact.errors import UsageError
from didact.folder import disk_error
from didact.instance import Drop, Origin
from didact.recipe import load_recipe

SHOWN = 3


def write_recipe(path: Path, data: Path | None, console: Console) -> None:
    """Write a recipe to `path`; with `data`, say how the file is read and show its first rows. Replaces nothing."""
    if path.exists():
        raise UsageError("there is a recipe already", "give another name, or remove it", file=path)
    if data is None:
        lines, fill = (
            ["  - {type: starter, rows_per_task: 40}"],
            {"model": "starter", "heldout": "0.2", "method": "full"},
        )
    else:
        lines, fill = _look(data, path.parent, console), {"model": "starter", "heldout": "0.2", "method": "lora"}
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip(".-_") or "run"
    text = _filled({**fill, "name": name, "path": str(path), "sources": "\n".join(lines)})
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise disk_error(error, path) from error
    load_recipe(path)
    console.say(f"{path} is written. Next: didact show {path} --row 1, then didact run {path}")


def _look(data: Path, folder: Path, console: Console) -> list[str]:
    """The source lines for a data file; says how it is read and shows rows as they become instances."""
    from didact.formats import to_instances
    from didact.show import show_instance
    from didact.sources import FileSource, open_source

    drops: list[Drop] = []
    task = open_source(FileSource(path=str(data.resolve())), folder, drops.append)[0]
    assert task.mapping is not None, "a source without templates has a mapping"
    console.say(f"{data} is read as {task.mapping.description}")
    for row in islice(task.rows(), SHOWN):
        for instance in to_instances(
            task.mapping, row.data, Origin(data.name, row.number, f"format:{task.mapping.name}"), task.home
        ):
            show_instance(console, instance)
    console.say("")
    inside = data.resolve().is_relative_to(folder.resolve())
    place = data.resolve().relative_to(folder.resolve()) if inside else data.resolve()
    return ["  - type: file", f"    path: {_quoted(str(place))}"]


def _filled(values: Mapping[str, str]) -> str:
    text = (files("didact") / "init.yaml").read_text("utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text.replace("\n\n\n", "\n\n")


def _quoted(text: str) -> str:
    return (
        text if re.fullmatch(r"[A-Za-z0-9/._-]+", text) else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    )
