"""Talks, descriptions and reasoning about pictures, by a language model that is told what is in them and sees nothing.

LLaVA (Liu et al. 2023, arXiv 2304.08485): captions and boxes of an annotated picture stand for it; a text-only teacher
writes a conversation, a detailed description, and a question that needs reasoning, each as if it saw the picture. The
prompts are our own words; the rules are the paper's: ask only what can be answered for sure, never mention captions or
boxes. A text that does is dropped.

Limits: what captions leave out is never asked about, and what they get wrong is learnt.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as resources
from itertools import islice
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from didact import files
from didact.album import Album, scratch
from didact.errors import UsageError
from didact.generate.context import Context, dialogue, name_of
from didact.generate.faults import fault
from didact.generate.prompts import prompt
from didact.generate.settings import Licence, MaxTokens, Teacher, Temperature, TopP
from didact.instance import Instance, Message, Part
from didact.llm import Bill, Request
from didact.llm.budget import tokens_of
from didact.pictures import size

NAME = "llava"
Kind = Literal["conversation", "description", "reasoning"]
ROUND = 256  # pictures asked about together
SAID = re.compile(r"^\W*(question|answer)\W*:\W?", re.IGNORECASE | re.MULTILINE)


class LlavaConfig(BaseModel):
    """Instructions about pictures from their captions and boxes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["llava"] = Field("llava", description="talks, descriptions and reasoning about pictures")
    rows: str = Field(description="file of annotated pictures: a column for the picture, captions, and maybe boxes")
    image: str = Field("image", description="column of the picture")
    captions: str = Field("captions", description="column of its captions: a text or a list of them")
    boxes: str = Field(
        "boxes", description="column of its things, if there is one: a list of {label, box: [left, top, right, bottom]}"
    )
    pictures: str = Field("", description="folder of the pictures; that of the file unless given")
    kinds: list[Kind] = Field(
        ["conversation", "description", "reasoning"], min_length=1, description="what is written about each picture"
    )
    turns: int = Field(4, ge=1, le=20, description="questions of a conversation")
    limit: int | None = Field(None, ge=1, description="use at most so many pictures")
    teacher: Teacher = ""
    temperature: Temperature = 0.7
    top_p: TopP = 0.9
    max_tokens: MaxTokens = 1024
    licence: Licence = ""


@dataclass(frozen=True)
class _Seen:
    """A picture and what the teacher is told of it. place: file and row."""

    line: int
    place: str
    picture: str
    captions: tuple[str, ...]
    boxes: tuple[Mapping[str, Any], ...]

    def asked(self, kind: Kind, turns: int) -> str:
        return prompt(f"llava_{kind}", captions=self.captions, boxes=self.boxes, turns=turns)


def llava(config: LlavaConfig, context: Context) -> Iterator[Instance]:
    """The instances that became of each picture, kind by kind; tags `kind` and `call`."""
    teacher, rows, done = context.llm(config.teacher), islice(_rows(config, context), config.limit), 0
    while some := list(islice(rows, ROUND)):
        pairs = [(seen, kind) for seen in some for kind in config.kinds]
        requests = (
            Request(
                (("user", seen.asked(kind, config.turns)),), temperature=config.temperature, top_p=config.top_p,
                max_tokens=config.max_tokens,
            )
            for seen, kind in pairs
        )  # fmt: skip
        for (seen, kind), reply in zip(pairs, teacher.ask(requests), strict=True):
            if not reply.ok:
                context.rejected(NAME, reply, seen.line)
                continue
            turns = _turns(kind, reply.text, seen, context.seed)
            why = "cut" if reply.finish == "length" else _why(reply.text, turns, seen.asked(kind, config.turns))
            if why:
                context.left_out(NAME, f"{kind}: {why}", reply.text, seen.line, seen.place)
                continue
            yield dialogue(
                NAME,
                tuple(_message(i, text, seen.picture) for i, text in enumerate(turns)),
                number=seen.line,
                teacher=teacher.name,
                parents=(seen.place,),
                licence=config.licence,
                tags={"kind": kind, "call": reply.key, "instruction": name_of(turns[0])},
            )
        done += len(some)
        context.progress(done, config.limit or done)


def _message(i: int, text: str, picture: str) -> Message:
    if i % 2:
        return Message("assistant", (Part(text, "answer"),))
    image = (Part(picture, "input", "image"),) if i == 0 else ()
    return Message("user", (*image, Part(text, "instruction")))


def _turns(kind: Kind, text: str, seen: _Seen, seed: int) -> list[str]:
    """Questions and answers in turn; empty if the text is not written so."""
    if kind == "description":
        question = random.Random(f"{seed} describe {seen.place}").choice(_words()["describe"])
        said = re.sub(r"^\W*description\W*:\s*", "", text.strip(), flags=re.IGNORECASE)
        return [question, said] if said else []
    pieces = SAID.split(text)[1:]
    roles, texts = [role.lower() for role in pieces[::2]], [piece.strip() for piece in pieces[1::2]]
    pairs = len(texts) // 2
    whole = pairs and roles == ["question", "answer"] * pairs and all(texts)
    return texts if whole and (kind == "conversation" or pairs == 1) else []


def _why(text: str, turns: Sequence[str], asked: str) -> str:
    """Why a reply is no use; "" if it is."""
    if bad := fault(text, asked):
        return bad
    if not turns:
        return "not written as questions and answers"
    if any(_tells().search(turn) for turn in turns):
        return "it speaks of captions or boxes"
    if len(set(turns[::2])) < len(turns[::2]):
        return "asks the same twice"
    return next((bad for turn in turns if (bad := fault(turn))), "")


def _rows(config: LlavaConfig, context: Context) -> Iterator[_Seen]:
    """The annotated pictures; UsageError naming file, row and column for one that is not as it should be."""
    path = context.home / config.rows
    if not path.exists():
        raise UsageError("there is no such file of annotated pictures", "check rows", file=path)

    def stop(reason: str, error: UsageError) -> None:
        raise UsageError(error.problem, error.fix, file=path, line=error.line, field=error.field)

    root = context.home / config.pictures if config.pictures else path.parent
    album = Album(context.pictures or scratch(), root)
    for line, row in files.records(path, stop):
        try:
            yield _seen(config, row, album, line, f"{config.rows}:{line}")
        except UsageError as error:
            raise error.at(file=path, line=line) from error


def _seen(config: LlavaConfig, row: Mapping[str, Any], album: Album, line: int, place: str) -> _Seen:
    for column in (config.image, config.captions):
        if not row.get(column):
            raise UsageError(f'the row has no "{column}"', "fill it, or name the column: image, captions", field=column)
    told = row[config.captions]
    captions = [told] if isinstance(told, str) else told
    if not isinstance(captions, list) or not all(isinstance(text, str) and text.strip() for text in captions):
        raise UsageError("the captions are no texts", "write a text or a list of texts", field=config.captions)
    picture = album.home.absolute() / album.keep(row[config.image], config.image)
    boxes = row.get(config.boxes) or []
    found = tuple(_box(box, size(picture), f"{config.boxes}.{i}") for i, box in enumerate(boxes))
    return _Seen(line, place, str(picture), tuple(captions), found)


def _box(box: Any, of: tuple[int, int], field: str) -> Mapping[str, Any]:
    """A thing with its place from 0 to 1; places in pixels are brought to that."""
    label, place = (box.get("label"), box.get("box")) if isinstance(box, Mapping) else (None, None)
    numbers = [each for each in place if isinstance(each, int | float)] if isinstance(place, list) else []
    if not isinstance(label, str) or len(numbers) != 4 or numbers[0] > numbers[2] or numbers[1] > numbers[3]:
        fix = "write {label: ..., box: [left, top, right, bottom]}"
        raise UsageError("the box is not written as a label and four numbers", fix, field=field)
    scale = (1, 1) if max(numbers) <= 1 else of
    if min(numbers) < 0 or max(n / scale[i % 2] for i, n in enumerate(numbers)) > 1:
        raise UsageError(f"the box lies outside of the picture ({of[0]} x {of[1]})", "mend it", field=field)
    return {"label": label, "place": [f"{n / scale[i % 2]:.2f}" for i, n in enumerate(numbers)]}


@cache
def _words() -> Any:
    return yaml.safe_load((resources(__package__) / "llava.yaml").read_text("utf-8"))


@cache
def _tells() -> re.Pattern[str]:
    return re.compile("|".join(_words()["tells"]), re.IGNORECASE)


def bill(config: LlavaConfig, context: Context) -> Bill:
    """One call for each picture and kind."""
    n, read = 0, 0
    for seen in islice(_rows(config, context), config.limit):
        n += len(config.kinds)
        read += sum(tokens_of(seen.asked(kind, config.turns)) for kind in config.kinds)
    return Bill(n, read, n * min(config.max_tokens, 220))
