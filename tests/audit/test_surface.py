"""What a model uses of its prompt: planted readers and non-readers are told apart, with and without training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from planted import Fake, everywhere, heldout, instance, subject, trained, untuned

from didact.audit import Arm, Finding, SurfaceConfig, audit
from didact.audit.slots import blanked, replaced, swapped_slot, text_of
from didact.audit.surface import _survives
from didact.audit.surface_arms import demonstrated, simplified
from didact.instance import Instance, Message, Part

CLOSED = heldout(40, kinds=("labels", "options"))


@dataclass
class Reader(Fake):
    """Knows an answer only where the prompt tells what it reads."""

    reads: Callable[[Instance], bool] = lambda _: True

    def _choice(self, instance: Instance) -> int:
        return instance.choices.index(instance.answer) if self.reads(instance) else super()._choice(instance)

    def rank(self, instances: Sequence[Instance]) -> list[list[float]]:
        """A single choice is worth as much as of the prompt's input is there."""
        return [
            [len(" ".join(text_of(x, "input"))) / 10.0] if len(x.choices) == 1 else super(Reader, self).rank([x])[0]
            for x in instances
        ]


def by_slot(reads: Callable[[Instance], bool]) -> dict[str, Finding]:
    tuned = Reader(everywhere(0), 1, 2, reads=reads)
    found = audit([SurfaceConfig(arms=[])], subject(untuned(), tuned, heldout=CLOSED))
    return {f.details["slot"]: f for f in found}


def test_a_model_that_does_not_read_the_instruction_is_found() -> None:
    found = by_slot(lambda x: bool(text_of(x, "input")) and x.origin.via.split()[0] != "input")
    assert found["instruction"].category == "the instruction hardly matters"
    assert found["input"].category == "the input matters"
    way = found["instruction"].details["rows"][0]
    assert way["survives"]["value"] == pytest.approx(1.0)
    assert "of the gain survives" in found["instruction"].verdict


def test_a_model_that_reads_the_instruction_is_found() -> None:
    found = by_slot(lambda x: any(x.origin.task in told for told in text_of(x, "instruction")))
    assert found["instruction"].category == "the instruction matters"
    assert {row["way"] for row in found["instruction"].details["rows"]} == {"blanked", "swapped"}
    assert found["input"].category == "the input hardly matters"


def test_words_weigh_where_the_answer_rests_on_them() -> None:
    found = by_slot(lambda x: True)
    words = found["instruction"].details["words"]
    assert words["input"]["tuned"]["value"] == pytest.approx(1.0)
    assert "lies in the input" in found["instruction"].verdict


def test_slots_are_changed_and_nothing_else() -> None:
    one = CLOSED[0]
    assert text_of(blanked(one, "instruction"), "instruction") == []
    assert text_of(blanked(one, "instruction"), "input") == text_of(one, "input")
    parts = (Part("Of ", "instruction"), Part("a", "input"), Part(", say ", "instruction"), Part("b", "input"))
    between = Instance.of((Message("user", parts), one.messages[-1]), one.origin)
    assert blanked(between, "instruction").prompt == "a\nb"
    assert replaced(one, "instruction", "Go: ").prompt.startswith("Go: ")
    made = swapped_slot(CLOSED, "instruction", 0, CLOSED)
    assert len(made) == len(CLOSED)
    assert all(text_of(a, "instruction") != text_of(b, "instruction") for a, b in zip(made, CLOSED, strict=True))
    assert all((a.answer, a.choices) == (b.answer, b.choices) for a, b in zip(made, CLOSED, strict=True))
    inputs = swapped_slot(CLOSED, "input", 0, CLOSED)
    assert all(text_of(a, "input") != text_of(b, "input") for a, b in zip(inputs, CLOSED, strict=True))


def test_prompts_without_slots_say_so() -> None:
    (none,) = audit([SurfaceConfig(arms=[])], subject(untuned(), untuned(), heldout=[]))
    assert "tells its slots apart" in none.verdict


def arms(knows: Callable[[Arm], float]) -> Finding:
    def retrain(arm: Arm) -> Fake:
        return Fake(everywhere(knows(arm)), 0.98, 7)

    examined = subject(untuned(), untuned(), heldout=CLOSED, trained=trained(100), retrain=retrain)
    return audit([SurfaceConfig(word_items=0)], examined)[-1]


def test_a_gain_that_needs_no_meaning_is_a_surface_pattern() -> None:
    found = arms(lambda arm: 0.6)
    assert found.category == "surface pattern"
    assert found.value == pytest.approx(1.0, abs=0.1)
    assert "without any instruction" in found.verdict


def test_a_gain_that_is_gone_without_instructions_is_meaning() -> None:
    found = arms(lambda arm: 0.8 if arm.name == "original prompts" else 0.0)
    assert found.category == "the meaning is used"
    assert set(found.details["survives"]) == {"simplified", "empty", "random labels"}


def test_no_gain_cannot_be_divided() -> None:
    found = audit(
        [SurfaceConfig(word_items=0)],
        subject(untuned(), untuned(), heldout=CLOSED, retrain=lambda arm: untuned(), trained=trained(100)),
    )[-1]
    assert found.category == "cannot be said"
    assert "no gain to divide" in found.verdict
    few = audit([SurfaceConfig(word_items=0)], subject(untuned(), untuned(), trained=[], retrain=lambda arm: untuned()))
    assert "Only 0 training" in few[-1].verdict


def test_delusive_demonstrations_have_right_questions_and_wrong_answers() -> None:
    pool = [instance("train", "labels", "labels:t", row) for row in range(20)]
    right, wrong = (demonstrated(pool[:5], pool, delusive, 0) for delusive in (False, True))
    answers = {row.prompt: row.answer for row in pool}
    for told, lied in zip(right, wrong, strict=True):
        for demos, good in ((told, True), (lied, False)):
            shown = [text.rstrip("\n").rsplit("\n", 1) for text in text_of(demos, "demo")]
            assert len(shown) == 2
            assert all((answers[question] == answer) == good for question, answer in shown)
            assert all(answer in ("yes", "no") for _, answer in shown)
    assert [text_of(a, "input") for a in right] == [text_of(b, "input") for b in wrong]


def test_simplified_instructions_name_the_answers_and_nothing_else() -> None:
    assert simplified(instance("train", "labels", "labels:t", 1)) == "Answer with one of: no, yes.\n"
    assert simplified(instance("train", "extract", "extract:t", 1)) == "Answer with a few words.\n"


def test_a_gain_on_a_handful_of_items_is_not_divided() -> None:
    """Some draws of forty items hold none of the five that were gained."""
    base, tuned, changed = (SimpleNamespace(score=(np.arange(40) < right) * 1.0) for right in (0, 5, 2))
    assert _survives(tuned, base, changed, range(40), 0) is None  # type: ignore[arg-type]
    many = SimpleNamespace(score=(np.arange(40) < 30) * 1.0)
    assert _survives(many, base, changed, range(40), 0) is not None  # type: ignore[arg-type]
