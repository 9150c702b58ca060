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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from didact import __version__, fingerprint
from didact.console import Console
from didact.errors import Interrupted, UsageError
from didact.folder import FULL, Folder, disk_error, now, read_journal, read_lines
from didact.instance import Drop, Instance, digest
from didact.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from didact.audit import Finding, Speaker
    from didact.audit.report import About
    from didact.infer import Answerer
    from didact.model import Loaded
    from didact.render import Renderer, Tokens
    from didact.tune import Step

STAGES = ("build", "curate", "tune", "audit", "report")
SHOWN_VERSIONS = ("python", "torch", "transformers")  # in the report; run.json has them all
Counts = dict[str, int]


class Run:
    """A recipe and the folder where its results lie. Use it as a context: the folder is locked, signals are caught."""

    def __init__(self, folder: Path, recipe: Recipe, text: str, home: Path, console: Console) -> None:
        self.folder, self.recipe, self.text, self.home, self.console = Folder(folder), recipe, text, home, console
        self.path = folder
        self.stop = 0  # the signal that asked us to stop, if one did
        self.patient = False  # the work at hand looks at `stop` by itself
        self.journal: dict[str, Any] = {}
        self._handlers: dict[int, Any] = {}
        self._loaded: Loaded | None = None

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
        inputs, before = self._inputs(name), self.journal["stages"].get(name, {})
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
            for leftover in ("metrics.jsonl", "checkpoints") if name == "tune" else ():
                self.folder.remove(leftover)
        self.journal["stages"][name] = {**before, **entry} if resumed else entry
        self._save_journal()
        start = time.monotonic()
        work: Callable[[], tuple[Counts, Sequence[str]]] = getattr(self, f"_{name}")
        counts, outputs = work()
        seconds = round(time.monotonic() - start + (before.get("seconds", 0.0) if resumed else 0.0), 2)
        entry = {"state": "done", "inputs": inputs, "outputs": self.folder.print_of(outputs), "counts": counts}
        self.journal["stages"][name] = {**entry, "seconds": seconds, "finished": now()}
        self._save_journal()
        told = ", ".join(f"{count:,} {what}" for what, count in counts.items())
        self.console.stage("", f"{told or 'done'} in {time.monotonic() - start:.1f} s")
        if self.stop:  # a library swallowed the interruption; the stage is finished, so nothing is lost
            raise self.interrupted()

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
        damage = self.folder.damaged(before["outputs"])
        return f"runs again: {damage}" if damage else ""

    def _inputs(self, name: str) -> dict[str, Any]:
        """Everything that decides what a stage makes, flat, so that a change can be named."""
        recipe, found = self.recipe, dict[str, Any](code=fingerprint.code(name))
        if name == "build":
            found |= fingerprint.flat("sources", recipe.sources) | fingerprint.flat("build", recipe.build)
            found |= fingerprint.sources(recipe.sources, self.home)
        elif name == "curate":
            found |= fingerprint.flat("curate", recipe.curate) | self._hashes("built.jsonl", "heldout.jsonl")
            found |= {"tune.max_length": recipe.tune.max_length, "model": fingerprint.model(self.model_name())}
        elif name == "tune":
            found |= (
                fingerprint.flat("method", recipe.method)
                | fingerprint.flat("tune", recipe.tune)
                | self._hashes("kept.jsonl")
            )
            found |= {"model": fingerprint.model(self.model_name())}
        elif name == "audit":
            found |= fingerprint.flat("audit", recipe.audit) | self._hashes("kept.jsonl", "heldout.jsonl", "tuned")
            found |= {"seed": recipe.seed, "model": fingerprint.model(self.model_name())}
        else:
            found |= {"name": recipe.name} | self._hashes("audit/findings.json", "metrics.jsonl")
        return found

    def _hashes(self, *names: str) -> dict[str, str]:
        prints = {name: self.folder.print_of([name]) for name in names}
        return {name: digest({path: made["sha256"] for path, made in found.items()}) for name, found in prints.items()}

    def _build(self) -> tuple[Counts, Sequence[str]]:
        from didact.build import build
        from didact.sources import open_source

        drops: list[Drop] = []
        heldout: list[Instance] = []
        tasks = [task for source in self.recipe.sources for task in open_source(source, self.home, drops.append)]

        def train() -> Iterator[str]:
            for instance in build(tasks, self.recipe.build, drops.append):
                if instance.tags.get("split") == "heldout":
                    heldout.append(instance)
                else:
                    yield _line(instance.to_json())

        built = self.folder.write_lines("built.jsonl", train())
        if not built:
            raise UsageError("no row became an instance to train on", _most(drops) or "check sources and build")
        self.folder.write_lines("heldout.jsonl", (_line(instance.to_json()) for instance in heldout))
        self.folder.write_lines("dropped.jsonl", (_drop_line("build", drop) for drop in drops))
        self._tell_drops(drops)
        counts = {"instances": built, "held out": len(heldout), "rows dropped": len(drops)}
        return counts, ("built.jsonl", "heldout.jsonl", "dropped.jsonl")

    def _curate(self) -> tuple[Counts, Sequence[str]]:
        from didact.curate import STRATEGIES, Context

        instances, drops = list(self.instances("built.jsonl")), list[Drop]()
        built = len(instances)
        heldout = list(self.instances("heldout.jsonl"))
        context = Context(heldout=heldout, tokens=self.renderer().render, max_length=self.recipe.tune.max_length)
        for config in self.recipe.curate:
            verdicts = STRATEGIES[config.type][1](config, instances, context)
            judged = list(zip(instances, verdicts, strict=True))
            drops += [Drop(v.reason, _detail(v.near, v.score), i.origin, i) for i, v in judged if not v.keep]
            instances = [instance for instance, verdict in judged if verdict.keep]
        if not instances:
            raise UsageError(f"all {built} instances were dropped", _most(drops), field="curate")
        head = self.journal["stages"]["build"]["outputs"]["dropped.jsonl"]["bytes"]
        self.folder.write_lines("dropped.jsonl", (_drop_line("curate", drop) for drop in drops), keep=head)
        kept = self.folder.write_lines("kept.jsonl", (_line(instance.to_json()) for instance in instances))
        self._tell_drops(drops)
        return {"kept": kept, "dropped": len(drops)}, ("kept.jsonl", "dropped.jsonl")

    def _tune(self) -> tuple[Counts, Sequence[str]]:
        from didact.tune import save, tune

        loaded = self.model()
        tokens = self._tokens(list(self.instances("kept.jsonl")), loaded.renderer)
        metrics = Metrics(self.folder)

        def report(step: Step) -> None:
            metrics.add(asdict(step))
            update(step.step, step.steps, f"loss {step.loss:.3f}  {step.tokens_per_second:,.0f} tokens/s")

        with self._patience(), self.console.progress("tune") as update, closing(metrics):
            result = tune(
                loaded,
                self.recipe.method,
                tokens,
                self.recipe.tune,
                folder=self.path / "checkpoints",
                report=report,
                stop=lambda: bool(self.stop),
                note=lambda text: self.console.stage("", text),
            )
        staged = self.folder.staging / "tuned"
        save(loaded, self.recipe.method, staged)
        self.folder.move(staged, "tuned")
        self._loaded = None  # it is tuned now, and no base any more
        self.console.stage("", f"loss {result.loss:.3f}, {result.examples_per_second:,.0f} instances a second")
        return {"steps": result.steps, "weights trained": result.trainable}, ("tuned", "metrics.jsonl")

    def _audit(self) -> tuple[Counts, Sequence[str]]:
        from didact import starter
        from didact.audit import Subject, audit, findings_to_json
        from didact.infer import Answerer
        from didact.model import load_tuned

        base, tuned = self.model(), load_tuned(self.path / "tuned")
        asked, left_out = self._askable(Answerer(base).max_new_tokens)
        subject = Subject(
            base=Answerer(base),
            tuned=Answerer(tuned),
            heldout=asked,
            trained=list(self.instances("kept.jsonl")),
            texts=starter.plain_text(200, self.recipe.seed),
            retrain=self._retrain,
            seed=self.recipe.seed,
            left_out=left_out,
        )
        findings = audit(self.recipe.audit, subject, lambda probe: self.console.stage("", f"asks: {probe}"))
        self.folder.write("audit/findings.json", findings_to_json(findings))
        return {"findings": len(findings)}, ("audit/findings.json",)

    def _askable(self, answer_tokens: int) -> tuple[list[Instance], int]:
        """Held-out instances that the model can read with room for an answer and every choice; how many it cannot."""
        heldout, limit, renderer = list(self.instances("heldout.jsonl")), self.model().max_positions, self.renderer()
        if limit is None:
            return heldout, 0
        choices = {choice for instance in heldout for choice in instance.choices}
        sizes = {choice: len(renderer.plain(choice)) + 2 for choice in choices}
        asked = [
            instance
            for instance, prompt in zip(heldout, renderer.prompt_all(heldout), strict=True)
            if len(prompt) + max([answer_tokens, *(sizes[choice] for choice in instance.choices)]) < limit
        ]
        return asked, len(heldout) - len(asked)

    def _report(self) -> tuple[Counts, Sequence[str]]:
        from didact.audit.report import report_html, report_markdown

        findings, about = self.findings(), self._about()
        self.folder.write("audit/report.html", report_html(findings, about))
        self.folder.write("audit/report.md", report_markdown(findings, about))
        return {}, ("audit/report.html", "audit/report.md")

    def _about(self) -> About:
        """What the report says of the run besides its findings."""
        from didact.audit.report import About

        recipe, stages = self.recipe, self.journal["stages"]
        method = ", ".join(f"{key} {value}" for key, value in recipe.method.model_dump(exclude_none=True).items())
        installed = self.journal["versions"]
        seconds = sum(entry.get("seconds", 0.0) for entry in stages.values())
        facts = {
            "Base model": recipe.model,
            "Method": method.removeprefix("type "),
            "Seed": str(recipe.seed),
            "Time": f"{seconds:.0f} s",
            "Versions": ", ".join(f"{name} {installed[name]}" for name in SHOWN_VERSIONS if name in installed),
        }
        reasons = Counter(str(record["reason"]) for record in read_lines(self.path / "dropped.jsonl"))
        steps = list(read_lines(self.path / "metrics.jsonl"))
        return About(recipe.name, facts, steps, stages["curate"]["counts"]["kept"], reasons)

    # --- what stages and commands share ------------------------------------------------------------------------------

    def instances(self, name: str) -> Iterator[Instance]:
        """The instances in one of the run's files."""
        return (Instance.from_json(record) for record in read_lines(self.path / name))

    def findings(self) -> list[Finding]:
        """What the audit found."""
        from didact.audit import findings_from_json

        return findings_from_json((self.path / "audit" / "findings.json").read_text("utf-8"))

    def model_name(self) -> str:
        """The base model; a folder is looked for beside the recipe first."""
        beside = self.home / self.recipe.model
        return str(beside) if self.recipe.model != "starter" and beside.is_dir() else self.recipe.model

    def model(self) -> Loaded:
        """The base model, loaded once."""
        from didact.model import load

        if self._loaded is None:
            self._loaded = load(self.model_name())
        return self._loaded

    def renderer(self) -> Renderer:
        """The one renderer of this run."""
        return self.model().renderer

    def voices(self) -> dict[str, Answerer]:
        """The base model and the tuned one, to talk to."""
        from didact.infer import Answerer
        from didact.model import load_tuned

        tuned = load_tuned(self.path / "tuned")
        return {"base": Answerer(self.model()), "tuned": Answerer(tuned)}

    def _tokens(self, instances: Sequence[Instance], renderer: Renderer) -> list[Tokens]:
        """Rendered and checked: only the answers and their stops are learnt, in every single row."""
        rendered = renderer.render_all(instances)
        renderer.check_all(instances, rendered)
        return rendered

    def _retrain(self, instances: Sequence[Instance]) -> Speaker:
        """A fresh base tuned on other instances with the same recipe, in memory, for the controls of the audit."""
        from didact.infer import Answerer
        from didact.model import load
        from didact.tune import tune

        loaded = load(self.model_name())
        tokens = self._tokens(instances, loaded.renderer)

        def report(step: Step) -> None:
            update(step.step, step.steps, f"control, loss {step.loss:.3f}")

        with self._patience(), self.console.progress("") as update:
            tune(loaded, self.recipe.method, tokens, self.recipe.tune, report=report, stop=lambda: bool(self.stop))
        return Answerer(loaded)

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """A signal does not break this work: it looks at `stop` by itself, at a moment when it can save."""
        self.patient = True
        try:
            yield
        except Interrupted as stopped:
            raise self.interrupted() from stopped
        finally:
            self.patient = False
        if self.stop:
            raise self.interrupted()

    def _tell_drops(self, drops: Sequence[Drop]) -> None:
        if drops:
            counted = Counter(drop.reason for drop in drops).most_common()
            self.console.stage("", "dropped: " + ", ".join(f"{count:,} {reason}" for reason, count in counted))


class Metrics:
    """`metrics.jsonl`: each optimiser step once, also when a run is resumed from an earlier checkpoint."""

    def __init__(self, folder: Folder) -> None:
        self.folder, self.file = folder, folder.path / "metrics.jsonl"
        self.handle: Any = None

    def add(self, step: Mapping[str, Any]) -> None:
        """Write one step; those at or after it, from before a kill, go first."""
        if self.handle is None:
            self.folder.write_lines("metrics.jsonl", (_line(old) for old in self._before(step["step"])))
            self.handle = self.file.open("a", encoding="utf-8")
        self.handle.write(_line(step))
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
    recipe, _ = load_recipe(written, overrides)  # JSON is YAML
    home = read_journal(target).get("home", str(target))
    return Run(target, recipe, (target / "recipe.yaml").read_text("utf-8"), Path(home), console)


def _line(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, ensure_ascii=False) + "\n"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair: written as an escape
        text = json.dumps(record) + "\n"
    return text


def _drop_line(stage: str, drop: Drop) -> str:
    return _line({"stage": stage, **drop.to_json()})


def _detail(near: str, score: float | None) -> str:
    return ", ".join(([f"near {near}"] if near else []) + ([f"score {score:.3g}"] if score is not None else []))


def _most(drops: Sequence[Drop]) -> str:
    if not drops:
        return ""
    (reason, count), first = Counter(drop.reason for drop in drops).most_common(1)[0], drops[0]
    return f"most often ({count}): {reason}; first: {first.origin.source}:{first.origin.row} {first.detail}"
