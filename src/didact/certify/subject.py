"""What is certified, and what a proof says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from didact.errors import UsageError
from didact.fit import Fitted, fit
from didact.instance import Instance
from didact.methods.virtual import longest_row
from didact.tune import TuneConfig

if TYPE_CHECKING:
    from didact.model import Loaded


@dataclass(frozen=True)
class Proof:
    """found: the number; tolerance: the most it may be; holds: the verdict; detail: how much was looked at."""

    found: float
    tolerance: float
    holds: bool
    detail: str
    name: str = ""
    claim: str = ""
    seconds: float = 0.0


@dataclass
class Subject:
    """What is certified. load: gives a fresh base model; method, config: as tuning has them; instances: its rows."""

    load: Callable[[], Loaded]
    method: Any
    config: TuneConfig
    instances: Sequence[Instance]
    _base: Loaded | None = field(default=None, repr=False)
    _fitted: Fitted | None = field(default=None, repr=False)

    @property
    def base(self) -> Loaded:
        """A base model that no proof changes."""
        if self._base is None:
            self._base = self.load()
        return self._base

    @property
    def limit(self) -> int:
        """The longest row in tokens."""
        return longest_row(self.base, self.method, self.config.max_length)

    @property
    def fitted(self) -> Fitted:
        """The rows as tuning sees them; UsageError if none is left."""
        if self._fitted is None:
            self._fitted = fit(self.instances, self.base.renderer, self.limit, self.config.truncation)
        if not self._fitted.tokens:
            raise UsageError("no row is left to train on", "look at tune.max_length and tune.truncation")
        return self._fitted


def verdict(found: float, tolerance: float, detail: str) -> Proof:
    """A proof that holds if the number is within its tolerance."""
    return Proof(found, tolerance, found <= tolerance, detail)
