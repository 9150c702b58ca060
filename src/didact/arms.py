"""Trainings in miniature: the run's base tuned on other instances or with other settings, and where answers are kept.

What an arm answers lies in `audit/answers` under a key made of all that decides it, so a change of data, settings or
code asks anew and a killed audit does not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from didact import fingerprint
from didact.instance import Instance, digest
from didact.recipe import Recipe, changed

if TYPE_CHECKING:
    from didact.model import Loaded
    from didact.run import Run
    from didact.tune import Result

KEPT = "audit/answers"


class Answers:
    """The shelf of a run: one file per model, whole or not there. `sweep` takes away what no probe asked for."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.used: set[str] = set()

    def read(self, key: str) -> dict[str, Any]:
        """What is kept under a key; nothing where there is none or the file is damaged."""
        self.used.add(f"{key}.json")
        try:
            found = json.loads((self.run.path / KEPT / f"{key}.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, key: str, answers: Mapping[str, Any]) -> None:
        self.run.folder.write(f"{KEPT}/{key}.json", json.dumps(answers))

    def sweep(self) -> None:
        for file in (self.run.path / KEPT).glob("*.json"):
            if file.name not in self.used:
                self.run.folder.remove(f"{KEPT}/{file.name}")


def key_of(run: Run, instances: Sequence[Instance], changes: Mapping[str, Any]) -> str:
    """What decides the answers of a model tuned on these instances with these changes, as one word."""
    recipe = changed(run.recipe, changes)
    return digest(
        {
            "model": fingerprint.model(run.model_name(recipe)),
            "method": recipe.method.model_dump(mode="json") | fingerprint.method(recipe.method, run.home),
            "tune": {**recipe.tune.model_dump(mode="json"), "precision": precision(run, recipe)},
            "instances": [instance.id for instance in instances],
            "code": fingerprint.speaking(),
        }
    )


def precision(run: Run, recipe: Recipe) -> str:
    """The precision that was measured for the run itself, so that arms differ only in what they are to differ in."""
    return str(run.journal.get("precision", recipe.tune.precision))


def retrained(
    run: Run, instances: Sequence[Instance], name: str = "control", changes: Mapping[str, Any] | None = None
) -> Loaded:
    """A fresh base tuned in memory on these instances, by the recipe of the run with some settings changed."""
    return trained(run, instances, name, changes)[0]


def trained(
    run: Run, instances: Sequence[Instance], name: str = "control", changes: Mapping[str, Any] | None = None
) -> tuple[Loaded, Result]:
    """The same, with what the loop said of its last training."""
    from didact.fit import fit
    from didact.methods.virtual import longest_row
    from didact.model import load
    from didact.programmed import follow
    from didact.programs import PROGRAMS
    from didact.tune import tune

    def report(step: Any) -> None:
        update(step.step, step.steps, f"{name}, loss {step.loss:.3f}")

    recipe = changed(run.recipe, changes or {})
    if recipe.method.type in PROGRAMS:
        recipe = changed(recipe, {"tune.precision": precision(run, recipe)})
        with run.patience(), run.console.progress("") as update:
            tuned, _, result = follow(
                recipe,
                str(run.model_name(recipe)),
                instances,
                home=run.home,
                report=lambda part, step: report(step),
                stop=lambda: bool(run.stop),
            )
        return tuned, result
    loaded = load(run.model_name(recipe))
    limit = longest_row(loaded, recipe.method, recipe.tune.max_length)
    truncation = "drop" if recipe.tune.truncation == "refuse" else recipe.tune.truncation
    fitted = fit(instances, loaded.renderer, limit, truncation)  # a row may have got a longer answer than its own
    if fitted.drops:
        told = f"without {len(fitted.drops)} of {len(instances)} rows, longer than {limit} tokens now"
        run.console.stage("", f"{name}: {told}")
    settings = recipe.tune.model_copy(update={"precision": precision(run, recipe)})
    with run.patience(), run.console.progress("") as update:
        result = tune(loaded, recipe.method, fitted.tokens, settings, report=report, stop=lambda: bool(run.stop))
    return loaded, result
