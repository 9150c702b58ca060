"""All ways to tune in one table, counted on the outline of a model: nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from didact import memory
from didact.errors import UsageError
from didact.methods import METHODS
from didact.methods.attached import try_on


@dataclass(frozen=True)
class Line:
    """A method on a model. trained, parameters: numbers of weights; gib: memory of a step; why: it cannot be used."""

    name: str
    trained: int
    parameters: int
    gib: float
    why: str = ""

    def __str__(self) -> str:
        row = METHODS[self.name]
        if self.why:
            return f"{self.name:<10} {self.why}"
        merges = "merges" if row.merge is not None else "" if self.trained == self.parameters else "stays beside"
        share = f"{self.trained:,} ({self.trained / self.parameters:.2%})"
        paper = "" if row.paper == "-" else f" ({row.paper})"
        slower = f"; slower: {row.slower}" if row.slower else ""
        return f"{self.name:<10} {share:>24} {self.gib:>9.3g} GiB  {merges:<13} {row.purpose}{paper}{slower}"


def listing(folder: Path, tokens: int = 8192, longest: int = 512) -> Iterator[Line]:
    """Every method at its defaults on a model folder; memory for so many tokens in a forward, in fp32."""
    model = memory.shape(folder)
    for name, row in METHODS.items():
        try:
            method = row.config()
            if name == "bitfit" and not model.biased:
                method = row.config(add=True)
            trained, parameters = try_on(folder, method)
        except ValidationError as error:
            yield Line(name, 0, 0, 0.0, f"needs method.{'.'.join(map(str, error.errors()[0]['loc']))}")
            continue
        except UsageError as error:
            yield Line(name, 0, 0, 0.0, error.problem)
            continue
        plan = memory.Plan(method.model_dump(), "fp32", tokens, longest, trained=trained)
        yield Line(name, trained, parameters, memory.need(model, plan).total / memory.GIB)
