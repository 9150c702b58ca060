"""The teachers of a run: opened when they are first asked, one log for all, progress with rate, yield and cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from didact import fingerprint
from didact.errors import UsageError
from didact.instance import digest
from didact.llm import Answer, Budget, BudgetConfig, Endpoint, EndpointConfig, Llm, Local, LocalConfig, Log, Request

if TYPE_CHECKING:
    from didact.model import Loaded

CALLS = "calls.jsonl"


class Teachers:
    """The teachers by name, with their one log. Use it as a context."""

    def __init__(
        self,
        configs: Mapping[str, EndpointConfig | LocalConfig],
        budget: BudgetConfig,
        folder: Path,
        home: Path,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.configs, self.home = configs, home
        self.log = Log(folder / CALLS, say)
        self.budget = Budget(budget, self.log)
        self.report: Callable[[Llm], None] = lambda llm: None
        self._open: dict[str, Llm] = {}

    def __enter__(self) -> Teachers:
        self.log.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for llm in self._open.values():
            llm.close()
        self.log.__exit__()

    def llm(self, name: str = "", vectors: bool = False) -> Llm:
        """A teacher by its name in the recipe; "" is the first. vectors: one that turns texts into vectors."""
        name = known(self.configs, name)
        config = self.configs[name]
        if (isinstance(config, EndpointConfig) and config.api == "embeddings") != vectors:
            fix = "set api: embeddings" if vectors else "name one whose api is chat or completions"
            problem = "this teacher gives no vectors" if vectors else "this teacher gives vectors, no answers"
            raise UsageError(problem, fix, field=f"teachers.{name}.api")
        if name not in self._open:
            try:
                teacher = Endpoint(config) if isinstance(config, EndpointConfig) else _local(config, self.home)
            except UsageError as error:
                raise error.at(field=f"teachers.{name}" + (f".{error.field}" if error.field else "")) from error
            self._open[name] = Llm(teacher, self.log, self.budget, lambda llm: self.report(llm))
        return self._open[name]

    def own(self, identity: str, load: Callable[[], Loaded]) -> Llm:
        """A model that this run has tuned itself, loaded when something is asked that the log cannot answer."""
        name = f"own:{identity}"
        if name not in self._open:
            self._open[name] = Llm(Local(name, _lazily(load)), self.log, self.budget, lambda llm: self.report(llm))
        return self._open[name]

    @property
    def opened(self) -> Mapping[str, Llm]:
        return self._open


def known(configs: Mapping[str, EndpointConfig | LocalConfig], name: str) -> str:
    """The name of a teacher that is there; UsageError for another."""
    if not name:
        return next(iter(configs))
    if name not in configs:
        raise UsageError(f'no teacher is called "{name}"', f"teachers has: {', '.join(configs)}", field="teachers")
    return name


def local_folder(model: str, home: Path) -> str:
    """The model a local teacher names: the tuned one of a run's folder, a folder, or a name as `model` takes it."""
    for place in (home / model, Path(model), home.parent / model):
        if (place / "tuned" / "config.json").is_file():
            return str(place / "tuned")
        if (place / "config.json").is_file():
            return str(place)
    if model == "demo":
        problem = "no tuned starter to be the teacher: there is no finished run in ./demo"
        fix = "make demo makes it (didact run recipes/demo.yaml --out demo), or name another teacher"
        raise UsageError(problem, fix, field="model")
    return model


def identity(config: EndpointConfig | LocalConfig, home: Path) -> dict[str, object]:
    """What decides a teacher's answers: its model and how it is asked, not where it is or how fast."""
    if isinstance(config, EndpointConfig):
        return {"model": config.model, "api": config.api, "extra": config.extra}
    return {"model": config.model, "content": fingerprint.model(local_folder(config.model, home))}


def _local(config: LocalConfig, home: Path) -> Local:
    from didact.model import load

    folder = local_folder(config.model, home)
    name = f"{config.model}:{digest(fingerprint.model(folder), 8)}"
    return Local(name, _lazily(lambda: load(folder)), config.batch)


def _lazily(load: Callable[[], Loaded]) -> Callable[[Sequence[Request]], Sequence[Answer]]:
    """A speaker whose model is loaded at the first question."""
    made: list[Callable[[Sequence[Request]], Sequence[Answer]]] = []

    def speak(requests: Sequence[Request]) -> Sequence[Answer]:
        if not made:
            from didact.speak import speaker

            made.append(speaker(load()))
        return made[0](requests)

    return speak


def told(llm: Llm, began: float) -> str:
    """Rate, states and cost in a few words, for the progress line."""
    counts = llm.counts
    seconds = max(time.monotonic() - began, 1e-3)
    text = f"{counts.ended / seconds:,.1f} prompts/s"
    bad = counts.rejected.total() + counts.failed.total()
    text += f", {100 * counts.ok / max(counts.ended, 1):.0f}% ok" if bad else ""
    text += f", {counts.known:,} known" if counts.known else ""
    text += f", {llm.log.tokens:,} tokens"
    return text + (f", cost {llm.log.money:,.2f}" if llm.log.money else "")


def judges(
    filters: Iterable[BaseModel], teachers: Mapping[str, EndpointConfig | LocalConfig], home: Path
) -> dict[str, Any]:
    """Who answers the filters that ask a language model or compare its vectors, laid flat."""
    filters, found = list(filters), dict[str, Any]()
    names = {known(teachers, str(config.teacher)) for config in filters if hasattr(config, "teacher")}
    for number, config in enumerate(filters):
        embedding = getattr(config, "embedding", "")
        if embedding in teachers:
            names.add(embedding)
        elif embedding:
            found[f"curate.{number}.embedding: content"] = fingerprint.model(local_folder(embedding, home))
    for name in sorted(names):
        found |= fingerprint.flat(f"teachers.{name}", identity(teachers[name], home))
    return found
