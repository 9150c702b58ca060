"""The prose of the starter world: documents for pre-training, as token strings and as plain text.

A document is a string of words apart by spaces; `^` before a word says that the words before it determine it, so that
its loss counts in full. No document is an instruction with an answer: asks appear as thoughts, talk and statements.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from random import Random

from didact.starter import pieces
from didact.starter.pieces import Ask, Piece
from didact.starter.world import WORLD_SEED, World, table, world

STYLES = ("prose", "notes", "talk", "record")
# How often each sort of document is written; what is learnt late gets more.
MIX: Mapping[str, float] = {
    "scene": 0.33, "story": 0.04, "listed": 0.25, "odd": 0.07, "twins": 0.04, "known": 0.12, "review": 0.03,
    "feelings": 0.02, "news": 0.02, "labels": 0.07, "prose": 0.02,
}  # fmt: skip
# Sorts that MIX leaves out, of which one thing is asked: look-up, claims, who are alike, what a list has.
DRILLED = ("owners", "checks", "alike", "haves")
# How a document puts its asks. full: as the gates do, few of them; long: many; dense: a small text and many asks
# settled at once; brief: one to three of them; ahead: one ask, a small text, the answer; thoughts: asks with words
# before their answers.
LAYOUTS: Mapping[str, float] = {"full": 0.15, "long": 0.35, "dense": 0.3, "ahead": 0.1, "thoughts": 0.1}


def documents(
    seed: int,
    mix: Mapping[str, float] = MIX,
    layouts: Mapping[str, float] = LAYOUTS,
    stand_ins: float = 0.0,
    world_seed: int = WORLD_SEED,
) -> Iterator[str]:
    """Endless documents of a seed, marked with `^`, of the sorts of `mix` in the `layouts`, drawn by their weights.

    stand_ins: in that share of the documents other words stand where people stood, so that anything can own a thing.
    """
    rng, w = Random(f"corpus {seed}"), world(world_seed)
    while True:
        sorts = rng.choices(list(mix), list(mix.values()), k=256)
        for sort, layout in zip(sorts, rng.choices(list(layouts), list(layouts.values()), k=256), strict=True):
            text = document(rng, w, sort, layout)
            yield stand_in(rng, w, text) if stand_ins and rng.random() < stand_ins else text


def document(rng: Random, w: World, sort: str, layout: str = "full") -> str:
    """One document of a sort (a key of `MIX`) in a layout (a key of `LAYOUTS`)."""
    if sort == "prose":
        lines = rng.sample(table("frames")["prose"], 3)
        return " ".join(line.format(n=rng.choice(w.names), m=rng.choice(w.names)) for line in lines)
    piece = sample(rng, w, sort, small=layout in ("dense", "ahead", "thoughts", "brief"))
    few = sort in ("review", "feelings", "news")
    if layout in ("ahead", "brief") and sort == "odd":
        piece = replace(piece, asks=[ask for ask in piece.asks if ask.skill == "odd"])
    if layout == "brief":
        return compose(rng, w, piece, rng.choice((1, 2, 3)) if piece.text else 4, 0.0, brief=1.0)
    if layout == "ahead":
        return compose(rng, w, piece, rng.choice((1, 1, 1, 2)) if piece.text else 4, 1.0)
    if layout == "thoughts":
        return compose(rng, w, piece, 4 if few else rng.choice((5, 6, 7)), 0.0, brief=0.0)
    if layout == "dense":
        return compose(rng, w, piece, 4 if few else rng.choice((12, 14, 16)), 0.0, brief=1.0)
    if layout == "long":
        return compose(rng, w, piece, 4 if few else rng.choice((8, 10, 12)))
    return compose(rng, w, piece, rng.choice((1, 1, 2, 3)))


def stand_in(rng: Random, w: World, text: str) -> str:
    """The document with each person replaced by some other word, the same one throughout."""
    if not _OWNERS:
        taken = {value for slot in w.slots for value in w.values[slot.name]} | set(w.reserved_names)
        tables = [*w.facts.values(), w.opposites]
        words = {*w.labels, *(word for table in tables for row in table.items() for word in row)}
        _OWNERS.extend(sorted(words - taken - set(w.kind_of) - set(w.kinds)))
    names, here = set(w.names), text.replace("^", "").split(" ")
    people = dict.fromkeys(word for word in here if word in names)
    others = [word for word in rng.sample(_OWNERS, 2 * len(people) + 4) if word not in here]
    other = dict(zip(people, others, strict=False))
    return " ".join(
        "^" + other.get(word[1:], word[1:]) if word.startswith("^") else other.get(word, word)
        for word in text.split(" ")
    )


_OWNERS: list[str] = []


def sample(rng: Random, w: World, sort: str, held: bool = False, small: bool = False) -> Piece:
    """A piece of a sort with its sizes drawn at random."""
    if sort == "scene":
        people = rng.choices((2, 3, 4), (5, 4, 0) if small else (4, 5, 2))[0]
        things = rng.choices((1, 2, 3), (6, 3, 0) if small else (4, 5, 1))[0]
        return pieces.scene(rng, w, held, people, rng.sample(w.slots, things), rng.choice(STYLES), rng.random() < 0.3)
    if sort == "haves":
        piece = pieces.listed(rng, w, held, rng.choice((4, 5, 5, 6)), "mixed")
        asks = [ask for ask in piece.asks if ask.skill == "have"]
        return replace(piece, asks=rng.sample(asks, len(asks)))
    if sort == "owners":
        slots = rng.sample(w.slots, rng.choice((1, 2, 2)))
        scene = pieces.scene(rng, w, held, rng.choice((3, 3, 4)), slots, rng.choice(STYLES))
        looks = [ask for ask in scene.asks if ask.skill == "look"]
        return replace(scene, asks=rng.sample(looks, len(looks)))
    if sort in ("checks", "alike"):
        people = rng.choice((3, 3, 4)) if sort == "alike" else rng.choice((2, 2, 3) if small else (2, 3, 3, 4))
        slots = rng.sample(w.slots, 1 if small or rng.random() < 0.5 else 2)
        scene = pieces.scene(rng, w, held, people, slots, rng.choice(STYLES), sort == "alike")
        asks = pieces.claims(scene) if sort == "checks" else pieces.pairs(scene, slots[0])
        return replace(scene, asks=rng.sample(asks, len(asks)))
    if sort == "story":
        return pieces.story(rng, w, held, rng.sample(w.slots, rng.choice((3, 4, 5))), rng.choice(STYLES))
    if sort in ("listed", "odd"):
        return pieces.listed(rng, w, held, rng.choice((4, 5, 5, 6, 7)), "mixed" if sort == "listed" else "odd")
    if sort == "twins":
        return pieces.twins(rng, w, held, 10)
    if sort == "known":
        skills = ("isa", "opp", "fact.capital", "fact.river", "fact.origin", "fact.season")
        return pieces.known(rng, w, None, rng.choices(skills, (8, 3, 4, 3, 2, 2))[0], 10)
    if sort == "review":
        return pieces.review(rng, w, held, rng.choice(list(w.data["reviewed"])))
    if sort == "feelings":
        return pieces.feelings(rng, w, held, rng.choice((1, 2, 2)))
    if sort == "news":
        return pieces.report(rng, w, held, rng.choice((2, 3)))
    return pieces.labels(rng, w, held, rng.choice((2, 3, 3, 4)), "define" if rng.random() < 0.8 else "example")


def compose(
    rng: Random, w: World, piece: Piece, n: int, before: float = 0.4, brief: float | None = None, first: bool = False
) -> str:
    """A document of a piece and `n` of its asks; with chance `before` one comes before the text, settled after it.

    brief, first: as in `realize`.
    """
    by_skill: dict[str, list[Ask]] = {}
    for ask in piece.asks:
        by_skill.setdefault(ask.skill, []).append(ask)
    skills = list(by_skill)
    asks = [rng.choice(by_skill[rng.choice(skills)]) for _ in range(n)] if len(skills) > 1 else piece.asks[:n]
    parts: list[str] = []
    if piece.text and before and rng.random() < before:
        question, answer = wonder(rng, w, asks[0])
        parts = [question, piece.text, settle(rng, w, answer)]
        asks = asks[1:]
    elif piece.text:
        parts = [piece.text]
    parts += [realize(rng, w, ask, brief, first) for ask in asks]
    return _LOST.sub("\n ", _ARTICLE.sub(r"\1n ", " ".join(parts)))


def realize(rng: Random, w: World, ask: Ask, brief: float | None = None, first: bool = False) -> str:
    """An ask settled at once: in a statement, in brief, or as a thought with words between.

    brief: 0, only thoughts; 1, no thoughts; else four in five are not. first: only the statements that were there
    when the gates' targets were set.
    """
    frames, draw = table("frames"), rng.random() if brief is None else 0.8 * rng.random() if brief else 1.0
    own = _own(ask)
    if draw < 0.35 and "say" in own:
        said = own["say"] if first else [*own["say"], *own.get("also", [])]
        return str(rng.choice(said).format(a=ask.answer, **ask.fields))
    question, answer = phrase(rng, ask)
    if draw < 0.8:
        return str(rng.choice(frames["brief"]).format(q=question, a=answer))
    thought = rng.choice(frames["think"]).format(q=question, p=rng.choice(w.names))
    return f"{thought} {settle(rng, w, answer)}"


def wonder(rng: Random, w: World, ask: Ask) -> tuple[str, str]:
    """The ask as a thought, and its answer still to come."""
    question, answer = phrase(rng, ask)
    return str(rng.choice(table("frames")["think"]).format(q=question, p=rng.choice(w.names))), answer


def settle(rng: Random, w: World, answer: str) -> str:
    """Words between, from none to eight, sometimes any words at all; then the answer."""
    link = rng.choice(table("frames")["link"]).format(p=rng.choice(w.names)) if rng.random() < 0.6 else ""
    if rng.random() < 0.4:
        link = " ".join((*(rng.choice(every_word()) for _ in range(rng.randint(1, 5))), link))
    return f"{link} ^{answer} {rng.choice(('.', '.', ',', ';'))}".strip().replace("  ", " ")


def phrase(rng: Random, ask: Ask) -> tuple[str, str]:
    """The ask as a phrase, and the answer in the pair of labels that the phrase names."""
    frames, skill, answer = table("frames"), ask.skill, ask.answer
    if skill == "tone":
        return rng.choice(frames["mood"]["other"]), answer
    if skill == "feel":
        return rng.choice(frames["mood"]["feel"]).format(**ask.fields), answer
    text = rng.choice(_own(ask)["ask"]).format(**ask.fields)
    pairs = {"check": "truth", "have": "truth", "same": "equal", "twin": "equal"}.get(skill)
    if pairs is None:
        return text, answer
    pair = frames[pairs][0] if rng.random() < 0.5 else rng.choice(frames[pairs])
    word = pair[0] if answer in ("yes", "same") else pair[1]
    if pair is frames[pairs][0] and rng.random() < 0.5:
        return text, word
    return (f"{pair[2]} , {text}" if rng.random() < 0.5 else f"{text} , {pair[2]}"), word


def _own(ask: Ask) -> Mapping[str, list[str]]:
    """The frames of an ask's skill."""
    frames = table("frames")
    if ask.skill.startswith("fact."):
        found: Mapping[str, list[str]] = frames["fact"][ask.skill[5:]]
        return found
    found = {} if ask.skill in ("tone", "feel") else frames[ask.skill]
    return found


_LOST = re.compile(r"\n (?:[.,:;?!] )+")  # points that would open a line
_ARTICLE = re.compile(r"\b([Aa]) (?=\^?[aeiou])")
_WORDS: list[str] = []


def every_word() -> list[str]:
    """All lowercase words of the world's kinds and labels, for words without meaning between others."""
    if not _WORDS:
        w = world()
        _WORDS.extend(sorted({*w.kind_of, *w.labels, *w.opposites}))
    return _WORDS


_GLUE = re.compile(r" (?=[.,:;?!])| (?='s\b)")


def plain(document: str) -> str:
    """The document as people write it: marks gone, punctuation close to its word."""
    return (
        _GLUE.sub("", _ARTICLE.sub(r"\1n ", document.replace("^", "")))
        .replace(" \n", "\n")
        .replace("\n ", "\n")
        .strip()
    )
