"""`didact audit A B`: the tuned models of two runs, asked what was held out from both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from didact import fingerprint
from didact.errors import UsageError
from didact.run import Run, open_run

if TYPE_CHECKING:
    from didact.audit import Finding
    from didact.console import Console


def against(first: Path, second: Path, console: Console) -> tuple[list[Finding], str, Path]:
    """Findings, a headline, and the page that was written into the second run's folder."""
    from didact import starter
    from didact.audit import findings_to_json
    from didact.audit.report import About, report_html, report_markdown
    from didact.audit.versus import Pair, headline, versus
    from didact.auditing import fits
    from didact.infer import Answerer
    from didact.methods.virtual import ahead
    from didact.model import load_tuned

    runs = [_opened(folder, console) for folder in (first, second)]
    a, b = runs
    names = (a.recipe.name, b.recipe.name)
    if names[0] == names[1]:
        names = (first.resolve().name, second.resolve().name)
    if names[0] == names[1]:
        names = (str(first), str(second))
    with b:
        models = tuple(Answerer(load_tuned(run.path / "tuned")) for run in runs)
        known = {instance.id for instance in a.instances("heldout.jsonl")}
        common = [instance for instance in b.instances("heldout.jsonl") if instance.id in known]
        trained = {instance.id for run in runs for instance in run.instances("kept.jsonl")}
        common = [instance for instance in common if instance.id not in trained]
        for run in runs:
            readable = fits(run, models[0], common, ahead(run.recipe.method))
            common = [instance for instance, fit in zip(common, readable, strict=True) if fit]
        console.stage("audit", f"{names[0]} and {names[1]}: {len(common):,} items are held out from both")
        texts = starter.plain_text(200, a.recipe.seed)
        found = versus(Pair(names, (models[0], models[1]), common, texts, a.recipe.seed))
        told = headline(found, names)
        facts = {"Runs": f"{first} and {second}", "Differs in": _differences(runs) or "nothing that a recipe says"}
        about = About(f"{names[0]} and {names[1]}", facts, headline=told)
        place = f"audit/against-{names[0].replace('/', '-')}"
        b.folder.write(f"{place}.json", findings_to_json(found))
        b.folder.write(f"{place}.md", report_markdown(found, about))
        b.folder.write(f"{place}.html", report_html(found, about))
    return found, told, b.path / f"{place}.html"


def _opened(folder: Path, console: Console) -> Run:
    if not (folder / "tuned").is_dir():
        raise UsageError("no tuned model here", "give the folders of two runs that were tuned", file=folder)
    return open_run(folder, None, (), console)


def _differences(runs: Sequence[Run]) -> str:
    """The settings in which two recipes differ, in a line."""
    flat = [fingerprint.flat("", run.recipe) for run in runs]
    keys = [key for key in {**flat[0], **flat[1]} if flat[0].get(key) != flat[1].get(key) and key != "name"]
    told = [f"{key} {flat[0].get(key, '–')} → {flat[1].get(key, '–')}" for key in keys[:6]]
    return ", ".join(told) + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")
