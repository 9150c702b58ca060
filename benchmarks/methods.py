"""The ways to tune beside one another on the starter: `make bench-methods`; `--quick` only shows that all of it runs.

Parts: table (every method at its defaults), rank (LoRA of rank 1 and 8), data (BitFit against full by examples),
prompt (the default of prompt tuning against the best of a sweep), speed (examples a second against LoRA), and sweep
(rates, from which the defaults come; only when it is asked for). Rows are kept in build/bench-methods: a run that is
there is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from didact.audit.interval import Interval, mean_interval
from didact.methods import METHODS
from didact.model import Loaded, load
from didact.starter import base_folder
from didact.starter.effect import ROTATIONS, Log, Row, judge, weights_digest
from didact.starter.levels import Data, data_of, unseen_phrasing
from didact.starter.tasks import tasks
from didact.tune import TuneConfig, tune

DEV = 2000  # the seed of the rows that rates are chosen on; no figure is of them
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("full", {}),
    "lora": ("lora", {}),
    "lora rslora": ("lora", {"rslora": True}),
    "lora pissa": ("lora", {"start": "pissa"}),
    "qlora": ("qlora", {}),
    "adapter houlsby": ("adapter", {}),
    "adapter pfeiffer": ("adapter", {"places": "pfeiffer"}),
    "ia3": ("ia3", {}),
    "bitfit": ("bitfit", {"add": True}),
    "prefix": ("prefix", {}),
    "prefix without network": ("prefix", {"hidden": 0}),
    "p_tuning": ("p_tuning", {}),
    "prompt": ("prompt", {}),
    "lomo": ("lomo", {}),
}
FACTORS = (0.3, 1.0, 3.0, 10.0)  # of the default rate, in a sweep
PROMPTS = [
    {"length": length, "start": start} for length in (4, 16, 32) for start in ("vocabulary", "random")
]  # each at every factor
TRIAL = 640  # examples of one trial of a sweep
SIZES = (32, 128, 512, 2048, 8192)


def arm(log: Log, part: str, name: str, seed: int, data: Data, factor: float = 1.0, **changes: Any) -> list[Row]:
    """The rows of one training and its judgement, made only if they are not there."""
    settings = json.dumps(changes, sort_keys=True)
    key = (part, name, settings, len(data.train), factor, seed)
    if not log.has(*key):
        kind, given = ARMS[name]
        method = METHODS[kind].config(**{**given, **changes})
        loaded = load(str(base_folder()))
        items = loaded.renderer.render_all(data.train)
        parameters = sum(weight.numel() for weight in loaded.model.parameters())
        config = TuneConfig(seed=seed, learning_rate=factor * METHODS[kind].rate(parameters), precision="fp32")
        clock = time.process_time()
        result = tune(loaded, method, items, config)
        about = {"rate": config.learning_rate, "trainable": result.trainable, "share": result.trainable / parameters}
        about |= {"seconds": time.process_time() - clock, "loss": result.loss}
        log.add(key[0], [{**about, **row} for row in judge(loaded, data.heldout)], *key[1:])
    return [row for row in log.rows if tuple(row["run"]) == key]


def share(rows: Sequence[Row]) -> Interval:
    """Exact match on held-out templates over all items and seeds."""
    return mean_interval([float(mark) for row in rows for mark in row["marks_exact"]], span=(0.0, 1.0))


def text(found: Interval) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


class Sets:
    """Rows to train on and to judge by: held-out templates of the trained tasks. few: so many of each setting."""

    def __init__(self, examples: int, heldout: int, few: int | None = None) -> None:
        self.examples, self.heldout, self.few = examples, heldout, few
        self.made: dict[tuple[int, str], Data] = {}

    def of(self, seed: int, level: str = "heldout_template", examples: int | None = None) -> Data:
        if (seed, level) not in self.made:
            whole = data_of(tasks(40, seed), ROTATIONS[0], seed, self.examples, unseen=unseen_phrasing(seed))
            asked = [item for item in whole.heldout if item.tags["level"] == level]
            step = max(1, len(asked) // self.heldout)
            self.made[seed, level] = Data(whole.train, asked[::step][: self.heldout])
        found = self.made[seed, level]
        return found if examples is None else Data(found.train[:examples], found.heldout)


Figure = dict[str, Any]


def table(log: Log, sets: Sets, seeds: int) -> Iterator[Figure]:
    """Every method at its defaults."""
    found = {
        name: [row for seed in range(seeds) for row in arm(log, "table", name, seed, sets.of(seed))] for name in ARMS
    }
    print(f"\nheld-out templates, {sets.examples} examples, one pass, {seeds} seeds")
    for name, rows in sorted(found.items(), key=lambda pair: -share(pair[1]).value):
        seconds = statistics.median(row["seconds"] for row in rows)
        gap = against(rows, found["full"])
        print(
            f"{name:<24} {text(share(rows))}  to full {gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
            f"  {rows[0]['trainable']:>9,} ({rows[0]['share']:.2%})  rate {rows[0]['rate']:.2g}  {seconds:.0f} s"
        )
    for name in ("lora", "adapter houlsby"):
        gap = against(found[name], found["full"])
        yield figure(f"methods.{name.split()[0]}_to_full", gap.value, "share", -0.05, gap.value >= -0.05)


def against(rows: Sequence[Row], others: Sequence[Row]) -> Interval:
    """The mean difference of two arms on the same items."""
    key: Callable[[Row], tuple[Any, ...]] = lambda row: (row["run"][-1], row["level"], row["operation"])  # noqa: E731
    theirs = {key(row): row["marks_exact"] for row in others}
    pairs = [(int(a), int(b)) for row in rows for a, b in zip(row["marks_exact"], theirs[key(row)], strict=True)]
    return mean_interval([float(a - b) for a, b in pairs])


def rank(log: Log, sets: Sets, seeds: int) -> Iterator[Figure]:
    """LoRA of rank 1 against rank 8."""
    one, eight = (
        [row for seed in range(seeds) for row in arm(log, "rank", "lora", seed, sets.of(seed), rank=n)] for n in (1, 8)
    )
    gap = against(one, eight)
    print(f"\nLoRA of rank 1 {text(share(one))}, of rank 8 {text(share(eight))}, difference {text(gap)}")
    yield figure("methods.rank_1_to_8", gap.value, "share", None, True)


def data(log: Log, sets: Sets, seeds: int) -> Iterator[Figure]:
    """BitFit against full tuning by the number of examples."""
    print("\nBitFit and full tuning by examples")
    for n in [size for size in SIZES[: sets.few] if size <= sets.examples]:
        few, all_ = (
            [row for seed in range(seeds) for row in arm(log, "data", name, seed, sets.of(seed, examples=n))]
            for name in ("bitfit", "full")
        )
        gap = against(few, all_)
        print(f"{n:>6} {text(share(few))} {text(share(all_))}  {gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]")
        yield figure(f"methods.bitfit_to_full_{n}", gap.value, "share", None, True)


def prompt(log: Log, sets: Sets, seeds: int) -> Iterator[Figure]:
    """The default of prompt tuning against the best of a sweep, which is chosen on other rows."""
    dev = sets.of(DEV, "seen_template")
    grid = [(factor, settings) for settings in PROMPTS[: sets.few] for factor in FACTORS[: sets.few]]
    scored = [(share(arm(log, "prompt", "prompt", DEV, dev, f, **s)).value, f, s) for f, s in grid]
    _, factor, settings = max(scored, key=lambda one: one[0])
    best, usual = (
        [row for seed in range(seeds) for row in arm(log, "prompt", "prompt", seed, sets.of(seed), f, **s)]
        for f, s in ((factor, settings), (1.0, {}))
    )
    ratio = share(usual).value / max(share(best).value, 1e-9)
    print(f"\nprompt: default {text(share(usual))}, best (rate x {factor}, {settings}) {text(share(best))}")
    yield figure("methods.prompt_default_to_best", ratio, "ratio", 0.8, ratio >= 0.8)


def sweep(log: Log, sets: Sets, names: Sequence[str], factors: Sequence[float]) -> None:
    """What each method's loss comes to at multiples of its default rate, on rows that no figure is of.

    One pass in steps of 16 examples: the mean over the last quarter of the steps is of rows not yet seen.
    """
    some = sets.of(DEV).train[:TRIAL]
    for name in names or list(ARMS):
        kind, given = ARMS[name]
        found = list[str]()
        for factor in factors:
            key = ("sweep", name, len(some), factor)
            if not log.has(*key):
                loaded, losses = load(str(base_folder())), list[float]()
                rate = factor * METHODS[kind].rate(sum(weight.numel() for weight in loaded.model.parameters()))
                config = TuneConfig(learning_rate=rate, precision="fp32", batch_size=16, seed=DEV)
                items = loaded.renderer.render_all(some)
                tune(
                    loaded, METHODS[kind].config(**given), items, config, report=lambda s, to=losses: to.append(s.loss)
                )
                last = losses[-max(1, len(losses) // 4) :]
                log.add(key[0], [{"rate": rate, "loss": statistics.mean(last)}], *key[1:])
            (row,) = (row for row in log.rows if tuple(row["run"]) == key)
            found.append(f"{row['rate']:.2g}: {row['loss']:.3f}")
        print(f"{name:<24} {'   '.join(found)}", flush=True)


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


def figure(name: str, value: float, unit: str, target: float | None, ok: bool) -> Figure:
    return {"name": name, "value": round(value, 4), "unit": unit, "target": target, "ok": ok}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few examples, one seed: does everything run?")
    parser.add_argument("--part", nargs="*", default=["table", "rank", "data", "prompt", "speed"])
    parser.add_argument("--arms", nargs="*", default=[], help="of a sweep")
    parser.add_argument("--factors", nargs="*", type=float, default=FACTORS, help="of the default rate, in a sweep")
    parser.add_argument("--examples", type=int, default=0)
    parser.add_argument("--heldout", type=int, default=0, help="items that are asked")
    parser.add_argument("--seeds", type=int, default=0)
    given = parser.parse_args()
    examples = given.examples or (128 if given.quick else SIZES[-1])
    sets = Sets(examples, given.heldout or (20 if given.quick else 500), 2 if given.quick else None)
    seeds, base = given.seeds or (1 if given.quick else 3), Path(base_folder())
    place = Path("build/bench-methods") / f"{weights_digest(base)}-{examples}-{sets.heldout}.jsonl"
    place.parent.mkdir(parents=True, exist_ok=True)
    same: Mapping[str, Any] = {"base": weights_digest(base), "examples": examples}
    log = Log(place, same, lambda line: print(line, file=sys.stderr, flush=True))
    figures: list[Figure] = []
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, base {same['base']}")
    for part in given.part:
        if part == "sweep":
            sweep(log, sets, given.arms, given.factors[: sets.few])
        elif part == "speed":
            figures += speed(sets, 1 if given.quick else 5)
        else:
            figures += {"table": table, "rank": rank, "data": data, "prompt": prompt}[part](log, sets, seeds)
    for one in figures:
        print("RESULT " + json.dumps(one))


if __name__ == "__main__":
    main()
