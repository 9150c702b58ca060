"""The ways to tune beside one another on the starter: `make bench-methods`; `--quick` only shows that all of it runs.

Parts: table (every method at its defaults), long (five of them on four times as many examples), rank (LoRA of rank 1
and 8), data (BitFit against full by examples), prompt (the default of prompt tuning against the best of a sweep), speed
(examples a second against LoRA), programs (PET and spaces of prompts: methods_programs.py), and, only when asked for,
sweep (rates and sizes, from which the defaults come). Rows are kept in build/bench-methods: a run that is there is not
made again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from didact.audit.interval import Interval, mean_interval
from didact.instance import digest
from didact.methods import METHODS
from didact.model import Loaded, load
from didact.starter import base_folder
from didact.starter.effect import ROTATIONS, Log, Row, judge, weights_digest
from didact.starter.levels import Data, data_of, unseen_phrasing
from didact.starter.tasks import tasks
from didact.tune import TuneConfig, tune

ROWS = 8  # in a step
DEV = 2000  # the seed of the rows that rates are chosen on; no figure is of them
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("full", {}),
    "lora": ("lora", {}),
    "qlora": ("qlora", {}),
    "adapter": ("adapter", {}),
    "ia3": ("ia3", {}),
    "bitfit": ("bitfit", {"add": True}),
    "prefix": ("prefix", {}),
    "p_tuning": ("p_tuning", {}),
    "prompt": ("prompt", {}),
    "intrinsic": ("intrinsic", {}),
    "projection": ("projection", {}),
    "lomo": ("lomo", {}),
    "lora rslora": ("lora", {"rslora": True}),
    "lora pissa": ("lora", {"start": "pissa"}),
    "adapter pfeiffer": ("adapter", {"places": "pfeiffer"}),
    "prefix without network": ("prefix", {"hidden": 0}),
}
FACTORS = (0.3, 1.0, 3.0)  # of the default rate, in a sweep
SHAPES: dict[str, list[dict[str, Any]]] = {  # beside the default, in a sweep
    "lora": [{"rank": 4}, {"rank": 64}],
    "adapter": [{"size": 4}, {"size": 64}],
    "prompt": [{"length": 4}, {"length": 64}, {"start": "random"}],
    "prefix": [{"length": 4}, {"length": 64}, {"start": "random"}],
}
PROMPTS: list[dict[str, Any]] = [{}, *SHAPES["prompt"]]  # each at every factor
TRIAL = 1024  # examples of a training, but where they are what differs
LONG = 4  # times as many examples
LONG_ARMS = ["full", "full x 0.3", "lora", "adapter", "bitfit", "prefix"]  # at a share of the default rate
SIZES = (32, 128, 512, 2048, 8192)


def arm(log: Log, name: str, seed: int, data: Data, factor: float = 1.0, **changes: Any) -> list[Row]:
    """The rows of one training and its judgement, made only if they are not there. gain: fall of the held-out loss."""
    from didact.infer import Answerer

    kind, given = ARMS[name]
    method = METHODS[kind].config(**{**given, **changes})
    rate, settings = factor * METHODS[kind].rate(size()), json.dumps(changes, sort_keys=True)
    key = ("arm", name, settings, digest(method.model_dump(mode="json"), 8), len(data.train), rate, seed)
    if not log.has(*key):
        loaded = load(str(base_folder()))
        items = loaded.renderer.render_all(data.train)
        before = statistics.mean(Answerer(loaded).answer_loss(data.heldout))
        config = TuneConfig(seed=seed, learning_rate=rate, batch_size=ROWS, precision="fp32")
        clock = time.process_time()
        result = tune(loaded, method, items, config)
        about = {"rate": config.learning_rate, "trainable": result.trainable, "share": result.trainable / size()}
        about |= {"seconds": time.process_time() - clock, "loss": result.loss}
        about["gain"] = before - statistics.mean(Answerer(loaded).answer_loss(data.heldout))
        log.add(key[0], [{**about, **row} for row in judge(loaded, data.heldout)], *key[1:])
    return [row for row in log.rows if tuple(row["run"]) == key]


@cache
def size() -> int:
    """Numbers in the base."""
    return sum(weight.numel() for weight in load(str(base_folder())).model.parameters())


def share(rows: Sequence[Row], marks: str = "exact") -> Interval:
    """Right answers on held-out templates; items of one operation and seed share a phrasing and count as one group."""
    values = [(float(mark), where(row)) for row in rows for mark in row[f"marks_{marks}"]]
    return mean_interval([value for value, _ in values], [group for _, group in values], span=(0.0, 1.0))


def against(rows: Sequence[Row], others: Sequence[Row], marks: str = "exact") -> Interval:
    """The mean difference of two arms on the same items."""
    theirs = {where(row): row[f"marks_{marks}"] for row in others}
    pairs = [
        (float(int(a) - int(b)), where(row))
        for row in rows
        for a, b in zip(row[f"marks_{marks}"], theirs[where(row)], strict=True)
    ]
    return mean_interval([value for value, _ in pairs], [group for _, group in pairs])


def where(row: Row) -> tuple[Any, ...]:
    """Seed, level and operation."""
    return row["run"][-1], row["level"], row["operation"]


def gain(rows: Sequence[Row]) -> float:
    """Nats per token of held-out answers that tuning took away, a mean over seeds."""
    return statistics.mean({row["run"][-1]: row["gain"] for row in rows}.values())


def text(found: Interval, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{found.value:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


class Sets:
    """Rows to train on and to judge by: held-out templates of the trained tasks. few: so many of each setting."""

    def __init__(self, most: int, examples: int, heldout: int, few: int | None = None) -> None:
        self.most, self.examples, self.heldout, self.few = most, examples, heldout, few
        self.made: dict[tuple[int, str], Data] = {}

    def of(self, seed: int, level: str = "heldout_template", examples: int | None = None) -> Data:
        if (seed, level) not in self.made:
            whole = data_of(tasks(40, seed), ROTATIONS[0], seed, self.most, unseen=unseen_phrasing(seed))
            asked = [item for item in whole.heldout if item.tags["level"] == level]
            most = self.heldout // 2 if seed == DEV else self.heldout
            self.made[seed, level] = Data(whole.train, asked[:: max(1, len(asked) // most)][:most])
        found = self.made[seed, level]
        return Data(found.train[: self.examples if examples is None else examples], found.heldout)


Figure = dict[str, Any]


def table(log: Log, sets: Sets, seeds: int, names: Sequence[str], examples: int, tag: str = "") -> Iterator[Figure]:
    """Methods at their defaults; seeds go round, so that what was stopped has all methods with the first."""
    found: dict[str, list[Row]] = {name: [] for name in names}
    for seed in range(seeds):
        for name in names:
            way, _, factor = name.partition(" x ")
            found[name] += arm(log, way, seed, sets.of(seed, examples=examples), float(factor or 1))
    print(
        f"\nheld-out templates: {examples} examples, one pass in steps of {ROWS};"
        f" {seeds} seeds, {sets.heldout} items each"
    )
    for name, rows in sorted(found.items(), key=lambda pair: -share(pair[1]).value):
        seconds = statistics.median(row["seconds"] for row in rows)
        print(
            f"{name:<24} {text(share(rows))}  to full {text(against(rows, found['full']), True)}"
            f"  ranked {share(rows, 'ranked').value:.3f}  loss -{gain(rows):.2f}"
            f"  {rows[0]['trainable']:>9,} ({rows[0]['share']:.2%})  rate {rows[0]['rate']:.2g}  {seconds:.0f} s"
        )
    for one, other in (("lora", "full"), ("adapter", "full"), ("adapter", "lora")):
        gap = against(found[one], found[other])
        print(f"{one} against {other}: {text(gap, True)}")
        if "full x 0.3" in found and other == "full":
            print(f"{one} against full x 0.3: {text(against(found[one], found['full x 0.3']), True)}")
        within = max(abs(gap.low), abs(gap.high)) <= 0.05
        yield figure(f"methods.{tag}{one}_to_{other}", gap.value, "share", 0.05, within, low=gap.low, high=gap.high)


def rank(log: Log, sets: Sets, seeds: int) -> Iterator[Figure]:
    """LoRA of rank 1 against rank 8."""
    one, eight = (
        [row for seed in range(seeds) for row in arm(log, "lora", seed, sets.of(seed), rank=n)] for n in (1, 8)
    )
    gap = against(one, eight)
    print(f"\nLoRA of rank 1 {text(share(one))}, of rank 8 {text(share(eight))}, difference {text(gap, True)}")
    yield figure("methods.rank_1_to_8", gap.value, "share", None, True, low=gap.low, high=gap.high)


def data(log: Log, sets: Sets, seeds: int) -> Iterator[Figure]:
    """BitFit against full tuning by the number of examples."""
    print("\nexamples: BitFit, full tuning, difference; of the answer ranked first; fall of the loss")
    for n in [size for size in SIZES[: sets.few] if size <= sets.most]:
        few, all_ = (
            [row for seed in range(seeds) for row in arm(log, name, seed, sets.of(seed, examples=n))]
            for name in ("bitfit", "full")
        )
        gap, ranked = against(few, all_), against(few, all_, "ranked")
        print(
            f"{n:>6} {text(share(few))} {text(share(all_))}  {text(gap, True)}"
            f"  ranked {text(ranked, True)}  loss -{gain(few):.2f} -{gain(all_):.2f}"
        )
        yield figure(f"methods.bitfit_to_full_{n}", gap.value, "share", None, True, low=gap.low, high=gap.high)


def prompt(log: Log, sets: Sets, seeds: int) -> Iterator[Figure]:
    """The default of prompt tuning against the best of a sweep, which is chosen on other rows by the held-out loss."""
    dev, few = sets.of(DEV, "seen_template"), sets.few
    grid = [(factor, settings) for settings in PROMPTS[:few] for factor in FACTORS[:few]]
    _, factor, settings = max(
        ((gain(arm(log, "prompt", DEV, dev, f, **s)), f, s) for f, s in grid), key=lambda one: one[0]
    )
    best, usual = (
        [row for seed in range(seeds) for row in arm(log, "prompt", seed, sets.of(seed), f, **s)]
        for f, s in ((factor, settings), (1.0, {}))
    )
    print(f"\nprompt: the best of {len(grid)}: rate x {factor}, {settings}")
    for name, rows in (("default", usual), ("best", best)):
        ranked = text(share(rows, "ranked"))
        print(f"{name:<8} exact {text(share(rows))}, ranked {ranked}, loss -{gain(rows):.3f}")
    ratio = gain(usual) / gain(best)
    yield figure("methods.prompt_default_to_best", ratio, "ratio of the fall of the loss", 0.8, ratio >= 0.8)


def sweep(log: Log, sets: Sets, names: Sequence[str], factors: Sequence[float], shapes: bool) -> None:
    """Each method at multiples of its default rate and at other sizes, on rows that no figure is of.

    The loss does not choose: with the head frozen it is mostly that of the stop, which is right with little weight.
    """
    dev = sets.of(DEV, "seen_template")
    for name in names or list(ARMS):
        trials: list[tuple[float, dict[str, Any]]] = [(factor, {}) for factor in factors]
        trials += [(1.0, changes) for changes in SHAPES.get(name, [])[: sets.few] if shapes]
        for factor, changes in trials:
            rows = arm(log, name, DEV, dev, factor, **changes)
            right, ranked = share(rows).value, share(rows, "ranked").value
            told = f"rate {rows[0]['rate']:<8.2g} {json.dumps(changes):<24}"
            print(f"{name:<16} {told} {right:.3f}, ranked {ranked:.3f}, loss -{gain(rows):.2f}", flush=True)


def speed(sets: Sets, repeats: int) -> Iterator[Figure]:
    """Examples a second of processor time against LoRA, taken in turns."""
    some, seconds = sets.of(0).train[:256], dict[str, list[float]]()
    for _ in range(repeats + 1):  # the first is a warm-up
        for name, (kind, given) in ARMS.items():
            loaded: Loaded = load(str(base_folder()))
            items = loaded.renderer.render_all(some)
            method = METHODS[kind].config(**given)
            began = list[float]()
            tune(
                loaded,
                method,
                items,
                TuneConfig(precision="fp32"),
                report=lambda step, began=began: began.append(time.process_time()),
            )
            seconds.setdefault(name, []).append((began[-1] - began[0]) / (len(began) - 1))
    print("\nexamples a second of processor time, against LoRA")
    lora = statistics.median(seconds["lora"][1:])
    for name, found in seconds.items():
        ratios = [a / b for a, b in zip(seconds["lora"][1:], found[1:], strict=True)]
        ratio = lora / statistics.median(found[1:])
        print(
            f"{name:<24} {32 / statistics.median(found[1:]):8.0f}  {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
        yield figure(f"methods.speed.{name.replace(' ', '_')}", ratio, "ratio", 0.9, ratio >= 0.9)


def figure(name: str, value: float, unit: str, target: float | None, ok: bool, **more: float) -> Figure:
    rest = {key: round(number, 4) for key, number in more.items()}
    return {"name": name, "value": round(value, 4), "unit": unit, "target": target, "ok": ok, **rest}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few examples, one seed: does everything run?")
    parser.add_argument("--part", nargs="*", default=["table", "long", "prompt", "rank", "speed", "programs", "data"])
    parser.add_argument("--arms", nargs="*", default=[], help="of a table (full, lora and adapter at least) or a sweep")
    parser.add_argument("--factors", nargs="*", type=float, default=FACTORS, help="of the default rate, in a sweep")
    parser.add_argument("--shapes", action="store_true", help="of a sweep: other sizes too")
    parser.add_argument("--examples", type=int, default=0, help="of each training but those by size")
    parser.add_argument("--heldout", type=int, default=0, help="items that are asked")
    parser.add_argument("--seeds", type=int, default=0)
    given = parser.parse_args()
    examples, heldout = given.examples or (64 if given.quick else TRIAL), given.heldout or (20 if given.quick else 400)
    sets = Sets(128 if given.quick else max(examples, SIZES[-1]), examples, heldout, 2 if given.quick else None)
    seeds, base = given.seeds or (1 if given.quick else 3), weights_digest(Path(base_folder()))
    place = Path("build/bench-methods") / f"{base}-{heldout}{'-quick' * given.quick}.jsonl"
    place.parent.mkdir(parents=True, exist_ok=True)
    log = Log(place, {"base": base}, lambda line: print(line, file=sys.stderr, flush=True))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, base {base}")
    for part in given.part:
        figures: list[Figure] = []
        if part == "table":
            figures += table(log, sets, seeds, given.arms or list(ARMS), examples)
        elif part == "long":
            figures += table(log, sets, seeds, given.arms or LONG_ARMS, examples * LONG, "long_")
        elif part == "sweep":
            sweep(log, sets, given.arms, given.factors[: sets.few], given.shapes)
        elif part == "programs":
            import methods_programs

            methods_programs.measure(None, given.quick)
        elif part == "speed":
            figures += speed(sets, 1 if given.quick else 5)
        else:
            figures += {"rank": rank, "data": data, "prompt": prompt}[part](log, sets, seeds)
        for one in figures:
            print("RESULT " + json.dumps(one), flush=True)


if __name__ == "__main__":
    main()
