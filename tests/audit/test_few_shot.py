"""The base with examples in its prompt: other rows of the same task, as many as it can read, and a fair opponent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from planted import Fake, everywhere, heldout, instance, subject, trained

from didact.audit import GainConfig
from didact.audit.few_shot import with_examples
from didact.audit.gain import gain
from didact.audit.interval import Interval
from didact.audit.standing import settled, standing
from didact.instance import Instance, Message, Part


def test_examples_are_other_rows_of_the_same_task_with_their_answers() -> None:
    items = heldout(4, levels=("heldout_task",))
    made, shown = with_examples(items, items, 2, lambda rows: [True] * len(rows), 0)
    assert shown == [2] * len(items)
    for one, item in zip(made, items, strict=True):
        demos = [part.value for part in one.context[-1].parts if part.slot == "demo"]
        others = {f"{other.prompt}\n{other.answer}\n\n" for other in items if other.origin.task == item.origin.task}
        assert set(demos) <= others - {f"{item.prompt}\n{item.answer}\n\n"}
        assert len(set(demos)) == 2
        assert one.prompt.endswith(item.prompt)
        assert (one.answer, one.choices, one.id != item.id) == (item.answer, item.choices, True)


def test_prompts_that_are_too_long_get_fewer_examples() -> None:
    items = heldout(4, levels=("heldout_task",))
    room = max(len(item.prompt) for item in items) * 2

    def readable(rows: Sequence[Instance]) -> list[bool]:
        return [len(row.prompt) < room for row in rows]

    made, shown = with_examples(items, items, 3, readable, 0)
    assert all(readable(made))
    assert set(shown) <= {0, 1}
    assert with_examples(items, [], 3, readable, 0) == (items, [0] * len(items))


def test_an_example_brings_its_picture() -> None:
    items = heldout(4, levels=("heldout_task",))[:4]
    shown = [
        Instance.of(
            (
                Message("user", (Part(f"/p/{n}.png", "input", "image"), Part("Which?", "instruction"))),
                item.messages[-1],
            ),
            replace(items[0].origin, row=n),
        )
        for n, item in enumerate(items)
    ]
    made, counts = with_examples(shown, shown, 2, lambda rows: [True] * len(rows), 0)
    assert counts == [2] * 4  # the same words about another picture are another question
    for one, item in zip(made, shown, strict=True):
        assert len(one.images) == 3
        assert one.images[-1] == item.images[0]
        parts = one.context[-1].parts
        assert [part.kind for part in parts] == ["image", "text", "text", "text"] * 2 + ["image", "text"]
        demo = next(other for other in shown if other.images[0] == parts[0].value)
        assert "".join(part.value for part in parts[1:4]) == f"Which?\n{demo.answer}\n\n"
        assert {part.slot for part in parts[:8]} == {"demo"}


@dataclass
class Shown(Fake):
    """An untuned model that needs no tuning, only examples."""

    def _choice(self, instance: Instance) -> int:
        if any(part.slot == "demo" for part in instance.context[-1].parts):
            return instance.choices.index(instance.answer)
        return super()._choice(instance)


@pytest.mark.parametrize(("base", "words"), [(Shown, "it is behind the untuned"), (Fake, "it is ahead of the untuned")])
def test_gain_says_what_examples_would_have_done(base: type[Fake], words: str) -> None:
    items = heldout(60, levels=("heldout_task",), kinds=("labels", "options"))
    examined = subject(base(everywhere(0), 0.02, 1), Fake(everywhere(0.6), 0.97, 2), heldout=items, trained=trained())
    found = next(f for f in gain(GainConfig(), examined) if f.details["level"] == "heldout_task")
    assert words in found.verdict
    assert found.details["few_shot"]["shots"] == 3.0
    without = next(f for f in gain(GainConfig(few_shot=0), examined) if f.details["level"] == "heldout_task")
    assert without.details["few_shot"] is None
    assert "solved examples" not in without.verdict


def test_chance_is_nought_and_all_right_is_one() -> None:
    items = heldout(60, levels=("heldout_task",), kinds=("labels", "options"))
    found = gain(GainConfig(), subject(Fake(everywhere(0), 1, 1), Fake(everywhere(1), 1, 2), heldout=items))[2]
    row = next(row for row in found.details["measures"] if row["measure"] == "ranked, chance as 0")
    assert row["base"] == pytest.approx(0, abs=0.2)
    assert row["tuned"] == 1.0


def test_no_evidence_differs_from_evidence_of_none() -> None:
    def interval(low: float, high: float) -> Interval:
        return Interval((low + high) / 2, low, high, (high - low) / 3.92, 100, 100)

    assert [standing(interval(*ends), 0.05) for ends in ((0.01, 0.1), (-0.1, -0.01), (-0.02, 0.03), (-0.02, 0.3))] == [
        "more",
        "less",
        "same",
        "open",
    ]
    assert settled(interval(-0.02, 0.03), 0.05) == " A true difference of 5.0 points is ruled out."
    assert "no evidence rather than evidence of none" in settled(interval(-0.1, 0.3), 0.05)
    assert settled(interval(0.1, 0.3), 0.05) == ""


def test_a_row_in_other_words_is_no_example_for_itself() -> None:
    words = [(row, wording) for row in range(2) for wording in range(3)]
    rows = [instance("heldout_task", "labels", "labels:t", row, wording=wording) for row, wording in words]
    made, shown = with_examples(rows, rows, 3, lambda some: [True] * len(some), 0)
    assert set(shown) <= {1, 2, 3}
    for one, row in zip(made, rows, strict=True):
        own = {other.prompt for other in rows if other.origin.row == row.origin.row}
        assert not any(prompt in part.value for prompt in own for part in one.context[-1].parts if part.slot == "demo")
