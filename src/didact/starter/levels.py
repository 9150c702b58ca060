"""What a rotation of the starter's tasks trains on and is judged by, level by level (Sanh 2022, arXiv 2110.08207).

Levels: a phrasing, a slot, a combination, an operation and a cluster that were never trained on; all rows judged are
about reserved people, lists and keys.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from random import Random
from typing import TYPE_CHECKING

from didact.starter.tasks import specs, tasks

if TYPE_CHECKING:
    from didact.instance import Instance
    from didact.model import Loaded
    from didact.sources import Task

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
PHRASINGS = 5  # of every operation; one of them is only tested on
ITEMS = 60  # judged per level and operation


@dataclass(frozen=True)
class Data:
    """What one rotation trains on and is judged by. Every held-out instance has a tag `level`."""

    train: list[Instance]
    heldout: list[Instance]


def instructions(n: int, seed: int) -> list[Instance]:
    """`n` instances of all tasks, about reserved people, lists and keys."""
    data = data_of(tasks(15, seed), (), seed, 0)
    return Random(f"instructions {seed}").sample(data.heldout, n)


def data_of(
    made: Sequence[Task],
    rotation: Sequence[str],
    seed: int,
    examples: int,
    clusters: Iterable[str] = (),
    unseen: int = PHRASINGS,
) -> Data:
    """Training and held-out instances of a rotation.

    clusters: only these are trained on. unseen: the number of the phrasing that is only tested on.
    """
    from didact.build import BuildConfig, build

    near = [glob for globs in NEAR.values() for glob in globs]
    told = any(template.name.startswith("simple") for task in made for template in task.templates)

    def part(new: bool) -> list[Task]:
        return [
            task
            if told
            else replace(task, templates=tuple(t for t in task.templates if phrasing(t.name, unseen) == new))
            for task in made
        ]

    globs = [g for g in near if any(fnmatchcase(task.name, g) and task.cluster not in rotation for task in made)]
    config = BuildConfig(
        heldout_clusters=list(rotation), heldout_tasks=globs, heldout_templates=0, heldout_per_task=30, seed=seed
    )
    seen, strange = (list(build(part(new), config, lambda drop: None)) for new in (False, True))
    wanted = set(clusters)
    learn = [i for i in seen if i.tags["split"] == "train" and (not wanted or i.origin.cluster in wanted)]
    held = [i for i in seen if i.tags["split"] == "heldout"]
    if not told:
        held += [i.tagged(level="heldout_template") for i in strange if i.tags.get("level") == "seen_template"]
    return Data(spread(learn, examples), judged([i.tagged(level=level_of(i)) for i in held]))


def judged(held: Sequence[Instance]) -> list[Instance]:
    """At most `ITEMS` of each level and operation, spread over its tasks."""
    operations = {spec.name: spec.operation for spec in specs()}
    cells: dict[tuple[str, str], list[Instance]] = defaultdict(list)
    for item in held:
        cells[item.tags["level"], operations[item.origin.task]].append(item)
    return [item for cell in cells.values() for item in spread(cell, ITEMS)]


def phrasing(name: str, number: int) -> bool:
    """Whether a template (`operation-PHRASINGlayout`) belongs to a phrasing."""
    return name.rsplit("-", 1)[1][:-1] == str(number)


def unseen_phrasing(seed: int) -> int:
    """The phrasing that a seed does not train on: the last one, then the one before, and so on."""
    return PHRASINGS - seed % PHRASINGS


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
