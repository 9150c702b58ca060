"""Annotated rows as instructions, and back: tagged tokens (CoNLL, BIO) and questions on a text (SQuAD).

They are read in one wording, so that nothing of them is lost; a set of templates puts them into many. An instance of
another format is written only if it is such a row: a tag for each token, an answer that stands in its text once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

import yaml

from didact.conll import TAG
from didact.errors import UsageError
from didact.formats.fields import DROP, extra, joined, kept, list_of, mistyped, rest, text_of
from didact.formats.single import apart, only_question_and_answer
from didact.instance import Instance, Message, Origin, Part, digest
from didact.sandbox import TemplateDrop
from didact.squad import flat_answers

OTHER = "write it as alpaca or messages"


def read_conll(row: Mapping[str, Any], origin: Origin) -> list[Instance]:
    """Tokens, one to a line, as the input; their tags as the answer."""
    key = "tags" if "ner_tags" not in row and "tags" in row else "ner_tags"
    tokens, tags = _texts(row, "tokens"), _texts(row, key)
    if len(tokens) != len(tags):
        raise UsageError(f"{len(tokens)} tokens but {len(tags)} tags", f"mend it, {DROP}", field=key)
    if not any(tokens) or not "".join(tags).strip():
        raise TemplateDrop("the sentence has no tokens or no tags")
    names = {"ner_tags": key} if key != "ner_tags" else {}
    tags_ = kept("conll", columns=rest(row, "tokens", key), names=names, read=len(tokens))
    return [_instance(_words()["conll"]["instruction"], "\n".join(tokens), "\n".join(tags), (), origin, tags_)]


def write_conll(instance: Instance) -> dict[str, Any]:
    """Tokens and tags, with the further columns that the row had; UsageError if not every token has its tag."""
    only_question_and_answer(instance)
    tokens, tags = apart(instance)[1].split("\n"), instance.answer.split("\n")
    if len(tokens) != len(tags):
        problem = f"{len(tokens)} lines of input but {len(tags)} of answer, where each token needs its tag"
        raise UsageError(problem, OTHER, field="ner_tags")
    if not extra(instance, "conll", "read"):
        for token, tag in zip(tokens, tags, strict=True):
            if len(token.split()) != 1 or not TAG.fullmatch(tag):
                problem = f'"{token[:40]}" with "{tag[:40]}" is no token with its tag'
                raise UsageError(problem, OTHER, field="ner_tags")
    key = extra(instance, "conll", "names").get("ner_tags", "ner_tags")
    return joined({"tokens": tokens, key: tags}, extra(instance, "conll", "columns"))


def read_squad(row: Mapping[str, Any], origin: Origin) -> list[Instance]:
    """The question as the instruction, its text as the input, the first answer; the others are references."""
    context, question, texts = text_of(row, "context"), text_of(row, "question"), _answers(row)
    if texts and row.get("is_impossible"):
        problem = "says that the question cannot be answered, and answers stand beside it"
        raise UsageError(problem, f"mend it, {DROP}", field="is_impossible")
    right = list(dict.fromkeys(texts)) or [_words()["squad"]["unanswerable"]]
    plain = _instance(question, context, right[0], tuple(right[1:]), origin, {})
    own_id = "id" in row and row["id"] == plain.id  # given when it was written
    columns = rest(row, "context", "question", "answers", *(["id"] if own_id else []))
    # The answers as they are written, and by what to see whether they still hold.
    held = {"answers": [row["answers"]], "seen": _seen(plain), "anonymous": "id" not in row}
    return [Instance.of(plain.messages, origin, plain.references, tags=kept("squad", columns=columns, **held))]


def write_squad(instance: Instance) -> dict[str, Any]:
    """A row with the hub's columns; UsageError where an answer does not stand in the text, or nobody knows where.

    An instance that has no id, and was not read without one, gets its own.
    """
    only_question_and_answer(instance)
    question, context = apart(instance)
    if not context.strip():
        raise UsageError("has no text that the question is asked of", OTHER, field="context")
    columns, held = extra(instance, "squad", "columns"), extra(instance, "squad", "answers")
    unanswerable = bool(held) and not flat_answers(held[0])["text"]
    if held and (
        extra(instance, "squad", "seen") == _seen(instance)
        or (unanswerable and instance.answer == _words()["squad"]["unanswerable"])
    ):
        answers = held[0]
    else:
        texts = (instance.answer, *instance.references)
        answers = {"text": list(texts), "answer_start": [_place(text, context) for text in texts]}
        columns = {**columns, "is_impossible": False} if columns.get("is_impossible") else columns
    named = "id" in columns or extra(instance, "squad", "anonymous")
    own = {} if named else {"id": instance.id}
    return joined({**own, "context": context, "question": question, "answers": answers}, columns)


def is_conll(row: Mapping[str, Any]) -> bool:
    """Whether a row has as many tags as tokens."""
    tokens, tags = row.get("tokens"), row.get("ner_tags", row.get("tags"))
    return isinstance(tokens, list) and isinstance(tags, list) and len(tokens) == len(tags)


def is_squad(row: Mapping[str, Any]) -> bool:
    """Whether the answers of a row are texts with places in its context."""
    try:
        flat_answers(row["answers"])
    except (KeyError, TypeError, AttributeError, ValueError):
        return False
    return isinstance(row["context"], str)


def _instance(
    instruction: str, given: str, answer: str, references: tuple[str, ...], origin: Origin, tags: Mapping[str, str]
) -> Instance:
    parts = (Part(instruction + "\n", "instruction"), Part(given, "input"))
    messages = (Message("user", parts), Message("assistant", (Part(answer, "answer"),)))
    return Instance.of(messages, origin, references, tags=tags)


def _texts(row: Mapping[str, Any], key: str) -> list[str]:
    """A list of texts without line ends."""
    values = list_of(row, key)
    for place, value in enumerate(values):
        if isinstance(value, int) and key != "tokens":
            fix = f"say what the numbers mean: labels: {{{key}: [name of 0, name of 1, ...]}}"
            raise UsageError("holds a number where text should be", fix, field=f"{key}.{place}")
        if not isinstance(value, str):
            raise mistyped(value, "text", f"{key}.{place}")
        if "\n" in value:
            raise UsageError("holds a line end", f"mend it, {DROP}", field=f"{key}.{place}")
    return values


def _answers(row: Mapping[str, Any]) -> Sequence[str]:
    """The texts of the answers; UsageError naming the field for anything that is no text with its place."""
    if "answers" not in row:
        raise UsageError('the field "answers" is missing', f"add it {DROP}", field="answers")
    try:
        found = flat_answers(row["answers"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        problem = f"the answers are not as in SQuAD: {error}"
        raise UsageError(problem, f"write {{text: [...], answer_start: [...]}}, {DROP}", field="answers") from error
    for number, (text, start) in enumerate(zip(found["text"], found["answer_start"], strict=True)):
        if not isinstance(text, str):
            raise mistyped(text, "text", f"answers.text.{number}")
        if not text.strip():
            raise UsageError("the answer is empty", f"fill it, {DROP}", field=f"answers.text.{number}")
        if not isinstance(start, int) or isinstance(start, bool):
            raise mistyped(start, "a number of characters", f"answers.answer_start.{number}")
    return found["text"]


def _place(text: str, context: str) -> int:
    """Where an answer stands in its text; refused where that is nowhere, or one of several places."""
    place = context.find(text)
    if place < 0:
        raise UsageError(f'the answer "{text[:40]}" does not stand in the text', OTHER, field="answers")
    if context.rfind(text) != place:
        problem = f'the answer "{text[:40]}" stands in the text more than once, and nothing says which is meant'
        raise UsageError(problem, OTHER, field="answers")
    return place


def _seen(instance: Instance) -> str:
    return digest([instance.messages[0].parts[-1].value, instance.answer, list(instance.references)])


@lru_cache(maxsize=1)
def _words() -> dict[str, dict[str, str]]:
    text = (resources.files("didact") / "formats" / "annotated.yaml").read_text("utf-8")
    found: dict[str, dict[str, str]] = yaml.safe_load(text)
    return found
