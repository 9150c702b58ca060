"""How much of prompt tuning d_I numbers recover, on seen and unseen tasks (Qin 2021; a part of methods_programs.py).

The base is the starter after full tuning on the clusters that none of these tasks is of: it answers and stops, as the
bases of the paper do, so that right answers can be counted. A task is shown as its inputs alone: what is to be done
with them is what the prompt has to learn. Each task has rows of its own to learn from, and is asked about people and
lists that are in none of them. The control is a random space of as many numbers.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

from kept import WORK, cell, result, settings

CLUSTERS = ("lookup", "reverse", "pick", "order", "kind")  # the base has seen nothing of them
APART = "order"  # and no space either
SHOWN, ASKED, LENGTH = 64, 24, 16
Score = tuple[float, float, float]  # right, ranked first, nats per token


def base(examples: int) -> str:
    """The folder of the starter, fully tuned on all other clusters."""
    from didact.methods.full import FullConfig
    from didact.model import load
    from didact.starter import base_folder
    from didact.starter.levels import data_of
    from didact.starter.tasks import tasks
    from didact.tune import TuneConfig, save, tune

    folder = WORK / f"answers-{examples}"
    if not folder.exists():
        loaded, method = load(str(base_folder())), FullConfig()
        rows = loaded.renderer.render_all(data_of(tasks(40, 0), CLUSTERS, 0, examples).train)
        tune(loaded, method, rows, TuneConfig(precision="fp32", batch_size=8))
        save(loaded, method, folder)
    return str(folder)


@cache
def worlds() -> dict[str, tuple[list[Any], list[Any]]]:
    """Tasks, in an order of their own: rows to learn from and rows to be asked."""
    from didact.build import BuildConfig, build
    from didact.starter.tasks import tasks

    found: dict[str, dict[str, list[Any]]] = {}
    config = BuildConfig(heldout_templates=0, heldout_rows=0)
    for one in build(tasks(160, 7, CLUSTERS), config, lambda drop: None):
        some = found.setdefault(one.origin.task, {"train": [], "heldout": []})
        some[one.tags["split"]].append(bare(one))
    able = {name: some for name, some in found.items() if len(some["train"]) >= SHOWN and len(some["heldout"]) >= ASKED}
    names = sorted(able)
    random.Random(0).shuffle(names)
    return {name: (able[name]["train"][:SHOWN], able[name]["heldout"][:ASKED]) for name in names}


def bare(one: Any) -> Any:
    """An instance without its instruction."""
    from didact.instance import Instance, Message, Part

    inputs = tuple(Part(f"{part.value.strip()}\n", "input") for part in one.messages[0].parts if part.slot == "input")
    return Instance.of((Message("user", inputs), one.messages[1]), one.origin, choices=one.choices)


def score(loaded: Any, asked: Sequence[Any]) -> Score:
    from didact.infer import Answerer

    speaker = Answerer(loaded, max_new_tokens=6)
    said = [answer.text.strip() if answer.stopped else "" for answer in speaker.answer(asked)]
    first = [
        one.choices[max(range(len(row)), key=row.__getitem__)]
        for one, row in zip(asked, speaker.rank(asked), strict=True)
    ]
    right, ranked = (
        statistics.mean(text == one.answer for text, one in zip(some, asked, strict=True)) for some in (said, first)
    )
    return right, ranked, statistics.mean(speaker.answer_loss(asked))


def tuned(
    model: str, method: Any, world: tuple[list[Any], list[Any]], epochs: float, rate: float | None = None
) -> Score:
    """What is right after the method was tuned on a task's own rows; no method: before."""
    from didact.model import load
    from didact.tune import tune

    loaded = load(model)
    if method is not None:
        config = settings(0, epochs=epochs, learning_rate=rate)
        tune(loaded, method, loaded.renderer.render_all(world[0]), config)
    return score(loaded, world[1])


def space_of(model: str, learnt: dict[str, Any], dimension: int, epochs: float, name: str) -> str:
    """A space found over these tasks; their prompts are tuned once for all sizes."""
    from didact.methods import intrinsic
    from didact.programmed import follow
    from didact.programs.subspace import SubspaceConfig
    from didact.recipe import Recipe

    given = [one for shown, _ in learnt.values() for one in shown]
    config = SubspaceConfig(dimension=dimension, length=LENGTH, prompt_epochs=epochs, space_epochs=epochs / 2)
    tune = settings(0, epochs=1.0, max_steps=1)  # the last of its trainings, which is not looked at
    loaded = follow(Recipe(method=config, tune=tune), model, given, folder=WORK / f"prompts-{name}")[0]
    module = loaded.model.get_input_embeddings().prompt
    intrinsic.write_space(WORK / f"space-{name}-{dimension}", dict(module.named_buffers()), loaded.model, LENGTH)
    return str(WORK / f"space-{name}-{dimension}")


def measure(quick: bool) -> None:
    """Ratios of means over tasks: to prompt tuning's right answers, and of what it gains over the base."""
    from didact.methods.intrinsic import IntrinsicConfig
    from didact.methods.prompt import PromptConfig

    seen, asked, apart, sizes, epochs, examples = (2, 1, 1, (2,), 1.0, 16) if quick else (
        16, 5, 3, (2, 5, 16, 64), 10.0, 1024)  # fmt: skip
    given, model, name = worlds(), base(examples), f"{examples}-{seen}-{epochs:g}"
    near = [task for task in given if not task.startswith(APART)]
    learnt = {task: given[task] for task in near[:seen]}
    groups = {"seen": near[:asked], "unseen": near[seen : seen + asked],
              "unseen cluster": [task for task in given if task.startswith(APART)][:apart]}  # fmt: skip
    found: dict[tuple[str, str, int], list[Score]] = {}
    for group, names in groups.items():
        for task in names:

            def ask(way: str, method: Any, size: int, task: str = task, group: str = group) -> None:
                tag = f"{way}-{name}-{size}-{task.replace('/', '_')}"
                told = cell(tag, partial(tuned, model, method, given[task], epochs))
                found.setdefault((way, group, size), []).append(told)

            ask("untuned", None, 0)
            ask("prompt", PromptConfig(length=LENGTH), 0)
            for size in sizes:
                place = cell(f"space-{name}-{size}", partial(space_of, model, learnt, size, epochs, name))
                ask("random", IntrinsicConfig(dimension=size, length=LENGTH), size)
                ask("found", IntrinsicConfig(dimension=size, length=LENGTH, space=place), size)
    print(f"\nPrompts of d_I numbers, in a space found over {seen} tasks or a random one; {SHOWN} rows a task,")
    print(f"{epochs:g} passes; {ASKED} rows asked a task: right, ranked first, loss")
    for (way, group, size), some in sorted(found.items(), key=lambda one: (one[0][1], one[0][0], one[0][2])):
        right, ranked, nats = (statistics.mean(values) for values in zip(*some, strict=True))
        print(f"  {group:14} {way:8} {size or '':>3} {right:.3f} {ranked:.3f} {nats:.2f}")
    for group in groups:
        for way in ("found", "random"):
            for size in sizes:
                print(f"  {group:14} {way:8} {size:>3} of prompt tuning {told(found, way, group, size)}")
                result(f"methods.intrinsic.{way}_{group.replace(' ', '_')}_{size}", told(found, way, group, size)[0],
                       "share of prompt tuning's right answers", None, True)  # fmt: skip
    lead = told(found, "found", "unseen", sizes[-1])[0] - told(found, "random", "unseen", sizes[-1])[0]
    result("methods.intrinsic.lead_over_random_unseen", lead, "share of prompt tuning", 0, lead >= 0)


def rates(names: Sequence[str], factors: Sequence[float]) -> None:
    """Right answers, ranked first and loss at multiples of the default rates, on three tasks that no figure is of."""
    from didact.methods import METHODS
    from didact.model import load

    given, model = worlds(), base(1024)
    size = sum(weight.numel() for weight in load(model).model.parameters())
    tasks = [task for task in given if not task.startswith(APART)][5:8]
    print(f"\nrates on {', '.join(tasks)}")
    for name in names:
        for factor in factors:
            rate = factor * METHODS[name].rate(size)
            config = METHODS[name].config(add=True) if name == "bitfit" else METHODS[name].config()
            some = [
                cell(f"rate-{name}-{rate:.3g}-{task.replace('/', '_')}",
                     partial(tuned, model, config, given[task], 10.0, rate))
                for task in tasks
            ]  # fmt: skip
            right, ranked, nats = (statistics.mean(values) for values in zip(*some, strict=True))
            print(f"  {name:10} x {factor:<4g} {rate:<8.3g} {right:.3f} {ranked:.3f} {nats:.2f}", flush=True)


def told(found: Any, way: str, group: str, size: int) -> list[float]:
    """Share of prompt tuning's right and ranked answers, and of its fall of the loss."""
    mine, theirs, before = (
        [statistics.mean(values) for values in zip(*found[key], strict=True)]
        for key in ((way, group, size), ("prompt", group, 0), ("untuned", group, 0))
    )
    shares = [mine[i] / theirs[i] if theirs[i] else 0.0 for i in (0, 1)]
    fall = before[2] - theirs[2]
    return [round(share, 3) for share in (*shares, (before[2] - mine[2]) / fall if fall else 0.0)]
