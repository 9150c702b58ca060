"""PET beside a head over few and many labels; intrinsic prompts over d_I, with random spaces beside.

    python benchmarks/methods_programs.py            full; half an hour on one core, goes on where it stopped
    python benchmarks/methods_programs.py --quick    smallest sizes: does everything run?

Intrinsic prompts are tuned on the starter. PET is tuned on a small masked model that is trained here on unlabelled
reviews (masked_base.py), or on --model: the starter reads English byte by byte. It needs the shared material
(DIDACT_MATERIAL) for SST-2. What was measured is kept in build/bench-methods-programs, one file a cell.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MATERIAL = Path(os.environ.get("DIDACT_MATERIAL", ROOT.parent / "shared")).resolve()
WORK = ROOT / "build" / "bench-methods-programs"
LABELS = ("negative", "positive")
PATTERNS = ["{input} it was {mask}", "{input} all in all {mask}", "{input} the story is {mask}"]
PAIRS = [("bad", "good"), ("sad", "happy"), ("cold", "warm"), ("no", "yes"), ("old", "new")]  # words a base may know


def cell(name: str, make: Callable[[], Any]) -> Any:
    """A figure out of its file, measured and written there if it is not there."""
    from didact.checkpoint import remembered

    return remembered(WORK / f"{name}.json", make)


def result(name: str, value: float | None, unit: str, target: float | None, ok: bool, **more: Any) -> None:
    print("RESULT " + json.dumps({"name": name, "value": value, "unit": unit, "target": target, "ok": ok, **more}))


def instance(text: str, label: str, row: int) -> Any:
    from didact.instance import Instance, Message, Origin, Part

    parts = (Part("Is this review positive or negative? ", "instruction"), Part(text, "input"))
    messages = (Message("user", parts), Message("assistant", (Part(label, "answer"),)))
    return Instance.of(messages, Origin("sst2", row, task="sst2"), choices=LABELS)


def reviews(test: int) -> tuple[list[Any], list[Any]]:
    """SST-2's sentences to learn from, and some to be asked."""
    path = MATERIAL / "data" / "annotated" / "sst2.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        rows = [json.loads(line) for line in handle if line.strip()]
    random.Random(0).shuffle(rows)
    made = [instance(row["sentence"], LABELS[int(row["label"])], i) for i, row in enumerate(rows)]
    return made[test:], made[:test]


def words(base: Any) -> dict[str, list[str]]:
    """The first pair of opposite words that are one token each in the base's vocabulary."""
    for pair in PAIRS:
        spans = [base.renderer.around("it was ", word) for word in pair]
        if all(end - start == 1 for _, start, end in spans):
            return dict(zip(LABELS, ([word] for word in pair), strict=True))
    raise SystemExit("no pair of words is one token each in this base")


def masked_base(test: Sequence[Any], quick: bool) -> str:
    """The folder of a masked model that was trained on reviews without their labels, and without those asked."""
    import masked_base as small

    folder = WORK / f"masked-{'quick' if quick else 'base'}"
    if not folder.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        texts = small.unlabelled(MATERIAL / "data" / "annotated", [sentence(one) for one in test])
        small.train(texts, folder, 20 if quick else 2000, lambda line: print(line, file=sys.stderr, flush=True))
    return str(folder)


def sentence(one: Any) -> str:
    return next(part.value for message in one.context for part in message.parts if part.slot == "input")


def settings(seed: int, **more: Any) -> Any:
    from didact.tune import TuneConfig

    return TuneConfig(precision="fp32", batch_size=16, seed=seed, checkpoint_minutes=60, **more)


def accuracy(loaded: Any, asked: Sequence[Any]) -> float:
    from didact.infer import Answerer

    scores = Answerer(loaded).rank(asked)
    right = [
        one.choices[max(range(2), key=row.__getitem__)] == one.answer for one, row in zip(asked, scores, strict=True)
    ]
    return sum(right) / len(right)


def pet(model: str, labels: int, seed: int, pool: list[Any], test: list[Any], steps: int, generations: int) -> float:
    """Accuracy of the model that PET keeps, with so many labels and the rest of the pool without theirs."""
    from didact.model import load
    from didact.programmed import follow
    from didact.programs.pet import PetConfig
    from didact.recipe import Recipe

    verbalizer = words(load(model))
    config = PetConfig(patterns=PATTERNS, verbalizer=verbalizer, labels=labels, seeds=1, steps=steps,
                       generations=generations)  # fmt: skip
    tune = settings(seed, max_steps=2 * steps, epochs=1000, max_length=120)
    return accuracy(follow(Recipe(method=config, tune=tune), model, pool)[0], test)


def head(model: str, labels: int, seed: int, pool: list[Any], test: list[Any], steps: int) -> float:
    """Accuracy of fresh rows of the output layer over the bare text: a classifier's head; all weights move."""
    import torch

    from didact import closed
    from didact.methods.full import FullConfig
    from didact.model import load
    from didact.render import Tokens
    from didact.tune import tune

    loaded = load(model)
    first = int(loaded.model.get_input_embeddings().weight.shape[0])
    torch.manual_seed(seed)
    loaded.model.resize_token_embeddings(first + 2, mean_resizing=False)

    def row(one: Any) -> tuple[Any, Any]:
        ids = loaded.renderer.around(sentence(one), "")[0][:118]
        if loaded.kind == "masked":  # the first place, which a classifier reads, stands hidden
            ids, place = [*ids, loaded.renderer.stop_ids[0]], 0
        else:
            ids, place = [*ids, first], len(ids)
        number = LABELS.index(one.answer)
        fork = closed.Fork(0, 1, ((first,), (first + 1,)), (float(number == 0), float(number == 1)))
        weights = [float(i == place) for i in range(len(ids))]
        return Tokens(ids, weights, [None] * len(ids), one.id, (), ((place, place + 1),)), fork

    order = list(pool)
    random.Random(f"labels/{seed}").shuffle(order)
    rows = [row(one) for one in order[:labels]]
    data, forks = [tokens for tokens, _ in rows], [fork for _, fork in rows]
    config = settings(seed, max_steps=steps, epochs=1000, max_length=120)
    tune(loaded, FullConfig(), data, config, objective=closed.Closed(forks))
    asked = [row(one) for one in test]
    found = closed.ask(loaded, [tokens for tokens, _ in asked], [fork for _, fork in asked])
    return sum((a < b) == (one.answer == LABELS[1]) for (a, b), one in zip(found, test, strict=True)) / len(test)


def pet_beside_head(model: str | None, quick: bool, ipet: bool = False) -> None:
    if not (MATERIAL / "data" / "annotated" / "sst2.jsonl.gz").exists():
        result("methods.pet.lead", None, "points", 0, False, why="DIDACT_MATERIAL is not set")
        return
    sizes, seeds, steps, test = ((16,), 1, 4, 24) if quick else ((10, 100, 1000), 3, 80, 400)
    pool, asked = reviews(test)
    model = model or masked_base(asked, quick)
    pool = pool[: 40 if quick else 1200]
    print(f"\nSST-2, {Path(model).name}, accuracy on {len(asked)} rows, {seeds} seeds [least, most] by labels")
    for labels in sizes:
        rounds = 1 if ipet and labels < 1000 else 0
        ways = {"pet": partial(pet, model, labels, pool=pool, test=asked, steps=steps, generations=0),
                "head": partial(head, model, labels, pool=pool, test=asked, steps=steps)}  # fmt: skip
        if rounds:
            ways["ipet"] = partial(pet, model, labels, pool=pool, test=asked, steps=steps, generations=rounds)
        tag = f"{Path(model).name}-{labels}-{steps}-{len(asked)}"
        found = {
            name: [cell(f"{name}-{tag}-{seed}", partial(way, seed=seed)) for seed in range(seeds)]
            for name, way in ways.items()
        }
        told = {name: (statistics.mean(values), min(values), max(values)) for name, values in found.items()}
        print(f"  {labels:5} labels  " + "  ".join(f"{n} {m:.3f} [{a:.3f}, {b:.3f}]" for n, (m, a, b) in told.items()))
        leads = [100 * (a - b) for a, b in zip(found["pet"], found["head"], strict=True)]
        lead, must = statistics.mean(leads), 0 if labels <= 100 else -5
        result(f"methods.pet.lead_at_{labels}", lead, "points", must, lead >= must, low=min(leads), high=max(leads))


def tasks(model: str, number: int, rows: int) -> dict[str, tuple[list[Any], list[Any]]]:
    """Tasks of the starter's world: rows to learn from and rows to be asked."""
    from didact.build import BuildConfig, build
    from didact.sources import StarterSource, open_source

    found: dict[str, list[Any]] = {}
    opened = open_source(StarterSource(rows_per_task=2 * rows), ROOT, lambda drop: None)
    for one in build(opened, BuildConfig(heldout_rows=0), lambda drop: None):
        found.setdefault(one.origin.task, []).append(one)
    names = sorted(name for name, some in found.items() if len(some) >= 2 * rows)
    random.Random(0).shuffle(names)
    return {name: (found[name][:rows], found[name][rows : 2 * rows]) for name in names[:number]}


def loss_of(loaded: Any, asked: Sequence[Any]) -> float:
    from didact.infer import Answerer

    return statistics.mean(Answerer(loaded).answer_loss(asked))


def tuned_loss(model: str, method: Any, rows: Sequence[Any], asked: Sequence[Any], seed: int, epochs: float) -> float:
    from didact.model import load
    from didact.tune import tune

    loaded = load(model)
    tune(loaded, method, loaded.renderer.render_all(rows), settings(seed, epochs=epochs))
    return loss_of(loaded, asked)


def intrinsic_spaces(model: str, quick: bool) -> None:
    from didact.methods.intrinsic import IntrinsicConfig
    from didact.methods.prompt import PromptConfig
    from didact.model import load
    from didact.programmed import follow
    from didact.programs.subspace import SubspaceConfig
    from didact.recipe import Recipe

    seen, unseen, rows, sizes, epochs, seeds = (2, 1, 4, (2,), 1.0, 1) if quick else (5, 3, 32, (2, 16), 10.0, 1)
    worlds = tasks(model, seen + unseen, rows)
    learnt = list(worlds)[:seen]
    length = 4 if quick else 16
    found: dict[tuple[str, int], list[float]] = {}
    for seed in range(seeds):
        for size in sizes:
            tag = f"{Path(model).name}-{size}-{seen}-{rows}-{epochs:g}-{seed}"
            config = SubspaceConfig(dimension=size, length=length, prompt_epochs=epochs, space_epochs=epochs)
            place = WORK / f"space-{tag}"
            shared = WORK / f"prompts-{Path(model).name}-{seen}-{rows}-{epochs:g}-{seed}"  # of the tasks, for all sizes

            def find(place: Path = place, shared: Path = shared, config: Any = config, seed: int = seed) -> str:
                from didact.methods import intrinsic

                given = [one for name in learnt for one in worlds[name][0]]
                loaded, _, _ = follow(
                    Recipe(method=config, tune=settings(seed, epochs=1.0)), model, given, folder=shared
                )
                module = loaded.model.get_input_embeddings().prompt
                intrinsic.write_space(place, dict(module.named_buffers()), loaded.model, length)
                return str(place)

            space = cell(f"space-{tag}", find)
            alone = f"{Path(model).name}-{rows}-{epochs:g}-{seed}"
            for name, (train, asked) in worlds.items():
                shown = [replace(one, tags={}) for one in train]
                base = cell(
                    f"base-{Path(model).name}-{rows}-{name.replace('/', '_')}", lambda a=asked: loss_of(load(model), a)
                )
                ways = {"prompt": PromptConfig(length=length), "random": IntrinsicConfig(dimension=size, length=length),
                        "found": IntrinsicConfig(dimension=size, length=length, space=space)}  # fmt: skip
                losses = {
                    way: cell(f"{way}-{tag if way != 'prompt' else alone}-{name.replace('/', '_')}",
                              partial(tuned_loss, model, method, shown, asked, seed, epochs))
                    for way, method in ways.items()
                }  # fmt: skip
                gain = base - losses["prompt"]
                for way in ("random", "found"):
                    part = (base - losses[way]) / gain if abs(gain) > 1e-6 else 0.0
                    found.setdefault((f"{way} {'seen' if name in learnt else 'unseen'}", size), []).append(part)
    print(f"\nShare of prompt tuning's gain that d_I numbers recover, median of {seen} seen and {unseen} unseen tasks")
    for way in ("found seen", "found unseen", "random seen", "random unseen"):
        told = {size: statistics.median(found[way, size]) for size in sizes}
        print(f"  {way:14} " + "  ".join(f"d_I {size}: {share:.2f}" for size, share in told.items()))
        result(f"methods.intrinsic.{way.replace(' ', '_')}", told[sizes[-1]], "share of prompt tuning", None, True)
    lead = statistics.median(found["found unseen", sizes[-1]]) - statistics.median(found["random unseen", sizes[-1]])
    result("methods.intrinsic.lead_over_random_unseen", lead, "share of prompt tuning", 0, lead >= 0)


def measure(model: str | None, quick: bool, only: str = "", ipet: bool = False) -> None:
    """Both parts."""
    if only != "intrinsic":
        pet_beside_head(model, quick, ipet)
    if only != "pet":
        intrinsic_spaces(model or "starter", quick)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smallest sizes")
    parser.add_argument("--model", help="another base: starter or a folder")
    parser.add_argument("--only", choices=["pet", "intrinsic"], default="", help="one of the two")
    parser.add_argument("--ipet", action="store_true", help="iPET too: twice the time")
    args = parser.parse_args()
    measure(args.model, args.quick, args.only, args.ipet)


if __name__ == "__main__":
    main()
