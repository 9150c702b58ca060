"""The starter's annotated tasks: operation x slot x style, composed by program, with rows and templates.

A row's column `_split` is `train` or `heldout`: held-out rows are about reserved people, lists or keys only, so that
nothing evaluated was trained on, and `build` takes the split from there. Columns `key` and `text` say what a row is
about; `choices` are its allowed answers, so validity and chance are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from random import Random
from typing import TYPE_CHECKING, Any

from didact.starter import pieces
from didact.starter.corpus import STYLES, plain
from didact.starter.world import World, table, world

if TYPE_CHECKING:
    from didact.sources import Row, Task
    from didact.template import Template

LICENCE = "Apache-2.0"
HELDOUT_EVERY = 5  # one row in five is about what is reserved
Draw = Callable[[Random, World, bool], pieces.Piece]
COLUMNS = {
    "n": "name",
    "m": "other",
    "s": "verb",
    "b": "plain",
    "noun": "noun",
    "v": "value",
    "o": "ordinal",
    "k": "kind",
    "i": "item",
}


@dataclass(frozen=True)
class Spec:
    """A task before its rows: which piece is drawn, which of its asks is kept, and which phrasings ask it."""

    name: str
    cluster: str
    operation: str
    draw: Draw
    skill: str
    slot: str = ""
    pair: tuple[str, ...] = ()
    options: bool = False


def tasks(rows_per_task: int, seed: int, only: Sequence[str] = ()) -> list[Task]:
    """All tasks whose name or cluster matches a glob of `only` (all, if empty), `rows_per_task` rows each.

    Some tables have fewer keys than that and give fewer rows. Rows are drawn anew at each pass, from the seed alone.
    """
    from didact.sources import Task

    chosen = [s for s in specs() if not only or any(fnmatchcase(s.name, g) or fnmatchcase(s.cluster, g) for g in only)]
    return [
        Task(
            name=spec.name,
            cluster=spec.cluster,
            licence=LICENCE,
            rows=lambda spec=spec: rows(spec, rows_per_task, seed),  # type: ignore[misc]
            templates=templates(spec),
            group=("key",),
            languages=("en",),
        )
        for spec in chosen
    ]


def rows(spec: Spec, n: int, seed: int) -> Iterator[Row]:
    """The rows of a task: no two alike, none of the two splits about the same key."""
    from didact.sources import Row

    w, seen, number = world(), set(), 0
    rng = Random(f"rows {spec.name} {seed}")
    for _ in range(20 * n):
        if number >= n:
            return
        held = number % HELDOUT_EVERY == HELDOUT_EVERY - 1
        row = draw_row(spec, rng, w, held)
        mark = tuple(
            str(sorted(value) if name == "choices" else value) for name, value in row.items() if name != "options"
        )
        if mark in seen:
            number += rng.random() < 0.05  # a table may have run out of keys of this split
            continue
        seen.add(mark)
        number += 1
        yield Row(source=f"starter:{spec.name}", number=number, data=row)


def draw_row(spec: Spec, rng: Random, w: World, held: bool) -> dict[str, Any]:
    """One row of a task as columns."""
    while True:
        piece = spec.draw(rng, w, held)
        asks = [ask for ask in piece.asks if ask.skill == spec.skill and (not spec.slot or ask.slot == spec.slot)]
        if asks:
            break
    if spec.skill in ("check", "have", "same", "twin"):  # as often one answer as the other
        want = rng.choice((asks[0].choices[0], asks[0].choices[1]))
        asks = [ask for ask in asks if ask.answer == want] or asks
    ask = rng.choice(asks)
    answer, choices = ask.answer, ask.choices
    if spec.pair:
        answer = spec.pair[ask.choices.index(answer)]
        choices = spec.pair
    row: dict[str, Any] = {"text": plain(piece.text), **_columns(spec, ask)}
    listed = rng.sample(choices, len(choices))
    if spec.pair:
        row["pair"] = " or ".join(spec.pair)
    if spec.options:
        row["options"] = ", ".join(listed)
    row |= {"key": _key(ask, row), "answer": answer, "choices": listed if spec.options else list(choices)}
    return {**row, "_split": "heldout" if held else "train"}


def _columns(spec: Spec, ask: pieces.Ask) -> dict[str, str]:
    names = {"w": "one", "x": "two"} if spec.skill in ("twin", "either") else {"w": "word"}
    row = {(COLUMNS | names)[name]: value for name, value in ask.fields.items()}
    if "kind" in row:
        row["a_kind"] = ("an " if row["kind"][0] in "aeiou" else "a ") + row["kind"]
    return row


def _key(ask: pieces.Ask, row: Mapping[str, str]) -> str:
    """What a row is about: its text, or the key of a table if it has none."""
    return row["text"] or " ".join(sorted(ask.choices) if ask.skill == "either" else ask.fields.values())


def templates(spec: Spec) -> tuple[Template, ...]:
    """Ten templates: five phrasings, each in two of four layouts."""
    from didact.template import Template

    data = table("instructions")
    bare = spec.skill in ("isa", "opp", "twin", "either") or spec.skill.startswith("fact.")
    layouts = data["options" if spec.options and bare else "layouts"]
    layouts = layouts if isinstance(layouts, list) else layouts["bare" if bare else "text"]
    found = []
    for i, phrasing in enumerate(data["operations"][spec.operation]):
        for j in (i % 4, (i + 1) % 4):
            prompt = layouts[j].replace("{I}", phrasing).replace("{T}", "{{ text }}")
            found.append(
                Template(
                    name=f"{spec.operation}-{i + 1}{'abcd'[j]}",
                    prompt=prompt,
                    answer="{{ answer }}",
                    answer_choices="{{ choices | join(' ||| ') }}",
                )
            )
    return tuple(found)


def specs() -> list[Spec]:
    """Every task of the world, in a fixed order."""
    w, pairs = world(), table("instructions")["pairs"]
    truth = [tuple(pair.split(" or ")) for pair in pairs["truth"]]
    equal = [tuple(pair.split(" or ")) for pair in pairs["equal"]]
    found: list[Spec] = []
    for i, slot in enumerate(w.slots):
        for style in [STYLES[(i + j) % 4] for j in range(3)]:
            found.append(
                Spec(f"lookup/{slot.name}/{style}", "lookup", "lookup", _scene(slot.name, style), "look", slot.name)
            )
        for style in [STYLES[(i + j) % 4] for j in range(2)]:
            found.append(
                Spec(f"reverse/{slot.name}/{style}", "reverse", "reverse", _scene(slot.name, style), "rev", slot.name)
            )
        style, pair = STYLES[i % 4], truth[i % len(truth)]
        found.append(
            Spec(f"check/{slot.name}/{pair[0]}", "check", "check", _scene(slot.name, style), "check", slot.name, pair)
        )
        both = equal[i % len(equal)]
        found.append(
            Spec(
                f"compare/{slot.name}/{both[0]}",
                "compare",
                "same",
                _scene(slot.name, style, True),
                "same",
                slot.name,
                both,
            )
        )
    found += [Spec(f"check/list/{pair[0]}", "check", "contains", _list("mixed"), "have", "", pair) for pair in truth]
    found += [Spec(f"compare/kinds/{pair[0]}", "compare", "twin", _twins, "twin", "", pair) for pair in equal]
    for place in ("first", "second", "third", "fourth", "last"):
        found += [
            Spec(f"order/{place}/{sort}", "order", "order", _list(sort), "pos", place) for sort in ("mixed", "odd")
        ]
    for side in ("after", "before"):
        for size in (4, 5, 6, 7):
            found.append(Spec(f"neighbour/{side}/{size}", "neighbour", side, _list("mixed", size), side))
    found += [Spec(f"pick/{kind}", "pick", "pick", _list("mixed", among=kind), "pick", kind) for kind in w.kinds]
    found += [Spec(f"odd/{size}", "odd", "odd", _list("odd", size), "odd") for size in (4, 5, 6, 7)]
    found += [
        Spec(f"extract/{slot.name}", "extract", "extract", _story(slot.name), "pick", slot.name) for slot in w.slots
    ]
    kinds = list(w.kinds)
    for i in range(5):
        some = tuple(kinds[i * 4 : i * 4 + 4])
        found.append(Spec(f"kind/{'-'.join(some)}", "kind", "kind", _known("isa", some), "isa"))
        found.append(Spec(f"kind/options/{'-'.join(some)}", "kind", "kind", _known("isa", some), "isa", options=True))
    for name in ("capital", "river", "origin", "season"):
        found.append(Spec(f"facts/{name}", "facts", name, _known(f"fact.{name}"), f"fact.{name}"))
        found.append(Spec(f"choice/{name}", "choice", name, _known(f"fact.{name}"), f"fact.{name}", options=True))
    found.append(Spec("opposite/plain", "opposite", "opposite", _known("opp"), "opp"))
    found.append(Spec("opposite/options", "opposite", "opposite", _known("opp"), "opp", options=True))
    found += [
        Spec(f"choice/{kind}", "choice", "choice_kind", _either(kind), "either", kind, options=True) for kind in kinds
    ]
    moods = [tuple(pair.split(" or ")) for pair in pairs["mood"]]
    for item in w.data["reviewed"]:
        for pair in moods:
            found.append(Spec(f"sentiment/{item}/{pair[0]}", "sentiment", "mood", _review(item), "mood", "", pair))
    found.append(Spec("sentiment/feeling", "sentiment", "feel", lambda r, w, h: pieces.feelings(r, w, h, 2), "feel"))
    found += [Spec(f"topic/{n}", "topic", "topic", _report(n), "news", options=True) for n in (2, 3)]
    for sort in ("define", "example"):
        found += [Spec(f"label/{sort}/{n}", "label", "label", _labels(n, sort), "label") for n in (2, 3, 4)]
    return found


def _scene(name: str, style: str, twins: bool = False) -> Draw:
    def draw(rng: Random, w: World, held: bool) -> pieces.Piece:
        slot = next(slot for slot in w.slots if slot.name == name)
        others = [other for other in w.slots if other.name != name]
        slots = [slot] if twins else [slot, rng.choice(others)] if rng.random() < 0.7 else [slot]
        return pieces.scene(rng, w, held, rng.choice((2, 3)) if not twins else 3, slots, style, twins)

    return draw


def _story(name: str) -> Draw:
    def draw(rng: Random, w: World, held: bool) -> pieces.Piece:
        slots = [slot for slot in w.slots if slot.name == name]
        slots += rng.sample([slot for slot in w.slots if slot.name != name], rng.choice((2, 3)))
        return pieces.story(rng, w, held, rng.sample(slots, len(slots)), rng.choice(STYLES))

    return draw


def _list(sort: str, size: int = 0, among: str = "") -> Draw:
    def draw(rng: Random, w: World, held: bool) -> pieces.Piece:
        return pieces.listed(rng, w, held, size or rng.choice((4, 5, 6)), sort, among)

    return draw


def _known(skill: str, among: tuple[str, ...] = ()) -> Draw:
    return lambda rng, w, held: pieces.known(rng, w, held, skill, 1, among)


def _twins(rng: Random, w: World, held: bool) -> pieces.Piece:
    return pieces.twins(rng, w, held, 4)


def _either(kind: str) -> Draw:
    def draw(rng: Random, w: World, held: bool) -> pieces.Piece:
        """Options of as many kinds, fresh each time: the only way is to read them."""

        def some() -> list[str]:
            others = rng.sample([other for other in w.kinds if other != kind], rng.choice((1, 2, 3)))
            return [rng.choice(w.kinds[one]) for one in (kind, *others)]

        words = pieces.fresh(rng, some, held)
        return pieces.Piece("", [pieces.Ask("either", {"k": kind}, words[0], tuple(words), kind)])

    return draw


def _review(item: str) -> Draw:
    return lambda rng, w, held: pieces.review(rng, w, held, item)


def _report(size: int) -> Draw:
    return lambda rng, w, held: pieces.report(rng, w, held, size)


def _labels(size: int, sort: str) -> Draw:
    return lambda rng, w, held: pieces.labels(rng, w, held, size, sort)
