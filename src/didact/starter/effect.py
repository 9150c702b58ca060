"""What tuning the starter teaches, told apart from what it does not: arms, levels and operations side by side.

Arms (Kung & Peng 2023, arXiv 2305.11383; Sanh 2022, arXiv 2110.08207): the untuned base; tuning on real data, on
shuffled labels (a random allowed answer), on a simplified instruction (the allowed answers and the input only), and
from random weights. Everything else is the same pipeline that a recipe runs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from didact.starter.tasks import specs, tasks

if TYPE_CHECKING:
    from didact.instance import Instance
    from didact.model import Loaded
    from didact.sources import Task

ROTATIONS: tuple[tuple[str, ...], ...] = (("pick", "order", "facts"), ("lookup", "extract", "kind"))
# Never trained on: a slot that its operation never saw; a slot and a style or label pair that were only seen apart;
# an operation whose cluster was trained.
NEAR: Mapping[str, tuple[str, ...]] = {
    "slot": (
        "lookup/garment/*", "reverse/garment/*", "check/garment/*", "extract/garment", "pick/metal", "order/third/*",
        "choice/metal", "sentiment/phone/*",
    ),
    "combination": (
        "lookup/drink/talk", "lookup/sport/record", "reverse/vehicle/record", "order/second/odd", "neighbour/*/7",
    ),
    "operation": ("compare/kinds/*", "check/list/*"),
}  # fmt: skip
HELDOUT_PHRASING = 5  # the fifth phrasing of every operation is only tested on
ITEMS = 60  # judged per level and operation
ARMS = ("untuned", "real", "shuffled", "simplified", "random")
CURVE = (2, 4, 8, 12)


@dataclass(frozen=True)
class Data:
    """What one rotation trains on and is judged by. Every held-out instance has a tag `level`."""

    train: list[Instance]
    heldout: list[Instance]


def instructions(n: int, seed: int) -> list[Instance]:
    """`n` instances of all tasks, about reserved people, lists and keys."""
    data = data_of(tasks(15, seed), (), seed, 0)
    return Random(f"instructions {seed}").sample(data.heldout, n)


def effect(
    base: Path,
    out: Path,
    seeds: int = 3,
    examples: int = 6000,
    rotations: Sequence[Sequence[str]] = ROTATIONS,
    arms: Sequence[str] = ARMS,
    report: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Run every arm with every seed and rotation; one row per arm, rotation, seed, level and operation, as JSON lines.

    A run whose rows are in `out` already is not repeated, so the command goes on after a stop.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    found = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(row["arm"], row["rotation"], row["seed"]) for row in found}
    for rotation in rotations:
        name = "+".join(rotation)
        for seed in range(seeds):
            todo = [arm for arm in arms if (arm, name, seed) not in done and not (arm == "untuned" and seed)]
            plain = data_of(tasks(40, seed), rotation, seed, examples) if set(todo) - {"simplified"} else None
            for arm in todo:
                data = plain if arm != "simplified" else data_of(simplified(tasks(40, seed)), rotation, seed, examples)
                assert data is not None
                some = [{"rotation": name, "examples": examples, **row} for row in run_arm(base, arm, data, seed)]
                with out.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in some)
                found += some
                report(f"{arm} {name} seed {seed}: {summary(some)}")
    return found


def run_arm(
    base: Path, arm: str, data: Data, seed: int, method: Any = None, rate: float | None = None
) -> list[dict[str, Any]]:
    """Tune one arm and judge it; `method` and `rate` other than full tuning at its default rate are for comparisons."""
    from didact.model import load

    loaded = load(str(base))
    if arm == "random":
        forget(loaded.model, seed)
    if arm != "untuned":
        train(loaded, shuffled(data.train, loaded, seed) if arm == "shuffled" else data.train, seed, method, rate)
    return [{"arm": arm, "seed": seed, **row} for row in judge(loaded, data.heldout)]


def curve(base: Path, out: Path, examples: int = 4000, seed: int = 0, report: Callable[[str], None] = print) -> None:
    """The same number of examples from 2, 4, 8 and 12 training clusters, judged on the first rotation's clusters."""
    rotation = ROTATIONS[0]
    made = tasks(120, seed)
    rest = [name for name in dict.fromkeys(task.cluster for task in made) if name not in rotation]
    order = Random(f"curve {seed}").sample(rest, len(rest))
    for n in CURVE:
        data = data_of(made, rotation, seed, examples, order[:n])
        only = Data(data.train, [item for item in data.heldout if item.tags["level"] == "heldout_cluster"])
        some = run_arm(base, "real", only, seed)
        with out.open("a") as file:
            file.writelines(json.dumps({"clusters": n, "examples": len(data.train), **row}) + "\n" for row in some)
        report(f"{n} clusters, {len(data.train)} examples: {summary(some)}")


def data_of(
    made: Sequence[Task], rotation: Sequence[str], seed: int, examples: int, clusters: Iterable[str] = ()
) -> Data:
    """Training and held-out instances of a rotation; `clusters` limits what is trained on."""
    from didact.build import BuildConfig, build

    near = [glob for globs in NEAR.values() for glob in globs]
    told = any(template.name.startswith("simple") for task in made for template in task.templates)

    def part(new: bool) -> list[Task]:
        return [
            task if told else replace(task, templates=tuple(t for t in task.templates if phrasing(t.name, new)))
            for task in made
        ]

    globs = [g for g in near if any(fnmatchcase(task.name, g) and task.cluster not in rotation for task in made)]
    config = BuildConfig(
        heldout_clusters=list(rotation), heldout_tasks=globs, heldout_templates=0, heldout_per_task=30, seed=seed
    )
    seen = list(build(part(False), config, lambda drop: None))
    unseen = list(build(part(True), config, lambda drop: None))
    wanted = set(clusters)
    learn = [i for i in seen if i.tags["split"] == "train" and (not wanted or i.origin.cluster in wanted)]
    held = [i for i in seen if i.tags["split"] == "heldout"]
    if not told:
        held += [i.tagged(level="heldout_template") for i in unseen if i.tags.get("level") == "seen_template"]
    return Data(spread(learn, examples), judged([i.tagged(level=level_of(i)) for i in held]))


def judged(held: Sequence[Instance]) -> list[Instance]:
    """At most `ITEMS` of each level and operation, spread over its tasks."""
    operations = {spec.name: spec.operation for spec in specs()}
    cells: dict[tuple[str, str], list[Instance]] = defaultdict(list)
    for item in held:
        cells[item.tags["level"], operations[item.origin.task]].append(item)
    return [item for cell in cells.values() for item in spread(cell, ITEMS)]


def phrasing(name: str, new: bool) -> bool:
    """Whether a template (`operation-PHRASINGlayout`) belongs to the held-out phrasing."""
    return (name.rsplit("-", 1)[1][:-1] == str(HELDOUT_PHRASING)) == new


def level_of(instance: Instance) -> str:
    """The level, held-out tasks told apart as slot, combination or operation."""
    level = instance.tags["level"]
    if level != "heldout_task":
        return level
    return next(n for n, globs in NEAR.items() if any(fnmatchcase(instance.origin.task, glob) for glob in globs))


def spread(items: Sequence[Instance], n: int) -> list[Instance]:
    """`n` of the instances, the same number of each cluster and then of each task as far as they go."""
    clusters: dict[str, dict[str, list[Instance]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        clusters[item.origin.cluster][item.origin.task].append(item)
    queues = {}
    for name, by_task in clusters.items():
        columns = [list(column) for column in by_task.values()]
        queues[name] = [column[i] for i in range(max(map(len, columns))) for column in columns if i < len(column)]
    taken: list[Instance] = []
    while len(taken) < n and any(queues.values()):
        for queue in queues.values():
            if queue and len(taken) < n:
                taken.append(queue.pop(0))
    return taken


def simplified(made: Sequence[Task]) -> list[Task]:
    """The same tasks with an instruction that only lists the allowed answers."""
    from didact.template import Template

    template = Template(
        name="simple-1a", prompt="{{ choices | join(', ') }}\n{{ key }}", answer="{{ answer }}",
        answer_choices="{{ choices | join(' ||| ') }}",
    )  # fmt: skip
    return [replace(task, templates=(template,)) for task in made]


def shuffled(items: Sequence[Instance], loaded: Loaded, seed: int) -> list[Instance]:
    """The same instances, each with an allowed answer drawn at random (the right one by chance)."""
    rng = Random(f"shuffled {seed}")
    return [loaded.renderer.complete(item, rng.choice(item.choices)) for item in items]


def forget(model: Any, seed: int) -> None:
    """Random weights of the same shape."""
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.fill_(1.0)
            elif name.endswith("bias"):
                weight.zero_()
            else:
                weight.normal_(0, 0.02)


def train(loaded: Loaded, items: Sequence[Instance], seed: int, method: Any = None, rate: float | None = None) -> None:
    """One epoch with the pipeline's own loop."""
    from didact.methods import METHODS
    from didact.tune import TuneConfig, tune

    config = TuneConfig(seed=seed, learning_rate=rate)
    tune(loaded, method or METHODS["full"].config(), loaded.renderer.render_all(items), config)


def judge(loaded: Loaded, heldout: Sequence[Instance]) -> list[dict[str, Any]]:
    """Per level and operation: n, chance, exact match, validity, exact match given validity, ranked accuracy."""
    from didact.infer import Answerer

    speaker = Answerer(loaded, max_new_tokens=6, batch_size=128)
    answers, ranks = speaker.answer(heldout), speaker.rank(heldout)
    operations = {spec.name: f"{spec.cluster}:{spec.operation}" for spec in specs()}
    groups: dict[tuple[str, str], list[tuple[float, bool, bool, bool]]] = defaultdict(list)
    for item, answer, scores in zip(heldout, answers, ranks, strict=True):
        said = answer.text.strip() if answer.stopped else ""
        best = item.choices[max(range(len(scores)), key=scores.__getitem__)]
        groups[item.tags["level"], operations[item.origin.task]].append(
            (1 / len(item.choices), said == item.answer, said in item.choices, best == item.answer)
        )
    found = []
    for (level, operation), marks in sorted(groups.items()):
        n, valid = len(marks), sum(mark[2] for mark in marks)
        right = sum(mark[1] for mark in marks)
        found.append(
            {
                "level": level, "operation": operation, "n": n, "chance": sum(mark[0] for mark in marks) / n,
                "exact": right / n, "valid": valid / n, "exact_if_valid": right / valid if valid else 0.0,
                "ranked": sum(mark[3] for mark in marks) / n,
            }
        )  # fmt: skip
    return found


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line: exact match and ranked accuracy of each level, over all items."""
    levels: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        levels[row["level"]].append(row)
    parts = []
    for level, some in sorted(levels.items()):
        n = sum(row["n"] for row in some)
        exact, ranked = (sum(row["n"] * row[key] for row in some) / n for key in ("exact", "ranked"))
        parts.append(f"{level} {exact:.2f}/{ranked:.2f}")
    return ", ".join(parts)
