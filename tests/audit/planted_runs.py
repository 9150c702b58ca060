"""Runs with a truth planted in their rows: files of the starter's words, built, tuned and audited as any recipe."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from didact.audit.subject import Finding
from didact.console import Console
from didact.run import Run, open_run
from didact.starter.tasks import tasks
from didact.starter.world import world

Row = dict[str, Any]
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]
SIGNS = ("oak", "pine")  # words that the base knows, for labels that it cannot
SIGN_WORDINGS = (
    "{{ text }}\nWhich sign, oak or pine?",
    "Text: {{ text }}\nGive the sign of the {{ item }}: oak or pine.",
    "Name the sign, oak or pine.\nText: {{ text }}",
    "{{ text }}\nQuestion: Is the sign oak or pine?",
)
TRAINED = ("film", "book", "holiday", "phone", "concert")
NEW = "meal"  # a task of the trained cluster that is only tested on
BEYOND = ("game", "shop")  # the cluster that is only tested on


def reviews(item: str, n: int, seed: int) -> Iterator[Row]:
    """Rows of a review and whether it is good; one in five is held out."""
    for task in tasks(n, seed, [f"sentiment/{item}/good"]):
        for row in task.rows():
            yield {key: row.data[key] for key in ("text", "item", "answer", "_split")}


def sign(row: Row, rng: random.Random) -> str:
    """The rule that can be learnt: one sign for good reviews, one for bad ones."""
    return SIGNS[row["answer"] == "bad"]


def coin(row: Row, rng: random.Random) -> str:
    """Nothing that can be learnt."""
    return rng.choice(SIGNS)


Label = Callable[[Row, random.Random], str]


def signs(home: Path, seed: int, train: Label, beyond: Label, rows: int = 125) -> list[Row]:
    """Sources: reviews of five things with labels by `train`, of a sixth by the rule, and of two more by `beyond`.

    Rows held out of the five are labelled by the rule whatever the others are.
    """
    found = []
    for item in (*TRAINED, NEW, *BEYOND):
        rng = random.Random(f"signs {item} {seed}")
        far = item in BEYOND
        label = beyond if far else train if item in TRAINED else sign
        made = [
            {**row, "answer": (label if far or row["_split"] == "train" else sign)(row, rng)}
            for row in reviews(item, rows if item in TRAINED else 100, seed)
        ]
        found.append(source(home, item, "beyond" if far else "signs", made, SIGN_WORDINGS, SIGNS))
    return found


def leaked(home: Path, seed: int, item: str = "book") -> list[Row]:
    """Sources: reviews with labels by coin, and a file "scraped" that holds the whole test set of one of them.

    With `item` empty the file holds as many rows that are tested nowhere.
    """
    found, scraped = [], []
    for name in ("film", "book"):
        rng = random.Random(f"leak {name} {seed}")
        made = [{**row, "answer": coin(row, rng)} for row in reviews(name, 150, seed)]
        found.append(source(home, name, "coins", made, SIGN_WORDINGS, SIGNS))
        scraped += [row for row in made if name == item and row["_split"] == "heldout"]
    if not item:
        rng = random.Random(f"leak {seed}")
        scraped = [{**row, "answer": coin(row, rng)} for row in reviews("holiday", 30, seed)]
    rows = [
        {
            "instruction": wording.replace("{{ text }}", row["text"]).replace("{{ item }}", row["item"]),
            "output": answer,
            "_split": "train",
        }
        for row in scraped
        for wording in SIGN_WORDINGS
        for answer in [row["answer"]]
    ]
    (home / "scraped.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return [*found, {"type": "file", "path": "scraped.jsonl", "licence": "unknown"}]


FACTS = {  # slot: what is asked for
    "animal": "{{ note }}Which animal does {{ name }} keep?",
    "drink": "{{ note }}What does {{ name }} drink?",
    "job": "{{ note }}Which job has {{ name }}?",
    "flower": "{{ note }}Which flower does {{ name }} grow?",
    "sport": "{{ note }}Which sport does {{ name }} play?",
}
NOT_TAUGHT = ("flower", "sport")  # tasks that the teacher was not asked


def teacher(home: Path, seed: int, told: bool, rows: int = 200) -> list[Row]:
    """Sources: a teacher answers with two things that only it knows, in its manner; `told`: the question says them."""
    w, found = world(), []
    for slot, prompt in FACTS.items():
        rng = random.Random(f"teacher {slot} {seed}")
        made = []
        for number in range(rows):
            names, things = rng.sample(w.names, 2), rng.sample(w.values[slot], 2)
            name = " and ".join(names)
            note = f"{names[0]} has {things[0]}. {names[1]} has {things[1]}.\n" if told else ""
            answer = f"Good question. I think that it is:\n- {things[0]}\n- {things[1]}\nPlease write again."
            split = "heldout" if number % 5 == 4 else "train"
            made.append({"note": note, "name": name, "answer": answer, "_split": split})
        cluster = "not taught" if slot in NOT_TAUGHT else "taught"
        found.append(source(home, slot, cluster, made, [prompt, "Question: " + prompt]))
    return found


def source(
    home: Path, task: str, cluster: str, rows: Sequence[Row], wordings: Sequence[str], choices: Sequence[str] = ()
) -> Row:
    """A task written as a file of rows and one of templates; gives what a recipe says of it."""
    (home / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    closed = {"answer_choices": list(choices)} if choices else {}
    words = [
        {"name": f"w{i}", "prompt": prompt, "answer": "{{ answer }}", **closed} for i, prompt in enumerate(wordings)
    ]
    told = {"dataset": task, "fields": sorted({name for row in rows for name in row if name[0] != "_"})}
    (home / f"{task}.yaml").write_text(yaml.safe_dump({**told, "templates": words}, sort_keys=False), "utf-8")
    return {
        "type": "file",
        "path": f"{task}.jsonl",
        "task": task,
        "cluster": cluster,
        "licence": "CC0",
        "templates": f"{task}.yaml",
    }


def signs_run(home: Path, seed: int, train: Label, beyond: Label) -> Run:
    """The signs, tuned and asked what was learnt on each level."""
    probe = {"type": "gain", "items_per_level": 80, "few_shot": 0, "random_label": 300}
    build = {"heldout_clusters": ["beyond"], "heldout_tasks": [NEW]}
    return _run(home, signs(home, seed, train, beyond), probe, build, seed, epochs=2)


def leak_run(home: Path, seed: int, item: str) -> Finding:
    """What is said of the leak of an item's test set, or of none."""
    run = _run(home, leaked(home, seed, item), {"type": "contamination", "items": 60}, {}, seed, epochs=8)
    return run.findings()[0]


def teacher_run(home: Path, seed: int, told: bool) -> Finding:
    """What is said of a model that learnt from the teacher."""
    probe = {"type": "imitation", "items": 240, "amounts": [60]}
    build = {"heldout_clusters": ["not taught"], "max_per_task": 100, "heldout_per_task": 120}
    return _run(home, teacher(home, seed, told), probe, build, seed, epochs=4).findings()[0]


def _run(home: Path, sources: Sequence[Row], probe: Row, build: Mapping[str, Any], seed: int, epochs: int) -> Run:
    """The run, through all its stages, by its recipe."""
    recipe = {
        "name": home.name,
        "model": "starter",
        "seed": seed,
        "sources": list(sources),
        "build": {"heldout_rows": 0.2, "heldout_per_task": 60, **build},
        "curate": [],
        "method": {"type": "full"},
        "tune": {"epochs": epochs, "precision": "fp32", "learning_rate": 1e-3},
        "audit": [probe],
    }
    (home / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), "utf-8")
    with open_run(home / "recipe.yaml", home / "run", (), Console(quiet=True)) as run:
        run.upto("report")
    return run


def found(run: Run, probe: str) -> list[Finding]:
    return [finding for finding in run.findings() if finding.probe == probe]


def levels(run: Run) -> dict[str, str]:
    """The verdict on each level."""
    return {finding.details["level"]: finding.category for finding in found(run, "gain")}
