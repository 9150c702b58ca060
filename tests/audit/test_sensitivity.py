"""How answers move with the way of asking: a planted habit is found, steadiness is not doubted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from planted import Fake, everywhere, heldout, instance, subject, untuned

from didact.audit import Finding, SensitivityConfig, Subject, audit
from didact.audit.sensitivity import _frames, _laid_out, _permuted, _places
from didact.instance import Instance, Message, Part


def listing(row: int) -> Instance:
    """A question whose options stand in its prompt."""
    one = instance("heldout_task", "options", "options:x", row)
    told = Message("user", (Part("Which one?\n", "instruction"), Part(" | ".join(one.choices), "input")))
    return Instance.of((told, one.messages[-1]), one.origin, (), one.choices, one.tags)


@dataclass
class First(Fake):
    """Answers with whatever option stands first."""

    def _choice(self, instance: Instance) -> int:
        return instance.choices.index(instance.context[-1].text.split("\n")[1].split(" | ")[0])


@dataclass
class Steady(Fake):
    """Knows by row, however it is asked."""

    def _choice(self, instance: Instance) -> int:
        right = instance.choices.index(instance.answer)
        return right if instance.origin.row % 2 else (right + 1) % len(instance.choices)


@dataclass
class Moody(Fake):
    """Knows the answer only where the prompt begins as it always did."""

    def _choice(self, instance: Instance) -> int:
        right = instance.choices.index(instance.answer)
        return right if instance.prompt.startswith("Which") else (right + 1) % len(instance.choices)


def find(tuned: Fake, way: str, **changes: object) -> Finding:
    items = [listing(row) for row in range(60)]
    examined = subject(untuned(), tuned, **{"heldout": items, **changes})
    return audit([SensitivityConfig(ways=[way])], examined)[0]  # type: ignore[list-item]


def test_a_liking_for_the_first_option_is_found() -> None:
    found = find(First(everywhere(0), 1, 2), "orders")
    assert found.category == "sensitive"
    assert found.value is not None
    assert found.value > 0.5
    steady = find(Steady(everywhere(0), 1, 2), "orders")
    assert (steady.category, steady.value) == ("robust", 0.0)
    assert steady.details["median"]["tuned"] == 0.5


def test_permuting_moves_options_in_the_prompt_and_nothing_else() -> None:
    one = listing(1)
    other = _permuted(one, (3, 1, 0, 2))
    stood = one.prompt.split("\n")[1].split(" | ")
    assert other.prompt.split("\n")[1].split(" | ") == [stood[3], stood[1], stood[0], stood[2]]
    assert (other.answer, sorted(other.choices)) == (one.answer, sorted(one.choices))
    assert _places(instance("heldout_task", "labels", "t", 1)) is None


def test_another_layout_keeps_the_pictures_where_they_stood() -> None:
    shown, other = (Part(f"/p/{name}.png", "input", "image") for name in "ab")
    one = instance("heldout_task", "labels", "t", 1)
    turns = {
        "before": (shown, Part("Which  Colour?", "instruction")),
        "among": (Part("Is ", "instruction"), shown, Part("like ", "instruction"), other, Part("Or not?", "input")),
        "alone": (shown,),
    }
    for parts in turns.values():
        asked = Instance.of((Message("user", parts), one.messages[-1]), one.origin)
        for frame in _frames().values():
            laid = _laid_out(asked, frame)
            assert laid.images == asked.images
            kinds = [part.kind for part in laid.context[-1].parts]
            assert kinds == [part.kind for part in parts]
            assert frame == "{question}" or len(parts) == 1 or laid.id != asked.id
    framed = _laid_out(Instance.of((Message("user", turns["among"]), one.messages[-1]), one.origin), "<{question}>")
    assert framed.context[-1].text == "<Is like Or not?>"


def test_layouts_that_matter_are_found() -> None:
    found = find(Moody(everywhere(0), 1, 2), "layouts")
    assert found.category == "sensitive"
    assert found.value == 1.0
    assert found.details["pictures"][0]["rows"][0]["name"] == "as it stands"
    assert find(Steady(everywhere(0), 1, 2), "layouts").category == "robust"
    assert all(
        sum(key in frame for key in ("{question}", "{one_line}", "{lower}")) == 1 for frame in _frames().values()
    )


def test_wordings_come_from_the_run_and_tasks_with_too_few_are_left_out() -> None:
    def reworded(rows: Sequence[Instance]) -> list[list[Instance]]:
        return [
            [instance("heldout_task", "options", "options:x", row.origin.row, wording=w) for w in range(5)]
            if row.origin.row < 40
            else [row]
            for row in rows
        ]

    items = [instance("heldout_task", "options", "options:x", row) for row in range(60)]
    found = find(Steady(everywhere(0), 1, 2), "wordings", heldout=items, reworded=reworded)
    assert (found.category, found.n) == ("robust", 40)
    none = find(Steady(everywhere(0), 1, 2), "wordings")
    assert "give tasks several templates" in none.verdict


def test_prompts_that_a_model_cannot_read_are_not_asked() -> None:
    def fits(rows: Sequence[Instance]) -> list[bool]:
        return [row.origin.row < 30 for row in rows]

    assert find(Steady(everywhere(0), 1, 2), "layouts", fits=fits).n == 30


def test_few_items_cannot_settle_it() -> None:
    shaky: Subject = replace(subject(untuned(), untuned(0.9, 1.0)), heldout=[listing(row) for row in range(20)])
    found = audit([SensitivityConfig(ways=["layouts"])], shaky)[0]
    assert found.category in ("cannot be told apart", "sensitive")
    assert heldout()
