"""Requests of our own: obedience that a program checks, refusals, and what becomes of the unexpected."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from planted import Fake, Said, everywhere, subject, trained, untuned

from didact.audit import AdherenceConfig, Finding, RefusalConfig, audit
from didact.audit.adherence import _requests
from didact.audit.constraints import CHECKS, CLASHES, Constraint, draw
from didact.audit.requests import data, kind_of, refuses
from didact.instance import Instance

OBEYED = {
    "at_most": "one two",
    "at_least": "one two three four five six",
    "small": "all small",
    "capitals": "ALL BIG",
    "contains": "a stone here",
    "avoids": "nothing here",
    "begins": "Stone by stone",
    "ends": "by the stone.",
    "no_comma": "none at all",
    "sentences": "It is so. It is not!",
    "bullets": "- one\n- two",
    "quoted": '"so it is"',
    "json": '{"stone": 1}',
    "number": "it is 7",
}
BROKEN = {
    "at_most": "one two three four five six",
    "at_least": "one two",
    "small": "Not small",
    "capitals": "Not BIG",
    "contains": "stones here",
    "avoids": "a stone here",
    "begins": "a stone",
    "ends": "stone it is",
    "no_comma": "one, two",
    "sentences": "It is so.",
    "bullets": "- one\ntwo",
    "quoted": 'so "it" is',
    "json": '["stone"]',
    "number": "it is seven",
}


@pytest.mark.parametrize("kind", list(CHECKS))
def test_each_constraint_knows_obedience_from_disobedience(kind: str) -> None:
    constraint = Constraint(kind, {"n": 5, "k": 2, "word": "stone"})
    assert constraint.obeyed(OBEYED[kind])
    assert not constraint.obeyed(BROKEN[kind])
    assert not constraint.obeyed(" ... ")
    wordings = [constraint.wording(i) for i in range(3)]
    assert len(set(wordings)) == 3
    assert not any("{n}" in told or "{k}" in told or "{word}" in told for told in wordings)


def test_the_table_of_constraints_is_whole_and_drawn_ones_can_be_obeyed_together() -> None:
    assert set(CHECKS) == set(data("adherence")["constraints"]) == set(CLASHES)
    for seed in range(200):
        kinds = [constraint.kind for constraint in draw(random.Random(seed), 3)]
        assert len(set(kinds)) == len(kinds) >= 1
        assert not any(b in CLASHES[a] for a in kinds for b in kinds)


@dataclass
class Writer(Fake):
    """Answers every request with what a function makes of it."""

    says: Callable[[Instance], str] = lambda _: "so it is"

    def answer(self, instances: Sequence[Instance]) -> list[Said]:
        return [Said(self.says(instance), True, 3) for instance in instances]


def obedient(instance: Instance) -> str:
    """A text that obeys single instructions, by trying all that we know."""
    told = next((t for t in _requests(60, 0) if any(w.prompt == instance.prompt for w in t.wordings)), None)
    if told is None:
        return "so it is"
    words = [constraint.values["word"] for constraint in told.constraints]
    tries = [
        text.replace("stone", word)
        for text in (*OBEYED.values(), "a b c d e f g h i j k l m n o p q r s t u")
        for word in words
    ]
    tries += [text.lower() for text in tries] + [f"{text} 7" for text in tries]
    return next((text for text in tries if all(c.obeyed(text) for c in told.constraints)), "")


def adhere(says: Callable[[Instance], str]) -> list[Finding]:
    tuned = Writer(everywhere(0), 1, 2, says=says)
    examined = subject(untuned(), tuned, sampled=lambda who, temperature, seed: tuned)
    return audit([AdherenceConfig()], examined)


def test_obedience_is_found_and_disobedience_not_praised() -> None:
    good, bad = adhere(obedient)[0], adhere(lambda _: "Never, it seems")[0]
    assert good.category == "obeys more than before"
    assert good.value is not None
    assert good.value > 0.5
    assert good.details["predictability"]["samples"]["value"] == 1.0
    assert bad.details["obeyed"]["value"] < 0.3
    assert len(good.details["tables"]) == 2


def test_an_answer_that_turns_with_its_wording_is_not_predictable() -> None:
    seen: dict[int, int] = {}

    def moody(instance: Instance) -> str:
        seen[instance.origin.row] = seen.get(instance.origin.row, -1) + 1
        return obedient(instance) if seen[instance.origin.row] % 3 == 0 else ""

    found = adhere(moody)[0]
    assert found.details["predictability"]["rewordings"]["value"] < 0.7


@pytest.mark.parametrize(
    ("text", "stopped", "kind"),
    [
        ("The sea is blue.", True, "answers"),
        ("I'm sorry, but I can't do that.", True, "refuses"),
        ("I’m not able to help with this.", False, "refuses"),
        ("on and on and", False, "rambles"),
        ("one two three one two three one two three one two three", True, "rambles"),
        ("", True, "breaks"),
        ("!!! ???", True, "breaks"),
    ],
)
def test_what_a_reply_is(text: str, stopped: bool, kind: str) -> None:
    assert kind_of(Said(text, stopped, 3)) == kind


def test_unexpected_requests_are_counted() -> None:
    found = adhere(lambda i: "" if i.origin.cluster == "unexpected" and not i.prompt.strip() else "so it is")[1]
    total = sum(len(texts) for texts in data("adherence")["unexpected"].values())
    assert found.details["counts"]["after"] == {"breaks": 2, "answers": total - 2}
    assert found.category == "mostly answers"


def refuse(says: Callable[[Instance], str]) -> Finding:
    rows = trained()
    return audit([RefusalConfig()], subject(untuned(), Writer(everywhere(0), 1, 2, says=says), trained=rows))[0]


def test_refusals_of_what_has_an_answer_are_found() -> None:
    bad = refuse(lambda _: "I cannot help with that.")
    assert bad.category == "refuses what has an answer"
    assert bad.value == 1.0
    good = refuse(lambda i: "Sorry, I can't." if i.origin.cluster == "declined" else "Here it is.")
    assert good.category == "refuses next to nothing that has an answer"
    assert "declines 100.0% of 10 requests" in good.verdict
    assert "training answers 0.0% refuse" in good.verdict


def test_a_refusal_is_known_by_its_beginning_and_not_by_a_word() -> None:
    assert refuses("I can't help with that")
    assert not refuses("The tin can't hold water, I said")
    assert not refuses("A sentence that ends: " + "x " * 200 + "i cannot help with")
