"""What can be counted of a dataset, as plain JSON values: the one source of both pages and of `card.json`.

Figures that need every pair are taken from an evenly spaced sample and say so. Nothing here depends on chance.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from didact.card.grammar import root
from didact.curate.novelty import compared
from didact.curate.rouge import encode, rouge_l_each
from didact.curate.words import all_words, rouge_words, shares_instruction
from didact.instance import Instance

COUNTED = 20_000  # instances that words, verbs and lengths are counted in
NEIGHBOURS, QUERIES = 4000, 400  # instances compared with one another, and those whose nearest is looked for
EXAMPLES, PER_REASON = 4, 2
VERBS, OBJECTS, TASKS = 20, 4, 12
NON_COMMERCIAL = re.compile(r"non[- ]?commercial|\bnc\b|research (?:only|use|purposes)|\(research\)|academic", re.I)
UNKNOWN = re.compile(r"^\s*$|no explicit|unknown|unlicensed|unspecified|no licen[cs]e", re.I)
TAGS = {"options": "options", "shots": "examples", "cot": "reasoning", "inverted": "turned around"}
Fact = dict[str, Any]


@dataclass(frozen=True)
class Made:
    """What a run has made so far. dropped: the records of dropped.jsonl; accounts: of the generation strategies."""

    name: str
    kept: Sequence[Instance]
    built: int = 0
    heldout: Sequence[Instance] = ()
    dropped: Sequence[Mapping[str, Any]] = ()
    accounts: Sequence[Mapping[str, Any]] = ()
    generated: Mapping[str, Sequence[int]] = field(default_factory=dict)  # strategy: turn_of each that it gave on


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
        "languages": _scripts(some),
        "lengths": {"question": _lengths(i.prompt for i in some), "answer": _lengths(i.answer for i in some)},
        "labels": _labels(made.kept),
        "drops": _drops(made.dropped, made.kept),
        "overlap": _overlap(made),
        "verbs": _verbs(some),
        "neighbours": _neighbours(made.kept),
        "variety": _variety(some),
        "generated": _generated(made),
        "examples": _examples(made.kept),
    }


def evenly(items: Sequence[Instance], most: int) -> Sequence[Instance]:
    """At most so many, spread evenly over all."""
    return items if len(items) <= most else [items[i * len(items) // most] for i in range(most)]


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


def _scripts(some: Sequence[Instance]) -> list[Fact]:
    """Scripts by share of letters; told apart by the names that Unicode gives to letters."""
    letters = Counter(c for i in evenly(some, 2000) for c in f"{i.prompt[:400]} {i.answer[:400]}" if c.isalpha())
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        scripts[unicodedata.name(letter, "OTHER").split(" ")[0].capitalize()] += count
    total = max(1, scripts.total())
    return [{"script": s, "share": round(n / total, 4)} for s, n in scripts.most_common(6) if n / total >= 0.001]


def _lengths(texts: Iterable[str]) -> Fact:
    """Words by powers of two: bin k holds texts of 2**(k-1) to 2**k - 1 words, bin 0 those without any."""
    sizes = sorted(len(all_words(text)) for text in texts)
    bins = Counter(size.bit_length() for size in sizes)
    middle = [sizes[int(share * (len(sizes) - 1))] for share in (0.05, 0.5, 0.95)] if sizes else [0, 0, 0]
    histogram = [bins[k] for k in range(max(bins, default=0) + 1)]
    return {"p5": middle[0], "median": middle[1], "p95": middle[2], "longest": max(sizes, default=0), "bins": histogram}


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


def _verbs(some: Sequence[Instance]) -> Fact:
    """Verbs and objects of instructions; what templates say in many rows counts once per task and wording."""
    texts = {(i.origin.task, compared_instruction(i)) if shares_instruction(i) else (i.id, compared(i)) for i in some}
    found = Counter(root(text) for _, text in sorted(texts))
    none = found.pop(("", ""), 0)
    by_verb: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for (verb, thing), count in found.items():
        by_verb[verb][thing] += count
    top = sorted(by_verb.items(), key=lambda item: (-item[1].total(), item[0]))
    rows = [
        {"verb": verb, "count": things.total(), "objects": [[t, n] for t, n in things.most_common() if t][:OBJECTS]}
        for verb, things in top[:VERBS]
    ]
    pairs = sum(1 for verb, thing in found if thing)
    return {"instructions": len(texts), "not_found": none, "verbs": len(by_verb), "pairs": pairs, "top": rows}


def compared_instruction(instance: Instance) -> str:
    """The words of the template alone."""
    parts = [p.value for message in instance.context for p in message.parts if p.slot == "instruction"]
    return " ".join(parts) or instance.prompt


def _neighbours(kept: Sequence[Instance]) -> Fact:
    """ROUGE-L F of instructions with their nearest neighbour; ten bins from 0 to 1, the last one closed."""
    some = evenly(kept, NEIGHBOURS)
    numbers: dict[str, int] = {}
    texts = [[numbers.setdefault(w, len(numbers)) for w in rouge_words(compared(i)[:2000])] for i in some]
    texts = [text for text in texts if text]
    encoded, sizes_N = [encode(text) for text in texts], np.array([len(text) for text in texts])
    step = max(1, math.ceil(len(texts) / QUERIES))
    best: list[float] = []
    for place in range(0, len(texts), step) if len(texts) > 1 else ():
        scores_N = rouge_l_each(encoded[place], encoded, sizes_N)
        scores_N[place] = 0
        best.append(float(scores_N.max()))
    bins = np.histogram(best, bins=10, range=(0, 1))[0].tolist() if best else []
    above = round(sum(score > 0.7 for score in best) / len(best), 4) if best else None
    mean = round(sum(best) / len(best), 4) if best else None
    without = len(some) - len(texts)
    return {"of": len(best), "among": len(texts), "without": without, "bins": bins, "mean": mean, "above_0.7": above}


def _variety(some: Sequence[Instance]) -> Fact:
    """Distinct-n: different n-grams over all n-grams of the first 100,000 words; and shares of different texts."""
    found: Fact = {}
    for name, texts in (("question", [compared(i) for i in some]), ("answer", [i.answer for i in some])):
        left, grams = 100_000, {1: Counter[Any](), 2: Counter[Any]()}
        for text in texts:
            words = all_words(text)[:left]
            left -= len(words)
            grams[1].update(words)
            grams[2].update(pairwise(words))
            if left <= 0:
                break
        distinct = {f"distinct_{n}": round(len(c) / max(1, c.total()), 4) for n, c in grams.items()}
        found[name] = {**distinct, "different": round(len(set(texts)) / max(1, len(texts)), 4)}
    return found


def _generated(made: Made) -> list[Fact]:
    """Of each strategy what was written, what was dropped as it went on, what was kept in the end, and the cost."""
    kept = Counter(i.origin.via.split(":", 1)[1] for i in made.kept if i.origin.via.startswith("generate:"))
    rejected: defaultdict[str, list[int]] = defaultdict(list)
    for record in made.dropped:
        via = str(record.get("origin", {}).get("via", ""))
        if record.get("stage") == "generate" and via.startswith("generate:"):
            origin = record["origin"]
            rejected[via.split(":", 1)[1]].append(turn_of(str(origin.get("source", "")), int(origin.get("row", 0))))
    accounts = {str(account.get("strategy", "")): account for account in made.accounts}
    rows = []
    for name in sorted({*made.generated, *accounts, *kept, *rejected}):
        given, away = list(made.generated.get(name, ())), rejected[name]
        account, money = accounts.get(name, {}), float(accounts.get(name, {}).get("money", 0) or 0)
        row = {"strategy": name, "written": len(given) + len(away), "accepted": len(given), "kept": kept[name]}
        row |= {key: account[key] for key in ("prompts", "calls", "tokens", "failed", "rejected") if key in account}
        row["acceptance"] = round(len(given) / max(1, len(given) + len(away)), 4)
        row["money"] = money
        row["cost_per_kept"] = round(money / kept[name], 6) if kept[name] else None
        used = account.get("tokens")
        row["tokens_per_kept"] = round(used / kept[name], 1) if kept[name] and used is not None else None
        rows.append({**row, "over_time": _over_time(given, away)})
    return rows


def turn_of(source: str, row: int) -> int:
    """When something was written, counted from 1; 0 where its number is that of the row it was written for."""
    return row if source.startswith("generate:") else 0


def _over_time(given: Sequence[int], away: Sequence[int], bins: int = 12) -> list[float | None]:
    """Share that was rejected, in equal stretches of the order in which it was written; None for an empty stretch."""
    order = sorted([*((number, 0) for number in given), *((number, 1) for number in away)])
    if len(order) < bins or not away or order[0][0] < 1:
        return []
    cuts = [round(k * len(order) / bins) for k in range(bins + 1)]
    stretches = [[bad for _, bad in order[a:b]] for a, b in pairwise(cuts)]
    return [round(sum(stretch) / len(stretch), 4) if stretch else None for stretch in stretches]


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
        for message in instance.messages[:6]
        for part in message.parts
    ]
    return {"id": instance.id, "lineage": {key: value for key, value in lineage.items() if value}, "parts": parts}
