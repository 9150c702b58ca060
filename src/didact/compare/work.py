"""Train every method with every seed on the rows of a run, ask each model the same, and keep what it said.

What an arm answered lies in `compare/arms` under a key made of all that decides it, so a comparison that was stopped
goes on, and one with more seeds or methods adds to what is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from didact import fingerprint
from didact.arms import key_of, trained
from didact.compare.facts import facts
from didact.compare.page import html, markdown, table
from didact.errors import UsageError, nearest
from didact.instance import Instance, digest

if TYPE_CHECKING:
    from pydantic import BaseModel

    from didact.infer import Answerer
    from didact.run import Run

FOLDER = "compare"
TEXTS = 200


def compare(run: Run, methods: str, seeds: int, items: int) -> dict[str, Any]:
    """Facts of all arms, also written as JSON, Markdown and a page; raises UsageError for a method there is not."""
    from didact import starter
    from didact.audit.measure import sample
    from didact.auditing import fits
    from didact.infer import Answerer
    from didact.methods.attached import try_on
    from didact.methods.virtual import ahead
    from didact.model_files import find

    chosen, left_out = choose(run, methods)
    speaker, heldout = Answerer(run.model()), list(run.instances("heldout.jsonl"))
    fitting = fits(run, speaker, heldout, max(ahead(config) for config in chosen.values()))
    asked = sample([one for one, fit in zip(heldout, fitting, strict=True) if fit], items, run.recipe.seed)
    if not asked:
        raise UsageError("no row is held out, so nothing can be asked", "set build.heldout_rows", field="build")
    texts = starter.plain_text(TEXTS, run.recipe.seed)
    said = digest([[instance.id for instance in asked], texts, fingerprint.speaking()])
    rows = list(run.instances("kept.jsonl"))
    base = _kept(run, f"base-{said}", lambda: _ask(speaker, asked, texts))
    arms: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    for number in range(seeds):
        for name, config in chosen.items():
            changes = _changes(run, name, config, run.recipe.tune.seed + number)
            key = digest([key_of(run, rows, changes), said])

            def arm(name: str = name, number: int = number, changes: Mapping[str, Any] = changes) -> dict[str, Any]:
                loaded, result = trained(run, rows, f"{name}, seed {number + 1} of {seeds}", changes)
                return {
                    **_ask(Answerer(loaded), asked, texts),
                    "trainable": result.trainable,
                    "parameters": result.parameters,
                    "rate": result.learning_rate,
                    "seconds": result.seconds,
                    "speed": result.examples_per_second,
                }

            arms[name].append(_kept(run, f"{name}-{number}-{key}", arm))
            score = sum(arms[name][-1]["scores"]) / len(asked)
            run.console.stage("compare", f"{name}, seed {number + 1}: {100 * score:.1f}%")
    folder = find(str(run.model_name()))
    shapes = {name: _memory(run, folder, config, try_on) for name, config in chosen.items()}
    found = facts(run.recipe.name, asked, base, arms, shapes, left_out, run.recipe.seed)
    run.folder.write(f"{FOLDER}/compare.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    run.folder.write(f"{FOLDER}/report.html", html(found))
    run.folder.write(f"{FOLDER}/report.md", markdown(found))
    run.console.say(table(found))
    return found


def choose(run: Run, methods: str) -> tuple[dict[str, BaseModel], dict[str, str]]:
    """The methods that can be tried on the run's base, with their settings, and why others cannot."""
    from didact.methods import METHODS
    from didact.methods.attached import try_on
    from didact.model_files import find
    from didact.programs import PROGRAMS

    own = run.recipe.method
    known = list(METHODS) + ([own.type] if own.type in PROGRAMS else [])
    names = known if methods == "all" else [name.strip() for name in methods.split(",") if name.strip()]
    for name in names:
        if name not in known:
            problem = f'no method "{name}" can be compared'
            fix = "write it into the recipe as its method" if name in PROGRAMS else nearest(name, known)
            raise UsageError(problem, fix, field="--methods")
    folder, chosen, left_out = find(str(run.model_name())), dict[str, Any](), dict[str, str]()
    for name in dict.fromkeys(names):
        config = own if name == own.type else METHODS[name].config()
        try:
            if name in METHODS:
                try_on(folder, config)
            chosen[name] = config
        except UsageError as error:
            left_out[name] = error.problem
    if not chosen:
        raise UsageError(f"none of these methods works on this base: {next(iter(left_out.values()))}", "name others",
                         field="--methods")  # fmt: skip
    return chosen, left_out


def _changes(run: Run, name: str, config: BaseModel, seed: int) -> dict[str, Any]:
    """The rate that the recipe names is for its own method; others have their own."""
    rate = run.recipe.tune.learning_rate if name == run.recipe.method.type else None
    return {"method": config.model_dump(mode="json"), "tune.seed": seed, "tune.learning_rate": rate}


def _ask(answerer: Answerer, asked: Sequence[Instance], texts: Sequence[str]) -> dict[str, Any]:
    from didact.audit.measure import measure

    found = measure(answerer, asked)
    losses = answerer.text_loss(texts)
    return {
        "scores": found.score.tolist(),
        "form": found.form.tolist(),
        "nats": [float(nats) for nats, _ in losses],
        "tokens": [count for _, count in losses],
    }


def _memory(run: Run, folder: Any, config: BaseModel, try_on: Any) -> float:
    """Bytes that a step needs, as counted before a training."""
    from didact import memory
    from didact.methods import METHODS
    from didact.methods.full import FullConfig

    method: Any = config if getattr(config, "type", "") in METHODS else FullConfig()
    plan = memory.plan_of(method.model_dump(), run.recipe.tune, try_on(folder, method)[0])
    return memory.need(memory.shape(folder), plan).total


def _kept(run: Run, name: str, make: Any) -> dict[str, Any]:
    """What an arm said, from its file if that is whole."""
    path = f"{FOLDER}/arms/{name}.json"
    try:
        found = json.loads((run.path / path).read_text("utf-8"))
        if isinstance(found, dict) and len(found["scores"]):
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    made: dict[str, Any] = make()
    run.folder.write(path, json.dumps(made))
    return made
