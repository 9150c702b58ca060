"""Fields of a row: read with errors that name them, and kept in the tag `extra` if an instance has no place for them.

`extra` is JSON: format (that the row was read in), columns (of the row), turns (by position), instance (of one of many)
and what single formats need. It holds texts as they were written only together with a way to see that the instance has
not changed since.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from didact.errors import UsageError, nearest
from didact.instance import Instance

DROP = "or drop such rows: on_error: drop"
UNFILLED = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}")
MISSING = "\x00missing"  # in `extra`: the row had no such field


def text_of(row: Mapping[str, Any], key: str, empty: bool = False) -> str:
    """A field that must be text, and not blank unless `empty`."""
    _there(row, key)
    value = row[key]
    if not isinstance(value, str):
        raise mistyped(value, "text", key)
    if not empty and not value.strip():
        raise UsageError(f'the field "{key}" is empty', f"fill it, {DROP}", field=key)
    return value


def list_of(row: Mapping[str, Any], key: str) -> list[Any]:
    """A field that must be a list with something in it."""
    _there(row, key)
    if not isinstance(row[key], list):
        raise mistyped(row[key], "a list", key)
    if not row[key]:
        raise UsageError(f'the field "{key}" is empty', f"fill it, {DROP}", field=key)
    return list(row[key])


def mistyped(value: Any, wanted: str, field: str) -> UsageError:
    """The error for a value of another kind than the wanted one."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    found = names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)
    return UsageError(f"holds {found} where {wanted} should be", f"mend it, {DROP}", field=field)


def within(error: UsageError, place: str) -> UsageError:
    """The same error with its field inside `place`."""
    return UsageError(error.problem, error.fix, field=f"{place}.{error.field or ''}".rstrip("."))


def rest(row: Mapping[str, Any], *known: str) -> dict[str, Any]:
    """The columns of a row that are none of these."""
    return {key: value for key, value in row.items() if key not in known}


def kept(form: str, **extra: Any) -> dict[str, str]:
    """The tag `extra` of an instance read in a format; nothing if there is nothing to keep."""
    found = {key: value for key, value in extra.items() if value}
    if not found:
        return {}
    return {"extra": json.dumps({"format": form, **found}, ensure_ascii=False, default=str)}


def extra(instance: Instance, form: str, key: str) -> Any:
    """What was kept under a key; columns of any format, the rest only if the row was read in this one."""
    found = json.loads(instance.tags.get("extra", "{}"))
    return found.get(key, {}) if key == "columns" or found.get("format", form) == form else {}


def joined(own: Mapping[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a format with the further columns behind its own, which count where both have a name."""
    return {**own, **{key: value for key, value in columns.items() if key not in own}}


def filled(value: Any, fill: Mapping[str, str]) -> Any:
    """A row, or any value of it, with the placeholders that have a value in `fill` replaced in all its texts."""
    if isinstance(value, str):
        return UNFILLED.sub(lambda found: fill.get(found[1], found[0]), value) if "{{" in value else value
    if isinstance(value, list):
        return [filled(item, fill) for item in value]
    return {key: filled(item, fill) for key, item in value.items()} if isinstance(value, dict) else value


def refuse_unfilled(rows: Sequence[Mapping[str, Any]], fill: Mapping[str, str]) -> None:
    """Refuse rows of which many hold the same {{NAME}}: a form that nobody has filled in. Few may well talk of one."""
    counts = Counter(name for row in rows for name in {*UNFILLED.findall(json.dumps(row, default=str))} - {*fill})
    many = [name for name, count in counts.items() if count >= max(3, len(rows) / 20)]
    found = sorted(many, key=lambda name: (-counts[name], name))
    if found:
        first = f"{counts[found[0]]} of {len(rows)} rows looked at hold {{{{{found[0]}}}}}"
        told = ", ".join(f"{name}: ..." for name in found)
        fix = f"say what it stands for: fill: {{{told}}}"
        raise UsageError(f"{first}, which nobody has filled in", fix, field="fill")


def _there(row: Mapping[str, Any], key: str) -> None:
    if key not in row:
        raise UsageError(f'the field "{key}" is missing', f"{nearest(key, row) if row else 'add it'} {DROP}", field=key)
