"""How many rules: when does a model that learns rules one by one begin to follow rules it never saw?

Claim: At the same number of examples, a model tuned on few different rules does not generalise to new ones; beyond
    some number of rules it does, and the change is sharp.
Miniature: A rule is "replace this word by that one"; a question is a rule and a list of six words in which the first
    stands twice, and only the one further left is to be replaced. 1, 16 and 512 rules, 1,024 examples in all, one
    pass. Asked: lists under rules never trained on.
Expected: With one rule, new rules are followed in at most 10 of 100 cases; with 512 in at least 80; and 512 rules
    beat 16 by at least 10 points.
Limits: The paper trained a small model from nothing on a million examples; the starter can copy words before it is
    tuned, so that its threshold, where there is one, lies lower. That the threshold moves with the width of the model
    was not tried. A first try with half as many examples saw the same order, further down.
Paper: Zhang et al. 2024, arXiv 2402.10891.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from didact.audit.interval import Interval
from didact.instance import Instance, Origin
from didact.reproduce.bank import asking, words
from didact.reproduce.bench import Bench
from didact.reproduce.seen import Seen, lead, row
from didact.reproduce.sign import Sign

COUNTS = (1, 16, 512)
TOTAL, ITEMS, LENGTH = 1024, 120, 6
LONGEST = 24  # tokens of an answer
LOW, HIGH, SMALLEST = 0.1, 0.8, 0.1


def reproduce(bench: Bench) -> Seen:
    """A ladder of rules at the same number of examples."""
    lexicon = _lexicon()
    known, new = lexicon[::2], lexicon[1::2]
    asked = {"own": [_example(_rule(new, i), new, f"asked {i}") for i in range(bench.items(ITEMS))]}

    def draw(count: int) -> Callable[[int], list[Instance]]:
        def of(seed: int) -> list[Instance]:
            rules = [_rule(known, f"{seed} {i}") for i in range(count)]
            return [_example(rules[i % count], known, f"{seed} {i}") for i in range(bench.size(TOTAL))]

        return of

    base = bench.untuned(asked, LONGEST, False)
    arms = {n: bench.train(f"{n} rule{'s'[: n > 1]}", draw(n), asked, longest=LONGEST) for n in COUNTS}
    few, many = (arms[n].sets["own"].mean(asked["own"]) for n in (COUNTS[0], COUNTS[-1]))
    signs = [
        Sign(f"512 rules reach {HIGH:.0%} on new rules", "no less", shifted(many, -HIGH), 1e-9),
        Sign(f"1 rule stays below {LOW:.0%} on new rules", "no less", shifted(negative(few), LOW), 1e-9),
        Sign("512 rules beat 16", "more", lead(arms[512], arms[16], asked["own"]), SMALLEST),
    ]
    columns = {"new rules, %": ("own", "score")}
    return Seen([row(one, asked, columns) for one in (base, *arms.values())], signs)


def shifted(interval: Interval, by: float) -> Interval:
    """An interval moved by a constant."""
    return replace(interval, value=interval.value + by, low=interval.low + by, high=interval.high + by)


def negative(interval: Interval) -> Interval:
    return replace(interval, value=-interval.value, low=-interval.high, high=-interval.low)


def _lexicon() -> list[str]:
    from didact.starter.world import world

    return sorted({word for some in world().kinds.values() for word in some if word.isalpha()})


def _rule(lexicon: Sequence[str], mark: object) -> tuple[str, str]:
    one, other = Random(f"rule {mark}").sample(lexicon, 2)
    return one, other


def _example(rule: tuple[str, str], lexicon: Sequence[str], mark: str) -> Instance:
    rng = Random(f"example {mark}")
    old, new = rule
    listed = rng.sample([word for word in lexicon if word not in rule], LENGTH)
    first, second = sorted(rng.sample(range(LENGTH), 2))
    listed[first] = listed[second] = old
    answer = [new if i == first else word for i, word in enumerate(listed)]
    question = words()["rule"].format(old=old, new=new, list=" ".join(listed))
    return asking(question, " ".join(answer), Origin("rules", hash_of(mark), task="replace", cluster="replace"))


def hash_of(mark: str) -> int:
    """A number for a mark, the same in every process."""
    import zlib

    return zlib.crc32(mark.encode())
