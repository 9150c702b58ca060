"""What a build has made, in figures and in lines: the mixture as it was asked for and as it came out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from didact.build.shards import EXAMPLES, HELDOUT, TRAIN, Built

SHOWN = 12  # tasks in the console; the file has them all
FORMS = {"options": "with options", "shots": "with examples", "cot": "with reasoning", "inverted": "turned around"}


def mixture_of(built: Built, tokenizer: str = "") -> dict[str, Any]:
    """tasks: rows, instances and rates of each; forms: how prompts were changed; examples, leaks, dropped, notes.

    A task's `asked` is the rate that the recipe gives it, `rate` the share of the training instances that it got.
    tokenizer: the name of what counted the tokens of examples.
    """
    plan, train, heldout, early = built.plan, built.tallies[TRAIN], built.tallies[HELDOUT], built.tallies["drops"]
    whole = max(1, train.lines)
    tasks: dict[str, dict[str, Any]] = {}
    for number, task in enumerate(plan.tasks):
        start, end = plan.rows.starts[number], plan.rows.starts[number + 1]
        tasks[task.name] = {
            "cluster": task.cluster,
            "licence": task.licence,
            "languages": list(task.languages),
            "rows": end - start,
            "rows held out": int(np.count_nonzero(plan.held[start:end])),
            "group": list(plan.groups[number]),
            "asked": round(plan.mixture.rates.get(task.name, 0.0), 6),
            "rate": round(train.made[task.name] / whole, 6),
            "instances": train.made[task.name],
            "held out": heldout.made[task.name],
        }
    dropped = early.dropped + heldout.dropped + train.dropped
    first = {**train.first, **heldout.first, **early.first}
    most = dropped.most_common(1)
    return {
        "tasks": tasks,
        "forms": {name: {TRAIN: train.forms[name], HELDOUT: heldout.forms[name]} for name in FORMS},
        "examples": _examples(built, tokenizer),
        "leaks": {"same": dict(train.same), "shares 13 words": dict(train.shares)},
        "dropped": dict(dropped.most_common()),
        "most dropped": f"most often ({most[0][1]}): {most[0][0]}; first: {first[most[0][0]]}" if most else "",
        "barren templates": _barren(train.barren + heldout.barren, train.fruitful + heldout.fruitful),
        "notes": list(plan.notes),
    }


def _examples(built: Built, tokenizer: str) -> dict[str, Any]:
    """Examples before questions: the budget, how many are shown, how many were pruned, why some questions have none."""
    settings = built.plan.config.few_shot
    if not settings.share:
        return {}
    found: dict[str, Any] = {"max tokens": settings.max_tokens, "tokenizer": tokenizer}
    found |= {"picture tokens": settings.picture_tokens} if settings.picture_tokens else {}
    for kind in (TRAIN, HELDOUT):
        counted = built.tallies[kind].examples
        reasons = {reason: n for reason, n in counted.most_common() if reason not in dict(EXAMPLES)}
        found[kind] = {name: counted[name] for name, _ in EXAMPLES} | {"left with none": reasons}
    return found


def _barren(nothing: Counter[str], something: Counter[str]) -> dict[str, int]:
    """Templates that gave no instance for any row: "task: template" -> rows."""
    return {key.replace("\t", ": "): n for key, n in nothing.items() if not something[key]}


def told(mixture: Mapping[str, Any], cleaned: bool) -> Iterator[str]:
    """The lines that a build ends with. cleaned: whether curation will drop what leaked."""
    yield from mixture["notes"]
    whole = max(1, sum(task["instances"] for task in mixture["tasks"].values()))
    forms = {name: made[TRAIN] for name, made in mixture["forms"].items() if made[TRAIN]}
    if forms:
        yield "training prompts: " + ", ".join(f"{n / whole:.0%} {FORMS[name]}" for name, n in forms.items())
    if mixture["examples"]:
        yield from _told_examples(mixture["examples"])
    if len(mixture["tasks"]) > 1:
        yield from _rates(mixture["tasks"], whole)
    for name, n in mixture["barren templates"].items():
        yield f"no instance from template {name} ({n:,} rows)"
    if mixture["dropped"]:
        yield "dropped: " + ", ".join(f"{n:,} {reason}" for reason, n in mixture["dropped"].items())
    same, shares = (sum(found.values()) for found in mixture["leaks"].values())
    if same or shares:
        then = "curation drops them" if cleaned else "nothing drops them: add {type: decontaminate} to curate"
        yield f"leaks: {same:,} the same as a held-out instance, {shares:,} share 13 words in a row with one; {then}"


def _told_examples(examples: Mapping[str, Any]) -> Iterator[str]:
    made, budget = examples[TRAIN], f"{examples['max tokens']:,} tokens as {examples['tokenizer']} counts them"
    each = f", a picture as {examples['picture tokens']}" if "picture tokens" in examples else ""
    yield f"examples: {made['shown']:,} shown, {made['pruned']:,} pruned to {budget}{each}"
    reasons = made["left with none"]
    if reasons:
        why = ", ".join(f"{n:,} ({reason})" for reason, n in reasons.items())
        yield f"questions drawn for examples and left without: {why}"


def _rates(tasks: Mapping[str, Mapping[str, Any]], whole: int) -> Iterator[str]:
    """Rates of tasks, or of clusters where the tasks are many."""
    kind, rows = "tasks", {name: (task["instances"], task["asked"]) for name, task in tasks.items()}
    if len(rows) > SHOWN:
        kind, rows = "clusters", {}
        for task in tasks.values():
            made, asked = rows.get(task["cluster"], (0, 0.0))
            rows[task["cluster"]] = (made + task["instances"], asked + task["asked"])
    ranked = sorted(((n, asked, name) for name, (n, asked) in rows.items() if n or asked), reverse=True)
    shown = [f"{name} {n / whole:.1%}" + _missed(n / whole, asked) for n, asked, name in ranked[:SHOWN]]
    more = f", and {len(ranked) - SHOWN} more" if len(ranked) > SHOWN else ""
    yield f"mixture by {kind}: {', '.join(shown)}{more} (mixture.json)"


def _missed(rate: float, asked: float) -> str:
    return f" (asked {asked:.1%})" if abs(rate - asked) >= 0.005 else ""
