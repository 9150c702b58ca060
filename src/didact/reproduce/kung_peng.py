"""Surface patterns: does tuning on instructions teach the tasks, or the space of their answers?

Claim: With few instances per task, a model tuned with instructions that name only the space of answers does as well
    on new tasks as one tuned with the real instructions, and both hardly beat a guess among the allowed answers;
    demonstrations whose answers are paired wrongly train as well as right ones.
Miniature: The starter's tasks, 256 instances (one or two per task) and 768, in four wordings of the same rows: real
    instructions; only the allowed answers and the text (simplified); only the text (empty); and real instructions
    with labels drawn at random. Training targets stay right but for the last. Arms are asked tasks never trained on,
    each in the wording it was trained with. Two arms have a demonstration before each question, right or paired
    wrongly, and are asked with a right one, a half of the questions.
Expected: With few instances: simplified at most 5 points below original, a guess at most 5 points below original,
    untuned far below, empty below original; wrongly paired demonstrations as good as right ones. With many instances
    the gap between original and simplified opens.
Limits: The base knows the world and most skills before tuning, so that a real instruction has much to bring out; the
    models of the paper were larger and their tasks wider. Prompts without instruction do not name what is asked of
    the text.
Paper: Kung & Peng 2023, arXiv 2305.11383.
"""

from __future__ import annotations

from collections.abc import Sequence

from didact.audit.controls import random_labels
from didact.audit.measure import groups_of, sample
from didact.audit.seeds import seed_interval
from didact.audit.surface_arms import demonstrated
from didact.instance import Instance
from didact.reproduce.bench import Bench, Trained
from didact.reproduce.prompts import said
from didact.reproduce.seen import Seen, lead, row
from didact.reproduce.sign import Sign

FEW, MANY = 256, 768
ITEMS, SHOWN = 160, 80


def reproduce(bench: Bench) -> Seen:
    """Four wordings with few instances, two with many, two kinds of demonstrations."""
    bank = bench.bank
    asked = sample(bank.far, bench.items(ITEMS), 0)

    def worded(instances: Sequence[Instance], kind: str) -> list[Instance]:
        if kind in ("simplified", "empty"):
            return said(instances, bank.rows, kind)
        return random_labels(instances, 0) if kind == "random labels" else list(instances)

    def arm(kind: str, n: int) -> Trained:
        own = asked if kind == "random labels" else worded(asked, kind)
        draw = bank.draw(bench.size(n))
        return bench.train(f"{kind}, {n:,}", lambda seed: worded(draw(seed), kind), {"own": own})

    some = asked[: bench.items(SHOWN)]

    def shown(delusive: bool) -> Trained:
        name = f"{'a wrongly paired' if delusive else 'a right'} demonstration, {FEW}"
        draw, questions = bank.draw(bench.size(FEW)), demonstrated(some, bank.far, False, 0, 1)
        return bench.train(name, lambda s: demonstrated(draw(s), bank.train, delusive, s, 1), {"own": questions})

    base, guess = bench.untuned({"own": asked}), bench.guess({"own": asked})
    few = {kind: arm(kind, FEW) for kind in ("original", "simplified", "empty", "random labels")}
    many = {kind: arm(kind, MANY) for kind in ("original", "simplified")}
    right, wrong = shown(False), shown(True)
    gaps = [arms["original"].sets["own"].score - arms["simplified"].sets["own"].score for arms in (many, few)]

    def over(one: Trained, other: Trained) -> Sign:
        return Sign(f"{one.name} is no worse than {other.name}", "no less", lead(one, other, asked))

    signs = [
        Sign(
            f"{few['original'].name} is better than untuned", "more", lead(few["original"], base, asked), role="control"
        ),
        over(few["simplified"], few["original"]),
        over(guess, few["original"]),
        Sign(
            "original is better than empty with few", "more", lead(few["original"], few["empty"], asked), role="beside"
        ),
        Sign(
            "the gap of simplified to original opens with many",
            "more",
            seed_interval(gaps[0] - gaps[1], groups_of(asked)),
            role="beside",
        ),
        Sign(f"{wrong.name} is no worse than {right.name}", "no less", lead(wrong, right, some)),
    ]
    arms = [base, guess, *few.values(), *many.values()]
    columns = {"right, %": ("own", "score"), "right form, %": ("own", "form"), "ranked first, %": ("own", "content")}
    rows = [row(one, {"own": asked}, columns) for one in arms]
    rows += [row(one, {"own": some}, columns) for one in (right, wrong)]
    return Seen(rows, signs)
