"""Layouts in which a record is no line: SQuAD's JSON, an object of splits, CoNLL's columns; and rows made of rows.

Rows of lines get their columns from a pattern, from files beside theirs (labels, translations), or, where a record
holds lists, one row is made of each item.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from didact.entities import entities
from didact.errors import UsageError, nearest
from didact.tables import DROP, Fault, Record

Lines = Iterable[tuple[int, str]]


def is_squad(value: Any) -> bool:
    """Whether a JSON document is written as SQuAD: {data: [{paragraphs: [...]}]}."""
    articles = value.get("data") if isinstance(value, dict) else None
    return isinstance(articles, list) and any(isinstance(item, dict) and "paragraphs" in item for item in articles)


def squad_rows(value: Any, path: Path, fault: Fault) -> Iterator[Record]:
    """(number, row) for the questions of a SQuAD document (v1.1, v2, XQuAD, MLQA), with the hub's columns.

    id, title, context, question, answers: {text: [...], answer_start: [...]}; an unanswerable question has no text.
    """
    if not is_squad(value):
        raise UsageError("is not written as SQuAD", "it needs data[].paragraphs[].qas[]", file=path)
    number = 0
    for article in value["data"]:
        for paragraph in _listed(article, "paragraphs"):
            for question in _listed(paragraph, "qas"):
                number += 1
                try:
                    yield number, _squad_row(article, paragraph, question)
                except (KeyError, TypeError, AttributeError) as error:
                    problem = f"the question is not as in SQuAD: {error}"
                    fault("malformed record", UsageError(problem, f"mend it, {DROP}", file=path, line=number))


def _squad_row(article: Any, paragraph: Any, question: Any) -> dict[str, Any]:
    none = question.get("is_impossible", False)
    answers = [] if none else question["answers"]
    return {
        "id": question.get("id", ""),
        "title": article.get("title", ""),
        "context": paragraph["context"],
        "question": question["question"],
        "answers": {
            "text": [answer["text"] for answer in answers],
            "answer_start": [answer["answer_start"] for answer in answers],
        },
    }


def _listed(value: Any, key: str) -> list[Any]:
    items = value.get(key) if isinstance(value, dict) else None
    return items if isinstance(items, list) else []


def is_splits(value: Any) -> bool:
    """Whether a JSON document is an object of splits: name -> list of rows, each an object or an array."""
    parts = list(value.values()) if isinstance(value, dict) else []
    return bool(parts) and all(
        isinstance(part, list) and part and all(isinstance(item, (list, dict)) for item in part) for part in parts
    )


def split_rows(value: Any, path: Path, fault: Fault, columns: Sequence[str]) -> Iterator[Record]:
    """(number, row) for an object of splits, its key as the column `split`; `columns` name the items of arrays."""
    if not is_splits(value):
        problem = "is no object of splits"
        raise UsageError(problem, "it needs {train: [...], test: [...]} with rows in them", file=path)
    number = 0
    for split, items in value.items():
        for item in items:
            number += 1
            if isinstance(item, dict):
                yield number, {"split": split, **item}
            elif not columns:
                names = ", ".join("abcdefghijklmnopqrstuvwxyz"[: len(item)])
                fix = f"name the {len(item)} values in the source: columns: [{names}]"
                raise UsageError(f'the rows of "{split}" are arrays without names', fix, file=path)
            elif len(item) != len(columns):
                problem = f"{len(item)} values where `columns` names {len(columns)}"
                fault("wrong number of fields", UsageError(problem, f"mend the row, {DROP}", file=path, line=number))
            else:
                yield number, dict(zip(columns, item, strict=True)) | {"split": split}


def conll_rows(path: Path, lines: Lines, fault: Fault, columns: Sequence[str]) -> Iterator[Record]:
    """(line, row) for the sentences of a CoNLL file: a token and its tags in each line, blank lines between sentences.

    Without `columns` the first field is `tokens` and the last one `ner_tags`. `entities` are those of the last field.
    """
    start, held, broken = 0, list[list[str]](), False
    for number, line in chain(lines, [(0, "")]):
        text = line.removesuffix("\n").removesuffix("\r")
        fields = [field.strip() for field in text.split("\t")] if "\t" in text else [f for f in text.split(" ") if f]
        if any(fields) and not (not held and _is_comment(text, fields)):
            start = start or number
            wanted = len(columns) or (len(held[0]) if held else max(2, len(fields)))
            if len(fields) != wanted and not broken:
                problem = f"{len(fields)} fields in a line of a sentence that has {wanted}"
                fault("wrong number of fields", UsageError(problem, f"mend the line, {DROP}", file=path, line=number))
                broken = True
            held.append(fields)
        elif not any(fields):
            if held and not broken and held[0][0] != "-DOCSTART-":
                yield start, _sentence(held, columns)
            start, held, broken = 0, [], False


def _is_comment(text: str, fields: list[str]) -> bool:
    """Whether a line before a sentence tells something about it, and is not a token # with its tag."""
    return text.startswith("#") and "\t" not in text and not re.fullmatch(r"O|_|[BIESLU]-\S+", fields[-1])


def _sentence(held: list[list[str]], columns: Sequence[str]) -> dict[str, Any]:
    names = columns or ["tokens", *[""] * (len(held[0]) - 2), "ner_tags"]
    row: dict[str, Any] = {name: list(values) for name, values in zip(names, zip(*held, strict=True), strict=True)}
    row.pop("", None)
    return {**row, "entities": entities(row[names[0]], row[names[-1]])}


def unrolled(records: Iterable[Record], lists: Mapping[str, str], path: Path, fault: Fault) -> Iterator[Record]:
    """A row for each item of the lists: name of the item -> where its list lies, such as `passage.questions`; later
    ones may lie inside the items of earlier ones. Rows are counted anew."""
    count = 0
    for number, row in records:
        rows = [row]
        try:
            for name, place in lists.items():
                rows = [{**outer, name: item} for outer in rows for item in _items(outer, place)]
        except UsageError as error:
            fault("malformed record", error.at(file=path, line=number))
            continue
        for made in rows:
            count += 1
            yield count, made


def _items(row: Mapping[str, Any], place: str) -> list[Any]:
    found = reach(row, place)
    if not isinstance(found, list):
        problem = "is no list in the row" if found is not None else "is not in the row"
        raise UsageError(f'unroll: "{place}" {problem}', nearest(place.split(".")[0], row), field=place)
    return found


def reach(row: Any, place: str) -> Any:
    """The value at a dotted place in a row, such as `answers.text.0`; None if there is none."""
    for key in place.split("."):
        if isinstance(row, Mapping):
            row = row.get(key)
        elif isinstance(row, (list, tuple)) and key.isdecimal() and int(key) < len(row):
            row = row[int(key)]
        else:
            return None
    return row


def reached(records: Iterable[Record], places: Iterable[str]) -> Iterator[Record]:
    """The rows with the values at dotted places as columns of these names."""
    dotted = [place for place in places if "." in place]
    for number, row in records:
        found = {place: reach(row, place) for place in dotted if place not in row}
        yield number, {**row, **{place: value for place, value in found.items() if value is not None}}


def matched(records: Iterable[Record], pattern: re.Pattern[str], path: Path, fault: Fault) -> Iterator[Record]:
    """Rows whose columns are the named groups of a pattern in the row's line."""
    for number, row in records:
        match = pattern.fullmatch(row["text"])
        if match is None:
            problem = f'the line "{row["text"][:40]}" does not fit the pattern'
            fault("malformed row", UsageError(problem, f"mend the pattern or the line, {DROP}", file=path, line=number))
        else:
            yield number, match.groupdict()


def beside(
    records: Iterable[Record], path: Path, others: Mapping[str, tuple[Path, Callable[[], Iterator[Record]]]]
) -> Iterator[Record]:
    """Rows with a column more for each other file, whose lines are counted off with theirs; UsageError if one ends
    before the other. others: column -> its file, and what gives its lines."""
    streams = [read() for _, read in others.values()]
    for count, (record, *lines) in enumerate(zip_longest(records, *streams)):
        for (column, (other, _)), line in zip(others.items(), lines, strict=True):
            if record is None or line is None:
                short, long = (path, other) if record is None else (other, path)
                problem = f"ends after {count:,} rows, before {long.name}: they do not belong together line by line"
                raise UsageError(problem, "fetch both anew", file=short, field=f"beside.{column}")
            if column in record[1]:
                raise UsageError(f'{path.name} has a column "{column}" itself', "choose another name", field="beside")
        yield record[0], {**record[1], **{name: line[1]["text"] for name, line in zip(others, lines, strict=True)}}
