"""PET beside a head over few and many labels, on ten of DBpedia's classes (a part of methods_programs.py).

The base is a small masked model that is trained here on unlabelled texts (masked_base.py). PET suits a set whose
answers are words that the texts use; so the classes are the ten whose word stands in most of their texts.
"""

from __future__ import annotations

import gzip
import json
import random
import statistics
import sys
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from kept import MATERIAL, WORK, cell, result, settings

DATA = MATERIAL / "data" / "annotated" / "dbpedia_14.jsonl.gz"
CLASSES = {1: "school", 2: "artist", 4: "politician", 6: "building", 7: "river", 8: "village", 9: "species",
           11: "album", 12: "film", 13: "book"}  # fmt: skip
WORDS = {"school": ["school", "university", "college"], "artist": ["singer", "musician", "artist", "writer"],
         "politician": ["politician", "member"], "building": ["building", "house", "church"],
         "river": ["river", "mountain", "lake"], "village": ["village"], "species": ["species"], "album": ["album"],
         "film": ["film"], "book": ["book", "novel", "magazine", "journal"]}  # fmt: skip
LABELS = tuple(CLASSES.values())
PATTERNS = ["{input} it is a {mask} .", "{mask} : {input}", "{input} this is about a {mask} ."]
CUT = 40  # words of a text that are read
STEPS = 100  # of a pattern's model; the head and what is distilled take twice as many
TRAINED = 4000  # steps of the masked model


def instance(text: str, label: str, row: int) -> Any:
    from didact.instance import Instance, Message, Origin, Part

    parts = (Part("What is this about? ", "instruction"), Part(text, "input"))
    messages = (Message("user", parts), Message("assistant", (Part(label, "answer"),)))
    return Instance.of(messages, Origin("dbpedia", row, task="dbpedia"), choices=LABELS)


@cache
def rows(test: int) -> tuple[list[Any], list[Any]]:
    """Rows to learn from, and some to be asked; the classes in turn, so that the first n hold as many of each."""
    with gzip.open(DATA, "rt", encoding="utf-8") as handle:
        given = [json.loads(line) for line in handle if line.strip()]
    random.Random(0).shuffle(given)
    by_class: dict[str, list[Any]] = {label: [] for label in LABELS}
    for i, row in enumerate(given):
        if row["label"] in CLASSES:
            label = CLASSES[row["label"]]
            by_class[label].append(instance(" ".join(row["content"].split()[:CUT]), label, i))
    turns = [one for some in zip(*by_class.values(), strict=False) for one in some]
    return turns[test:], turns[:test]


def drawn(pool: Sequence[Any], seed: int) -> list[Any]:
    """The pool so that the labels `pet` draws (it shuffles by seed) hold as many of each class."""
    rng, turns = random.Random(seed), list[Any]()
    columns = [[one for one in pool if one.answer == label] for label in LABELS]
    for column in columns:
        rng.shuffle(column)
    turns = [one for some in zip(*columns, strict=False) for one in some]
    places = list(range(len(turns)))
    random.Random(f"labels/{seed}").shuffle(places)
    found: list[Any] = [None] * len(turns)
    for place, one in zip(places, turns, strict=True):
        found[place] = one
    return found


def sentence(one: Any) -> str:
    return str(next(part.value for message in one.context for part in message.parts if part.slot == "input"))


def masked_base(test: Sequence[Any], quick: bool) -> str:
    """The folder of a masked model that was trained on texts without their labels, and without those asked."""
    import masked_base as small

    folder = WORK / f"masked-{'quick' if quick else f'base-{TRAINED}'}"
    if not folder.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        asked = {sentence(one) for one in test}
        with gzip.open(DATA, "rt", encoding="utf-8") as handle:
            whole = [json.loads(line)["content"] for line in handle if line.strip()]
        texts = small.unlabelled(MATERIAL / "data", [text for text in whole if " ".join(text.split()[:CUT]) in asked])
        small.train(texts, folder, 20 if quick else TRAINED, lambda line: print(line, file=sys.stderr, flush=True), 16)
    return str(folder)


def untuned(model: str, asked: Sequence[Any]) -> list[float]:
    """Share that each pattern has right before any tuning."""
    from didact import closed
    from didact.model import load
    from didact.programs.patterns import view

    loaded, found = load(model), list[float]()
    for pattern in PATTERNS:
        views = view(loaded, pattern, WORDS, 0.0, asked, 120)
        forks = [one.fork([1 / len(LABELS)] * len(LABELS)) for one in views]
        scores = closed.ask(loaded, [one.tokens for one in views], forks)
        found.append(hits(scores, asked))
    return found


def hits(scores: Sequence[Sequence[float]], asked: Sequence[Any]) -> float:
    best = [LABELS[max(range(len(row)), key=row.__getitem__)] for row in scores]
    return statistics.mean(said == one.answer for said, one in zip(best, asked, strict=True))


def pet(model: str, labels: int, seed: int, pool: list[Any], test: list[Any], steps: int, generations: int) -> float:
    """Accuracy of the model that PET keeps, with so many labels and the rest of the pool without theirs."""
    from didact.infer import Answerer
    from didact.programmed import follow
    from didact.programs.pet import PetConfig
    from didact.recipe import Recipe

    config = PetConfig(patterns=PATTERNS, verbalizer=WORDS, labels=labels, seeds=1, steps=steps,
                       generations=generations)  # fmt: skip
    recipe = Recipe(method=config, tune=settings(seed, max_steps=2 * steps, epochs=1000, max_length=120))
    loaded = follow(recipe, model, drawn(pool, seed), say=lambda text: print(text, file=sys.stderr))[0]
    return hits(Answerer(loaded).rank(test), test)


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
    loaded.model.resize_token_embeddings(first + len(LABELS), mean_resizing=False)

    def row(one: Any) -> tuple[Any, Any]:
        ids = loaded.renderer.around(sentence(one), "")[0][:118]
        if loaded.kind == "masked":  # the first place, which a classifier reads, stands hidden
            ids, place = [*ids, loaded.renderer.stop_ids[0]], 0
        else:
            ids, place = [*ids, first], len(ids)
        target = tuple(float(label == one.answer) for label in LABELS)
        fork = closed.Fork(0, 1, tuple((first + number,) for number in range(len(LABELS))), target)
        weights = [float(i == place) for i in range(len(ids))]
        return Tokens(ids, weights, [None] * len(ids), one.id, (), ((place, place + 1),)), fork

    order = drawn(pool, seed)
    random.Random(f"labels/{seed}").shuffle(order)
    taught = [row(one) for one in order[:labels]]
    data, forks = [tokens for tokens, _ in taught], [fork for _, fork in taught]
    config = settings(seed, max_steps=2 * steps, epochs=1000, max_length=120)
    tune(loaded, FullConfig(), data, config, objective=closed.Closed(forks))
    asked = [row(one) for one in test]
    return hits(closed.ask(loaded, [tokens for tokens, _ in asked], [fork for _, fork in asked]), test)


def measure(model: str | None, quick: bool, ipet: bool) -> None:
    """10 to 1,000 labels, three seeds; PET must lead up to 100 labels and be within five points at 1,000."""
    if not DATA.exists():
        result("methods.pet.lead", None, "points", 0, False, why="DIDACT_MATERIAL is not set")
        return
    sizes, seeds, steps, test = ((10,), 1, 4, 20) if quick else ((10, 50, 100, 1000), 3, STEPS, 400)
    pool, asked = rows(test)
    model = model or masked_base(asked, quick)
    pool = pool[: 40 if quick else 1400]
    name = Path(model).name
    before = cell(f"untuned-{name}-{test}", lambda: untuned(model, asked))
    print(f"\nDBpedia, {len(LABELS)} classes, {name}, accuracy on {len(asked)} rows, {seeds} seeds [least, most]")
    print(f"  patterns before tuning: {', '.join(f'{share:.3f}' for share in before)}")
    for labels in sizes:
        ways = {"pet": partial(pet, model, labels, pool=pool, test=asked, steps=steps, generations=0),
                "head": partial(head, model, labels, pool=pool, test=asked, steps=steps)}  # fmt: skip
        if ipet and labels == sizes[0]:
            ways["ipet"] = partial(pet, model, labels, pool=pool, test=asked, steps=steps, generations=2)
        tag = f"{name}-{labels}-{steps}-{len(asked)}"
        found = {
            way: [cell(f"{way}-{tag}-{seed}", partial(make, seed=seed)) for seed in range(seeds)]
            for way, make in ways.items()
        }
        told = {way: (statistics.mean(values), min(values), max(values)) for way, values in found.items()}
        print(f"  {labels:5} labels  " + "  ".join(f"{n} {m:.3f} [{a:.3f}, {b:.3f}]" for n, (m, a, b) in told.items()))
        leads = [100 * (a - b) for a, b in zip(found["pet"], found["head"], strict=True)]
        lead, must = statistics.mean(leads), 0 if labels <= 100 else -5
        result(f"methods.pet.lead_at_{labels}", lead, "points", must, lead >= must, low=min(leads), high=max(leads))
