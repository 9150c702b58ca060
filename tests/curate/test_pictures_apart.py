"""Rows that ask the same words about other pictures are other rows, for every filter that looks for the same."""

from __future__ import annotations

from didact.build.leaks import leaks, prints_of
from didact.curate.context import Context
from didact.curate.decontaminate import DecontaminateConfig, decontaminate
from didact.curate.heuristics import HeuristicsConfig, heuristics
from didact.curate.words import own_texts
from didact.instance import Instance, Message, Origin, Part

QUESTION = "Look at the box that lies in the picture and write down which colour it has."


def asked(picture: str, row: int, folder: str = "/run/pictures") -> Instance:
    parts = (Part(f"{folder}/{picture}", "input", "image"), Part(QUESTION, "instruction"))
    messages = (Message("user", parts), Message("assistant", (Part("red", "answer"),)))
    return Instance.of(messages, Origin("world", row, via="template:colour"))


def test_other_pictures_are_no_duplicates_and_the_same_ones_are() -> None:
    rows = [asked("a.png", 1), asked("b.png", 2), asked("a.png", 3, "/elsewhere")]
    kept = [verdict.keep for verdict in heuristics(HeuristicsConfig(), rows, Context())]
    assert kept == [True, True, False]


def test_only_the_held_out_picture_itself_is_a_leak() -> None:
    held, rows = [asked("a.png", 1)], [asked("b.png", 2), asked("a.png", 3, "/elsewhere")]
    context = Context(heldout=held)
    assert [v.reason for v in decontaminate(DecontaminateConfig(), rows, context)] == [
        "",
        "same as a held-out instance",
    ]
    whole, runs, _ = prints_of(held)
    same, shares = leaks(rows, whole, runs)
    assert same.tolist() == [False, True]
    assert not shares.any()
    assert own_texts(held[0]) == []
