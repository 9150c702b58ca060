"""Drills on random words: copying, look-up, neighbours, with no meaning to lean on (first, and as replay later)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from random import Random

from didact.starter.pieces import ORDINALS
from didact.starter.world import world

Drill = Callable[[Random, Sequence[str]], str]
SEPARATORS = (":", "=", "-", "|", "is", "has", ">")


def repeat(rng: Random, words: Sequence[str]) -> str:
    """A string of words, again and again; all but the first of a round is determined."""
    line = rng.sample(words, rng.randint(6, 20))
    rounds = max(2, 46 // len(line))
    return " ".join([*line, *([line[0], *(f"^{word}" for word in line[1:])] * (rounds - 1))])


def things(rng: Random, words: Sequence[str]) -> str:
    """A string of things, many of them of one kind, again and again: words that are like each other are told apart."""
    return repeat(rng, list(world().kind_of))


def key_value(rng: Random, words: Sequence[str]) -> str:
    """Keys with values, then the keys again in another order."""
    n, sep, end = rng.randint(3, 7), rng.choice(SEPARATORS), rng.choice((",", ";", "."))
    some = rng.sample(words, 2 * n)
    pairs = list(zip(some[:n], some[n:], strict=True))
    again = rng.sample(pairs, n)
    return " ".join([*(f"{k} {sep} {v} {end}" for k, v in pairs), *(f"{k} {sep} ^{v} {end}" for k, v in again)])


def chunks(rng: Random, words: Sequence[str]) -> str:
    """Chunks of words, then the chunks in another order."""
    size, n = rng.randint(3, 5), rng.randint(3, 5)
    some = rng.sample(words, size * n)
    parts = [some[i * size : (i + 1) * size] for i in range(n)]
    again = [" ".join([part[0], *(f"^{word}" for word in part[1:])]) for part in rng.sample(parts, n)]
    return " ".join([*some, *again])


def places(rng: Random, words: Sequence[str]) -> str:
    """A list, then its words by their places."""
    some = rng.sample(words, rng.randint(4, 7))
    sep = rng.choice((" ", " , "))
    asks = [f"{name} ^{some[i]}" for i, name in enumerate(ORDINALS[: min(4, len(some))])] + [f"last ^{some[-1]}"]
    rng.shuffle(asks)
    return f"{sep.join(some)} . {' , '.join(asks * 2)} ."


def neighbours(rng: Random, words: Sequence[str]) -> str:
    """A list, then the word before or after some of its words."""
    some = rng.sample(words, rng.randint(4, 7))
    sep = rng.choice((" ", " , "))
    pairs = list(pairwise(some))
    asks = [f"before {b} : ^{a}" for a, b in pairs] + [f"after {a} : ^{b}" for a, b in pairs]
    return f"{sep.join(some)} . {' ; '.join(rng.sample(asks, min(8, len(asks))))} ."


def backwards(rng: Random, words: Sequence[str]) -> str:
    """Keys with values, then the values, each leading back to its key."""
    n, sep = rng.randint(3, 6), rng.choice((":", "=", "is"))
    some = rng.sample(words, 2 * n)
    pairs = list(zip(some[:n], some[n:], strict=True))
    return " ".join([*(f"{k} {sep} {v} ;" for k, v in pairs), *(f"who {v} ? ^{k} ;" for k, v in rng.sample(pairs, n))])


def member(rng: Random, words: Sequence[str]) -> str:
    """A list, then whether some words are in it."""
    some = rng.sample(words, 2 * rng.randint(3, 6))
    inside, outside = some[: len(some) // 2], some[len(some) // 2 :]
    asks = [(word, "yes") for word in inside] + [(word, "no") for word in outside]
    frame = rng.choice(("{} ? ^{} ;", "is {} : ^{} ,", "{} there , yes or no : ^{} ."))
    lines = (frame.format(*ask) for ask in rng.sample(asks, len(asks)))
    return f"{rng.choice((' ', ' , ')).join(inside)} . {' '.join(lines)}"


def equal(rng: Random, words: Sequence[str]) -> str:
    """Pairs of words, the same or not."""
    frame = rng.choice(("{} and {} : ^{} ;", "{} , {} ? ^{} .", "{} beside {} - ^{} ,"))
    lines = []
    for _ in range(8):
        one, two = rng.sample(words, 2)
        lines.append(frame.format(one, one, "same") if rng.random() < 0.5 else frame.format(one, two, "different"))
    return " ".join(lines)


def claim(rng: Random, words: Sequence[str]) -> str:
    """Keys with values, then pairs of them, true or not."""
    n, sep = rng.randint(2, 4), rng.choice((":", "=", "is", "has"))
    some = rng.sample(words, 2 * n)
    keys, values = some[:n], some[n:]
    frame = rng.choice(("{} {} {} ? ^{} ;", "whether {} {} {} : ^{} ,", "{} {} {} , yes or no : ^{} ."))
    lines = []
    for _ in range(8):
        i, true = rng.randrange(n), rng.random() < 0.5
        j = i if true else rng.choice([k for k in range(n) if k != i])
        lines.append(frame.format(keys[i], sep, values[j], "yes" if true else "no"))
    return " ".join([*(f"{k} {sep} {v} ;" for k, v in zip(keys, values, strict=True)), *lines])


def asked(rng: Random, words: Sequence[str]) -> str:
    """A claim first, then keys with values, then whether it is true."""
    n, sep = rng.randint(2, 4), rng.choice((":", "=", "is", "has"))
    some = rng.sample(words, 2 * n)
    keys, values, i = some[:n], some[n:], rng.randrange(n)
    true = rng.random() < 0.5
    j = i if true else rng.choice([k for k in range(n) if k != i])
    text = " ".join(f"{k} {sep} {v} ;" for k, v in zip(keys, values, strict=True))
    start = rng.choice(("{} {} {} ?", "whether {} {} {} .", "yes or no , {} {} {} ?")).format(keys[i], sep, values[j])
    return f"{start} {text} {rng.choice(('so :', ':', 'It was'))} ^{'yes' if true else 'no'} ."


def alike(rng: Random, words: Sequence[str]) -> str:
    """Keys with one of two values, then pairs of keys, of the same value or not."""
    n, sep = rng.randint(3, 4), rng.choice((":", "=", "is", "has"))
    some = rng.sample(words, n + 2)
    keys, two = some[:n], some[n:]
    values = [*two, *(rng.choice(two) for _ in range(n - 2))]
    rng.shuffle(values)
    frame = rng.choice(("{} and {} ? ^{} ;", "{} , {} : ^{} ,", "{} beside {} - ^{} ."))
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    groups = [[p for p in pairs if (values[p[0]] == values[p[1]]) == same] for same in (True, False)]
    lines = []
    for _ in range(8):
        same = rng.random() < 0.5
        i, j = rng.choice(groups[not same])
        lines.append(frame.format(keys[i], keys[j], "same" if same else "different"))
    return " ".join([*(f"{k} {sep} {v} ;" for k, v in zip(keys, values, strict=True)), *lines])


DRILLS: Mapping[str, Drill] = {
    "repeat": repeat,
    "key_value": key_value,
    "chunks": chunks,
    "places": places,
    "neighbours": neighbours,
    "backwards": backwards,
    "member": member,
    "equal": equal,
    "claim": claim,
    "asked": asked,
    "alike": alike,
    "things": things,
}
FIRST = ("repeat", "key_value", "chunks", "places", "neighbours", "backwards")
SECOND = (*FIRST, "member", "equal")
