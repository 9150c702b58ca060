"""The tasks of the picture world: rows that ask about one fact of a scene each, and whole conversations about one.

A row's `key` is its scene, so a scene is on one side of train and held-out in every task. Answers are balanced where
they can be: as often yes as no, and a no is about a colour and a kind that are both in the picture, only not together
(object hallucination, Li et al. 2023, POPE's adversarial setting).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from random import Random
from typing import TYPE_CHECKING, Any

from didact.starter.scenes import FIRST, SECOND, Scene, Thing, draw, lay, world

if TYPE_CHECKING:
    from didact.sources import Row, Task
    from didact.template import Template

LICENCE = "Apache-2.0"
BARE, TALK = "bare", "talk"  # captions without a question; several questions about one picture
TURNS = 5
Columns = dict[str, Any]


def names() -> list[str]:
    """The tasks in a fixed order, those with one question first."""
    return [*world()["tasks"], BARE, TALK]


def picture_tasks(rows_per_task: int, seed: int, only: Sequence[str] = ()) -> list[Task]:
    """The tasks whose name or cluster matches a glob of `only`; all but `bare` and `talk` if it is empty.

    rows: columns image (PNG), other (where two pictures are compared), key, answer and what the templates name.
    """
    from didact.formats import Mapping as Form
    from didact.sources import Task

    found: list[Task] = []
    for name in names():
        cluster = world()["tasks"].get(name, {"cluster": "captions" if name == BARE else TALK})["cluster"]
        wanted = any(fnmatchcase(name, glob) or fnmatchcase(cluster, glob) for glob in only)
        if not (wanted if only else name in world()["tasks"]):
            continue
        found.append(
            Task(
                name=f"pictures/{name}",
                cluster=f"pictures/{cluster}",
                licence=LICENCE,
                rows=lambda name=name: rows(name, rows_per_task, seed),  # type: ignore[misc]
                templates=templates(name),
                group=("key",),
                mapping=Form("messages", "", pictured=True) if name == TALK else None,
                languages=("en",),
            )
        )
    return found


def rows(name: str, n: int, seed: int) -> Iterator[Row]:
    """The rows of a task."""
    from didact.sources import Row

    for number in range(1, n + 1):
        rng = Random(f"pictures {name} {seed} {number}")
        yield Row(f"picture_world:{name}", number, talk(rng) if name == TALK else MAKERS[name](rng))


def templates(name: str) -> tuple[Template, ...]:
    """The phrasings of a task as templates; none for whole conversations, one without words for bare captions."""
    from didact.template import Template

    if name == TALK:
        return ()
    if name == BARE:
        return (Template(name="bare", answer="{{ caption }}", images=("image",)),)
    told = world()["tasks"][name]
    choices = told.get("choices")
    choices = list(world()[choices]) if isinstance(choices, str) else choices
    choices = choices[1:] if name == "often" else choices
    columns = ("image", "other") if told.get("pictures") == 2 else ("image",)
    return tuple(
        Template(
            name=f"{name}-{number}",
            prompt=phrasing,
            answer=told["answer"],
            answer_choices=" ||| ".join(choices) if choices else None,
            metadata={"metrics": "Accuracy"},
            images=columns,
        )
        for number, phrasing in enumerate(told["phrasings"], 1)
    )


def talk(rng: Random) -> Columns:
    """A picture, and `TURNS` questions about it in turn, in words that are no template's."""
    from didact.template import Template

    things = _things(rng, rng.choice((2, 3, 4)))
    scene = lay(rng, things)
    asked = [name for name, told in world()["tasks"].items() if "talk" in told]
    turns: list[dict[str, Any]] = []
    for name in rng.choices(asked, k=3 * TURNS):
        facts = ASKED[name](scene, rng)
        if facts is None or len(turns) == 2 * TURNS:
            continue
        told = world()["tasks"][name]
        row = Template(name, prompt=rng.choice(told["talk"]), answer=told["answer"]).render(facts)
        question = "".join(part.value for part in row.parts)
        if any(question == turn["content"] for turn in turns):
            continue
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": row.answer}]
    picture = {"bytes": draw(scene, rng)}
    turns[0]["content"] = [{"type": "image", "image": picture}, {"type": "text", "text": turns[0]["content"]}]
    return {"key": scene.key, "messages": turns}


def _things(rng: Random, n: int) -> list[Thing]:
    """Things, no two of one kind and no two of one colour."""
    kinds, colours = rng.sample(list(world()["kinds"]), n), rng.sample(list(world()["colours"]), n)
    return [Thing(kind, colour) for kind, colour in zip(kinds, colours, strict=True)]


def _caption(scene: Scene, rng: Random) -> Columns | None:
    return {"caption": scene.caption}


def _thing(scene: Scene, rng: Random) -> Columns | None:
    """One thing and all that can be said of it, if nothing else is of its kind or colour."""
    number = rng.choice([number for number, thing in enumerate(scene.places) if thing is not None])
    thing = scene.places[number]
    assert thing is not None
    others = [other for i, other in enumerate(scene.places) if other is not None and i != number]
    if any(other.name == thing.name or other.colour == thing.colour for other in others):
        return None
    place = scene.place_of(number)
    height, side = place.split()
    return {"kind": thing.name, "colour": thing.colour, "place": place, "side": side, "height": height}


def _often(scene: Scene, rng: Random) -> Columns | None:
    kind = rng.choice(scene.things).name
    number = sum(thing.name == kind for thing in scene.things)
    return {"kind": kind, "number": world()["numbers"][number]}


def _there(scene: Scene, rng: Random) -> Columns | None:
    """As often there as not; what is not there is a colour and a kind of two things that are."""
    if rng.random() < 0.5 or len(scene.things) < 2:
        thing = rng.choice(scene.things)
        return {"colour": thing.colour, "kind": thing.name, "truth": "yes"}
    one, other = rng.sample(scene.things, 2)
    if any((thing.name, thing.colour) == (one.name, other.colour) for thing in scene.things):
        return None
    return {"colour": other.colour, "kind": one.name, "truth": "no"}


def _same(what: str) -> Callable[[Scene, Random], Columns | None]:
    def found(scene: Scene, rng: Random) -> Columns | None:
        if len(scene.things) != 2:
            return None
        one, other = (getattr(thing, what) for thing in scene.things)
        return {"same": "same" if one == other else "different"}

    return found


ASKED: Mapping[str, Callable[[Scene, Random], Columns | None]] = {
    "caption": _caption,
    "colour": _thing,
    "kind": _thing,
    "often": _often,
    "side": _thing,
    "height": _thing,
    "where": _thing,
    "at": _thing,
    "there": _there,
    "colours": _same("colour"),
    "kinds": _same("name"),
}


def _row(scene: Scene, rng: Random, facts: Columns) -> Columns:
    return {"image": draw(scene, rng), "key": scene.key, **facts}


def _distinct(name: str, fewest: int, most: int) -> Callable[[Random], Columns]:
    def make(rng: Random) -> Columns:
        while True:
            scene = lay(rng, _things(rng, rng.randint(fewest, most)))
            facts = ASKED[name](scene, rng)
            if facts is not None:
                return _row(scene, rng, facts)

    return make


def _counted(rng: Random) -> Columns:
    """One to four of a kind, as often each, among others."""
    kinds, colours, wanted = list(world()["kinds"]), list(world()["colours"]), rng.randint(1, 4)
    kind = rng.choice(kinds)
    others = [other for other in kinds if other != kind]
    things = [Thing(kind, rng.choice(colours)) for _ in range(wanted)]
    things += [Thing(rng.choice(others), rng.choice(colours)) for _ in range(rng.randint(0, 4 - wanted))]
    return _row(lay(rng, things), rng, {"kind": kind, "number": world()["numbers"][wanted]})


def _compared(what: str) -> Callable[[Random], Columns]:
    """Two things, as often the same in colour, or in kind, as not."""

    def make(rng: Random) -> Columns:
        kinds, colours = list(world()["kinds"]), list(world()["colours"])
        same, free = rng.random() < 0.5, rng.random() < 0.5
        shared = {what} if same else set()
        shared |= ({"name", "colour"} - {what}) if free else set()
        kind = [rng.choice(kinds)] * 2 if "name" in shared else rng.sample(kinds, 2)
        colour = [rng.choice(colours)] * 2 if "colour" in shared else rng.sample(colours, 2)
        scene = lay(rng, [Thing(kind[i], colour[i]) for i in (0, 1)])
        return _row(scene, rng, {"same": "same" if same else "different"})

    return make


def _written(digits: int) -> Callable[[Random], Columns]:
    """Digits in one line, the upper or the lower; one alone lies anywhere."""

    def make(rng: Random) -> Columns:
        text = [str(rng.randrange(10)) for _ in range(digits)]
        colours = list(world()["colours"])
        things = [Thing(digit, rng.choice(colours)) for digit in text]
        if digits == 1:
            scene = lay(rng, things)
        else:
            places: list[Thing | None] = [None] * 4
            line = rng.choice((FIRST, SECOND))
            places[line : line + 2] = things
            scene = Scene((places[0], places[1], places[2], places[3]))
        return _row(scene, rng, {"text": " ".join(text)})

    return make


def _two(rng: Random) -> Columns:
    """Two pictures of one scene, or of two that differ in one thing."""
    scene = lay(rng, _things(rng, rng.choice((1, 2))))
    other, same = scene, rng.random() < 0.5
    while not same and other.key == scene.key:
        places = list(scene.places)
        number = rng.choice([i for i, thing in enumerate(places) if thing is not None])
        places[number] = _things(rng, 1)[0]
        other = Scene((places[0], places[1], places[2], places[3]))
    row = _row(scene, rng, {"same": "same" if same else "different"})
    return {**row, "other": draw(other, rng)}


MAKERS: Mapping[str, Callable[[Random], Columns]] = {
    **{name: _distinct(name, 1, 3) for name in ("caption", "side", "height", "where")},
    **{name: _distinct(name, 2, 4) for name in ("colour", "kind", "at", "there")},
    "often": _counted,
    "digit": _written(1),
    "read": _written(2),
    "colours": _compared("colour"),
    "kinds": _compared("name"),
    "pictures": _two,
    BARE: _distinct("caption", 1, 2),
}
