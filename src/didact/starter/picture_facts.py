"""What can be asked of a scene: the facts of each task, and scenes drawn so that its answers are balanced.

As often yes as no; of what is not there the kind is in the picture, and for one half the colour as well, only not
together (object hallucination; POPE's random and adversarial settings, Li et al. 2023). `grounds` is what an answer
rests on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from didact.starter.scenes import FIRST, SECOND, Scene, Thing, draw, lay, world

Columns = dict[str, Any]


def things(rng: Random, n: int) -> list[Thing]:
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
    return {"kind": kind, "number": world()["numbers"][number], "grounds": _listed(scene, kind)}


def _listed(scene: Scene, kind: str) -> str:
    """The things of a kind by their colours, in the order in which they are read."""
    return ", ".join(thing.colour for thing in scene.things if thing.name == kind)


def _there(scene: Scene, rng: Random) -> Columns | None:
    """As often there as not; of what is not there half is a colour that no thing has, half is that of another thing."""
    asked = rng.choice(scene.things)
    kind, colour = asked.name, asked.colour
    if rng.random() < 0.5:
        return {"colour": colour, "kind": kind, "truth": "yes", "grounds": f"the {colour} {kind}"}
    used = [thing.colour for thing in scene.things]
    free = [other for other in world()["colours"] if other not in used]
    others = [other for other in used if other != colour]
    pool = free if rng.random() < 0.5 or not others else others
    if not pool or len({thing.name for thing in scene.things}) < len(scene.things):
        return None
    return {"colour": rng.choice(pool), "kind": kind, "truth": "no", "grounds": f"the {colour} {kind}"}


def _same(what: str) -> Callable[[Scene, Random], Columns | None]:
    def found(scene: Scene, rng: Random) -> Columns | None:
        if len(scene.things) != 2:
            return None
        one, other = (getattr(thing, what) for thing in scene.things)
        return {"same": "same" if one == other else "different", "grounds": f"{one} and {other}"}

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
            scene = lay(rng, things(rng, rng.randint(fewest, most)))
            facts = ASKED[name](scene, rng)
            if facts is not None:
                return _row(scene, rng, facts)

    return make


def _counted(rng: Random) -> Columns:
    """One to four of a kind, as often each, among others."""
    kinds, colours, wanted = list(world()["kinds"]), list(world()["colours"]), rng.randint(1, 4)
    kind = rng.choice(kinds)
    others = [other for other in kinds if other != kind]
    laid = [Thing(kind, colour) for colour in rng.sample(colours, wanted)]
    laid += [Thing(rng.choice(others), rng.choice(colours)) for _ in range(rng.randint(0, 4 - wanted))]
    scene = lay(rng, laid)
    return _row(scene, rng, {"kind": kind, "number": world()["numbers"][wanted], "grounds": _listed(scene, kind)})


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
        told = _same(what)(scene, rng)
        assert told is not None
        return _row(scene, rng, told)

    return make


def _written(digits: int) -> Callable[[Random], Columns]:
    """Digits in one line, the upper or the lower; one alone lies anywhere."""

    def make(rng: Random) -> Columns:
        text = [str(rng.randrange(10)) for _ in range(digits)]
        colours = list(world()["colours"])
        laid = [Thing(digit, rng.choice(colours)) for digit in text]
        if digits == 1:
            scene = lay(rng, laid)
        else:
            places: list[Thing | None] = [None] * 4
            line = rng.choice((FIRST, SECOND))
            places[line : line + 2] = laid
            scene = Scene((places[0], places[1], places[2], places[3]))
        return _row(scene, rng, {"text": " ".join(text)})

    return make


def _two(rng: Random) -> Columns:
    """Two pictures of one scene, or of two that differ in one thing."""
    scene = lay(rng, things(rng, rng.choice((1, 2))))
    other, same = scene, rng.random() < 0.5
    while not same and other.key == scene.key:
        places = list(scene.places)
        number = rng.choice([i for i, thing in enumerate(places) if thing is not None])
        places[number] = things(rng, 1)[0]
        other = Scene((places[0], places[1], places[2], places[3]))
    grounds = ", then ".join(told.caption.rstrip(".").lower() for told in (scene, other))
    row = _row(scene, rng, {"same": "same" if same else "different", "grounds": grounds})
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
    "bare": _distinct("caption", 1, 2),
}
