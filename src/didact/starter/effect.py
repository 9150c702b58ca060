"""What tuning the starter teaches, told apart from what it does not: arms, levels and operations side by side.

Arms (Kung & Peng 2023, arXiv 2305.11383; Sanh 2022, arXiv 2110.08207): the untuned base; full tuning, LoRA and BitFit
on real data; full tuning on shuffled labels (a random allowed answer), on a simplified instruction (the allowed answers
and the input only) and from random weights. Each method has a rate of its own; the rest is what a recipe runs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from didact.starter.levels import Data, data_of, shuffled, simplified, unseen_phrasing
from didact.starter.tasks import specs, tasks

if TYPE_CHECKING:
    from didact.instance import Instance
    from didact.model import Loaded

Row = dict[str, Any]
ROTATIONS: tuple[tuple[str, ...], ...] = (("pick", "order", "facts"), ("lookup", "extract", "kind"))
ARMS = ("untuned", "full", "shuffled", "simplified", "random", "lora", "bitfit")
RATES: Mapping[str, tuple[float, ...]] = {"full": (3e-4, 1e-3), "lora": (2e-3, 5e-3), "bitfit": (1e-2, 3e-2)}
CURVE = (2, 4, 8, 12)
DEV = 1000  # the seed of the data that rates are chosen on


def effect(
    base: Path,
    out: Path,
    seeds: int = 3,
    examples: int = 6000,
    rotations: Sequence[Sequence[str]] = ROTATIONS,
    arms: Sequence[str] = ARMS,
    report: Callable[[str], None] = print,
) -> list[Row]:
    """Run every arm with every seed and rotation, and the curve over training clusters; give the rows of `out`.

    One JSON line per run, level and operation. A run whose rows are in `out` already is not repeated, so the command
    goes on after a stop; the rows of another base or number of examples are refused.
    """
    from didact.starter.gates import watch

    out.parent.mkdir(parents=True, exist_ok=True)
    log = Log(out, {"base": weights_digest(base), "examples": examples}, report)
    if not log.has("gates"):
        log.add("gates", [{"gate": gate.name, "value": gate.value, "passed": gate.ok} for gate in watch(base)])
    methods = ["full", *(method for method in RATES if method in arms and method != "full")]
    rates = {method: log.best_rate(base, method, examples) for method in methods}
    for seed in range(seeds):
        for rotation in rotations:
            name = "+".join(rotation)
            todo = [arm for arm in arms if not log.has("arm", arm, name, seed) and not (arm == "untuned" and seed)]
            plain = (
                data_of(tasks(40, seed), rotation, seed, examples, unseen=unseen_phrasing(seed))
                if set(todo) - {"simplified"}
                else None
            )
            for arm in todo:
                data = plain if arm != "simplified" else data_of(simplified(tasks(40, seed)), rotation, seed, examples)
                assert data is not None
                method = arm if arm in RATES else "full"
                rows = run_arm(base, arm, data, seed, method, rates[method])
                log.add("arm", rows, arm, name, seed)
    for seed in range(seeds):
        for n in CURVE:
            if not log.has("clusters", n, "+".join(rotations[0]), seed):
                rows = run_arm(base, "full", few_clusters(rotations[0], n, examples, seed), seed, "full", rates["full"])
                log.add("clusters", rows, n, "+".join(rotations[0]), seed)
    return log.rows


class Log:
    """The rows in a file, and which runs they are of."""

    def __init__(self, path: Path, same: Mapping[str, Any], report: Callable[[str], None]) -> None:
        from didact.errors import UsageError

        self.path, self.same, self.report = path, dict(same), report
        self.rows: list[Row] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        for i, row in enumerate(self.rows):
            if any(row.get(key) != value for key, value in self.same.items()):
                problem = "these rows are of another base or another number of examples"
                raise UsageError(problem, "name another file", file=str(path), line=i + 1)
        self.done = {tuple(row["run"]) for row in self.rows}

    def has(self, *run: str | int | float) -> bool:
        return run in self.done

    def add(self, kind: str, rows: Sequence[Row], *run: str | int | float) -> None:
        """Write the rows of a run, all at once."""
        new = [{"run": [kind, *run], **self.same, **row} for row in rows]
        with self.path.open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in new))
        self.rows += new
        self.done.add((kind, *run))
        self.report(f"{' '.join(map(str, (kind, *run)))}: {summary(rows)}")

    def best_rate(self, base: Path, method: str, examples: int) -> float:
        """The rate that answers most rows of a development set: other rows, of trained tasks and new people."""
        for rate in RATES[method]:
            if not self.has("rate", method, rate):
                data = data_of(tasks(40, DEV), ROTATIONS[0], DEV, examples)
                dev = Data(data.train, [item for item in data.heldout if item.tags["level"] == "seen_template"])
                self.add("rate", run_arm(base, method, dev, DEV, method, rate), method, rate)
        score: dict[float, float] = defaultdict(float)
        for row in self.rows:
            if row["run"][:2] == ["rate", method]:
                score[row["run"][2]] += row["n"] * row["exact"]
        return max(RATES[method], key=lambda rate: score[rate])


def run_arm(base: Path, arm: str, data: Data, seed: int, method: str, rate: float) -> list[Row]:
    """Tune one arm and judge it; rows carry the method's rate."""
    from didact.model import load

    loaded = load(str(base))
    if arm == "random":
        forget(loaded.model, seed)
    if arm != "untuned":
        train(loaded, shuffled(data.train, loaded, seed) if arm == "shuffled" else data.train, seed, method, rate)
    return [{"rate": None if arm == "untuned" else rate, **row} for row in judge(loaded, data.heldout)]


def few_clusters(rotation: Sequence[str], n: int, examples: int, seed: int) -> Data:
    """The same number of examples from `n` training clusters, judged on the rotation's clusters only."""
    made = tasks(120, seed)
    rest = [name for name in dict.fromkeys(task.cluster for task in made) if name not in rotation]
    some = Random(f"curve {seed}").sample(rest, len(rest))[:n]
    data = data_of(made, rotation, seed, examples, some, unseen_phrasing(seed))
    return Data(data.train, [item for item in data.heldout if item.tags["level"] == "heldout_cluster"])


def weights_digest(base: Path) -> str:
    """Ten hex digits of the base's weights."""
    import hashlib

    return hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()[:10]


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


def train(loaded: Loaded, items: Sequence[Instance], seed: int, method: str, rate: float) -> None:
    """One epoch with the pipeline's own loop."""
    from didact.methods import METHODS
    from didact.tune import TuneConfig, tune

    config = TuneConfig(seed=seed, learning_rate=rate)
    tune(loaded, METHODS[method].config(), loaded.renderer.render_all(items), config)


def judge(loaded: Loaded, heldout: Sequence[Instance]) -> list[Row]:
    """Per level and operation: n, chance, exact match, validity, exact match given validity, ranked accuracy.

    marks_exact and marks_ranked have one digit per item, in the order of the data: arms can be compared in pairs.
    """
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
                "marks_exact": "".join(str(int(mark[1])) for mark in marks),
                "marks_ranked": "".join(str(int(mark[3])) for mark in marks),
            }
        )  # fmt: skip
    return found


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line: exact match and ranked accuracy of each level, over all items."""
    levels: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if "level" in row:
            levels[row["level"]].append(row)
    parts = []
    for level, some in sorted(levels.items()):
        n = sum(row["n"] for row in some)
        exact, ranked = (sum(row["n"] * row[key] for row in some) / n for key in ("exact", "ranked"))
        parts.append(f"{level} {exact:.2f}/{ranked:.2f}")
    return ", ".join(parts)
