"""Rows about pictures: the same question about another picture is neither a duplicate nor a leak."""

from __future__ import annotations

import numpy as np
import pytest

from didact.audit.slots import blanked, swapped_slot, text_of
from didact.build.leaks import leaks, prints_of
from didact.curate import STRATEGIES, Context
from didact.instance import Instance, Message, Origin, Part

QUESTION = "Look at this picture closely and tell me in one word which colour the thing in the middle of it has."


def row(picture: str, number: int, answer: str = "red", via: str = "format:messages") -> Instance:
    parts = (
        Part(f"/x/{'a/b/c/d/e/f/g/h/' * 2}pictures/{picture}.png", "input", "image"),
        Part(QUESTION, "instruction"),
    )
    messages = (Message("user", parts), Message("assistant", (Part(answer, "answer"),)))
    return Instance.of(messages, Origin("rows", number, via, task=f"task {number}"))


@pytest.mark.parametrize("name", ["heuristics", "near_duplicates", "novelty"])
def test_only_the_same_question_about_the_same_picture_is_a_duplicate(name: str) -> None:
    config, strategy = STRATEGIES[name]
    rows = [row("1" * 16, 1), row("2" * 16, 2), row("1" * 16, 3)]
    verdicts = strategy(config.model_validate({"type": name}), rows, Context(heldout=[]))
    assert [verdict.keep for verdict in verdicts] == [True, True, False]
    assert verdicts[2].near == rows[0].id


def test_only_the_same_question_about_the_same_picture_is_a_leak() -> None:
    config, strategy = STRATEGIES["decontaminate"]
    held = [row("1" * 16, 9)]
    rows = [row("2" * 16, 1), row("1" * 16, 2)]
    verdicts = strategy(config.model_validate({"type": "decontaminate"}), rows, Context(heldout=held))
    assert [verdict.keep for verdict in verdicts] == [True, False]
    whole, runs, _ = prints_of(held)
    same, shares = leaks(rows, np.sort(whole), np.sort(runs))
    assert (same.tolist(), shares.tolist()) == ([False, True], [False, False])


def test_a_long_answer_that_is_held_out_leaks_whatever_the_picture() -> None:
    answer = "a red box stands left of the blue kite and right of the green marble that lies below it"
    config, strategy = STRATEGIES["decontaminate"]
    (verdict,) = strategy(
        config.model_validate({"type": "decontaminate"}),
        [row("2" * 16, 1, answer)],
        Context(heldout=[row("1" * 16, 9, answer)]),
    )
    assert not verdict.keep


def test_probes_that_change_texts_leave_pictures_alone() -> None:
    a, b = row("1" * 16, 1), row("2" * 16, 2)
    assert text_of(a, "input") == []
    assert blanked(a, "input").images == blanked(a, "instruction").images == a.images
    assert blanked(a, "instruction").prompt.strip() == ""
    for changed in swapped_slot([a], "instruction", 0, [a, b]):
        assert changed.images == a.images
    assert swapped_slot([a], "input", 0, [a, b]) == []
