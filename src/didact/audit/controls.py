"""Opponents that know nothing of the task: chance, the majority label, swapped answers, random labels.

Each gives one content score per instance, to be beaten by the tuned model's own.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from didact.audit.interval import Floats
from didact.audit.measure import Measured, groups_of, kind_score, task_of
from didact.audit.score import fold, right_choices
from didact.instance import Instance, Message, Origin, Part

SWAPS = 5


def chance(instances: Sequence[Instance]) -> Floats:
    """The expected credit of a choice drawn at random; 0 for free answers."""
    return np.array([len(right_choices(i)) / len(i.choices) if i.choices else 0.0 for i in instances])


def majority(instances: Sequence[Instance], trained: Sequence[Instance], seed: int) -> Floats:
    """The credit of always giving the commonest answer.

    Commonest among training instances with the same label set (free answers: the same task); where training had none,
    among the other half of these rows, so that no row votes for itself. No votes: chance.
    """
    seen: dict[Hashable, Counter[str]] = defaultdict(Counter)
    for instance in trained:
        seen[_label_set(instance)][_plain(instance)] += 1
    rows = groups_of(instances)
    order = list(dict.fromkeys(rows))
    random.Random(seed).shuffle(order)
    half = {row: place % 2 for place, row in enumerate(order)}
    votes: dict[tuple[Hashable, int], Counter[str]] = defaultdict(Counter)
    for instance, row in zip(instances, rows, strict=True):
        votes[_label_set(instance), half[row]][_plain(instance)] += 1
    guesses = [
        seen.get(_label_set(instance)) or votes.get((_label_set(instance), 1 - half[row]))
        for instance, row in zip(instances, rows, strict=True)
    ]
    blind = chance(instances)
    return np.array(
        [
            kind_score(guess.most_common(1)[0][0], instance) if guess else blind[i]
            for i, (instance, guess) in enumerate(zip(instances, guesses, strict=True))
        ]
    )


def swapped(
    instances: Sequence[Instance],
    measured: Measured,
    seed: int,
    by_ranking: bool,
    score: Callable[[str, Instance], float] = kind_score,
) -> Floats:
    """The credit the same model's answers to other rows of the same task would earn here, by any score of a text.

    What is left of a score when the input is ignored: style, label habits, stock phrases. `by_ranking` swaps the choice
    ranked first instead of the generated answer. A row with no other to swap with gets chance.
    """
    generator = random.Random(seed)
    rows = groups_of(instances)
    buckets: dict[Hashable, list[int]] = defaultdict(list)
    for i, instance in enumerate(instances):
        buckets[task_of(instance), _label_set(instance)].append(i)
    credit = chance(instances)
    for _, bucket in sorted(buckets.items(), key=lambda item: item[1][0]):
        generator.shuffle(bucket)
        for place, i in enumerate(bucket):
            others = [bucket[(place + shift) % len(bucket)] for shift in range(1, len(bucket))]
            others = [j for j in others if rows[j] != rows[i]][:SWAPS]
            said = [measured.picked[j] if by_ranking else measured.replies[j].text for j in others]
            if said:
                credit[i] = float(np.mean([score(text, instances[i]) for text in said]))
    return credit


def random_labels(instances: Sequence[Instance], seed: int) -> list[Instance]:
    """The instances with labels drawn from the right label space: form without meaning (Kung & Peng 2023).

    Closed answers become a random choice of the same instance, free ones the answer of a random row of the same task.
    """
    generator = random.Random(seed)
    pools: dict[str, list[str]] = defaultdict(list)
    for instance in instances:
        pools[task_of(instance)].append(instance.answer)
    return [
        _with_answer(instance, generator.choice(instance.choices or pools[task_of(instance)])) for instance in instances
    ]


def _with_answer(instance: Instance, answer: str) -> Instance:
    role = instance.messages[-1].role
    messages = (*instance.context, Message(role, (Part(answer, "answer"),)))
    old = instance.origin
    origin = Origin(old.source, old.row, "random_label", parents=(instance.id,), task=old.task, cluster=old.cluster)
    return Instance.of(messages, origin, (), instance.choices, instance.tags)


def _label_set(instance: Instance) -> Hashable:
    same = fold(instance.choices)
    return frozenset(same(choice) for choice in instance.choices) if instance.choices else task_of(instance)


def _plain(instance: Instance) -> str:
    return fold(instance.choices)(instance.answer)
