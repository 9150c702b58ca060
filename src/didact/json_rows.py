"""Rows of JSON: lines of objects, an array of them, or a document in which they lie deeper."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from didact import layouts, squad, tables
from didact.errors import UsageError
from didact.sandbox import SURROGATE
from didact.tables import Fault, Record


class _BadJson(ValueError):
    """JSON that parses but means two things or nothing: a key twice, NaN, half a character."""


def _loads(text: str) -> Any:
    value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    if "\\u" in text and SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise _BadJson("half of a surrogate pair (\\ud800-\\udfff) in a text")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _BadJson(f'the key "{twice}" is given twice')
    return found


def _constant(name: str) -> Any:
    raise _BadJson(f"{name} is not JSON: write null")


def _fault_of(error: Exception, path: Path, line: int, fix: str) -> UsageError:
    if isinstance(error, json.JSONDecodeError):
        comma = error.doc[error.pos : error.pos + 1] in ("]", "}") and error.doc[: error.pos].rstrip().endswith(",")
        told = "a comma before the closing bracket" if comma else error.msg[0].lower() + error.msg[1:].removesuffix(":")
        problem = f"malformed JSON: {told} at column {error.colno}"
        return UsageError(problem, fix, file=path, line=line + error.lineno - 1)
    problem = str(error) if isinstance(error, _BadJson) else "malformed JSON: too deeply nested or too large a number"
    return UsageError(problem, fix, file=path, line=line)


def json_lines(path: Path, lines: Iterable[tuple[int, str]], fault: Fault) -> Iterator[Record]:
    first = True
    for number, line in lines:
        if not line.strip():
            continue
        try:
            value = _loads(line.rstrip())
        except (ValueError, RecursionError) as error:
            if first and line.lstrip().startswith("[") and not isinstance(error, _BadJson):
                # Not read as it is: an array must be held whole in memory, and its rows have no lines to name.
                raise _array(path, number) from error
            fault("malformed JSON", _fault_of(error, path, number, f"mend the line, {tables.DROP}"))
            value = None
        else:
            row = _as_row(value)
            if first and row is None and isinstance(value, list) and any(isinstance(item, dict) for item in value):
                raise _array(path, number)
            if row is None:
                fault("not an object", _not_an_object(value, path, number))
            else:
                yield number, row
        first = False


def json_rows(
    path: Path, lines: Iterable[tuple[int, str]], fault: Fault, layout: str, columns: Sequence[str]
) -> Iterator[Record]:
    """A JSON array of objects, or a document of another layout; or JSON lines, if the first line is a whole object
    and more follow."""
    read: list[tuple[int, str]] = []
    more = iter(lines)
    for number, line in more:
        read.append((number, line))
        if not line.strip():
            continue
        if layout == "json" and line.lstrip().startswith("{") and _is_object(line):
            following = next(((n, text) for n, text in more if text.strip()), None)
            if following is not None:
                yield from json_lines(path, _chain(read, [following], more), fault)
                return
        break
    text = "".join(line for _, line in read) + "".join(line for _, line in more)
    if not text.strip():
        return
    try:
        value = _loads(text)
    except (ValueError, RecursionError) as error:
        raise _fault_of(error, path, 1, "mend the file at this line") from error
    del text, read
    if layout == "squad" or (layout == "json" and squad.is_squad(value)):
        yield from squad.squad_rows(value, path, fault)
    elif layout == "splits" or (layout == "json" and layouts.is_splits(value)):
        yield from layouts.split_rows(value, path, fault, columns)
    elif layout == "object" and isinstance(value, dict):
        yield 1, value
    elif layout == "object" or not isinstance(value, list):
        problem = f"holds one JSON {_kind(value)}, not an array of rows"
        fix = "save its rows as JSON lines, one object per line, or say where they lie: layout: object, unroll: {...}"
        if isinstance(value, dict) and "Definition" in value and "Instances" in value:
            fix = "it is a task of Super-NaturalInstructions: read it with type: super-ni"
        raise UsageError(problem, fix, file=path)
    else:
        yield from _items(path, value, fault)


def yaml_rows(path: Path, lines: Iterable[tuple[int, str]], fault: Fault) -> Iterator[Record]:
    """A YAML list of mappings; aliases are refused, since a few lines of them can stand for terabytes."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = "".join(line for _, line in lines)
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=loader)):
            raise UsageError("it repeats parts by YAML aliases", "write them out, or save it as JSON", file=path)
        value = loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise UsageError(f"not YAML: {error.problem}", "mend this line", file=path, line=line) from error
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        told = (str(error).splitlines() or [""])[0]
        raise UsageError(f"not YAML: {told}", "mend the file", file=path) from error
    if value is not None and not isinstance(value, list):
        raise UsageError(f"holds one YAML {_kind(value)}, not a list of rows", "write a list", file=path)
    yield from _items(path, value or [], fault)


def _items(path: Path, values: Iterable[Any], fault: Fault) -> Iterator[Record]:
    for number, item in enumerate(values, 1):
        row = _as_row(item)
        if row is None:
            fault("not an object", _not_an_object(item, path, number))
        else:
            yield number, row


def _array(path: Path, number: int) -> UsageError:
    problem = "a JSON array, where each line should hold one object"
    return UsageError(problem, "rename the file to .json, or add layout: json", file=path, line=number)


def _chain(*parts: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    for part in parts:
        yield from part


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _as_row(value: Any) -> dict[str, Any] | None:
    """An object as it is; a bare list of {role, content} as a conversation; nothing else is a row."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and value and all(isinstance(turn, dict) and "role" in turn for turn in value):
        return {"messages": value}
    return None


def _not_an_object(value: Any, path: Path, number: int) -> UsageError:
    fix = 'write an object, such as {"instruction": ..., "output": ...}'
    return UsageError(f"holds a JSON {_kind(value)}, not an object", f"{fix}, {tables.DROP}", file=path, line=number)


def _kind(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")
