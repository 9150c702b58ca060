"""The work of each stage in a run: what is read, which function does it, and what is written.

Everything goes through the run's folder, so files are whole or not there. What one stage hands to another as a callable
(the renderer to the filters, retraining to the audit) is tied together here.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from didact.errors import UsageError
from didact.folder import KEPT, read_lines
from didact.folder import json_line as _line
from didact.instance import Drop, Instance, digest
from didact.tuning import Done, tune

if TYPE_CHECKING:
    from didact.audit.report import About
    from didact.render import Tokens
    from didact.run import Run
    from didact.sources import Task

SHOWN_VERSIONS = ("python", "torch", "transformers")  # in the report; run.json has them all
NAMING = ("built.jsonl", "heldout.jsonl", "generated.jsonl")  # files that name pictures of the run
FAILED = "probes failed"  # counted, so that the next run asks them again


def build(run: Run) -> Done:
    """Rows to instances: those to learn from, and those put away for the audit."""
    from didact.build.report import mixture_of, told
    from didact.build.shards import build_in
    from didact.sources import open_source
    from didact.token_count import tokenizer_json

    def open_tasks(drop: Callable[[Drop], None]) -> list[Task]:
        opened = (open_source(source, run.home, drop, run.path, tokenizer) for source in run.recipe.sources)
        return [task for tasks in opened for task in tasks]

    work, counted_by = run.path / "building", run.tokenizer_name()
    tokenizer = tokenizer_json(counted_by) if counted_by else ""
    key, config = digest(run.journal["stages"]["build"]["inputs"]), run.recipe.build
    if config.few_shot.share:
        shown = config.few_shot.model_copy(update={"picture_tokens": run.picture_tokens()})
        config = config.model_copy(update={"few_shot": shown})
    try:
        with run.console.progress("build") as update:
            made = build_in(work, key, open_tasks, config, update, tokenizer)
    except UsageError as error:
        if error.field != "build.workers":  # when a process was killed, the work of the others is kept
            run.folder.remove("building")
            run.folder.sweep_pictures(NAMING)
        raise
    built, heldout = made.tallies["train"].lines, made.tallies["heldout"].lines
    mixture = mixture_of(made, run.recipe.build.few_shot.tokenizer or run.recipe.model)
    drops = mixture["dropped"]
    if not built:
        problem = "no row became an instance to train on"
        run.folder.remove("building")
        raise UsageError(problem, mixture["most dropped"] or "check sources and build")
    run.folder.write_lines("built.jsonl", made.blocks("train"))
    run.folder.write_lines("heldout.jsonl", made.blocks("heldout"))
    run.folder.write_lines("dropped.jsonl", made.blocks("drops"))
    run.folder.write("mixture.json", json.dumps(mixture, indent=1, ensure_ascii=False) + "\n")
    run.folder.remove("building")
    pictured = run.folder.sweep_pictures(NAMING)
    cleaned = any(config.type == "decontaminate" for config in run.recipe.curate)
    for line in told(mixture, cleaned):
        run.console.stage("", line)
    if any(source.type == "super-ni" for source in run.recipe.sources):
        words = (
            f"in tokens as {counted_by} counts them" if tokenizer else "at four bytes a token: no tokenizer is there"
        )
        run.console.stage("", f"prompts of task files are within max_length {words}")
    run.journal["mixture"] = {name: [task["asked"], task["rate"]] for name, task in mixture["tasks"].items()}
    counts = {"instances": built, "held out": heldout, "rows dropped": sum(drops.values())}
    counts |= {"pictures": pictured} if pictured else {}
    return counts, ("built.jsonl", "heldout.jsonl", "dropped.jsonl", "mixture.json", *([KEPT] if pictured else []))


def generate(run: Run) -> Done:
    """A language model writes more instances; answers are kept in calls.jsonl and paid for once."""
    from didact.arms import retrained
    from didact.generation import generate as write

    return write(run, lambda instances: retrained(run, instances))


def curate(run: Run) -> Done:
    """Drop what should not be learnt, each with its reason."""
    from didact.consult import Consult
    from didact.curate import STRATEGIES, Context

    instances, drops = list(run.instances("built.jsonl")), list[Drop]()
    before = "generate" if run.recipe.generate else "build"
    if run.recipe.generate:
        instances += run.instances("generated.jsonl")
    built, consult = len(instances), Consult(run)
    heldout = list(run.instances("heldout.jsonl"))
    context = Context(
        heldout=heldout,
        tokens=_whole(run),
        max_length=_longest(run),
        benchmarks=lambda file: _benchmark(run, file),
        ask=consult.ask,
        loss=lambda asked: _answer_loss(run, asked),
        embed=consult.embed,
    )
    lines: list[str] = []
    for config in run.recipe.curate:
        verdicts = STRATEGIES[config.type][1](config, instances, context)
        judged = list(zip(instances, verdicts, strict=True))
        for instance, verdict in judged:
            if not verdict.keep:
                drops.append(Drop(verdict.reason, _detail(verdict.near, verdict.score), instance.origin, instance))
                told = {"strategy": config.type, "near": verdict.near, "score": verdict.score}
                lines.append(_line({"stage": "curate", **told, **drops[-1].to_json()}))
        instances = [instance for instance, verdict in judged if verdict.keep]
    if not instances:
        raise UsageError(f"all {built} instances were dropped", _most(drops), field="curate")
    head = run.journal["stages"][before]["outputs"]["dropped.jsonl"]["bytes"]
    run.folder.write_lines("dropped.jsonl", lines, keep=head)
    kept = run.folder.write_lines("kept.jsonl", (_line(instance.to_json()) for instance in instances))
    _tell_drops(run, drops)
    counts = {"kept": kept, "dropped": len(drops)}
    counts |= {"calls": calls} if (calls := sum(account["calls"] for account in consult.accounts)) else {}
    return counts, ("kept.jsonl", "dropped.jsonl", *consult.save())


def _benchmark(run: Run, file: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Number and texts of every row of a benchmark's file; a row that cannot be read stops the run."""
    from didact import files
    from didact.template import expand

    def refuse(reason: str, error: UsageError) -> None:
        raise error

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, (list, dict)):
            for item in value.values() if isinstance(value, dict) else value:
                yield from texts(item)

    for number, row in files.records(run.home / expand(file), refuse):
        yield number, tuple(texts(row))


def _answer_loss(run: Run, instances: Sequence[Instance]) -> list[float]:
    from didact.infer import Answerer

    return Answerer(run.model()).answer_loss(instances)


def _whole(run: Run) -> Callable[[Instance], Tokens]:
    """Renders an instance as training sees it at its longest; the model is loaded when that is asked for."""

    def render(instance: Instance) -> Tokens:
        from didact.fit import whole

        return whole(instance, run.renderer())

    return render


def _longest(run: Run) -> int:
    """Beyond it `curate: length` drops a row; nothing is, where `tune.truncation` cuts or splits such rows."""
    settings = run.recipe.tune
    return settings.max_length if settings.truncation in ("refuse", "drop") else sys.maxsize


def card(run: Run) -> Done:
    """The picture of what was kept and of what was left out, as a page, as a hub's README and as plain figures."""
    from didact.card import DATA, Made, card_html, card_json, card_markdown, facts, public, public_names, turn_of
    from didact.consult import ACCOUNT

    generated: dict[str, list[int]] = {}
    mixture = json.loads((run.path / "mixture.json").read_text("utf-8"))
    accounts: list[dict[str, Any]] = []
    if run.recipe.generate:
        for made in run.instances("generated.jsonl"):
            turn = turn_of(made.origin.source, made.origin.row)
            generated.setdefault(made.origin.via.removeprefix("generate:"), []).append(turn)
        accounts = json.loads((run.path / "generation.json").read_text("utf-8"))
    kept = list(run.instances("kept.jsonl"))
    dropped = [r for r in read_lines(run.path / "dropped.jsonl") if r["stage"] in ("build", "generate", "curate")]
    names = public_names([*(i.origin.source for i in kept), *(r["origin"]["source"] for r in dropped)], run.home)
    if names:
        kept = [replace(instance, origin=public(instance.origin, names)) for instance in kept]
        for record in dropped:
            record["origin"]["source"] = names.get(record["origin"]["source"], record["origin"]["source"])
    found = facts(
        Made(
            run.recipe.name,
            kept,
            built=sum(1 for _ in read_lines(run.path / "built.jsonl")),
            heldout=list(run.instances("heldout.jsonl")),
            dropped=dropped,
            accounts=accounts,
            asked=json.loads((run.path / ACCOUNT).read_text("utf-8")) if (run.path / ACCOUNT).exists() else (),
            generated=generated,
            languages={name: task["languages"] for name, task in mixture["tasks"].items()},
        )
    )
    run.folder.write("card/card.json", card_json(found))
    run.folder.write("card/README.md", card_markdown(found))
    run.folder.write("card/card.html", card_html(found))
    if names:
        run.folder.write_lines(f"card/{DATA}", (_line(instance.to_json()) for instance in kept))
    else:
        run.folder.link("kept.jsonl", f"card/{DATA}")
    run.folder.link_pictures({picture for instance in kept for picture in instance.pictured}, "card")
    return {}, ("card/card.json", "card/README.md", "card/card.html", f"card/{DATA}")


def audit(run: Run) -> Done:
    """Put the tuned model beside its base and ask both."""
    from didact.arms import Answers
    from didact.audit import audit as ask
    from didact.audit import findings_to_json, seconds_of
    from didact.auditing import subject_of

    shelf = Answers(run)
    budget = run.recipe.audit_budget
    findings = ask(
        run.recipe.audit,
        subject_of(run, shelf),
        lambda probe: run.console.stage("", f"asks: {probe}"),
        None if budget is None else seconds_of(budget),
    )
    run.folder.write("audit/findings.json", findings_to_json(findings))
    counts = {"findings": len(findings)}
    unanswered = sum(finding.details.get("category") == "failed" for finding in findings)
    if unanswered:
        counts[FAILED] = unanswered
    else:
        shelf.sweep()
    return counts, ("audit/findings.json",)


def report(run: Run) -> Done:
    """The findings as a page and as text."""
    from didact.audit.report import report_html, report_markdown

    findings, about = run.findings(), _about(run)
    run.folder.write("audit/report.html", report_html(findings, about))
    run.folder.write("audit/report.md", report_markdown(findings, about))
    return {}, ("audit/report.html", "audit/report.md")


def _about(run: Run) -> About:
    """What the report says of the run besides its findings."""
    from didact.audit.report import About

    recipe, stages = run.recipe, run.journal["stages"]
    method = ", ".join(f"{key} {value}" for key, value in recipe.method.model_dump(exclude_none=True).items())
    installed = run.journal["versions"]
    seconds = sum(entry.get("seconds", 0.0) for entry in stages.values())
    facts = {
        "Base model": recipe.model,
        "Method": method.removeprefix("type "),
        "Seed": str(recipe.seed),
        "Time": f"{seconds:.0f} s",
        "Versions": ", ".join(f"{name} {installed[name]}" for name in SHOWN_VERSIONS if name in installed),
    }
    reasons = Counter(str(record["reason"]) for record in read_lines(run.path / "dropped.jsonl"))
    steps = list(read_lines(run.path / "metrics.jsonl"))
    return About(recipe.name, facts, steps, stages["curate"]["counts"]["kept"], reasons)


def _tell_drops(run: Run, drops: Sequence[Drop]) -> None:
    if drops:
        counted = Counter(drop.reason for drop in drops).most_common()
        run.console.stage("", "dropped: " + ", ".join(f"{count:,} {reason}" for reason, count in counted))


def _detail(near: str, score: float | None) -> str:
    return ", ".join(([f"near {near}"] if near else []) + ([f"score {score:.3g}"] if score is not None else []))


def _most(drops: Sequence[Drop]) -> str:
    if not drops:
        return ""
    reason, count = Counter(drop.reason for drop in drops).most_common(1)[0]
    first = next(drop for drop in drops if drop.reason == reason)
    return f"most often ({count}): {reason}; first: {first.origin.source}:{first.origin.row} {first.detail}"


WORK: dict[str, Callable[[Run], Done]] = {
    "build": build,
    "generate": generate,
    "curate": curate,
    "card": card,
    "tune": tune,
    "audit": audit,
    "report": report,
}
