"""Examples before the question: the fair opponent of a tuned model is its base with some of them in the prompt."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence

from didact.audit.measure import groups_of, task_of
from didact.instance import Instance, Message, Origin, Part

Readable = Callable[[Sequence[Instance]], Sequence[bool]]


def with_examples(
    asked: Sequence[Instance], pool: Sequence[Instance], shots: int, readable: Readable, seed: int
) -> tuple[list[Instance], list[int]]:
    """Each instance with up to `shots` solved instances of its task before it, and how many each got.

    Examples come from other rows; where the model cannot read so many, fewer are shown.
    """
    by_task: dict[str, list[Instance]] = defaultdict(list)
    for instance in pool:
        by_task[task_of(instance)].append(instance)
    chosen: list[list[Instance]] = []
    for instance, row in zip(asked, groups_of(asked), strict=True):
        some = by_task[task_of(instance)]
        drawn = random.Random(f"{seed} {instance.id}").sample(some, min(len(some), shots + 5))
        others = [other for other, of in zip(drawn, groups_of(drawn), strict=True) if of != row]
        chosen.append([other for other in others if asks(other) != asks(instance)][:shots])
    made = [before(instance, demos) for instance, demos in zip(asked, chosen, strict=True)]
    shown = [len(demos) for demos in chosen]
    for fewer in range(shots - 1, -1, -1):
        long = [i for i, fits in enumerate(readable(made)) if not fits and shown[i] > fewer]
        for i in long:
            made[i], shown[i] = before(asked[i], chosen[i][:fewer]), fewer
        if not long:
            break
    return made, shown


def before(instance: Instance, demos: Sequence[Instance], answers: Sequence[str] | None = None) -> Instance:
    """The instance with solved ones before its last question, pictures and all; `answers` in the place of their own."""
    if not demos:
        return instance
    told = answers or [demo.answer for demo in demos]
    parts = tuple(part for demo, answer in zip(demos, told, strict=True) for part in _solved(demo, answer))
    context = list(instance.context)
    place = max(i for i, message in enumerate(context) if message.role == "user")
    context[place] = Message("user", (*parts, *context[place].parts))
    return asked_so(instance, tuple(context), f"examples:{len(demos)}")


def asks(instance: Instance) -> tuple[str, tuple[str, ...]]:
    """What an instance asks: its question and its pictures."""
    return instance.prompt, instance.pictured


def _solved(demo: Instance, answer: str) -> list[Part]:
    """A question and its answer as an example, its pictures where they stood."""
    if not demo.images:
        return [Part(f"{demo.prompt}\n{answer}\n\n", "demo")]
    parts: list[Part] = []
    for message in demo.context:
        parts += [Part(part.value, "demo", part.kind) for part in message.parts]
        parts.append(Part("\n", "demo"))
    return [*parts, Part(f"{answer}\n\n", "demo")]


def asked_so(instance: Instance, context: tuple[Message, ...], via: str) -> Instance:
    """The same question and answer with other messages before the answer."""
    old = instance.origin
    origin = Origin(old.source, old.row, via, parents=(instance.id,), task=old.task, cluster=old.cluster)
    last = instance.messages[len(instance.context) :]
    return Instance.of((*context, *last), origin, instance.references, instance.choices, instance.tags)
