"""One run, stage after stage, in a folder that says what made what; the only writer of that folder.

A stage is skipped when nothing that goes into it has changed: its part of the recipe, the files it reads, and the code
that reads them. Killed at any moment, the same command goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from didact import __version__, fingerprint
from didact.console import Console
from didact.errors import Interrupted, UsageError
from didact.folder import FULL, Folder, disk_error, now, read_journal, read_lines
from didact.instance import Instance, digest
from didact.recipe import Recipe, load_recipe
from didact.stages import FAILED, WORK
from didact.tuning import put_aside

if TYPE_CHECKING:
    from didact.audit import Finding
    from didact.infer import Answerer
    from didact.model import Loaded
    from didact.render import Renderer

STAGES = tuple(WORK)


class Run:
    """A recipe and the folder where its results lie. Use it as a context: the folder is locked, signals are caught."""

    def __init__(self, folder: Path, recipe: Recipe, text: str, home: Path, console: Console) -> None:
        self.folder, self.recipe, self.text, self.home, self.console = Folder(folder), recipe, text, home, console
        self.path = folder
        self.stop = 0  # the signal that asked us to stop, if one did
        self.patient = False  # the work at hand looks at `stop` by itself
        self.anew = False  # a changed recipe may take over generation that was stopped midway
        self.ranks, self.nodes = 1, 1  # processes that tune, on each of so many machines
        self.journal: dict[str, Any] = {}
        self._handlers: dict[int, Any] = {}
        self.loaded: Loaded | None = None

    def __enter__(self) -> Run:
        self.folder.__enter__()
        if self.folder.note:
            self.console.say(self.folder.note, "aside")
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._signal)
        self.journal = self.folder.journal()
        self.journal.setdefault("stages", {})
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self.folder.__exit__()

    def _signal(self, number: int, frame: FrameType | None) -> None:
        """The first signal ends the work in order; the second ends it at once (files are whole either way)."""
        if self.stop:
            os._exit(128 + number)
        self.stop = number
        if not self.patient:
            raise self.interrupted()

    def interrupted(self) -> Interrupted:
        """The end that the user asked for, and how to go on."""
        return Interrupted(
            f"stopped; all finished work is in {self.path}: repeat the command to go on", 128 + self.stop
        )

    def upto(self, last: str) -> None:
        """Run the stages up to and including `last`, those that are needed."""
        try:
            self._remember_recipe()
            for name in STAGES[: STAGES.index(last) + 1]:
                self._stage(name)
        except OSError as error:
            raise disk_error(error, self.path) from error
        except (RuntimeError, ValueError) as error:  # libraries that write by themselves wrap what the disk said
            if any(os.strerror(code).lower() in str(error).lower() for code in FULL):
                raise disk_error(OSError(FULL[0], os.strerror(FULL[0])), self.path) from error
            raise

    def _remember_recipe(self) -> None:
        resolved = json.dumps(self.recipe.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
        self.folder.write("recipe.yaml", self.text)
        self.folder.write("recipe.json", resolved)
        self.journal |= {"didact": __version__, "home": str(self.home), "seed": self.recipe.seed}
        self.journal["versions"] = fingerprint.versions()
        self._save_journal()

    def _save_journal(self) -> None:
        self.folder.write("run.json", json.dumps(self.journal, indent=1, ensure_ascii=False) + "\n")

    # --- stages: what goes in, whether it has changed, and the work --------------------------------------------------

    def _stage(self, name: str) -> None:
        if name == "generate" and not self.recipe.generate:
            self.journal["stages"].pop(name, None)
            return
        inputs, before = self.inputs(name), self.journal["stages"].get(name, {})
        if name == "generate" and before.get("state") == "started" and not self.anew:
            self._refuse_change(before["inputs"], inputs)
        why = self._why(before, inputs)
        if not why:
            told = ", ".join(f"{count:,} {what}" for what, count in before.get("counts", {}).items())
            self.console.stage(name, f"reused: nothing that goes into it has changed{f' ({told})' if told else ''}")
            return
        resumed = before.get("state") == "started" and before.get("inputs") == inputs
        self.console.stage(name, "goes on where it stopped" if resumed else why)
        entry: dict[str, Any] = {"state": "started", "inputs": inputs}
        if not resumed:
            entry["began"] = now()
            if name == "tune":
                put_aside(self, before, inputs)
        self.journal["stages"][name] = {**before, **entry} if resumed else entry
        self._save_journal()
        start = time.monotonic()
        counts, outputs = WORK[name](self)
        seconds = round(time.monotonic() - start + (before.get("seconds", 0.0) if resumed else 0.0), 2)
        entry = {"state": "done", "inputs": inputs, "outputs": self.folder.print_of(outputs), "counts": counts}
        self.journal["stages"][name] = {**entry, "seconds": seconds, "finished": now()}
        self._save_journal()
        told = ", ".join(f"{count:,} {what}" for what, count in counts.items())
        self.console.stage("", f"{told or 'done'} in {time.monotonic() - start:.1f} s")
        if self.stop:  # a library swallowed the interruption; the stage is finished, so nothing is lost
            raise self.interrupted()

    def _refuse_change(self, before: dict[str, Any], inputs: dict[str, Any]) -> None:
        """Generation that was stopped midway goes on with the same recipe, or on demand anew with another."""
        from didact.generation import changed_midway
        from didact.teachers import CALLS

        calls = self.path / CALLS
        if not calls.exists() or not calls.stat().st_size:  # nothing was asked yet: there is nothing to mix up
            return
        if changed := changed_midway(before, inputs):
            problem = f"the recipe was changed while generation was stopped midway: {', '.join(changed[:3])}"
            fix = "undo that, or go on with the new one: didact generate --anew (paid answers are kept)"
            raise UsageError(problem, fix, file=self.path / "recipe.yaml", field="generate")

    def _why(self, before: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
        """Why a stage must run; empty if its outputs stand for these inputs."""
        if not before:
            return "runs for the first time"
        changed = [key for key in {**before["inputs"], **inputs} if before["inputs"].get(key) != inputs.get(key)]
        if changed:
            told = [fingerprint.change(key, before["inputs"].get(key), inputs.get(key)) for key in changed[:3]]
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            return f"runs again: {', '.join(told)}{more}"
        if before.get("state") != "done":
            return "runs again: it was stopped before its end"
        if before.get("counts", {}).get(FAILED):
            return f"runs again: {before['counts'][FAILED]} of its probes failed"
        damage = self.folder.damaged(before["outputs"])
        return f"runs again: {damage}" if damage else ""

    def inputs(self, name: str) -> dict[str, Any]:
        """Everything that decides what a stage makes, flat, so that a change can be named."""
        recipe, found = self.recipe, dict[str, Any](code=fingerprint.code(name))
        if name == "build":
            found |= fingerprint.flat("sources", recipe.sources) | fingerprint.flat("build", recipe.build)
            found.pop("build.workers")  # any number of them makes the same
            found |= fingerprint.sources(recipe.sources, self.home)
            if self.tokenizer_name():
                found |= {"tokenizer": fingerprint.tokenizer(self.tokenizer_name())}
            if recipe.build.few_shot.share:
                found |= {"build.few_shot.picture_tokens": self.picture_tokens()}
        elif name == "generate":
            from didact.generation import inputs

            found |= inputs(recipe, self.home) | self._hashes("built.jsonl", "heldout.jsonl")
        elif name == "curate":
            from didact.teachers import judges

            found |= fingerprint.benchmarks(recipe.curate, self.home)
            found |= judges(recipe.curate, recipe.teachers, self.home)
            found |= fingerprint.flat("curate", recipe.curate) | self._hashes("built.jsonl", "heldout.jsonl")
            found |= self._hashes("generated.jsonl") if recipe.generate else {}
            found |= {"tune.max_length": recipe.tune.max_length, "tune.truncation": recipe.tune.truncation}
            found |= {"model": fingerprint.model(self.model_name())}
        elif name == "card":
            dropped = self.journal["stages"]["curate"]["outputs"].get("dropped.jsonl", {})
            found |= {"name": recipe.name, "dropped": dropped.get("sha256", "")}
            found |= self._hashes("built.jsonl", "heldout.jsonl", "kept.jsonl", "mixture.json")
            found |= self._hashes("generated.jsonl", "generation.json") if recipe.generate else {}
            found |= self._hashes("curation.json") if (self.path / "curation.json").exists() else {}
        elif name == "tune":
            found |= (
                fingerprint.flat("method", recipe.method)
                | fingerprint.method(recipe.method, self.home)
                | fingerprint.flat("tune", recipe.tune)
                | self._hashes("kept.jsonl")
            )
            found |= {"model": fingerprint.model(self.model_name())}
        elif name == "audit":
            found |= fingerprint.flat("audit", recipe.audit) | self._hashes("kept.jsonl", "heldout.jsonl", "tuned")
            found |= {"seed": recipe.seed, "model": fingerprint.model(self.model_name())}
            found |= {"audit_budget": recipe.audit_budget} if recipe.audit_budget else {}
            asks = [config for config in recipe.audit if getattr(config, "teacher", "")]
            if asks:
                from didact.teachers import judges

                found |= judges(asks, recipe.teachers, self.home)
        else:
            found |= {"name": recipe.name} | self._hashes("audit/findings.json", "metrics.jsonl", "dropped.jsonl")
        return found

    def _hashes(self, *names: str) -> dict[str, str]:
        prints = {name: self.folder.print_of([name]) for name in names}
        return {name: digest({path: made["sha256"] for path, made in found.items()}) for name, found in prints.items()}

    # --- what stages and commands share ------------------------------------------------------------------------------

    def instances(self, name: str) -> Iterator[Instance]:
        """The instances in one of the run's files."""
        return (Instance.from_json(record, self.path) for record in read_lines(self.path / name))

    def findings(self) -> list[Finding]:
        """What the audit found."""
        from didact.audit import findings_from_json

        return findings_from_json((self.path / "audit" / "findings.json").read_text("utf-8"))

    def model_name(self, recipe: Recipe | None = None) -> str:
        """The base model, or that of a changed recipe; a folder is looked for beside the recipe first."""
        return self._beside((recipe or self.recipe).model)

    def tokenizer_name(self) -> str:
        """The model whose tokenizer counts the tokens of examples; empty where none is needed or there.

        Prompts of task files can do without: then four bytes are taken for a token.
        """
        few_shot, files = self.recipe.build.few_shot, any(s.type == "super-ni" for s in self.recipe.sources)
        counted = few_shot.share or (files and find_spec("tokenizers") is not None)
        return self._beside(few_shot.tokenizer or self.recipe.model) if counted else ""

    def picture_tokens(self) -> int:
        """How many tokens a picture counts in an example."""
        from didact.token_count import picture_tokens

        told = self.recipe.build.few_shot.picture_tokens
        return picture_tokens(self.tokenizer_name()) if told is None else told

    def _beside(self, name: str) -> str:
        beside = self.home / name
        return str(beside) if name != "starter" and beside.is_dir() else name

    def model(self) -> Loaded:
        """The base model, loaded once."""
        from didact.model import load

        if self.loaded is None:
            self.loaded = load(self.model_name())
        return self.loaded

    def renderer(self) -> Renderer:
        """The one renderer of this run."""
        return self.model().renderer

    def voices(self) -> dict[str, Answerer]:
        """The base model and the tuned one, to talk to; refused if the recipe now names another base."""
        from didact.infer import Answerer
        from didact.model import load_tuned

        tuned_on = read_journal(self.path).get("stages", {}).get("tune", {}).get("inputs", {}).get("model")
        if tuned_on is not None and tuned_on != fingerprint.model(self.model_name()):
            raise UsageError(
                f'the tuned model does not come from "{self.recipe.model}" as it is now',
                f"tune again: didact tune {self.path}",
                file=self.path / "recipe.json",
                field="model",
            )
        tuned = load_tuned(self.path / "tuned")
        return {"base": Answerer(self.model()), "tuned": Answerer(tuned)}

    @contextmanager
    def patience(self) -> Iterator[None]:
        """A signal does not break this work: it looks at `stop` by itself, at a moment when it can save."""
        self.patient = True
        try:
            yield
        except Interrupted as stopped:
            if not self.stop:  # it ends by itself: other machines are to go on
                raise
            raise self.interrupted() from stopped
        finally:
            self.patient = False
        if self.stop:
            raise self.interrupted()


def open_run(target: Path, out: Path | None, overrides: Sequence[str], console: Console) -> Run:
    """A run from a recipe, or from the folder of an earlier one."""
    if not target.is_dir():
        recipe, text = load_recipe(target, overrides)
        return Run(out or Path("runs") / recipe.name, recipe, text, target.resolve().parent, console)
    if out is not None:
        raise UsageError("--out does not go with the folder of a run", "give the recipe, or leave --out away")
    written = target / "recipe.json"
    if not written.exists():
        raise UsageError(
            "not the folder of a run: it has no recipe.json", "give a recipe, or a run's folder", file=target
        )
    recipe, _ = load_recipe(written, _reaching(written, overrides))  # JSON is YAML
    home = read_journal(target).get("home", str(target))
    as_written = target / "recipe.yaml"
    text = (as_written if as_written.exists() else written).read_text("utf-8")
    return Run(target, recipe, text, Path(home), console)


def _reaching(written: Path, overrides: Sequence[str]) -> list[str]:
    """Overrides of a run whose recipe leaves nothing open: `seed` reaches what followed it, and a preset is refused."""
    found = list(overrides)
    for override in overrides:
        name, _, value = override.partition("=")
        if name.strip() in ("build.preset", "tune.preset"):
            problem = "a preset fills in what a recipe leaves open, and that of a run leaves nothing open"
            fix = f"give the recipe: didact build recipe.yaml --set {override} --out FOLDER"
            raise UsageError(problem, fix, file="--set", field=name.strip())
        if name.strip() == "seed":
            before, _ = load_recipe(written)
            sections = {"build": before.build.seed, "tune": before.tune.seed}
            found = [f"{key}.seed={value}" for key, seed in sections.items() if seed == before.seed] + found
    return found
