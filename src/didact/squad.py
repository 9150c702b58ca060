"""SQuAD's JSON (v1.1, v2, XQuAD, MLQA), read and written: articles, their paragraphs, and the questions asked on them.

A question is a row with the hub's columns. What these do not tell (versions, further keys of articles and paragraphs,
paragraphs without questions) stays in the column `squad` of the row where it belongs, so that rows make the document
again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from didact.errors import UsageError
from didact.tables import DROP, Fault, Record

Row = dict[str, Any]
BESIDE = "squad"
FLAT = ("id", "title", "context", "question", "answers")
# document: further keys of it. opens, closes: articles and paragraphs that begin before, or after, the question.
# question: its keys that a row has other columns for. answers: as they are, if columns cannot tell. without: keys.
KEYS = {"document", "opens", "closes", "question", "answers", "without"}


def is_squad(value: Any) -> bool:
    """Whether a JSON document is written as SQuAD: {data: [{paragraphs: [...]}]}."""
    articles = value.get("data") if isinstance(value, dict) else None
    return isinstance(articles, list) and any(isinstance(item, dict) and "paragraphs" in item for item in articles)


def squad_rows(value: Any, path: Path, fault: Fault) -> Iterator[Record]:
    """(number, row) for the questions of a SQuAD document, with the hub's columns and further keys of the question.

    id, title, context, question, answers: {text: [...], answer_start: [...]}; an unanswerable question has no text.
    """
    if not is_squad(value):
        raise UsageError("is not written as SQuAD", "it needs data[].paragraphs[].qas[]", file=path)
    number, opens, before = 0, list[dict[str, Any]](), None
    held: tuple[int, Row, dict[str, Any]] | None = None
    beside: dict[str, Any] = {"document": told} if (told := _rest(value, "data")) else {}

    def malformed(problem: str) -> None:
        fault("malformed record", UsageError(problem, f"mend it, {DROP}", file=path, line=number + 1))

    for article in value["data"]:
        if not isinstance(article, dict) or not isinstance(article.get("paragraphs"), list):
            malformed("an article that is not as in SQuAD: it has no list of paragraphs")
            continue
        opens.append({"article": _rest(article, "paragraphs")})
        for paragraph in article["paragraphs"]:
            if not isinstance(paragraph, dict) or not isinstance(paragraph.get("qas"), list):
                malformed("a paragraph that is not as in SQuAD: it has no list of questions (qas)")
                continue
            opens.append({"paragraph": _rest(paragraph, "qas")})
            for question in paragraph["qas"]:
                try:
                    row, more = _row(article, paragraph, question)
                except (KeyError, TypeError, AttributeError, ValueError) as error:
                    malformed(f"the question is not as in SQuAD: {error}")
                    number += 1
                    continue
                number += 1
                if opens != _usual(row, before):
                    beside["opens"] = _owned(opens)
                if held is not None:
                    yield _told(*held)
                held, before, beside, opens = (number, row, {**beside, **more}), row, {}, []
    if held is not None:
        yield _told(held[0], held[1], {**held[2], "closes": opens} if opens else held[2])


def squad_document(rows: Iterable[Row], lost: Counter[str]) -> dict[str, Any]:
    """The document of questions; what one row says of the document counts against what a later one says."""
    document: dict[str, Any] = {}
    articles: list[dict[str, Any]] = []
    before: Row | None = None
    for number, row in enumerate(rows, 1):
        beside = _beside(row)
        try:
            for key, value in beside.get("document", {}).items():
                if document.setdefault(key, value) != value:
                    lost[f"{key} of another document"] += 1
            _open(articles, beside.get("opens"), row, before)
            articles[-1]["paragraphs"][-1]["qas"].append(_question(row, beside))
            for event in beside.get("closes", ()):
                _begin(articles, event)
            before = None if "closes" in beside else row
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            problem = f'the column "{BESIDE}" is not as didact writes it'
            raise UsageError(problem, "leave the column out", line=number, field=BESIDE) from error
    return {**document, "data": articles}


def read_back(document: Any, rows: Sequence[Row]) -> list[Row]:
    """The rows that a document will be read as; UsageError if a question of `rows` is not what it was."""

    def fault(reason: str, error: UsageError) -> None:
        raise error

    read = [row for _, row in squad_rows(document, Path(), fault)]
    if [_plain(row) for row in read] != [_plain(row) for row in rows]:
        raise UsageError("a question does not read back as it was", "write jsonl instead")
    return read


def flat_answers(answers: Any) -> dict[str, list[Any]]:
    """Answers as columns, also from a list of objects; raises KeyError, TypeError or ValueError for anything else."""
    if isinstance(answers, Mapping):
        for key, value in answers.items():
            if not isinstance(value, list) or len(value) != len(answers["text"]):
                raise ValueError(f"{key} is no list with an item for each answer")
        return {key: answers[key] for key in ("text", "answer_start")}
    return {key: [answer[key] for answer in answers] for key in ("text", "answer_start")}


def _row(article: Row, paragraph: Row, question: Any) -> tuple[Row, dict[str, Any]]:
    """The row of a question, and what its columns do not tell of the question."""
    none = question.get("is_impossible", False)
    row = {
        **({"id": question["id"]} if "id" in question else {}),
        **({"title": article["title"]} if "title" in article else {}),
        "context": paragraph["context"],
        "question": question["question"],
        "answers": flat_answers([] if none else question["answers"]),
    }
    others = _rest(question, "id", "question", "answers")
    taken = {key: value for key, value in others.items() if key in (*FLAT, BESIDE)}
    beside: dict[str, Any] = {"question": taken} if taken else {}
    if "answers" not in question:
        beside["without"] = ["answers"]
    row |= {key: value for key, value in others.items() if key not in taken}
    if "answers" in question and _listed(row["answers"]) != question["answers"]:
        beside["answers"] = question["answers"]
    return row, beside


def _plain(row: Row) -> list[Any]:
    """What a question is, however its row writes it."""
    return [row.get("id"), row.get("title"), row["context"], row["question"], flat_answers(row["answers"])]


def _question(row: Row, beside: Mapping[str, Any]) -> dict[str, Any]:
    """A question as the document has it; its answers as they were, unless they have changed since."""
    gone = {*FLAT, BESIDE} if beside or row.get(BESIDE) is None else {*FLAT}
    others = {key: value for key, value in row.items() if key not in gone}
    flat = flat_answers(row["answers"])
    answers = _listed(row["answers"])
    if "answers" in beside and flat == flat_answers([] if row.get("is_impossible") else beside["answers"]):
        answers = beside["answers"]
    own = {"id": row.get("id"), "question": row["question"], "answers": answers}
    without = [*beside.get("without", ()), *(() if "id" in row else ("id",))]
    if flat["text"]:  # it has got answers since
        without = [key for key in without if key != "answers"]
    found = {key: value for key, value in own.items() if key not in without}
    return {**found, **others, **beside.get("question", {})}


def _listed(answers: Any) -> list[dict[str, Any]]:
    """Answers as the document has them: an object each, with further columns of the same length."""
    if not isinstance(answers, Mapping):
        return [dict(answer) for answer in answers]
    return [dict(zip(answers, values, strict=True)) for values in zip(*answers.values(), strict=True)]


def _usual(row: Row, before: Row | None) -> list[dict[str, Any]]:
    """What begins before a question if nothing else is said: another title an article, another text a paragraph."""
    paragraph = {"paragraph": {"context": row["context"]}}
    if before is None or _title(before) != _title(row):
        return [{"article": _title(row)}, paragraph]
    return [] if before["context"] == row["context"] else [paragraph]


def _title(row: Row) -> dict[str, Any]:
    return {"title": row["title"]} if row.get("title") is not None else {}


def _owned(opens: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What begins before a question; its own article and paragraph, the last ones, without title and text: its row has
    them."""
    found = list(opens)
    for kind, key in (("article", "title"), ("paragraph", "context")):
        own = next((place for place in reversed(range(len(found))) if kind in found[place]), None)
        if own is not None and found[own][kind].get(key) is not None:
            found[own] = {kind: _rest(found[own][kind], key), "own": True}
    return found


def _open(articles: list[dict[str, Any]], opens: Any, row: Row, before: Row | None) -> None:
    """Begin what begins before a question, an article also where the row that told of it is gone."""
    events = usual = _usual(row, before)
    if opens is not None:
        events = [event for event in usual if "article" in event and not any("article" in e for e in opens)] + opens
    own = {"article": _title(row), "paragraph": {"context": row["context"]}}
    for event in events:
        kind = "article" if "article" in event else "paragraph"
        _begin(articles, {kind: {**own[kind], **event[kind]}} if event.get("own") else event)


def _begin(articles: list[dict[str, Any]], event: Mapping[str, Any]) -> None:
    if "article" in event:
        articles.append({**event["article"], "paragraphs": []})
    else:
        articles[-1]["paragraphs"].append({**event["paragraph"], "qas": []})


def _beside(row: Row) -> dict[str, Any]:
    """What the column `squad` of a row tells; nothing if it is a column of somebody else's."""
    value = row.get(BESIDE)
    return value if isinstance(value, dict) and value and set(value) <= KEYS else {}


def _told(number: int, row: Row, beside: dict[str, Any]) -> Record:
    return number, {**row, BESIDE: beside} if beside else row


def _rest(value: Mapping[str, Any], *known: str) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key not in known}
