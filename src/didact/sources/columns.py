"""A row's columns: which rows are wanted, labels as names, new names, and what a template set suggests of all that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from didact import formats, layouts
from didact.errors import UsageError
from didact.formats.pictured import Keep
from didact.labels import LabelConfig, check_columns
from didact.sources.config import FileSource, HubSource
from didact.template_set import TemplateSet


def suggested(
    config: FileSource | HubSource,
    found: TemplateSet,
    row: Mapping[str, Any],
    labels: Mapping[str, LabelConfig],
    file: Path,
) -> tuple[FileSource | HubSource, dict[str, LabelConfig]]:
    """The source's settings and labels, filled up with what its template set suggests for columns like its own."""
    rename = dict(config.rename)
    for old, new in found.rename.items():
        if new not in row and new not in rename.values() and old not in rename and layouts.reach(row, old) is not None:
            rename[old] = new
    names = {rename.get(column, column) for column in row} | set(rename.values())
    named = dict(labels)
    for column, told in found.labels.items():
        old = next((old for old, new in rename.items() if new == column), column)
        if column in row and column not in rename:
            old = column
        declared = named[old].all_names() if old in named and old not in config.labels else ()
        # The hub's own names for the same numbers may be mere "neg" and "pos", or "0" and "1".
        other = isinstance(told, list) and len(declared) == len(told) and set(declared) != set(told)
        if other or (old not in named and (old in row or old in rename)):
            try:
                named[old] = LabelConfig.model_validate(told)
            except ValidationError as error:
                raise UsageError(
                    error.errors()[0]["msg"], "mend the set", file=file, field=f"labels.{column}"
                ) from error
    group = [next((old for old, new in rename.items() if new == column), column) for column in found.group]
    fits = bool(group) and not config.group and set(found.group) <= names
    told = {"rename": rename} | ({"group": group, "references": config.references or found.references} if fits else {})
    return config.model_copy(update=told), named


def wanted(where: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    return all(
        str(data.get(column)) in [str(v) for v in (value if isinstance(value, list) else [value])]
        for column, value in where.items()
    )


def prepared(config: FileSource | HubSource, data: dict[str, Any], labels: Mapping[str, LabelConfig]) -> dict[str, Any]:
    for column, label in labels.items():
        check_columns([column], data, "labels")
        value = data[column]
        if isinstance(value, list):
            data[column] = [label.name_of(item, column) for item in value]
        else:
            data[column] = label.name_of(value, column)
    if config.fill:
        data = formats.filled(data, config.fill)
    if data.get("_split", "train") not in ("train", "heldout"):
        raise UsageError(f"{data['_split']!r} is no side of the split", "write train or heldout", field="_split")
    if not config.rename:
        return data
    check_columns(list(config.rename), data, "rename")
    moved = {config.rename.get(column, column): value for column, value in data.items() if column not in config.rename}
    for old, new in config.rename.items():
        if new in moved:
            raise UsageError(f'rename {old}: {new} meets a column called "{new}"', "choose another name", field=new)
        moved[new] = data[old]
    return moved


def with_pictures(data: dict[str, Any], columns: Sequence[str], keep: Keep) -> dict[str, Any]:
    """The row with the pictures of these columns kept, and named by where they lie; an empty column stays so."""
    check_columns(columns, data, "image")
    for column in columns:
        value = data[column]
        if isinstance(value, list):
            data[column] = [keep(one, f"{column}.{i}") for i, one in enumerate(value)]
        elif value is not None and value != "":
            data[column] = keep(value, column)
    return data
