"""The tuning engine beside its peers and the machine's limit: one interleaved run on the kit's fixtures.

    make bench-engine                        full; about 18 minutes on a quiet core
    python benchmarks/engine.py --quick      one repetition of few rows: does everything run?

Needs the shared material (DIDACT_MATERIAL) for the kit and the rows, and the peers' environments, made by
`make bench-peers` (DIDACT_PEERS names the folder that holds .venv-trl and .venv-llamafactory, if it is another).
Each run is one process pinned to one core. Finished runs are kept in build/bench-engine: started again, it goes on.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MATERIAL = Path(os.environ.get("DIDACT_MATERIAL", ROOT.parent / "shared")).resolve()
PEERS = Path(os.environ.get("DIDACT_PEERS", ROOT)).resolve()
KIT, OURS, WORK = MATERIAL / "bench", ROOT / "benchmarks" / "peers", ROOT / "build" / "bench-engine"
ROWS = 2000
# glibc gives every large block back to the kernel unless it is told not to; TRL and LLaMA-Factory gain up to 28 %.
TUNED = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=268435456"
}
DIDACT, TRL, FACTORY = "didact", "trl", "llamafactory"
BEST = {TRL: "trl_sft.py --packing --accum", FACTORY: "llamafactory_sft.py --packing --neat"}


def runs(size: int) -> list[dict[str, Any]]:
    """What is run in one repetition, in this order: name, environment, script with arguments, variables, rows."""
    found = []

    def add(
        name: str, who: str, script: str, rows: int, *, shape: str = "small", ours: bool = False, **variables: str
    ) -> None:
        place = OURS if ours or who == DIDACT else KIT / "peers"
        model = f"--model {WORK / shape} --data {WORK / 'rows.jsonl'} --n {rows} --work {WORK / 'work'}"
        found.append({"name": name, "who": who, "cmd": f"{place}/{script} {model}", "env": variables})

    for kind, more, shape, rows in (
        ("full", "", "small", size),
        ("lora", " --lora 16", "small", size),
        ("big", " --batch 4", "bigvocab", max(8, size // 4)),
    ):
        bf16 = f" --dtype bf16{more}"
        add(f"{kind} didact", DIDACT, "didact_sft.py" + bf16, rows, shape=shape)
        add(f"{kind} trl best", TRL, BEST[TRL] + bf16, rows, shape=shape, **TUNED)
        add(f"{kind} llamafactory best", FACTORY, BEST[FACTORY] + bf16, rows, shape=shape, **TUNED)
        if kind != "big":
            add(f"{kind} didact, nothing shared", DIDACT, "didact_sft.py --no-share" + bf16, rows)
    add("full didact fp32", DIDACT, "didact_sft.py --dtype fp32", size)
    add("full didact fp32, nothing shared", DIDACT, "didact_sft.py --no-share --dtype fp32", size)
    add("full trl as installed", TRL, "trl_installed.py", max(16, size // 2), ours=True)
    add("full trl unpacked", TRL, "trl_sft.py --dtype fp32", max(16, size // 2))
    prepare = f"--model {WORK / 'small'} --data {WORK / 'all.jsonl'} --n {ROWS}"
    found.append({"name": "prepare didact", "who": DIDACT, "cmd": f"{OURS}/didact_prepare.py {prepare}", "env": {}})
    found.append(
        {"name": "prepare trl", "who": TRL, "cmd": f"{KIT}/peers/tokenize_pack.py --how trl {prepare}", "env": {}}
    )
    found.append({"name": "gemm", "who": DIDACT, "cmd": f"{OURS}/gemm.py", "env": {}})
    return found


def python(who: str) -> Path:
    return Path(sys.executable) if who == DIDACT else PEERS / f".venv-{who}" / "bin" / "python"


def material(size: int) -> str:
    """Make rows and fixtures where they are missing; says what stands in the way."""
    source = MATERIAL / "data" / "instruct_nc" / "alpaca_data.json.gz"
    for needed in (source, KIT / "make_fixture.py"):
        if not needed.exists():
            return f"{needed} is missing: set DIDACT_MATERIAL"
    (WORK / "work").mkdir(parents=True, exist_ok=True)
    with gzip.open(source, "rt", encoding="utf-8") as handle:
        rows = json.load(handle)[:ROWS]
    spread = [rows[i * ROWS // size] for i in range(size)]  # as long on average as all of them
    for name, some in (("all", rows), ("rows", spread)):
        (WORK / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    for shape in ("small", "bigvocab"):
        if not (WORK / shape / "tokenizer.json").exists():
            make = [sys.executable, KIT / "make_fixture.py", "--text", WORK / "all.jsonl", "--out", WORK / shape]
            subprocess.run([*map(str, make), "--shape", shape], check=True, capture_output=True)
    return ""


def run(entry: dict[str, Any], core: str, limit: float) -> dict[str, Any]:
    """The RESULT of one process, or {"why": ...}."""
    if not python(entry["who"]).exists():
        return {"why": f"{python(entry['who'])} is missing: make bench-peers"}
    fixed = {"OMP_NUM_THREADS": "1", "DIDACT_MATERIAL": str(MATERIAL), "PYTHONPATH": str(ROOT / "src")}
    if entry["who"] != DIDACT:
        fixed.pop("PYTHONPATH")
    pin = ["taskset", "-c", core] if core else []
    try:
        done = subprocess.run(
            [*pin, str(python(entry["who"])), *shlex.split(entry["cmd"])],
            capture_output=True,
            text=True,
            timeout=limit,
            cwd=WORK / "work",
            env={**os.environ, **fixed, **entry["env"]},
        )
    except subprocess.TimeoutExpired:
        return {"why": f"took more than {limit:.0f} s"}
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), "")
    if not line:
        return {"why": (done.stderr.strip().splitlines() or ["no RESULT line"])[-1][:200]}
    result: dict[str, Any] = json.loads(line[7:])
    return result


def collect(reps: int, size: int, core: str, minutes: float, fresh: bool) -> dict[str, list[dict[str, Any]]]:
    """All runs, interleaved; those in the log are not run again. A peer that failed is not asked twice."""
    log, began = WORK / f"runs-{size}.jsonl", time.monotonic()
    if fresh:
        log.unlink(missing_ok=True)
    old = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    found: dict[str, list[dict[str, Any]]] = {}
    for record in old:
        found.setdefault(record["name"], []).append(record)
    dead: set[str] = set()
    for rep in range(reps):
        for entry in runs(size):
            name = entry["name"]
            if name in dead or any(record["rep"] == rep for record in found.get(name, [])):
                continue
            if rep and (time.monotonic() - began) / 60 > minutes:
                print(f"stopped after {minutes:g} minutes in repetition {rep + 1}; started again it goes on")
                return found
            record = {"name": name, "rep": rep, **run(entry, core, 400)}
            if "why" in record:
                dead.add(name)
                print(f"{name}: {record['why']}", flush=True)
                found.setdefault(name, [])
                continue
            found.setdefault(name, []).append(record)
            with log.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(record) + "\n")
            speed = record.get("examples_s") or record.get("rows_cpu_s") or record.get("bf16")
            print(f"  {rep + 1} {name:34} {speed}", flush=True)
    return found


def median(records: list[dict[str, Any]], key: str) -> float | None:
    values = [record[key] for record in records if key in record]
    return statistics.median(values) if values else None


def work_of(shape: str, method: str, found: dict[str, list[dict[str, Any]]]) -> float:
    """GFLOP that one example needs, nothing shared: 6 per weight and token (LoRA 4), the head where a loss is read."""
    config = json.loads((WORK / shape / "config.json").read_text())
    hidden, layers, inner = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
    record = next((some[0] for name, some in found.items() if name.startswith(f"{method} didact") and some), None)
    if record is None:
        return float("nan")
    tokens, supervised = record["tokens"] / record["n"], record["total_sup"] / record["n"]
    body = layers * (4 * hidden * hidden + 3 * hidden * inner)
    adapters = layers * 16 * (4 * 2 * hidden + 3 * (hidden + inner)) if method == "lora" else 0
    each = 4 if method == "lora" else 6
    pairs = 12 * layers * hidden * tokens * tokens / 2  # scores and sums, forward and backward, the causal half
    return (each * (body * tokens + config["vocab_size"] * hidden * supervised) + 6 * adapters * tokens + pairs) / 1e9


def figures(found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The figures with their targets (must, aim); a missing part makes the value null."""
    rows: list[dict[str, Any]] = []

    def add(name: str, value: float | None, must: float, aim: float, unit: str = "ratio", least: bool = True) -> None:
        ok = value is not None and (value >= must if least else value <= must)
        shown = None if value is None else round(value, 3)
        rows.append({"name": f"engine.{name}", "value": shown, "unit": unit, "target": must, "ok": ok, "aim": aim})

    def ratio(a: str, b: str, key: str = "examples_s") -> float | None:
        x, y = median(found.get(a, []), key), median(found.get(b, []), key)
        return x / y if x and y else None

    for kind in ("full", "lora"):
        add(f"{kind}.speed_against_trl_best", ratio(f"{kind} didact", f"{kind} trl best"), 1.6, 2.5)
        add(f"{kind}.speed_against_best_peer", ratio(f"{kind} didact", f"{kind} llamafactory best"), 1.25, 2.0)
    add("big.speed_against_trl_best", ratio("big didact", "big trl best"), 2.4, 3.0)
    add("big.speed_against_best_peer", ratio("big didact", "big llamafactory best"), 1.7, 2.2)
    for what in ("as installed", "unpacked"):  # with nothing set; with the kit's settings
        name = f"full.speed_against_trl_{what.replace(' ', '_')}"
        add(name, ratio("full didact", f"full trl {what}"), 5, 7)
    for kind, precision, must, aim in (
        ("full", "bf16", 0.55, 0.80),
        ("full", "fp32", 0.85, 0.95),
        ("lora", "bf16", 0.55, 0.80),
        ("big", "bf16", 0.55, 0.80),
    ):
        shape = "bigvocab" if kind == "big" else "small"
        peak = median(found.get("gemm", []), f"{precision}_{shape}")
        for part, suffix in (("", ""), (".nothing_shared", ", nothing shared")):
            name = f"{kind} didact{' fp32' if precision == 'fp32' else ''}{suffix}"
            speed = median(found.get(name, []), "examples_s")
            share = speed * work_of(shape, kind, found) / peak if speed and peak else None
            if share or not (part and kind == "big"):
                add(f"{kind}.share_of_limit.{precision}{part}", share, must, aim)
    for kind in ("full", "lora", "big"):
        add(
            f"{kind}.memory_against_trl_best",
            ratio(f"{kind} didact", f"{kind} trl best", "peak_rss_mb"),
            0.85,
            0.85,
            least=False,
        )
    add("full.start_against_trl", ratio("full didact", "full trl best", "startup_s"), 0.6, 0.6, least=False)
    add("prepare.speed_against_trl", ratio("prepare didact", "prepare trl", "rows_cpu_s"), 2.5, 3.5)
    return rows


def table(found: dict[str, list[dict[str, Any]]]) -> None:
    keys = ("examples_s", "sup_tok_s", "startup_s", "peak_rss_mb", "train_loss", "rows_cpu_s")
    print(f"\n{'':34}" + "".join(f"{key:>14}" for key in keys) + "   repetitions [min-max]")
    for name, records in found.items():
        cells = "".join(f"{'' if (m := median(records, key)) is None else format(m, '.4g'):>14}" for key in keys)
        speeds = [r.get("examples_s") or r.get("rows_cpu_s") or 0 for r in records]
        print(f"{name:34}{cells}   {len(records)} [{min(speeds, default=0)}-{max(speeds, default=0)}]")
    peaks = {key: median(found.get("gemm", []), key) for key in ("bf16_small", "fp32_small", "bf16_bigvocab")}
    print(f"\nGEMM limit, GFLOP/s: {peaks}; {platform.machine()}, Python {platform.python_version()}")
    shapes = (("full", "small"), ("lora", "small"), ("big", "bigvocab"))
    print(
        f"GFLOP an example, nothing shared: { {kind: round(work_of(shape, kind, found), 2) for kind, shape in shapes} }"
    )


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--reps", type=int, default=3)
    ask.add_argument("--rows", type=int, default=40, help="examples of one run, spread over the first 2,000")
    ask.add_argument("--core", default="0", help="the core to pin to; empty is no pinning")
    ask.add_argument("--minutes", type=float, default=19, help="no new run is begun after this")
    ask.add_argument("--fresh", action="store_true", help="forget the runs of before")
    ask.add_argument("--quick", action="store_true", help="one repetition of 16 rows")
    asked = ask.parse_args()
    size, reps = (16, 1) if asked.quick else (asked.rows, asked.reps)
    why = material(size)
    found = {} if why else collect(reps, size, asked.core, asked.minutes, asked.fresh)
    if found:
        table(found)
    for row in figures(found):
        if row["value"] is None:
            row["why"] = why or "a run it needs is missing or failed, see above"
        print("RESULT " + json.dumps(row))


if __name__ == "__main__":
    main()
