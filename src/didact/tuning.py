"""The stage `tune`: rows to tokens, the loop or several processes of it, and one line of metrics for each step."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from didact.errors import Interrupted, UsageError
from didact.folder import Folder, json_line, sha256
from didact.instance import PICTURES, digest

if TYPE_CHECKING:
    from didact.fit import Fitted
    from didact.render import Tokens
    from didact.run import Run
    from didact.tune import Step

Done = tuple[dict[str, int], Sequence[str]]  # what to say of it, and the names of its outputs


def tune(run: Run) -> Done:
    """Train the base model on what was kept."""
    from didact.programs import PROGRAMS

    return _program(run) if run.recipe.method.type in PROGRAMS else _method(run)


def _method(run: Run) -> Done:
    """One training."""
    from didact import fingerprint, memory
    from didact.encoded import encoded
    from didact.fit import fit
    from didact.methods.attached import try_on
    from didact.methods.virtual import longest_row
    from didact.model_files import find, read_json
    from didact.tune import save
    from didact.tune import tune as train

    settings, folder = run.recipe.tune, find(run.model_name())
    trained, _ = try_on(folder, run.recipe.method)
    run.console.stage("", memory.before_loading(folder, run.recipe.method.model_dump(), settings, trained))
    loaded = run.model()
    limit = longest_row(loaded, run.recipe.method, settings.max_length)
    renderer, kept = loaded.renderer, run.path / "kept.jsonl"
    parts = {
        "rows": sha256(kept),
        "template or tokenizer": renderer.hash,
        "length": f"{limit} {settings.truncation} {renderer.turns}",
        "code": fingerprint.rendering(),
    }
    if loaded.vision is not None:  # its features were counted against the places in a row
        parts["model that sees"] = digest(read_json(folder / "config.json"), 32)

    def make() -> Fitted:
        return fit(list(run.instances(kept.name)), renderer, limit, settings.truncation)

    fitted = encoded(run.path / "tokens", parts, make, (run.path / PICTURES).absolute())
    for text in fitted.notes:
        run.console.stage("", text)
    head = run.journal["stages"]["curate"]["outputs"]["dropped.jsonl"]["bytes"]
    run.folder.write_lines("dropped.jsonl", (json_line({"stage": "tune", **drop}) for drop in fitted.drops), keep=head)
    metrics = Metrics(run.folder)

    def report(step: Step) -> None:
        metrics.add(asdict(step))
        update(step.step, step.steps, f"loss {step.loss:.3f}  {step.tokens_per_second:,.0f} tokens/s")

    with run.patience(), run.console.progress("tune") as update, closing(metrics):
        if run.ranks > 1 or run.nodes > 1:
            staged, told = _in_ranks(run, fitted.rows, report)
        else:
            result = train(
                loaded,
                run.recipe.method,
                fitted.rows,
                settings,
                folder=run.path / "checkpoints",
                report=report,
                stop=lambda: bool(run.stop),
                note=lambda text: run.console.stage("", text),
            )
            staged, told = run.folder.staging / "tuned", asdict(result)
            save(loaded, run.recipe.method, staged)
    return _tuned(run, staged, told)


def _program(run: Run) -> Done:
    """Several trainings, the last of which is reported step by step."""
    from didact.methods import suits
    from didact.model_files import find, kind_in
    from didact.programmed import follow
    from didact.programs import PROGRAMS
    from didact.tune import save

    name, metrics = run.recipe.method.type, Metrics(run.folder)
    suits(name, kind_in(find(run.model_name())), PROGRAMS[name].models)
    if run.ranks > 1 or run.nodes > 1:
        raise UsageError(f"{name} is several trainings in one process", "leave out --nproc and --nodes")

    def report(part: str, step: Step) -> None:
        update(step.step, step.steps, f"{part + ', ' if part else ''}loss {step.loss:.3f}")
        if not part:
            metrics.add(asdict(step))

    with run.patience(), run.console.progress("tune") as update, closing(metrics):
        loaded, method, result = follow(
            run.recipe,
            str(run.model_name()),
            list(run.instances("kept.jsonl")),
            folder=run.path / "checkpoints",
            home=run.home,
            report=report,
            stop=lambda: bool(run.stop),
            say=lambda text: run.console.stage("", text),
        )
        save(loaded, method, run.folder.staging / "tuned")
    return _tuned(run, run.folder.staging / "tuned", asdict(result))


def _tuned(run: Run, staged: Path, told: Mapping[str, Any]) -> Done:
    """The saved model in its place, and what its training said."""
    run.journal["precision"] = told["precision"]
    run.folder.move(staged, "tuned")
    run.folder.remove("parallel")
    run.loaded = None  # it is tuned now, and no base any more
    run.console.stage("", f"loss {told['loss']:.3f}, {told['examples_per_second']:,.0f} instances a second")
    return {"steps": told["steps"], "weights trained": told["trainable"]}, ("tuned", "metrics.jsonl")


def put_aside(run: Run, before: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Make room for another tuning than the one before.

    One that was stopped midway keeps its checkpoints, and its metrics beside them: with its settings back it goes on.
    """
    metrics, place = run.path / "metrics.jsonl", run.path / "checkpoints"
    stopped = before.get("state") == "started" and place.exists()
    if (stopped or any(place.glob("metrics-*.jsonl"))) and before.get("inputs", {}).get("code") == inputs.get("code"):
        if metrics.exists():
            metrics.rename(_aside(place, before["inputs"]))
        if stopped:
            run.console.stage("", f"what was stopped stays in {place}: with its settings back it goes on from there")
        if (own := _aside(place, inputs)).exists():
            own.rename(metrics)
    else:
        run.folder.remove("metrics.jsonl")
        run.folder.remove("checkpoints")


def _aside(place: Path, inputs: Mapping[str, Any]) -> Path:
    """Where the metrics of such a tuning wait; how often it saves decides nothing."""
    settings = {key: value for key, value in inputs.items() if key != "tune.checkpoint_minutes"}
    return place / f"metrics-{digest(settings)}.jsonl"


def _in_ranks(run: Run, data: Sequence[Tokens], report: Callable[[Step], None]) -> tuple[Path, dict[str, Any]]:
    """Tune in several processes; gives the folder of the saved model and what they said of it."""
    from didact import parallel
    from didact.tune import Step

    place = run.path / "parallel"
    job = {
        "id": digest(run.inputs("tune")),
        "model": str(run.model_name()),
        "recipe": run.recipe.model_dump(mode="json"),
        "checkpoints": str((run.path / "checkpoints").resolve()),
    }
    run.loaded = None  # the ranks load their own
    parallel.prepare(place, job, data)

    def tell(said: dict[str, Any]) -> None:
        if "note" in said:
            run.console.stage("", said["note"])
        elif "step" in said:
            report(Step(**said["step"]))

    if parallel.finished(place, job) is None:
        line = parallel.torchrun(place, run.ranks, max(run.nodes, 2))
        run.console.stage("", f"many machines that share this folder: {line}")
        if run.nodes > 1:
            raise Interrupted("the rows are prepared: start that on each machine, then repeat this command", 0)
        parallel.train(place, run.ranks, tell, stop=lambda: bool(run.stop))
    told = parallel.finished(place, job)
    assert told is not None, "ranks that end well say so"
    return place / parallel.TUNED, told


class Metrics:
    """`metrics.jsonl`: each optimiser step once, also when a run is resumed from an earlier checkpoint."""

    def __init__(self, folder: Folder) -> None:
        self.folder, self.file = folder, folder.path / "metrics.jsonl"
        self.handle: Any = None

    def add(self, step: Mapping[str, Any]) -> None:
        """Write one step; those at or after it, from before a kill, go first."""
        if self.handle is None:
            self.folder.write_lines("metrics.jsonl", (json_line(old) for old in self._before(step["step"])))
            self.handle = self.file.open("a", encoding="utf-8")
        self.handle.write(json_line(step))
        self.handle.flush()
        os.fsync(self.handle.fileno())

    def _before(self, step: int) -> Iterator[dict[str, Any]]:
        if not self.file.exists():
            return
        for line in self.file.read_text("utf-8", errors="replace").splitlines(keepends=True):
            if not line.endswith("\n"):
                return  # cut off by a kill
            record = json.loads(line)
            if record["step"] < step:
                yield record

    def close(self) -> None:
        if self.handle is not None:
            self.handle.close()
