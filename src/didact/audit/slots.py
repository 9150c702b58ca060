"""Prompts with one slot changed: the instruction, the input or a demonstration blanked, or swapped for another's."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

from didact.audit.few_shot import asked_so
from didact.audit.measure import task_of
from didact.instance import Instance, Message, Part, Slot

SLOTS: tuple[Slot, ...] = ("instruction", "input", "demo")


def has(instance: Instance, slot: Slot) -> bool:
    """Has the prompt text in this slot?"""
    return any(text.strip() for text in text_of(instance, slot))


def text_of(instance: Instance, slot: Slot) -> list[str]:
    return [part.value for message in instance.context for part in message.parts if _in(part, slot)]


def _in(part: Part, slot: Slot) -> bool:
    """Is this a text of the slot? Pictures stay where they are."""
    return part.slot == slot and part.kind == "text"


def blanked(instance: Instance, slot: Slot) -> Instance:
    """The prompt without the text of a slot; a line break keeps what stood around it apart."""
    return _changed(instance, slot, lambda parts: [], f"blank {slot}")


def replaced(instance: Instance, slot: Slot, text: str) -> Instance:
    """The prompt with one text in the place of all that stood in a slot."""
    return _changed(instance, slot, lambda parts: [Part(text, slot)], f"other {slot}")


def swapped_slot(instances: Sequence[Instance], slot: Slot, seed: int, others: Sequence[Instance]) -> list[Instance]:
    """Each instance with a slot of one of the others: an instruction of another task, an input or demo of another row.

    Instructions come from a task with other answers to choose from, where there is one, else any other task. Parts are
    taken one for one as far as they go. Instances with nothing to swap for are left out.
    """
    generator = random.Random(f"{seed} swap {slot}")
    by_task: dict[Hashable, list[Instance]] = defaultdict(list)
    for instance in others:
        if has(instance, slot):
            by_task[task_of(instance)].append(instance)
    made = []
    for instance in instances:
        own = task_of(instance)
        if slot == "instruction":
            pool = [other for task, members in by_task.items() if task != own for other in members]
            pool = [other for other in pool if set(other.choices) != set(instance.choices)] or pool
        else:
            pool = [other for other in by_task[own] if text_of(other, slot) != text_of(instance, slot)]
        if has(instance, slot) and pool:
            made.append(_with_parts_of(instance, generator.choice(pool), slot))
    return made


def without_word(instance: Instance, message: int, part: int, word: int) -> Instance:
    """The prompt without one word of one part."""
    old = instance.context[message].parts[part]
    words = old.value.split(" ")
    new = Part(" ".join(words[:word] + words[word + 1 :]), old.slot, old.kind)
    parts = (*instance.context[message].parts[:part], new, *instance.context[message].parts[part + 1 :])
    context = list(instance.context)
    context[message] = Message(context[message].role, parts)
    return asked_so(instance, tuple(context), "without a word")


def _changed(instance: Instance, slot: Slot, new: Callable[[list[Part]], list[Part]], via: str) -> Instance:
    context, done = [], False
    for message in instance.context:
        parts: list[Part] = []
        for part in message.parts:
            if part.kind == "image":
                parts.append(part)
            elif part.slot != slot:
                before = parts[-1] if parts and parts[-1].kind == "text" else None
                apart = before and not before.value[-1:].isspace() and not part.value[:1].isspace()
                parts.append(Part("\n" + part.value, part.slot, part.kind) if apart and _gap(message, part) else part)
            elif not done:
                parts += new([part])
                done = True
        context.append(Message(message.role, tuple(parts)))
    return asked_so(instance, tuple(context), via)


def _gap(message: Message, part: Part) -> bool:
    """Did something of another slot stand right before this part?"""
    place = next(i for i, one in enumerate(message.parts) if one is part)
    return place > 0 and message.parts[place - 1].slot != part.slot


def _with_parts_of(instance: Instance, other: Instance, slot: Slot) -> Instance:
    """The instance with the other's parts in a slot, first for first; what the other has more is put to the last."""
    theirs = text_of(other, slot)
    places = sum(_in(part, slot) for message in instance.context for part in message.parts)
    given = theirs[:places] if places >= len(theirs) else [*theirs[: places - 1], " ".join(theirs[places - 1 :])]
    rest = iter(given)
    context = []
    for message in instance.context:
        parts = [Part(next(rest, ""), slot) if _in(part, slot) else part for part in message.parts]
        context.append(Message(message.role, tuple(part for part in parts if part.value)))
    return asked_so(instance, tuple(context), f"{slot} of {other.id}")
