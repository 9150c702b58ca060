"""CoNLL and BIO columns, read and written: a token and its tags in each line, blank lines between sentences.

What a file says besides (comments, -DOCSTART-) stays line by line in the column `before` of the sentence that follows,
or `after` of the last one, so that a file that is read and written again tells the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from didact.entities import entities
from didact.errors import UsageError
from didact.tables import DROP, Fault, Record

Row = dict[str, Any]
DOCUMENT = "-DOCSTART-"
TAG = re.compile(r"O|_|[BIESLUM]-\S+")  # the tags of BIO, IOB, BIOES and BILOU
NUMBERED = re.compile(r"field_([1-9]\d*)")
OWN = ("tokens", "ner_tags", "entities", "before", "after")


def conll_rows(path: Path, lines: Iterable[tuple[int, str]], fault: Fault, columns: Sequence[str]) -> Iterator[Record]:
    """(line, row) for the sentences of a CoNLL file.

    Without `columns` the first field is `tokens`, the last one `ner_tags`, and those between are field_2, field_3 ...
    `entities` are those of the last field. A row is given when the next one is there, or the end.
    """
    start, held, broken, beside = 0, list[list[str]](), False, list[str]()
    last: Record | None = None
    for number, line in chain(lines, [(0, "")]):
        text = line.rstrip("\r\n")
        fields = _fields(text)
        begins = fields[:1] == [DOCUMENT]
        if held and (begins or not any(fields)):
            if not broken:
                if last is not None:
                    yield last
                last, beside = (start, _sentence(held, columns) | ({"before": beside} if beside else {})), []
            start, held, broken = 0, [], False
        if begins or (not held and _is_comment(text, fields)):
            beside.append(text)
        elif any(fields):
            start = start or number
            wanted = len(columns) or (len(held[0]) if held else max(2, len(fields)))
            if len(fields) != wanted and not broken:
                problem = f"{len(fields)} fields in a line of a sentence that has {wanted}"
                fault("wrong number of fields", UsageError(problem, f"mend the line, {DROP}", file=path, line=number))
                broken = True
            held.append(fields)
    if last is not None:
        yield last[0], last[1] | ({"after": beside} if beside else {})


def looks_so(lines: Iterable[str]) -> bool:
    """Whether lines look like CoNLL: as many fields in each, two at least, and the last one a BIO tag."""
    found = [(line, _fields(line.rstrip("\r\n"))) for line in lines]
    told = [f for line, f in found if any(f) and f[0] != DOCUMENT and not _is_comment(line, f)]
    return bool(told) and len({len(f) for f in told}) == 1 < len(told[0]) and all(TAG.fullmatch(f[-1]) for f in told)


def checked(row: Row) -> Row:
    """A row that CoNLL can hold; UsageError with its field if it cannot."""
    tokens, tags = _texts(row, "tokens"), _texts(row, "ner_tags")
    if len(tokens) != len(tags):
        raise UsageError(f"{len(tokens)} tokens but {len(tags)} tags", f"mend it, {DROP}", field="ner_tags")
    held = [name for name, value in row.items() if name not in OWN and _is_field(value, len(tokens))]
    for place, fields in enumerate(zip(tokens, *(row[name] for name in held), tags, strict=True)):
        line = "\t".join(fields)
        if _fields(line) != list(fields) or not any(fields) or "\n" in line or "\0" in line or fields[0] == DOCUMENT:
            told = f'"{fields[0][:40]}" begins a document' if fields[0] == DOCUMENT else _not_held(fields)
            raise UsageError(f"{told} in CoNLL", "mend it, or write jsonl", field=f"tokens.{place}")
    return row


def written(rows: Iterable[Row], middle: Sequence[str], lost: Counter[str]) -> Iterator[tuple[str, Row]]:
    """The text of each row, and the row as it will be read. middle: see `middle_of`. lost: counts what has no place."""
    held: Row | None = None
    pending: list[str] = []
    for row in rows:
        if held is not None:
            yield _sentence_text(held, pending, middle, lost, last=False)
            pending = _asides(held, "after", lost)
        held = row
    if held is not None:
        yield _sentence_text(held, pending, middle, lost, last=True)


def middle_of(rows: Iterable[Row]) -> list[str]:
    """The columns between tokens and tags: lists with a text for each token in every row that has them."""
    fits: dict[str, bool] = {}
    for row in rows:
        for name, value in row.items():
            if name not in OWN and value is not None:
                fits[name] = fits.get(name, True) and _is_field(value, len(row["tokens"]))
    found = [name for name, fit in fits.items() if fit]
    return sorted(found, key=lambda name: int(told[1]) if (told := NUMBERED.fullmatch(name)) else 0)


def _sentence_text(
    row: Row, pending: Sequence[str], middle: Sequence[str], lost: Counter[str], last: bool
) -> tuple[str, Row]:
    checked(row)
    names = [name for name in middle if row.get(name) is not None]
    fields = [row["tokens"], *(row[name] for name in names), row["ner_tags"]]
    before = [*pending, *_asides(row, "before", lost)]
    after = _asides(row, "after", lost) if last else []
    read = _sentence([list(values) for values in zip(*fields, strict=True)], ())
    read |= ({"before": before} if before else {}) | ({"after": after} if after else {})
    for number, name in enumerate(names, 2):
        if name != f"field_{number}":
            lost[f"the name of the column {name}"] += 1
    for name, value in row.items():
        if name not in OWN and name not in middle and value is not None:
            lost[f"{name}: CoNLL has no place for it"] += 1
    if row.get("entities") not in (None, read["entities"]):
        lost["entities that the tags do not tell"] += 1
    lines = ["\t".join(values) for values in zip(*fields, strict=True)]
    told = [*_apart(before), *lines, "", *_apart(after)]
    return "".join(f"{line}\n" for line in told), read


def _apart(lines: Iterable[str]) -> Iterator[str]:
    """Lines beside a sentence; a blank line follows the one that begins a document."""
    for line in lines:
        yield line
        if _fields(line)[:1] == [DOCUMENT]:
            yield ""


def _asides(row: Row, name: str, lost: Counter[str]) -> list[str]:
    lines = row.get(name)
    if lines is None:
        return []
    if isinstance(lines, list) and all(isinstance(line, str) and _is_aside(line) for line in lines):
        return list(lines)
    lost[f"{name}: CoNLL has no place for it"] += 1
    return []


def _is_aside(line: str) -> bool:
    fields = _fields(line)
    return "\n" not in line and not line.endswith("\r") and (fields[:1] == [DOCUMENT] or _is_comment(line, fields))


def _fields(text: str) -> list[str]:
    """The fields of a line, apart by tabs if it has one, else by blanks. Other white space may be a token."""
    return [field.strip(" ") for field in text.split("\t")] if "\t" in text else [f for f in text.split(" ") if f]


def _is_comment(text: str, fields: Sequence[str]) -> bool:
    """Whether a line before a sentence tells something about it, and is not a token # with its tag."""
    return text.startswith("#") and "\t" not in text and not re.fullmatch(r"O|_|[BIESLU]-\S+", fields[-1])


def _sentence(held: Sequence[Sequence[str]], columns: Sequence[str]) -> Row:
    names = columns or ["tokens", *(f"field_{n}" for n in range(2, len(held[0]))), "ner_tags"]
    row: Row = {name: list(values) for name, values in zip(names, zip(*held, strict=True), strict=True)}
    return {**row, "entities": entities(row[names[0]], row[names[-1]])}


def _is_field(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(isinstance(text, str) for text in value)


def _texts(row: Row, name: str) -> list[str]:
    value = row.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise UsageError(f'the row has no "{name}" that are texts', "write another format", field=name)
    return value


def _not_held(fields: Sequence[str]) -> str:
    shown = " ".join(fields)[:40]
    return f'"{shown}" is empty, or has a tab, a line end, a NUL or blanks at its ends, and so has no place'
