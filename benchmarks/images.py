"""Pictures: what the road from a tower to a tuned model reaches, with seeds and intervals: `make bench-images`.

Parts: main (the stages of recipes/images-align.yaml and recipes/demo-images.yaml: held-out wordings, a control that is
shown another picture or none, handwritten digits), skipped (the second stage without the first), kinds (conversations,
descriptions, reasoning, each alone or mixed, in as many steps; asked on all three, and on short questions that none of
them has), queries (a Q-Former whose queries read the question, or a fixed sentence in its place). Each seed has its own
tower, projector, pictures, held-out wordings and order. Every training is kept in build/bench-images and not made
again; `--quick` only shows that all of it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from images_figures import KINDS, LEVELS, Rows, report

from didact.assemble import put_together
from didact.audit.measure import kind_score, sample, task_of
from didact.build import BuildConfig, build
from didact.disk import flush
from didact.infer import Answerer
from didact.instance import Instance, Message
from didact.methods import METHODS
from didact.model import Loaded, load
from didact.recipe import Recipe, changed, load_recipe
from didact.sources import PictureWorldSource, open_source
from didact.starter import eyes
from didact.tune import TuneConfig, save, tune

ALIGN, DEMO = Path("recipes/images-align.yaml"), Path("recipes/demo-images.yaml")
ASKED = "at"  # what lies in one of the four places, asked through one query


class Bench:
    """One seed's models and rows. quick: everything so small that nothing is learnt."""

    def __init__(self, folder: Path, seed: int, quick: bool) -> None:
        self.folder, self.seed, self.quick = folder / f"seed-{seed}", seed, quick
        self.kept = dict[str, list[Instance]]()

    def tower(self, queries: bool) -> Path:
        place = self.folder / ("tower-queries" if queries else "tower")
        if not (place / "config.json").exists():
            eyes.make(place, 3 if self.quick else 300, seed=self.seed, report=lambda text: None, queries=queries)
        return place

    def joined(self, queries: int = 0) -> Path:
        place = self.folder / f"joined-{queries}"
        if not place.exists():
            put_together(place, "starter", str(self.tower(queries > 0)), (32, 16, 96, 3), queries, self.seed)
        return place

    def aligned(self) -> Path:
        place = self.folder / "aligned"
        if not place.exists():
            recipe = self.recipe(ALIGN)
            loaded = load(str(self.joined()))
            self.fit(loaded, recipe.method, self.rows("align", recipe), recipe.tune)
            save(loaded, recipe.method, place)
        return place

    def recipe(self, path: Path) -> Recipe:
        """A shipped recipe with this seed's rows, split and order."""
        recipe, _ = load_recipe(path)
        changes: dict[str, Any] = {"build.seed": self.seed, "tune.seed": self.seed}
        if self.quick:
            changes["tune.max_steps"] = 3
        recipe = changed(recipe, changes)
        sources = [
            source.model_copy(
                update={"seed": source.seed + 1000 * self.seed} | ({"rows_per_task": 12} if self.quick else {})
            )
            if isinstance(source, PictureWorldSource)
            else source
            for source in recipe.sources
        ]
        return recipe.model_copy(update={"sources": sources})

    def rows(self, name: str, recipe: Recipe) -> list[Instance]:
        """The instances of a recipe, built once."""
        if name not in self.kept:
            place = self.folder / name
            opened = [open_source(source, place, lambda drop: None, place, "") for source in recipe.sources]
            tasks = [task for some in opened for task in some]
            self.kept[name] = list(build(tasks, recipe.build, lambda drop: None))
        return self.kept[name]

    def fit(self, loaded: Loaded, method: Any, rows: Sequence[Instance], config: TuneConfig) -> list[float]:
        """Tune on the training ones of these rows; the loss of every step."""
        losses = list[float]()
        tokens = loaded.renderer.render_all([one for one in rows if one.tags.get("split") == "train"])
        tune(loaded, method, tokens, config, report=lambda step: losses.append(step.loss))
        return losses

    def done(self, arm: str, work: Callable[[Bench], Rows]) -> Rows:
        """What an arm gave: read if it is there, else made and written."""
        file = self.folder / f"{arm}.json"
        if not file.exists():
            clock = time.process_time()
            found = {**work(self), "seconds": time.process_time() - clock}
            staged = file.with_suffix(".partial")
            staged.write_text(json.dumps(found))
            flush(staged)
            staged.rename(file)
            print(f"seed {self.seed}, {arm}: {found['seconds']:.0f} s of processor time", flush=True)
        made: Rows = json.loads(file.read_text())
        return made


def main_arm(bench: Bench, aligned: bool) -> Rows:
    """The second stage as it is shipped, from the aligned projector or from a new one."""
    recipe = bench.recipe(DEMO)
    rows = bench.rows("demo", recipe)
    loaded = load(str(bench.aligned() if aligned else bench.joined()))
    losses = bench.fit(loaded, recipe.method, rows, recipe.tune)
    found: Rows = {"losses": losses, "items": []}
    for level in LEVELS:
        held = [one for one in rows if one.tags.get("level") == level]
        world = sample([one for one in held if task_of(one) != "handwritten"], size(bench, 300), bench.seed)
        written = sample([one for one in held if task_of(one) == "handwritten"], size(bench, 100), bench.seed)
        found["items"] += marks(loaded, [*world, *written], level=level)
    if aligned:
        held = [one for one in rows if one.tags.get("level") == "seen_template" and task_of(one) != "handwritten"]
        asked = sample(held, size(bench, 260), bench.seed)
        for arm, shown in (("seen", asked), ("other", others(asked, bench.seed)), ("none", bare(asked))):
            found["items"] += marks(loaded, shown, level="blind", arm=arm)
        found["items"] += [
            {"level": "blind", "arm": "usual", "task": task_of(one), "score": float(right)}
            for one, right in zip(asked, usual(asked, rows), strict=True)
        ]
    return found


def kinds_arm(bench: Bench, kind: str) -> Rows:
    """The second stage on rows of one kind, or of all three in equal parts; as many rows and steps."""
    recipe = bench.recipe(DEMO)
    total = 60 if bench.quick else 3600
    sources = {one: PictureWorldSource(rows_per_task=total, seed=77 + 1000 * bench.seed, only=[one]) for one in KINDS}
    made = {one: bench.rows(f"kind-{one}", over(recipe, sources[one])) for one in KINDS}
    train = {one: [row for row in rows if row.tags["split"] == "train"] for one, rows in made.items()}
    most = min(map(len, train.values()))
    chosen = train[kind][:most] if kind in KINDS else [row for one in KINDS for row in train[one][: most // 3]]
    loaded = load(str(bench.aligned()))
    steps = 3 if bench.quick else 700
    bench.fit(loaded, recipe.method, chosen, changed(recipe, {"tune.max_steps": steps, "tune.epochs": 99}).tune)
    items = []
    for one in KINDS:
        held = [row for row in made[one] if row.tags.get("level") == "seen_template"]
        items += marks(loaded, sample(held, size(bench, 100), bench.seed), level=one)
    short = [row for row in bench.rows("demo", recipe) if row.tags.get("level") in LEVELS[:2]]
    short = [row for row in short if task_of(row).split("/")[-1] not in (*KINDS, "handwritten", "digit", "read")]
    return {"items": items + marks(loaded, sample(short, size(bench, 100), bench.seed), level="short")}


def queries_arm(bench: Bench, aware: bool) -> Rows:
    """One query for a picture of two to four things: it reads the question, or the same sentence for every row."""
    recipe = bench.recipe(DEMO)
    source = PictureWorldSource(rows_per_task=60 if bench.quick else 2500, seed=55 + 1000 * bench.seed, only=[ASKED])
    rows = bench.rows("queries", over(recipe, source))
    loaded = load(str(bench.joined(queries=1)))
    assert loaded.vision is not None
    if not aware:
        reader: Any = loaded.vision.reader
        loaded.vision.reader = lambda texts, **how: reader(["Describe the picture."] * len(texts), **how)
    method = METHODS["full"].config(parts=["language", "projector"])
    changes = {"tune.max_steps": 3 if bench.quick else 700, "tune.epochs": 99, "tune.batch_size": 16}
    losses = bench.fit(loaded, method, rows, changed(recipe, changes).tune)
    held = [row for row in rows if row.tags.get("level") == "seen_template"]
    return {"items": marks(loaded, sample(held, size(bench, 300), bench.seed), level="queries"), "losses": losses}


# ---- rows and marks


def over(recipe: Recipe, source: PictureWorldSource) -> Recipe:
    """The recipe with rows of one source; none of their wordings is held out."""
    plain = BuildConfig(heldout_rows=0.1, heldout_templates=0)
    return recipe.model_copy(update={"sources": [source], "build": plain})


def size(bench: Bench, most: int) -> int:
    return 12 if bench.quick else most


def marks(loaded: Loaded, items: Sequence[Instance], **about: str) -> list[Rows]:
    said = Answerer(loaded, max_new_tokens=48).answer(items)
    return [
        {**about, "task": task_of(one), "score": kind_score(a.text, one)} for a, one in zip(said, items, strict=True)
    ]


def others(asked: Sequence[Instance], seed: int) -> list[Instance]:
    """The same questions to the pictures of another row of the task whose answer differs."""
    draw, found = random.Random(seed), list[Instance]()
    for one in asked:
        able = [
            o
            for o in asked
            if task_of(o) == task_of(one) and o.answer != one.answer and len(o.images) == len(one.images)
        ]
        shown = iter(draw.choice(able).images if able else one.images)
        found.append(with_parts(one, shown))
    return found


def bare(asked: Sequence[Instance]) -> list[Instance]:
    return [with_parts(one, iter(())) for one in asked]


def with_parts(one: Instance, shown: Iterator[str]) -> Instance:
    """The same row with other pictures, as far as there are any."""
    messages = []
    for message in one.messages:
        parts = [(part, next(shown, None) if part.kind == "image" else part.value) for part in message.parts]
        kept = tuple(replace(part, value=value) for part, value in parts if value is not None)
        messages.append(Message(message.role, kept))
    return Instance.of(tuple(messages), one.origin, one.references, one.choices, one.tags)


def usual(asked: Sequence[Instance], rows: Sequence[Instance]) -> Iterator[bool]:
    """Is the answer the most frequent one of its task in training?"""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row.tags["split"] == "train":
            seen[task_of(row)][row.answer] += 1
    return (one.answer == seen[task_of(one)].most_common(1)[0][0] for one in asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only show that all of it runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="arms that are made; the others are left out of the report")
    given = parser.parse_args()
    folder = Path("build/bench-images-quick" if given.quick else "build/bench-images")
    arms: dict[str, Callable[[Bench], Rows]] = {
        "main": partial(main_arm, aligned=True),
        **{f"kind-{kind}": partial(kinds_arm, kind=kind) for kind in ("mixed", *KINDS)},
        "aware": partial(queries_arm, aware=True),
        "unaware": partial(queries_arm, aware=False),
        "skipped": partial(main_arm, aligned=False),
    }
    made: dict[str, dict[int, Rows]] = {name: {} for name in arms}
    for seed in range(1 if given.quick else given.seeds):
        bench = Bench(folder, seed, given.quick)
        bench.folder.mkdir(parents=True, exist_ok=True)
        for name, work in arms.items():
            if not given.only or name in given.only:
                made[name][seed] = bench.done(name, work)
    print("\n".join(report(made)))


if __name__ == "__main__":
    main()
