"""Ways to tune that call the one training loop several times. A program is one file and one line of PROGRAMS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from didact.kinds import KINDS, Kind
from didact.programs import pet, subspace
from didact.programs.job import Job

if TYPE_CHECKING:
    from didact.model import Loaded

__all__ = ["PROGRAMS", "Job", "Program"]


@dataclass(frozen=True)
class Program:
    """run gives the tuned model and the config of the method that it is to be saved as.

    purpose: what it is for, in a clause; models: kinds it works on.
    """

    config: type[BaseModel]
    run: Callable[[Job, Any], tuple[Loaded, BaseModel]]
    purpose: str
    paper: str
    models: tuple[Kind, ...] = KINDS


PROGRAMS: dict[str, Program] = {
    "pet": Program(
        pet.PetConfig, pet.run, "a closed set of answers, few labels", "Schick 2021", models=("causal", "masked")
    ),
    "subspace": Program(
        subspace.SubspaceConfig,
        subspace.run,
        "finds the space of prompts that intrinsic tunes in",
        "Qin 2021",
        models=("causal",),
    ),
}
