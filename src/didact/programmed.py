"""A program (PET, intrinsic prompts) run with a recipe: the loop handed in, finished parts kept, one result told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from didact.instance import Instance

if TYPE_CHECKING:
    from pydantic import BaseModel

    from didact.model import Loaded
    from didact.recipe import Recipe
    from didact.tune import Result, Step


def follow(
    recipe: Recipe,
    model: str,
    instances: Sequence[Instance],
    *,
    folder: Path | None = None,
    home: Path = Path(),
    report: Callable[[str, Step], None] = lambda name, step: None,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Loaded, BaseModel, Result]:
    """The tuned model, the config of the method that it is to be saved as, and what its last training said.

    folder: where checkpoints of the last training and all finished parts are kept. home: where the files that the
    method names are looked for. report: gets the name of the
    training ("" is the last) and its step.
    """
    from didact.model import load
    from didact.programs import PROGRAMS, Job
    from didact.tune import tune

    results: list[Result] = []

    def train(loaded: Loaded, method: Any, rows: Sequence[Any], settings: Any, name: str, **more: Any) -> Result:
        last = not name
        result = tune(
            loaded,
            method,
            rows,
            settings,
            folder=folder if last else None,
            report=lambda step: report(name, step),
            stop=stop,
            note=say if last else lambda text: None,
            **more,
        )
        results.append(result)
        return result

    job = Job(
        fresh=lambda: load(model),
        train=train,
        instances=instances,
        settings=recipe.tune,
        folder=None if folder is None else folder / recipe.method.type,
        home=home,
        say=say,
    )
    loaded, method = PROGRAMS[recipe.method.type].run(job, recipe.method)
    return loaded, method, results[-1]
