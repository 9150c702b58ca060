"""What a strategy is given beside its settings, and how it makes an instance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from didact.errors import UsageError
from didact.instance import Drop, Instance, Message, Origin, Part, digest
from didact.llm import Reply, Request

SPARE = "spare: "  # how reasons begin by which something is left out that is good, but more than was wanted


class Asker(Protocol):
    """A teacher that can be asked; `didact.llm.Llm` is one."""

    @property
    def name(self) -> str: ...
    def ask(self, requests: Iterable[Request]) -> list[Reply]: ...


@dataclass
class Context:
    """llm: a teacher by name, "" the first. drop: gets all that is left out. built: the run's training instances.

    questions: instances of some sources, with their true answers. retrain: the run's base tuned on some instances.
    progress: how many are made, of how many. home: where files are looked for. pictures: the folder that keeps them.
    """

    llm: Callable[[str], Asker]
    drop: Callable[[Drop], None] = lambda drop: None
    built: Callable[[], Iterable[Instance]] = lambda: ()
    questions: Callable[[Sequence[Any]], Iterable[Instance]] = lambda sources: ()
    retrain: Callable[[Sequence[Instance]], Asker] | None = None
    progress: Callable[[int, int], None] = lambda done, total: None
    home: Path = field(default_factory=Path)
    pictures: Path | None = None
    seed: int = 0

    def tuned_on(self, instances: Sequence[Instance], field: str) -> Asker:
        """The run's base tuned on some instances; UsageError where nothing can be tuned."""
        if self.retrain is None:
            raise UsageError("this needs a model that can be tuned", "run it as a stage of a recipe", field=field)
        return self.retrain(instances)

    def rejected(self, strategy: str, reply: Reply, number: int) -> None:
        """Count a prompt without a usable answer."""
        self.left_out(strategy, f"the teacher's answer: {reply.why}", reply.key, number)

    def left_out(self, strategy: str, reason: str, detail: str, number: int, source: str = "") -> None:
        """Count what was written and is not used. `SPARE` begins a reason that says nothing against it."""
        origin = Origin(source or f"generate:{strategy}", number, via=f"generate:{strategy}")
        self.drop(Drop(reason, detail[:300], origin))


def instance(
    strategy: str,
    instruction: str,
    given: str,
    answer: str,
    *,
    number: int,
    teacher: str = "",
    parents: Sequence[str] = (),
    licence: str = "",
    layout: str = "",
    tags: dict[str, str] | None = None,
) -> Instance:
    """One question and its answer. parents: what `name_of` says of the instructions it grew from."""
    layout = layout or ("{instruction}\n{input}" if given else "{instruction}")
    before, _, after = layout.partition("{input}")
    question = [Part(before.replace("{instruction}", instruction), "instruction")]
    if given:
        question += [Part(given, "input"), *([Part(after, "instruction")] if after else [])]
    messages = (Message("user", tuple(question)), Message("assistant", (Part(answer, "answer"),)))
    return dialogue(
        strategy, messages, number=number, teacher=teacher, parents=parents, licence=licence,
        tags={"instruction": name_of(instruction), **(tags or {})},
    )  # fmt: skip


def dialogue(
    strategy: str,
    messages: tuple[Message, ...],
    *,
    number: int,
    teacher: str = "",
    parents: Sequence[str] = (),
    licence: str = "",
    tags: dict[str, str] | None = None,
) -> Instance:
    """A whole conversation with its lineage."""
    via = f"generate:{strategy}"
    origin = Origin(via, number, via=via, teacher=teacher, parents=tuple(parents), task=strategy, cluster=strategy)
    if licence:
        origin = Origin(via, number, via, teacher, tuple(parents), strategy, strategy, licence)
    return Instance.of(messages, origin, tags={"split": "train", **(tags or {})})


def name_of(instruction: str) -> str:
    """A short name of an instruction, for lineage: seeds and generated ones alike."""
    return digest(" ".join(instruction.split()), 12)


def number_off(texts: Iterable[str], start: int = 1) -> Iterator[tuple[int, str]]:
    """The texts with their numbers, each on one line."""
    return ((i, " ".join(text.split())) for i, text in enumerate(texts, start))
