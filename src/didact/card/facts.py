"""What can be counted of a dataset, as plain JSON values: the one source of both pages and of `card.json`.

Figures that need every pair are taken from an evenly spaced sample and say so. Nothing here depends on chance.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from didact.card.generated import cost, generated
from didact.card.made import Fact, Made, evenly
from didact.card.variety import lengths, neighbours, scripts, variety, verbs
from didact.instance import Instance
from didact.pictures import pictured

COUNTED = 20_000  # instances that words, verbs and lengths are counted in
EXAMPLES, PER_REASON = 4, 2
NON_COMMERCIAL = re.compile(r"non[- ]?commercial|\bnc\b|research (?:only|use|purposes)|\(research\)|academic", re.I)
UNKNOWN = re.compile(r"^\s*$|no explicit|unknown|unlicensed|unspecified|no licen[cs]e", re.I)


def facts(made: Made) -> Fact:
    """All facts of the card."""
    some = evenly(made.kept, COUNTED)
    return {
        "name": made.name,
        "counts": _counts(made),
        "counted_in": len(some),
        "sources": _sources(made),
        "licences": _licences(made.kept),
        "clusters": _clusters(made.kept),
        "how": _how(made.kept),
        "languages": _languages(made),
        "scripts": scripts(some),
        "lengths": {"question": lengths(i.prompt for i in some), "answer": lengths(i.answer for i in some)},
        "labels": _labels(made.kept),
        "drops": _drops(made.dropped, made.kept),
        "overlap": _overlap(made),
        "verbs": verbs(some),
        "neighbours": neighbours(made.kept),
        "variety": variety(some),
        "generated": generated(made),
        "cost": cost(made),
        "examples": _examples(made.kept),
    }


def licence_kind(text: str) -> str:
    """non-commercial, unknown or open, by what the licence says of itself; a stricter reading wins."""
    if NON_COMMERCIAL.search(text):
        return "non-commercial"
    return "unknown" if UNKNOWN.search(text) else "open"


def _counts(made: Made) -> Fact:
    stages = Counter(str(record.get("stage", "")) for record in made.dropped)
    return {
        "kept": len(made.kept),
        "built": made.built,
        "generated": sum(map(len, made.generated.values())),
        "held out": len(made.heldout),
        "dropped": {stage: count for stage, count in stages.items() if stage},
        "tasks": len({i.origin.task for i in made.kept}),
        "clusters": len({i.origin.cluster for i in made.kept}),
        "turns": sum(message.role == "assistant" for i in made.kept for message in i.messages),
    }


def _sources(made: Made) -> list[Fact]:
    kept = Counter(_source(i.origin.source) for i in made.kept)
    lost = Counter(_source(str(record.get("origin", {}).get("source", ""))) for record in made.dropped)
    about: dict[str, Instance] = {}
    tasks: defaultdict[str, set[str]] = defaultdict(set)
    for instance in made.kept:
        about.setdefault(_source(instance.origin.source), instance)
        tasks[_source(instance.origin.source)].add(instance.origin.task)
    rows = []
    for source in sorted({*kept, *lost} - {""}, key=lambda source: (-kept[source], source)):
        licence = about[source].origin.licence if source in about else ""
        row = {"source": source, "kept": kept[source], "dropped": lost[source], "tasks": len(tasks[source])}
        rows.append({**row, "licence": licence, "licence_kind": licence_kind(licence) if source in about else ""})
    return rows


def _source(name: str) -> str:
    """The starter's tasks are one source, however many they are."""
    return "starter" if name.startswith("starter:") else name


def _licences(kept: Sequence[Instance]) -> list[Fact]:
    found = Counter(i.origin.licence for i in kept).most_common()
    return [{"licence": licence, "kind": licence_kind(licence), "kept": count} for licence, count in found]


def _clusters(kept: Sequence[Instance]) -> list[Fact]:
    tasks: defaultdict[str, set[str]] = defaultdict(set)
    for instance in kept:
        tasks[instance.origin.cluster].add(instance.origin.task)
    found = Counter(i.origin.cluster for i in kept).most_common()
    return [{"cluster": cluster, "kept": count, "tasks": len(tasks[cluster])} for cluster, count in found]


def _how(kept: Sequence[Instance]) -> list[Fact]:
    """Ways in which instances were made, and what was done to them on the way."""
    ways = Counter(i.origin.via.split(":", 1)[0] or "as it stands" for i in kept)
    for instance in kept:
        for tag, name in (("options", "with options"), ("cot", "with reasoning"), ("inverted", "turned around")):
            ways[name] += bool(instance.tags.get(tag))
        ways["with examples"] += bool(instance.tags.get("shots"))
        ways["of several turns"] += sum(message.role == "assistant" for message in instance.messages) > 1
        ways["with images"] += any(part.kind == "image" for message in instance.messages for part in message.parts)
    templates = len({i.origin.via for i in kept if i.origin.via.startswith("template:")})
    rows = [{"way": way, "kept": count} for way, count in ways.most_common() if count]
    return [{**row, "templates": templates} if row["way"] == "template" else row for row in rows]


def _languages(made: Made) -> list[Fact]:
    """Languages as sources and templates tell them, by the instances of their tasks; "" for those that tell none."""
    tasks, found = Counter(i.origin.task for i in made.kept), Counter[str]()
    for task, kept in tasks.items():
        found.update(dict.fromkeys(made.languages.get(task) or ("",), kept))
    return [{"language": language, "kept": kept} for language, kept in found.most_common()]


def _labels(kept: Sequence[Instance]) -> list[Fact]:
    """Answers of tasks with a closed set, and how evenly they are spread: entropy over that of equal shares."""
    tasks: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for instance in kept:
        if instance.choices:
            tasks[instance.origin.task][instance.answer] += 1
    rows = []
    for task, counts in sorted(tasks.items(), key=lambda item: (-item[1].total(), item[0])):
        shares = [count / counts.total() for count in counts.values()]
        entropy = -sum(share * math.log(share) for share in shares)
        balance = round(entropy / math.log(len(counts)), 3) if len(counts) > 1 else 0.0
        top = [[label[:60], count] for label, count in counts.most_common(8)]
        rows.append({"task": task, "kept": counts.total(), "labels": len(counts), "balance": balance, "top": top})
    return rows


def _drops(dropped: Sequence[Mapping[str, Any]], kept: Sequence[Instance]) -> list[Fact]:
    by_id = {instance.id: instance for instance in kept}
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for record in dropped:
        key = (str(record.get("stage", "")), str(record.get("strategy", "")), str(record.get("reason", "")))
        groups.setdefault(key, []).append(record)
    rows = []
    for (stage, strategy, reason), records in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        told = [record for record in records if record.get("instance")][:PER_REASON]
        examples = [_dropped(record, by_id) for record in told]
        count = {"stage": stage, "strategy": strategy, "reason": reason, "count": len(records)}
        rows.append({**count, "examples": examples})
    return rows


def _dropped(record: Mapping[str, Any], by_id: Mapping[str, Instance]) -> Fact:
    instance, near = Instance.from_json(record["instance"]), str(record.get("near", ""))
    like = by_id.get(near)
    return {
        "prompt": instance.prompt[:300],
        "answer": instance.answer[:200],
        "near": near,
        "near_prompt": like.prompt[:300] if like is not None else "",
        "score": record.get("score"),
    }


def _overlap(made: Made) -> list[Fact]:
    """Of each source how many instances overlap with what is held out, and with what."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    seen = Counter(_source(i.origin.source) for i in made.kept)
    for record in made.dropped:
        source = _source(str(record.get("origin", {}).get("source", "")))
        seen[source] += record.get("stage") == "curate"
        if record.get("strategy") == "decontaminate":
            found[source][str(record["reason"])] += 1
    rows = []
    for source, reasons in sorted(found.items(), key=lambda item: -item[1].total()):
        share = round(reasons.total() / seen[source], 4)
        rows.append(
            {"source": source, "overlapping": reasons.total(), "share": share, "by": dict(reasons.most_common())}
        )
    return rows


def _examples(kept: Sequence[Instance]) -> list[Fact]:
    """A few instances with their lineage, from as many different ways as there are."""
    chosen: dict[str, Instance] = {}
    for instance in evenly(kept, 400):
        chosen.setdefault(f"{instance.origin.via.split(':')[0]} {instance.origin.cluster}", instance)
    ways = sorted(chosen.values(), key=lambda i: (i.origin.via.split(":")[0], i.id))
    return [_shown(instance) for instance in evenly(ways, EXAMPLES)]


def _shown(instance: Instance) -> Fact:
    origin = instance.origin
    lineage: Fact = {"source": f"{origin.source}:{origin.row}", "task": origin.task, "cluster": origin.cluster}
    lineage |= {"made by": origin.via, "teacher": origin.teacher, "licence": origin.licence}
    lineage |= {"grew from": ", ".join(origin.parents[:4]) + (" ..." if len(origin.parents) > 4 else "")}
    for tag, name in (
        ("options", "options"),
        ("shots", "examples"),
        ("cot", "reasoning"),
        ("inverted", "turned around"),
    ):
        lineage[name] = instance.tags.get(tag, "")
    parts = [
        {"role": message.role, "slot": part.slot or "", "text": part.value[:600]}
        if part.kind == "text"
        else {"role": message.role, "slot": part.slot or "", **pictured(part.value)}
        for message in instance.messages[:6]
        for part in message.parts
    ]
    return {"id": instance.id, "lineage": {key: value for key, value in lineage.items() if value}, "parts": parts}
