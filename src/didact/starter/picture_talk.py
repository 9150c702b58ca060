"""Conversations, descriptions and reasoning about pictures: the three kinds of LLaVA's data (arXiv 2304.08485).

They are in words that no template has, so that wordings that are held out stay unseen. A conversation asks for one fact
after another; a description tells all facts in one of a few orders; reasoning tells what an answer rests on, and then
the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from didact.starter.picture_facts import ASKED, MAKERS, Columns, things
from didact.starter.scenes import draw, lay, world

TURNS = 5


def talk(rng: Random) -> Columns:
    """A picture, and `TURNS` questions about it in turn."""
    scene = lay(rng, things(rng, rng.choice((2, 3, 4))))
    asked = [name for name, told in world()["tasks"].items() if "talk" in told]
    turns: list[tuple[str, str]] = []
    for name in rng.choices(asked, k=3 * TURNS):
        facts = ASKED[name](scene, rng)
        if facts is None or len(turns) == TURNS:
            continue
        told = world()["tasks"][name]
        question, answer = _said(rng.choice(told["talk"]), facts), _said(told["answer"], facts)
        if not any(question == other for other, _ in turns):
            turns.append((question, answer))
    return {"key": scene.key, "messages": _messages([draw(scene, rng)], turns)}


def detail(rng: Random) -> Columns:
    """A picture, and all that can be said of its things, in the order in which they are asked for."""
    scene = lay(rng, things(rng, rng.choice((2, 3, 4))))
    way = rng.choice(world()["detail"])
    laid = [(number, thing) for number, thing in enumerate(scene.places) if thing is not None]
    facts = [
        {"kind": thing.name, "colour": thing.colour, "place": scene.place_of(number)}
        for number, thing in rng.sample(laid, len(laid))
    ]
    listed = ", ".join(_said(way["listed"], one) for one in facts)
    answer = ", ".join(_said(way["thing"], one) for one in facts)
    question = _said(rng.choice(way["phrasings"]), {"list": listed})
    return {"key": scene.key, "messages": _messages([draw(scene, rng)], [(question, answer)])}


def reason(rng: Random) -> Columns:
    """A question that needs more than a look, and its answer behind what it rests on."""
    name = rng.choice([name for name, told in world()["tasks"].items() if "reason" in told])
    facts, told = MAKERS[name](rng), world()["tasks"][name]
    answer = _said(told["answer"] if "grounds" in told["answer"] else "{{ grounds }}: " + told["answer"], facts)
    question = _said(rng.choice(told["reason"]), facts)
    pictures = [facts[column] for column in ("image", "other") if column in facts]
    return {"key": facts["key"], "messages": _messages(pictures, [(question, answer)])}


KINDS: Mapping[str, Callable[[Random], Columns]] = {"talk": talk, "detail": detail, "reason": reason}


def _said(words: str, facts: Columns) -> str:
    from didact.template import Template

    named = {column: value for column, value in facts.items() if isinstance(value, str)}
    return Template("told", prompt="-", answer=words).render(named).answer


def _messages(pictures: list[bytes], turns: list[tuple[str, str]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for question, answer in turns:
        found += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    shown = [{"type": "image", "image": {"bytes": picture}} for picture in pictures]
    found[0]["content"] = [*shown, {"type": "text", "text": turns[0][0]}]
    return found
