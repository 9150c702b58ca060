"""From models to figures: which held-out instances are asked, and what each answer is worth."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from didact.audit.interval import Floats
from didact.audit.score import (
    by_rouge,
    exact_match,
    in_form,
    ranked_credit,
    right_answers,
    right_choices,
    rouge_l,
    words,
)
from didact.audit.subject import Finding, Reply, Speaker
from didact.instance import Instance
from didact.pictures import pictured

LONG_ANSWER = 8  # words; free answers longer than this are scored by ROUGE-L, since no two people word them alike
LEAD = 8  # words that an untuned model may ramble before it gives the answer
PART_LIMIT = 4000  # characters of a prompt part that are kept in an example


@dataclass(frozen=True)
class Measured:
    """What one speaker made of some instances; arrays with one number per instance, in order.

    score: exact match, or ROUGE-L where the answer is long and free or its task is judged so. ranked: credit by ranking
    the choices, NaN where there are no choices. picked: the choice ranked first, "" where there is none.
    """

    replies: Sequence[Reply]
    score: Floats
    exact: Floats
    rouge: Floats
    form: Floats
    stopped: Floats
    ranked: Floats
    picked: Sequence[str]
    unrankable: int


def measure(speaker: Speaker, instances: Sequence[Instance], stem: bool = False) -> Measured:
    """Ask for answers and for rankings, and score both."""
    replies = speaker.answer(instances)
    closed = [instance for instance in instances if right_choices(instance)]
    scores = dict(zip((instance.id for instance in closed), speaker.rank(closed) if closed else [], strict=True))
    ranked, picked, unrankable = [], [], 0
    for instance in instances:
        given = scores.get(instance.id)
        broken = given is not None and not (len(given) == len(instance.choices) and np.isfinite(given).all())
        unrankable += broken
        ranked.append(np.nan if given is None else 0.0 if broken else ranked_credit(given, right_choices(instance)))
        picked.append("" if given is None or broken else instance.choices[int(np.argmax(given))])
    asked = list(zip(replies, instances, strict=True))
    exact = np.array([exact_match(reply.text, right_answers(i), i.choices) for reply, i in asked])
    rouge = np.array([rouge_l(reply.text, right_answers(i), stem) for reply, i in asked])
    return Measured(
        replies=replies,
        score=np.where([is_long(instance) for instance in instances], rouge, exact),
        exact=exact,
        rouge=rouge,
        form=np.array([in_form(reply.text, reply.stopped, i.choices) for reply, i in asked]),
        stopped=np.array([float(reply.stopped) for reply in replies]),
        ranked=np.array(ranked, dtype=float),
        picked=picked,
        unrankable=unrankable,
    )


def is_long(instance: Instance) -> bool:
    """Is this scored by ROUGE-L? (Its task says so; else if it has no choices and is over `LONG_ANSWER` words.)"""
    return by_rouge(instance, LONG_ANSWER)


def kind_score(text: str, instance: Instance, stem: bool = False) -> float:
    """The score of a text as an answer to the instance."""
    right = right_answers(instance)
    return rouge_l(text, right, stem) if is_long(instance) else exact_match(text, right, instance.choices)


def generous_score(reply: Reply, instance: Instance, stem: bool = False) -> float:
    """The score an untuned model would get if form were forgiven; an upper bound on what it already knew.

    Short answers count if they occur within the first words; long ones are cut to the best of whole, first line, length
    of the reference.
    """
    right = right_answers(instance)
    said = words(reply.text)
    if is_long(instance):
        length = max(len(words(answer)) for answer in right)
        cuts = (reply.text, reply.text.strip().partition("\n")[0], " ".join(said[:length]))
        return max(rouge_l(cut, right, stem) for cut in cuts)
    found = (_occurs(words(answer), said[: len(words(answer)) + LEAD]) for answer in right)
    return float(any(found) or bool(kind_score(reply.text, instance)))


def _occurs(wanted: list[str], said: list[str]) -> bool:
    length = len(wanted)
    return length > 0 and any(said[i : i + length] == wanted for i in range(len(said) - length + 1))


def groups_of(instances: Sequence[Instance]) -> list[Hashable]:
    """The row each instance came from: several wordings of one row are not independent."""
    return [(i.origin.source, i.origin.task, i.origin.row) for i in instances]


def sample(instances: Sequence[Instance], size: int, seed: int) -> list[Instance]:
    """At most `size` instances, taken from the tasks in turn so that none crowds out another; a fixed order."""
    generator = random.Random(seed)
    by_task: dict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        by_task[task_of(instance)].append(instance)
    queues = [generator.sample(items, len(items)) for _, items in sorted(by_task.items())]
    taken: list[Instance] = []
    while queues and len(taken) < size:
        queues = [queue for queue in queues if queue]
        taken.extend(queue.pop() for queue in queues[: size - len(taken)])
    return taken


def task_of(instance: Instance) -> str:
    return instance.origin.task or instance.origin.source


def choose_examples(
    instances: Sequence[Instance], base: Measured, tuned: Measured, count: int, seed: int
) -> list[dict[str, Any]]:
    """Examples chosen by rule: `count` each of the largest gains, the largest losses, and drawn at random."""
    shuffled = random.Random(seed).sample(range(len(instances)), len(instances))

    def change(i: int) -> tuple[float, float]:
        return float(tuned.score[i] - base.score[i]), float(np.nan_to_num(tuned.ranked[i] - base.ranked[i]))

    none = (0.0, 0.0)
    rules = {
        "largest gain": sorted((i for i in shuffled if change(i) > none), key=change, reverse=True),
        "largest loss": sorted((i for i in shuffled if change(i) < none), key=change),
        "random": shuffled,
    }
    return [
        {"rule": rule, **example(instances[i], base, tuned, i)} for rule, order in rules.items() for i in order[:count]
    ]


def example(instance: Instance, base: Measured, tuned: Measured, i: int) -> dict[str, Any]:
    """Instance number `i` as the report shows it: prompt by slots, right answers, what base and tuned said."""

    def side(measured: Measured) -> dict[str, Any]:
        reply = measured.replies[i]
        picked = measured.picked[i] or None
        figures = {"score": float(measured.score[i]), "right_form": bool(measured.form[i])}
        return {"text": clip(reply.text), "stopped": reply.stopped, "ranked_first": picked, **figures}

    origin = instance.origin
    return {
        "id": instance.id,
        "task": task_of(instance),
        "cluster": origin.cluster,
        "source": origin.source,
        "row": origin.row,
        "template": instance.tags.get("template", ""),
        "prompt": [
            {"role": message.role, "slot": part.slot, "text": clip(part.value)}
            if part.kind == "text"
            else {"role": message.role, "slot": part.slot, **pictured(part.value)}
            for message in instance.context
            for part in message.parts
        ],
        "right": [clip(answer) for answer in right_answers(instance)],
        "choices": list(instance.choices),
        "base": side(base),
        "tuned": side(tuned),
    }


def clip(text: str) -> str:
    return text if len(text) <= PART_LIMIT else text[:PART_LIMIT] + " […]"


def failed(probe: str, question: str, problem: str) -> Finding:
    """A finding that claims nothing and says why."""
    return Finding(probe, question, f"Cannot be said. {problem}", details={"category": "cannot be said"})
