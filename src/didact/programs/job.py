"""What a program works with: a base that can be loaded anew, rows, and the one training loop as a callable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from didact.instance import Instance
    from didact.model import Loaded
    from didact.tune import Result, TuneConfig


def _silent(text: str) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Job:
    """fresh: the base as it was; train: the loop, `train(loaded, method, rows, settings, name, **more)`, whose name is
    shown with its progress, and whose last call is the one that is reported step by step.

    instances: to learn from; settings: the recipe's `tune`; folder: where finished parts are kept, if anywhere;
    home: where the files that a recipe names are looked for.
    """

    fresh: Callable[[], Loaded]
    train: Callable[..., Result]
    instances: Sequence[Instance]
    settings: TuneConfig
    folder: Path | None = None
    home: Path = Path()
    say: Callable[[str], None] = _silent

    def kept(self, name: str, key: str, make: Callable[[], Any]) -> Any:
        """A JSON value that is made once: a part that was finished before a stop is not made again."""
        from didact.checkpoint import remembered

        return make() if self.folder is None else remembered(self.folder / f"{name}-{key}.json", make)
