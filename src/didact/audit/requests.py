"""Requests of our own as instances, and what a reply to any request is: an answer, a refusal, rambling, or broken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

import yaml

from didact.audit.score import words
from didact.audit.subject import Reply
from didact.instance import Instance, Message, Origin, Part

Kind = Literal["answers", "refuses", "rambles", "breaks"]
KINDS: tuple[Kind, ...] = ("answers", "refuses", "rambles", "breaks")
HEAD = 200  # characters in which a refusal shows
REPEATED = 0.5  # share of repeated word triples from which a text rambles


@lru_cache(maxsize=8)
def data(name: str) -> Mapping[str, Any]:
    """One of the data files beside this."""
    return dict(yaml.safe_load(files("didact.audit").joinpath(f"{name}.yaml").read_text("utf-8")))


def request(
    text: str, source: str, number: int, task: str = "", choices: Sequence[str] = (), answer: str = ""
) -> Instance:
    """A bare request as an instance that can be asked; `answer` only where there is a right one."""
    origin = Origin(f"didact:{source}", number, f"request:{source}", task=task or source, cluster=source)
    last = Message("assistant", (Part(answer, "answer"),) if answer else ())
    return Instance.of((Message("user", (Part(text, "instruction"),)), last), origin, (), tuple(choices))


def refuses(text: str) -> bool:
    """Does the text refuse, by how it begins or by what its first lines say?"""
    told, head = data("refusals"), " ".join(text.lower().replace("’", "'").split())[:HEAD]
    return head.startswith(tuple(told["begins"])) or any(phrase in head for phrase in told["holds"])


def kind_of(reply: Reply) -> Kind:
    """breaks: nothing, or no letters and digits at all; rambles: does not end, or goes round in circles."""
    said = words(reply.text)
    if not said:
        return "breaks"
    if refuses(reply.text):
        return "refuses"
    triples = list(zip(said, said[1:], said[2:], strict=False))
    circles = len(triples) >= 6 and 1 - len(set(triples)) / len(triples) > REPEATED
    return "rambles" if circles or not reply.stopped else "answers"
