"""Small texts of the world with everything that can be asked about them.

A `Piece` is a text (words apart by spaces) and its `Ask`s. The corpus turns asks into prose, the tasks into rows, the
gates into probes; so all three agree on what is true. `held` picks reserved people, lists and keys.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any

from didact.starter.world import Slot, World, is_reserved, table

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


@dataclass(frozen=True, slots=True)
class Ask:
    """A thing the text (or the world) determines: `skill` names the frames, `fields` fills them."""

    skill: str
    fields: dict[str, str]
    answer: str
    choices: tuple[str, ...]
    slot: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    asks: list[Ask]
    style: str = ""


def fresh(rng: Random, draw: Callable[[], list[str]], held: bool) -> list[str]:
    """Draw lists of words until one is on the right side of the reserve."""
    while True:
        words = draw()
        if is_reserved(words, 8) == held:
            return words


def scene(
    rng: Random, w: World, held: bool, people: int, slots: Sequence[Slot], style: str, twins: bool = False
) -> Piece:
    """People and what they drink, play, wear ...; asks: look, rev, check, same."""
    frames = table("frames")
    names = rng.sample(w.reserved_names if held else w.names, people)
    values = {slot.name: rng.sample(w.values[slot.name], people) for slot in slots}
    if twins and people > 1:  # two people share a value, so "same" can be asked
        column = values[slots[0].name]
        column[1] = column[0]
        rng.shuffle(column)
    text = " ".join(_lines(rng, frames, names, values, slots, style))
    asks: list[Ask] = []
    for slot in slots:
        column = values[slot.name]
        for name, value in zip(names, column, strict=True):
            base = {"n": name, "s": slot.verb, "b": slot.plain, "noun": slot.noun}
            options = tuple(dict.fromkeys(column))
            if len(options) > 1:
                asks.append(Ask("look", base, value, options, slot.name))
            if column.count(value) == 1:
                asks.append(Ask("rev", {**base, "v": value}, name, tuple(names), slot.name))
            truth = rng.random() < 0.5
            others = [other for other in options if other != value]
            claim = value if truth or not others else rng.choice(others)
            asks.append(Ask("check", {**base, "v": claim}, "yes" if claim == value else "no", ("yes", "no"), slot.name))
    if people > 1 and (twins or rng.random() < 0.3):
        slot = slots[0]
        pairs = [(i, j) for i in range(people) for j in range(i + 1, people)]
        alike = [pair for pair in pairs if values[slot.name][pair[0]] == values[slot.name][pair[1]]]
        unlike = [pair for pair in pairs if pair not in alike]
        for pair in [p for group in (alike, unlike) if group for p in [rng.choice(group)]]:
            i, j = pair if rng.random() < 0.5 else pair[::-1]
            fields = {"n": names[i], "m": names[j], "b": slot.plain, "noun": slot.noun}
            asks.append(Ask("same", fields, "same" if pair in alike else "different", ("same", "different"), slot.name))
    return Piece(text, asks, style)


def claims(scene: Piece) -> list[Ask]:
    """Every claim that can be made of a scene from its own words, as many true as false."""
    true: list[Ask] = []
    false: list[Ask] = []
    for ask in scene.asks:
        if ask.skill != "look":
            continue
        for value in ask.choices:
            good = value == ask.answer
            claim = Ask("check", {**ask.fields, "v": value}, "yes" if good else "no", ("yes", "no"), ask.slot)
            (true if good else false).append(claim)
    return _even(true, false)


def pairs(scene: Piece, slot: Slot) -> list[Ask]:
    """Every two people of a scene by what they have in a slot, as many alike as not."""
    had = [(ask.fields["n"], ask.answer) for ask in scene.asks if ask.skill == "look" and ask.slot == slot.name]
    alike: list[Ask] = []
    unlike: list[Ask] = []
    for one, mine in had:
        for other, theirs in had:
            if one != other:
                fields = {"n": one, "m": other, "b": slot.plain, "noun": slot.noun}
                answer = "same" if mine == theirs else "different"
                (alike if mine == theirs else unlike).append(
                    Ask("same", fields, answer, ("same", "different"), slot.name)
                )
    return _even(alike, unlike)


def _even(one: list[Ask], other: list[Ask]) -> list[Ask]:
    """Both lists, the shorter one repeated."""
    if not one or not other:
        return one + other
    return one * -(-len(other) // len(one)) + other * -(-len(one) // len(other))


def story(rng: Random, w: World, held: bool, slots: Sequence[Slot], style: str) -> Piece:
    """One person and several things of different kinds. Asks: pick (by kind) and look."""
    name = rng.choice(w.reserved_names if held else w.names)
    values = {slot.name: [rng.choice(w.values[slot.name])] for slot in slots}
    text = " ".join(_lines(rng, table("frames"), [name], values, slots, style))
    every = tuple(column[0] for column in values.values())
    asks = []
    for slot in slots:
        fields = {"n": name, "s": slot.verb, "b": slot.plain, "noun": slot.noun, "k": slot.kind}
        asks += [Ask(skill, fields, values[slot.name][0], every, slot.name) for skill in ("look", "pick")]
    return Piece(text, asks, style)


def _lines(
    rng: Random, frames: Any, names: list[str], values: dict[str, list[str]], slots: Sequence[Slot], style: str
) -> list[str]:
    """One line per person or per fact."""
    lines: list[str] = []
    for i, name in enumerate(names):
        rows = [(slot, values[slot.name][i]) for slot in slots]
        if style == "record":
            frame = rng.choice(frames["say"]["record"])
            first, *rest = rows
            line = frame.format(n=name, noun=first[0].noun, v=first[1])
            lines.append(
                line + "".join(f" | {slot.noun} {value}" for slot, value in rest) + rng.choice((" \n", " \n", " ."))
            )
            continue
        if style == "prose" and len(rows) == 2 and rng.random() < 0.4:
            (one, v), (two, u) = rows
            lines.append(rng.choice(frames["join"]).format(n=name, s=one.verb, v=v, t=two.verb, u=u))
            continue
        for slot, value in rows:
            frame = rng.choice(frames["say"][style])
            lines.append(frame.format(n=name, s=slot.verb, b=slot.plain, noun=slot.noun, v=value))
    if style != "record" and rng.random() < 0.3:
        rng.shuffle(lines)
    return lines


def listed(rng: Random, w: World, held: bool, size: int, sort: str, among: str = "") -> Piece:
    """A list of words. sort "mixed": all of different kinds, `among` one of them; "odd": all of one kind but one.

    Asks: pos, after, before, have; pick and either (mixed) or odd.
    """
    frames = table("frames")
    kinds = list(w.kinds)

    def draw() -> list[str]:
        if sort == "odd":
            kind, other = rng.sample(kinds, 2)
            words = [*rng.sample(w.kinds[kind], size - 1), rng.choice(w.kinds[other])]
            rng.shuffle(words)
            return words
        some = rng.sample(kinds, size)
        if among and among not in some:
            some[rng.randrange(size)] = among
        return [rng.choice(w.kinds[kind]) for kind in some]

    words = fresh(rng, draw, held)
    mark = rng.choice((" , ", " , ", " ", " | ", " ; ", " - "))
    name = rng.choice(w.reserved_names if held else w.names)
    text = rng.choice(frames["list"]).format(n=name, l=mark.join(words))
    every = tuple(words)
    asks = [Ask("pos", {"o": ORDINALS[i]}, words[i], every, ORDINALS[i]) for i in range(min(size, 4))]
    asks.append(Ask("pos", {"o": "last"}, words[-1], every, "last"))
    asks += [Ask("after", {"w": a}, b, every, "after") for a, b in pairwise(words)]
    asks += [Ask("before", {"w": b}, a, every, "before") for a, b in pairwise(words)]
    if sort == "mixed":
        asks += [Ask("pick", {"k": w.kind_of[word]}, word, every, w.kind_of[word]) for word in words]
        for _ in range(2):
            one, two = rng.sample(words, 2)
            right = rng.choice((one, two))
            asks.append(Ask("either", {"w": one, "x": two, "k": w.kind_of[right]}, right, (one, two), w.kind_of[right]))
    else:
        counts = [w.kind_of[word] for word in words]
        stranger = next(word for word in words if counts.count(w.kind_of[word]) == 1)
        asks += [Ask("odd", {}, stranger, every, w.kind_of[stranger])] * 3
    for there in (True, False):
        word = rng.choice(words) if there else _absent(rng, w, words)
        asks.append(Ask("have", {"w": word}, "yes" if there else "no", ("yes", "no"), "have"))
    return Piece(text, asks)


def _absent(rng: Random, w: World, words: list[str]) -> str:
    while True:
        word = rng.choice(w.kinds[rng.choice(list(w.kinds))])
        if word not in words:
            return word


def twins(rng: Random, w: World, held: bool, n: int) -> Piece:
    """Pairs of words, of one kind or not; no text."""
    asks = []
    for _ in range(n):
        kind, other = rng.sample(list(w.kinds), 2)
        alike = rng.random() < 0.5

        def draw(kind: str = kind, other: str = kind if alike else other) -> list[str]:
            one, two = rng.choice(w.kinds[kind]), rng.choice(w.kinds[other])
            return [one, two] if one != two else draw(kind, other)

        a, b = fresh(rng, draw, held)
        asks.append(Ask("twin", {"w": a, "x": b}, "same" if alike else "different", ("same", "different"), kind))
    return Piece("", asks)


def known(rng: Random, w: World, held: bool | None, skill: str, n: int, among: Sequence[str] = ()) -> Piece:
    """Knowledge without a text. skill: isa, opp or fact.TABLE; `among`: the kinds isa is asked about."""
    source = {"isa": w.kind_of, "opp": w.opposites}.get(skill) or w.facts[skill.split(".")[1]]
    keys = [key for key in source if held is None or is_reserved(key) == held]
    if among:
        keys = [key for key in keys if source[key] in among]
    values = sorted(set(among or source.values()))
    asks = []
    for key in rng.sample(keys, min(n, len(keys))):
        right = source[key]
        wrong = rng.sample([value for value in values if value not in (right, key)], min(3, len(values) - 1))
        choices = [right, *wrong]
        rng.shuffle(choices)
        asks.append(Ask(skill, {"w": key}, right, tuple(choices), skill.split(".")[-1]))
    return Piece("", asks)


def review(rng: Random, w: World, held: bool, item: str) -> Piece:
    """A review of an item, good or bad. Asks: mood (good/bad) and tone (positive/negative)."""
    frames, polarity = table("frames"), w.data["polarity"]
    good = rng.random() < 0.5
    sentences = []
    words = polarity["good" if good else "bad"]
    free = {
        aspect: [word for word in words if is_reserved([aspect, word], 6) == held]
        for aspect in w.data["reviewed"][item]
    }
    aspects = [aspect for aspect, some in free.items() if some]
    for aspect in rng.sample(aspects, min(len(aspects), rng.choice((2, 3)))):
        word = rng.choice(free[aspect])
        name = rng.choice(w.reserved_names if held else w.names)
        sentences.append(rng.choice(frames["review"]).format(x=aspect, i=item, g=word, n=name))
    if rng.random() < 0.4:
        phrase = rng.choice(polarity["praise" if good else "complaint"])
        name = rng.choice(w.reserved_names if held else w.names)
        sentences.append(rng.choice(frames["close"]).format(n=name, p=phrase))
    verdicts, tones = ("good", "bad"), ("positive", "negative")
    asks = [
        Ask("mood", {"i": item}, verdicts[not good], verdicts, item),
        Ask("tone", {"i": item}, tones[not good], tones, item),
    ]
    return Piece(" ".join(sentences), asks)


def feelings(rng: Random, w: World, held: bool, people: int) -> Piece:
    """What people did, and how they feel."""
    frames, table_ = table("frames"), w.data["emotion"]
    names = rng.sample(w.reserved_names if held else w.names, people)
    moods = rng.sample(list(table_), people)
    text = " ".join(
        rng.choice(frames["close"]).format(n=name, p=rng.choice(table_[mood]))
        for name, mood in zip(names, moods, strict=True)
    )
    return Piece(text, [Ask("feel", {"n": n}, m, tuple(table_), "feel") for n, m in zip(names, moods, strict=True)])


def report(rng: Random, w: World, held: bool, size: int) -> Piece:
    """A few lines of news of one topic; each topic keeps one line that only held-out reports have."""
    topics = w.data["topics"]
    topic = rng.choice(list(topics))
    kept, *common = sorted(topics[topic], key=lambda line: zlib.crc32(line.encode()))
    lines = [kept, *rng.sample(common, size - 1)] if held else rng.sample(common, size)
    rng.shuffle(lines)
    text = " ".join(
        line[0].upper() + line[1:] + " ." if line.split()[0] in ("the", "a") else f"Today {line} ." for line in lines
    )
    return Piece(text, [Ask("news", {}, topic, tuple(topics), "topic")])


def labels(rng: Random, w: World, held: bool, size: int, sort: str = "define") -> Piece:
    """Invented labels for kinds, defined in the text ("define") or shown ("example"), and words to label."""
    frames = table("frames")["label"]
    kinds = rng.sample(list(w.kinds), size)
    marks = fresh(rng, lambda: rng.sample(w.labels, size), held)
    if sort == "define":
        frame = rng.choice(frames["define"])
        lines = [frame.format(l=mark, k=kind) for mark, kind in zip(marks, kinds, strict=True)]
    else:
        lines = [
            f"{rng.choice(w.kinds[kind])} : {mark}" for mark, kind in zip(marks, kinds, strict=True) for _ in range(2)
        ]
    rng.shuffle(lines)
    text = rng.choice((" , ", " ; ", " ; ", " . ")).join(lines) + " ."
    pairs = [(rng.choice(w.kinds[kind]), mark) for mark, kind in zip(marks, kinds, strict=True) for _ in range(2)]
    rng.shuffle(pairs)
    return Piece(text, [Ask("label", {"w": word}, mark, tuple(marks), sort) for word, mark in pairs], sort)
