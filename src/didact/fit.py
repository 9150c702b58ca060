"""Instances -> rows that the model can read and learn from: one row per answer where a template rewrites history, and
the policy for what is longer than the model reads. Nothing is cut or dropped without being counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Literal

from didact.calling import keep
from didact.conversation import RewritesHistory
from didact.instance import Drop, Instance, Message

if TYPE_CHECKING:
    from didact.render import Renderer, Tokens

Truncation = Literal["refuse", "drop", "keep_answer", "split"]
TOO_LONG = "longer than the longest sequence, the answer alone"


@dataclass(frozen=True)
class Fitted:
    """Rows to train on, in order, with their tokens; what was dropped; and in plain words what was done."""

    instances: list[Instance]
    tokens: list[Tokens]
    drops: list[Drop]
    notes: list[str]


def fit(instances: Sequence[Instance], renderer: Renderer, limit: int, truncation: Truncation) -> Fitted:
    """Render and prove rows, and bring those of more than `limit` tokens under it as the policy says.

    drop: without them. keep_answer: the oldest exchanges go first, then the longest text of the prompt is cut at its
    end. split: several rows, cut between exchanges. refuse: left to the loop, which names the first. A row whose answer
    alone is too long is dropped. Raises UsageError naming a row that cannot be trained truly.
    """
    rows, tokens, notes = _rendered(instances, renderer)
    long = [i for i, row in enumerate(tokens) if len(row.ids) > limit]
    if not long or truncation == "refuse":
        return Fitted(rows, tokens, [], notes)
    drops, lost = list[Drop](), 0
    done: dict[int, list[tuple[Instance, Tokens]]] = {}
    for i in long:
        shorter = [] if truncation == "drop" else _shorter(rows[i], renderer, limit, truncation)
        done[i] = shorter
        learnt = sum(len(row.turns) for _, row in shorter)
        lost += len(tokens[i].turns) - learnt
        if not shorter:
            detail = f"{len(tokens[i].ids)} tokens, at most {limit}"
            drops.append(Drop(TOO_LONG if truncation != "drop" else "longer than the longest sequence", detail,
                              rows[i].origin, rows[i]))  # fmt: skip
    kept = [pair for i, pair in enumerate(zip(rows, tokens, strict=True)) for pair in done.get(i, [pair])]
    saved = len(long) - len(drops)
    how = {"keep_answer": "had their prompt cut", "split": "were split between turns", "drop": ""}[truncation]
    notes.append(
        f"{len(long):,} of {len(rows):,} rows are longer than {limit:,} tokens: "
        + (f"{saved:,} {how}, " if how else "")
        + f"{len(drops):,} dropped, {lost:,} answers with them"
    )
    return Fitted([row for row, _ in kept], [row for _, row in kept], drops, notes)


def unrolled(instance: Instance) -> list[Instance]:
    """One row per answer: the conversation up to it, of which only that answer is learnt."""
    ends = [i for i, message in enumerate(instance.messages) if message.role == "assistant" and i]
    return [_part(instance, range(end + 1), last=True) for end in ends]


def whole(instance: Instance, renderer: Renderer) -> Tokens:
    """A row at its longest: as it is, or of its last answer where the template rewrites history."""
    try:
        return renderer.render(instance)
    except RewritesHistory:
        return renderer.render(unrolled(instance)[-1])


def _rendered(instances: Sequence[Instance], renderer: Renderer) -> tuple[list[Instance], list[Tokens], list[str]]:
    rows, notes = list(instances), list[str]()
    try:
        tokens = renderer.render_all(rows)
    except RewritesHistory:
        rows = [row for instance in instances for row in appending(instance, renderer)]
        tokens = renderer.render_all(rows)
        notes.append(
            f"the chat template rewrites earlier turns, so each answer is its own row: {len(instances):,} "
            f"conversations became {len(rows):,} rows"
        )
    renderer.check_all(rows, tokens)
    return rows, tokens, notes


def appending(instance: Instance, renderer: Renderer) -> list[Instance]:
    """The rows of an instance: itself, or one for each answer where the chat template rewrites earlier turns."""
    if sum(message.role == "assistant" for message in instance.messages) < 2:
        return [instance]
    try:
        renderer.render(instance)
    except RewritesHistory:
        return unrolled(instance)
    return [instance]


def _shorter(instance: Instance, renderer: Renderer, limit: int, truncation: str) -> list[tuple[Instance, Tokens]]:
    whole = truncation == "split" and instance.tags.get("train") != "last"
    pieces = _split(instance, renderer, limit) if whole else [_cut(instance, renderer, limit)]
    found = []
    for piece in pieces:
        if piece is None:
            continue
        tokens = renderer.render(piece)
        renderer.check(piece, tokens)
        found.append((piece, tokens))
    return found


def _exchanges(instance: Instance) -> tuple[list[int], list[list[int]]]:
    """The numbers of the system messages at the head, and those of each exchange: a user turn and what answers it."""
    head, groups = list[int](), list[list[int]]()
    for i, message in enumerate(instance.messages):
        if message.role == "system" and not groups:
            head.append(i)
        elif message.role == "user" and (not groups or instance.messages[groups[-1][-1]].role != "user"):
            groups.append([i])
        elif groups:
            groups[-1].append(i)
        else:
            head.append(i)
    return head, groups


def _split(instance: Instance, renderer: Renderer, limit: int) -> Iterator[Instance | None]:
    """Runs of exchanges as long as fit, each beginning with the system turn; one too long by itself is left out."""
    head, groups = _exchanges(instance)
    some: list[int] = []
    for group in groups:
        if _length(instance, [*head, *some, *group], renderer) <= limit:
            some += group
            continue
        if some:
            yield _part(instance, [*head, *some])
        some = group if _length(instance, [*head, *group], renderer) <= limit else []
    if some:
        yield _part(instance, [*head, *some])


def _cut(instance: Instance, renderer: Renderer, limit: int) -> Instance | None:
    """The last answer with as much of what stands before it as fits; None if the answer alone does not."""
    head, groups = _exchanges(instance)
    while len(groups) > 1 and _length(instance, [*head, *chain(*groups)], renderer) > limit:
        groups = groups[1:]
    row = _part(instance, [*head, *chain(*groups)])
    for _ in range(64):
        over = len(renderer.render(row).ids) - limit
        if over <= 0:
            return row
        shortened = _trim(row, renderer, over)
        if shortened is None:
            return None
        row = shortened
    return None


def _trim(row: Instance, renderer: Renderer, over: int) -> Instance | None:
    """The row with the longest text of its prompt cut at its end by about `over` tokens; None if nothing is left."""
    places = [
        (i, k) for i, m in enumerate(row.context) for k, p in enumerate(m.parts) if p.kind == "text" and p.value.strip()
    ]
    if not places:
        return None
    given = [(i, k) for i, k in places if row.messages[i].parts[k].slot == "input"] or places
    i, k = max(given, key=lambda place: len(row.messages[place[0]].parts[place[1]].value))
    value = row.messages[i].parts[k].value
    tokens = max(1, len(renderer.plain(value)))
    kept = value[: min(len(value) - 1, int(len(value) * max(0, tokens - over) / tokens))].rstrip()
    if not kept and places == [(i, k)]:
        return None  # there would be no question left
    parts = row.messages[i].parts
    message = replace(row.messages[i], parts=(*parts[:k], replace(parts[k], value=kept), *parts[k + 1 :]))
    return _with(row, (*row.messages[:i], message, *row.messages[i + 1 :]), dict(row.tags))


def _length(instance: Instance, numbers: Sequence[int], renderer: Renderer) -> int:
    return len(whole(_part(instance, numbers), renderer).ids)


def _part(instance: Instance, numbers: Sequence[int], last: bool = False) -> Instance:
    tags = keep(instance, list(numbers)) | ({"train": "last"} if last else {})
    return _with(instance, tuple(instance.messages[i] for i in numbers), tags)


def _with(instance: Instance, messages: tuple[Message, ...], tags: dict[str, str]) -> Instance:
    made = Instance.of(messages, instance.origin, instance.references, instance.choices, tags)
    return instance if made.id == instance.id and tags == instance.tags else made
