"""A model that looks is told from one that guesses; what is invented is counted on as many of either kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from didact.audit.blind import BlindConfig, blind
from didact.audit.subject import Subject
from didact.instance import Instance, Message, Origin, Part

COLOURS = ("red", "blue", "green", "white")


@dataclass(frozen=True)
class Said:
    text: str
    stopped: bool = True
    tokens: int = 2


class Fake:
    """A model that is a function of question and pictures."""

    def __init__(self, says: Callable[[str, Sequence[str]], str]) -> None:
        self.says = says

    def answer(self, instances: Sequence[Instance]) -> list[Said]:
        return [Said(self.says(one.prompt, one.images)) for one in instances]

    def rank(self, instances: Sequence[Instance]) -> list[list[float]]:
        return [[float(choice == self.says(one.prompt, one.images)) for choice in one.choices] for one in instances]

    def text_loss(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        return [(1.0, 1) for _ in texts]


def item(n: int) -> Instance:
    """Even ones ask for a colour, odd ones whether there is a thing; the picture's name says both."""
    colour, there = COLOURS[n // 2 % 4], "yes" if n // 2 % 3 else "no"
    picture = Part(f"/pictures/{colour}-{there}-{n}.png", "input", "image")
    question, answer, task = ("which colour", colour, "colour") if n % 2 == 0 else ("is it there", there, "there")
    messages = (Message("user", (picture, Part(question))), Message("assistant", (Part(answer, "answer"),)))
    return Instance.of(messages, Origin("world", n, task=task), tags={"level": "heldout_template"})


def looks(question: str, images: Sequence[str]) -> str:
    if not images:
        return "red"
    colour, there, _ = images[0].rpartition("/")[2].split("-")
    return colour if "colour" in question else there


def guesses(question: str, images: Sequence[str]) -> str:
    return "red" if "colour" in question else "yes"


def found(tuned: Callable[[str, Sequence[str]], str], items: Sequence[Instance]) -> list[tuple[str, float | None, str]]:
    subject = Subject(Fake(guesses), Fake(tuned), items, items)
    return [(one.category, one.value, one.verdict) for one in blind(BlindConfig(), subject)]


def test_what_rests_on_the_picture_is_told_from_guessing() -> None:
    items = [item(n) for n in range(240)]
    (looking, share, told), (invents, invented, _) = found(looks, items)
    assert looking == "it looks"
    assert share == pytest.approx(1.0, abs=0.02)  # the other picture has another answer, so nothing stays right
    assert "the likeliest answer of a task would be 4" in told  # 0.25 of the colours, 0.67 of the things
    assert (invents, invented) == ("does not invent", 0.0)
    (guessing, share, _), (invents, invented, _) = found(guesses, items)
    assert (guessing, share) == ("it guesses", 0.0)
    assert (invents, invented) == ("invents", 1.0)


def test_yes_and_no_are_asked_as_often() -> None:
    subject = Subject(Fake(guesses), Fake(guesses), [item(n) for n in range(240)])
    finding = blind(BlindConfig(yes_no=60), subject)[1]
    assert finding.details["yes"] == 1.0
    assert finding.details["right"]["value"] == 0.5


def test_too_few_pictures_claim_nothing() -> None:
    text = Instance.of((Message("user", (Part("hi"),)), Message("assistant", (Part("a"),))), Origin("w", 1))
    subject = Subject(Fake(looks), Fake(looks), [text, *(item(n) for n in range(6))])
    assert [one.category for one in blind(BlindConfig(), subject)] == ["cannot be said"] * 2


def test_a_model_that_reads_a_picture_in_every_row_is_not_asked_without_one() -> None:
    items = [item(n) for n in range(240)]
    subject = Subject(Fake(guesses), Fake(looks), items, items, fits=lambda rows: [bool(row.images) for row in rows])
    finding = blind(BlindConfig(), subject)[0]
    assert finding.category == "it looks"
    assert "with another picture 0.0%, and it cannot be asked without one" in finding.verdict
    assert "none" not in finding.details
    assert finding.examples
    assert not any("without" in example for example in finding.examples)
