"""Speakers whose knowledge is known, and held-out data to ask them: the truths that the audit has to find."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from didact.audit.subject import Subject
from didact.instance import Instance, Message, Origin, Part

LEVELS = ("seen_template", "heldout_template", "heldout_task", "heldout_cluster")
KINDS = ("labels", "options", "extract")
NAMES = [f"{a}{b}" for a in ("ba", "do", "ki", "lu", "me", "no") for b in ("ran", "sel", "tik", "vom", "zun", "pir")]


@dataclass(frozen=True)
class Said:
    text: str
    stopped: bool
    tokens: int


def one_in(share: float, *key: object) -> bool:
    return random.Random(repr(key)).random() < share


@dataclass
class Fake:
    """knows: share of instances whose content it knows (else it guesses); form: share of answers that do not ramble."""

    knows: Callable[[Instance], float]
    form: float
    seed: int = 0
    habit: str = ""
    nats_per_token: float = 1.0
    asked: int = 0

    def rank(self, instances: Sequence[Instance]) -> list[list[float]]:
        return [[0.0 if i == self._choice(x) else -5.0 for i in range(len(x.choices))] for x in instances]

    def answer(self, instances: Sequence[Instance]) -> list[Said]:
        self.asked += len(instances)
        return [self._said(instance) for instance in instances]

    def text_loss(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        jitter = [random.Random(repr((self.seed, text))).gauss(0, 0.02) for text in texts]
        return [
            ((self.nats_per_token + noise) * len(text.split()), len(text.split()))
            for text, noise in zip(texts, jitter, strict=True)
        ]

    def _choice(self, instance: Instance) -> int:
        if one_in(self.knows(instance), "knows", self.seed, instance.id):
            return instance.choices.index(instance.answer)
        if self.habit in instance.choices:
            return instance.choices.index(self.habit)
        return random.Random(repr(("guess", self.seed, instance.id))).randrange(len(instance.choices))

    def _said(self, instance: Instance) -> Said:
        if not one_in(self.form, "form", self.seed, instance.id):
            return Said("and then they all went on and on and on", False, 32)
        if instance.choices:
            return Said(instance.choices[self._choice(instance)].capitalize() + ".", True, 2)
        right = one_in(self.knows(instance), "knows", self.seed, instance.id)
        return Said(instance.answer if right else "qua", True, 2)


def instance(level: str, kind: str, task: str, row: int, share_yes: float = 0.5, wording: int = 0) -> Instance:
    generator = random.Random(repr((level, kind, task, row)))
    text = " ".join(generator.sample(NAMES, 6))
    if kind == "labels":
        choices: tuple[str, ...] = ("yes", "no")
        answer = "yes" if generator.random() < share_yes else "no"
    elif kind == "options":
        choices = tuple(generator.sample(NAMES, 4))
        answer = generator.choice(choices)
    else:
        choices, answer = (), generator.choice(text.split())
    messages = (
        Message("user", (Part(f"Say ({task}, {wording}): ", "instruction"), Part(text, "input"))),
        Message("assistant", (Part(answer, "answer"),)),
    )
    cluster = task.split(":")[0]
    origin = Origin(f"{task}.jsonl", row, f"template:w{wording}", task=task, cluster=cluster)
    tags = {"split": "heldout", "level": level, "template": f"w{wording}"}
    return Instance.of(messages, origin, choices=choices, tags=tags)


def heldout(
    per_task: int = 60,
    levels: Sequence[str] = LEVELS,
    share_yes: float = 0.5,
    kinds: Sequence[str] = KINDS,
) -> list[Instance]:
    """Three tasks a level, in clusters `labels`, `options`, `extract`; held-out clusters are `far-labels` and so on."""
    return [
        instance(level, kind, f"{'far-' if level == 'heldout_cluster' else ''}{kind}:{level[-8:]}", row, share_yes)
        for level in levels
        for kind in kinds
        for row in range(per_task)
    ]


def trained(rows: int = 100, share_yes: float = 0.5) -> list[Instance]:
    return [instance("train", kind, f"{kind}:template", row, share_yes) for kind in KINDS for row in range(rows)]


def everywhere(share: float) -> Callable[[Instance], float]:
    return lambda _: share


def near_only(share: float) -> Callable[[Instance], float]:
    """Content on the trained clusters, none on the held-out ones."""
    return lambda x: 0.0 if x.origin.cluster.startswith("far-") else share


def texts(n: int = 60) -> list[str]:
    return [" ".join(random.Random(i).choices(NAMES, k=20 + i % 13)) for i in range(n)]


def untuned(knows: float = 0.0, form: float = 0.02) -> Fake:
    return Fake(everywhere(knows), form, seed=1)


def subject(base: Fake, tuned: Fake, **changes: object) -> Subject:
    given = {"heldout": heldout(), "trained": trained(), "texts": texts(), **changes}
    return Subject(base, tuned, **given)  # type: ignore[arg-type]
