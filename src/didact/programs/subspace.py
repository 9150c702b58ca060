"""Multi-task subspace finding, then tuning in it: intrinsic prompt tuning from its beginning (Qin 2021, 2110.07867).

A prompt is tuned for each task of the training rows; an auto-encoder over these prompts finds a small space that still
solves the tasks; then that many numbers are trained in it on all rows. The space lies beside the tuned prompt
(`tuned/adapter`), and `method: {type: intrinsic, space: RUN/tuned/adapter}` tunes new tasks in it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.errors import UsageError
from didact.instance import Instance, digest
from didact.methods.intrinsic import IntrinsicConfig
from didact.methods.prompt import PromptConfig
from didact.methods.space import Reconstruction, SpaceConfig
from didact.programs.job import Job

if TYPE_CHECKING:
    from didact.model import Loaded
    from didact.render import Tokens


class SubspaceConfig(BaseModel):
    """A space of prompts is found over the tasks of the training rows; then a few numbers are tuned in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["subspace"] = Field("subspace", description="A space of prompts over many tasks, and tuning in it.")
    dimension: int = Field(16, ge=1, description="Numbers that stand for a prompt.")
    length: int = Field(16, ge=1, description="Virtual tokens.")
    hidden: int = Field(256, ge=1, description="Width of the decoder's layer.")
    reconstruction: float = Field(200.0, ge=0, description="Weight of how far a decoded prompt is from its own.")
    prompt_epochs: float = Field(4.0, gt=0, description="Passes over a task's rows for its prompt.")
    space_epochs: float = Field(4.0, gt=0, description="Passes over all rows for the space.")
    space_rate: float | None = Field(None, gt=0, description="Rate of encoder and decoder; default is full tuning's.")


def run(job: Job, config: SubspaceConfig) -> tuple[Loaded, BaseModel]:
    """The model with a prompt tuned in the space that was found, and the config it is saved as."""
    base = job.fresh()
    rows = _rows(job, config, base)
    prompts = [_prompt(job, config, name, some, base.hash) for name, some in rows.items()]
    with TemporaryDirectory() as spare:
        place = _space(job, config, job.folder or Path(spare), rows, prompts, base.hash)
        method = IntrinsicConfig(dimension=config.dimension, length=config.length, space=str(place))
        loaded = job.fresh()
        job.train(loaded, method, [row for some in rows.values() for row in some], job.settings, "")
    return loaded, method


def _rows(job: Job, config: SubspaceConfig, base: Loaded) -> dict[str, list[Tokens]]:
    """The rendered rows of each task; too few tasks for a space are refused before any training."""
    from didact.fit import fit

    tasks: dict[str, list[Instance]] = {}
    for instance in job.instances:
        tasks.setdefault(instance.origin.task or instance.origin.source, []).append(instance)
    if len(tasks) < 2:
        raise UsageError("a space is found over many tasks, and there is one", "use method.type intrinsic or prompt",
                         field="method.type")  # fmt: skip
    settings = job.settings
    limit = min(settings.max_length, (base.max_positions or settings.max_length + config.length) - config.length)
    if limit < 2:
        raise UsageError(f"a prompt of {config.length} tokens fills the context", "use fewer", field="method.length")
    fitted = {name: fit(some, base.renderer, limit, "drop") for name, some in sorted(tasks.items())}
    lost = sum(len(one.drops) for one in fitted.values())
    if lost:
        job.say(f"without {lost:,} rows that are longer than {limit} tokens")
    rows = {name: one.tokens for name, one in fitted.items() if one.tokens}
    job.say(f"finds a space of {config.dimension} numbers over {len(rows)} tasks")
    return rows


def _prompt(job: Job, config: SubspaceConfig, name: str, rows: list[Tokens], base: str) -> list[float]:
    """The prompt of one task, tuned alone."""
    settings = job.settings.model_copy(update={"epochs": config.prompt_epochs, "max_steps": None})

    def make() -> list[float]:
        loaded = job.fresh()
        job.train(loaded, PromptConfig(length=config.length), rows, settings, f"prompt of {name}")
        values: list[float] = loaded.model.get_input_embeddings().prompt().detach().flatten().tolist()
        return values

    asked = [config.length, settings.model_dump(), [[row.ids, row.weights] for row in rows], base]
    found: list[float] = job.kept("prompt", digest(asked), make)
    return found


def _space(
    job: Job, config: SubspaceConfig, folder: Path, rows: dict[str, list[Tokens]], prompts: Any, base: str
) -> Path:
    """Train encoder and decoder over all tasks; the folder with the decoder."""
    from didact.methods import intrinsic

    update = {"epochs": config.space_epochs, "max_steps": None, "learning_rate": config.space_rate}
    settings = job.settings.model_copy(update=update)
    method = SpaceConfig(
        dimension=config.dimension, length=config.length, hidden=config.hidden, prompts=[list(p) for p in prompts]
    )
    key = digest([method.model_dump(), settings.model_dump(), config.reconstruction, base])
    place = folder / f"space-{key}"

    def make() -> bool:
        loaded = job.fresh()
        first = int(loaded.model.get_input_embeddings().weight.shape[0])
        data = [
            _begun(row, range(first + number * config.length, first + (number + 1) * config.length))
            for number, some in enumerate(rows.values())
            for row in some
        ]
        longest = max(len(row.ids) for row in data)
        wide = settings.model_copy(update={"max_length": max(settings.max_length, longest)})
        job.train(loaded, method, data, wide, "space", objective=Reconstruction(config.reconstruction))
        module: Any = loaded.model.get_input_embeddings().prompt
        intrinsic.write_space(place, module.tensors(), loaded.model, config.length)
        return True

    if job.kept("space", key, make) and not (place / intrinsic.ABOUT).exists():  # somebody took it away
        make()
    return place


def _begun(row: Tokens, virtual: range) -> Tokens:
    n = len(virtual)
    return replace(
        row,
        ids=[*virtual, *row.ids],
        weights=[*[0.0] * n, *row.weights],
        slots=[*[None] * n, *row.slots],
        turns=tuple((a + n, b + n) for a, b in row.turns),
    )
