"""The prose of the starter world: documents for pre-training, as token strings and as plain text.

A document is a string of words apart by spaces; `^` before a word says that the words before it determine it, so that
its loss counts in full. No document is an instruction with an answer: asks appear as thoughts, talk and statements.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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


def documents(
    seed: int, mix: Mapping[str, float] = MIX, dense: float = 0.3, ahead: bool = False, world_seed: int = WORLD_SEED
) -> Iterator[str]:
    """Endless documents of a seed, marked with `^`; a share of them `dense`: small texts, many asks settled at once.

    ahead: of the others most put an ask ahead of the text and settle few.
    """
    rng, w = Random(f"corpus {seed}"), world(world_seed)
    sorts, weights = list(mix), list(mix.values())
    while True:
        for sort in rng.choices(sorts, weights, k=256):
            yield document(rng, w, sort, rng.random() < dense, ahead)


def document(rng: Random, w: World, sort: str, dense: bool = False, ahead: bool = False) -> str:
    """One document of a sort (a key of `MIX`)."""
    if sort == "prose":
        lines = rng.sample(table("frames")["prose"], 3)
        return " ".join(line.format(n=rng.choice(w.names), m=rng.choice(w.names)) for line in lines)
    ahead = ahead and not dense
    piece = sample(rng, w, sort, small=dense or (ahead and rng.random() < 0.5))
    few = sort in ("review", "feelings", "news")
    n = 4 if few else rng.choice((12, 14, 16) if dense else (1, 2, 3, 6) if ahead else (6, 8, 10, 12))
    return compose(rng, w, piece, n, 0.0 if dense else 0.75 if ahead else 0.4, dense)


def sample(rng: Random, w: World, sort: str, held: bool = False, small: bool = False) -> Piece:
    """A piece of a sort with its sizes drawn at random."""
    if sort == "scene":
        people = rng.choices((2, 3, 4), (5, 4, 0) if small else (4, 5, 2))[0]
        slots = rng.choices((1, 2, 3), (6, 3, 0) if small else (4, 5, 1))[0]
        return pieces.scene(rng, w, held, people, rng.sample(w.slots, slots), rng.choice(STYLES), rng.random() < 0.3)
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


def compose(rng: Random, w: World, piece: Piece, n: int, before: float = 0.4, dense: bool = False) -> str:
    """A document of a piece and `n` of its asks; with chance `before` one comes before the text, settled after it."""
    by_skill: dict[str, list[Ask]] = {}
    for ask in piece.asks:
        by_skill.setdefault(ask.skill, []).append(ask)
    skills = list(by_skill)
    if before > 0.5 and "look" in by_skill:  # the plainest ask, and the last one learnt
        skills += ["look", "look"]
    asks = [rng.choice(by_skill[rng.choice(skills)]) for _ in range(n)] if len(skills) > 1 else piece.asks[:n]
    parts: list[str] = []
    if piece.text and before and rng.random() < before:
        question, answer = wonder(rng, w, asks[0])
        parts = [question, piece.text, settle(rng, w, answer)]
        asks = asks[1:]
    elif piece.text:
        parts = [piece.text]
    parts += [realize(rng, w, ask, dense) for ask in asks]
    return _LOST.sub("\n ", _ARTICLE.sub(r"\1n ", " ".join(parts)))


def realize(rng: Random, w: World, ask: Ask, dense: bool = False) -> str:
    """An ask settled at once: in a statement, in brief, or (not if dense) as a thought with words between."""
    frames, draw = table("frames"), rng.random() * (0.8 if dense else 1.0)
    own = _own(ask)
    if draw < 0.35 and "say" in own:
        return str(rng.choice(own["say"]).format(a=ask.answer, **ask.fields))
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
