"""Novelty and near duplicates beside the kit's ways: decisions compared, CPU seconds set against one another.

    python benchmarks/curation.py            full; about an hour, nearly all of it Self-Instruct's way at 1,000 rows
    python benchmarks/curation.py --quick    one repetition of few rows: does everything run?

`generate.py` (make bench-generate) calls `figures`. Needs the shared material (DIDACT_MATERIAL) for the kit and the
rows, and the peers' environment `.venv-data`, made by `make bench-peers` (DIDACT_PEERS names the folder that holds it).
The pool is that of the kit's figures as far as the material has it: LLaMA-Factory's Alpaca sample, Code-Alpaca,
GSM8K, six chain-of-thought sets, GPTeacher, Self-Instruct's seeds, and Alpaca's own rows up to 52,002; shuffled, so
that every head of it is a mixture.

Self-Instruct's way is run whole up to 1,000 rows. Beyond that its time is estimated, and said to be: CPU time per pair
on evenly spaced rows of the same pool, times the pairs that the filter has to look at (each row with all kept before).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MATERIAL = Path(os.environ.get("DIDACT_MATERIAL", ROOT.parent / "shared")).resolve()
PEERS = Path(os.environ.get("DIDACT_PEERS", ROOT)).resolve()
KIT, WORK = MATERIAL / "bench" / "peers", ROOT / "build" / "bench-curation"
ROWS, WHOLE = 52_002, 1000
TARGETS = {1000: 200, 5000: 500, ROWS: 1500}  # times Self-Instruct's way
Figure = dict[str, Any]


def figures(quick: bool) -> list[Figure]:
    """All figures of this file; what cannot be measured says why and does not stop the rest."""
    found: list[Figure] = []
    for measure in (novelty, near_duplicates):
        try:
            found += measure(quick, pool())
        except Exception as error:  # the other figures still count
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            found.append(figure(measure.__name__, None, "", None, False, why=why))
    return found


def figure(name: str, value: float | bool | None, unit: str, target: float | None, ok: bool, **more: Any) -> Figure:
    return {"name": f"curation.{name}", "value": value, "unit": unit, "target": target, "ok": ok, **more}


# ---- what is measured


def novelty(quick: bool, data: Path) -> list[Figure]:
    """Decisions against Self-Instruct's way, every pair and the kit's index; CPU time against Self-Instruct's way."""
    found = []
    for n in (200, 600) if quick else tuple(TARGETS):
        mine = [ours("novelty", n, data) for _ in range(1 if quick else 5)]
        cpu = statistics.median(run["cpu_s"] for run in mine)
        whole = n <= (200 if quick else WHOLE)
        peer = kit("novelty_rouge.py", data, n, how="selfinstruct") if whole else None
        check = peer or kit("novelty_rouge.py", data, n, how="rapidfuzz" if n <= 5000 else "pruned")
        if peer is None:
            part = kit("novelty_rouge.py", data, min(n, 2000), how="selfinstruct", sample=5 if quick else 20)
            theirs = part["cpu_us_per_pair"] * 1e-6 * check["pairs"]
        else:
            theirs = peer["cpu_s"]
        more = {"estimated": peer is None, "didact_cpu_s": cpu, "selfinstruct_cpu_s": round(theirs, 1)}
        same = {run["decisions"] for run in mine} == {check["decisions"]}
        ratio, target = round(theirs / cpu), TARGETS.get(n)
        found.append(figure(f"novelty_same_{n}", same, "", True, same, beside=check["how"], kept=check["kept"]))
        found.append(figure(f"novelty_ratio_{n}", ratio, "times", target, target is None or ratio >= target, **more))
    return found


def near_duplicates(quick: bool, data: Path) -> list[Figure]:
    """Decisions against the kit's exact way; CPU time against datasketch, in turns."""
    n, mine, theirs = 2000 if quick else ROWS, [], []
    for _ in range(1 if quick else 5):
        mine.append(ours("near", n, data))
        theirs.append(kit("near_dup.py", data, n, how="datasketch"))
    exact = kit("near_dup.py", data, n, how="exact")
    cpu, peer = (statistics.median(run["cpu_s"] for run in runs) for runs in (mine, theirs))
    same = mine[0]["kept"] == exact["kept"]
    ratio = round(cpu / peer, 3)
    more = {"didact_cpu_s": cpu, "datasketch_cpu_s": peer, "datasketch_kept": theirs[0]["kept"]}
    return [
        figure(f"near_duplicates_kept_{n}", mine[0]["kept"], "rows", exact["kept"], same, beside="exact"),
        figure(f"near_duplicates_ratio_{n}", ratio, "of datasketch", 0.8, ratio <= 0.8 or quick, **more),
    ]


# ---- one run each, in a process of its own


def ours(what: str, n: int, data: Path) -> dict[str, Any]:
    """One run of didact: {"kept", "cpu_s", "decisions"}."""
    command = [sys.executable, str(Path(__file__).resolve()), "--one", what, "--n", str(n), "--data", str(data)]
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return _result(command, {"PYTHONPATH": path})


def kit(script: str, data: Path, n: int, **settings: Any) -> dict[str, Any]:
    """One run of a script of the kit in the peers' environment."""
    python = PEERS / ".venv-data" / "bin" / "python"
    if not python.exists():
        raise FileNotFoundError(f"{python} is missing: make bench-peers")
    given = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return _result([str(python), str(KIT / script), "--data", str(data), "--n", str(n), *given], {})


def _result(command: list[str], variables: dict[str, str]) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        last = (done.stderr.strip() or "no result").splitlines()[-1]
        raise RuntimeError(f"{Path(command[1]).name}: {last}")
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return result


def one(what: str, n: int, data: Path) -> dict[str, Any]:
    """What `ours` runs: the filter alone, rows already read, as in the kit's scripts."""
    rows = [json.loads(line) for line in data.read_text("utf-8").split("\n") if line][:n]
    began = time.process_time()
    if what == "novelty":
        from didact.curate.novelty import NoveltyIndex

        began, index, kept = time.process_time(), NoveltyIndex(0.7), []
        for i, row in enumerate(rows):
            if index.nearest(row["instruction"])[1] < 0:
                index.add(row["instruction"])
                kept.append(i)
    else:
        from didact.curate.alike import nearest_alike

        began = time.process_time()
        texts = [f"{row['instruction']} {row['input']} {row['output']}" for row in rows]
        kept = [i for i, (_, near) in enumerate(nearest_alike(texts, 0.7, exact=True)) if near < 0]
    cpu = time.process_time() - began
    decisions = hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:12]
    return {"what": what, "n": n, "kept": len(kept), "decisions": decisions, "cpu_s": round(cpu, 3)}


# ---- the rows


def pool() -> Path:
    """The file of rows, made once."""
    file = WORK / "pool.jsonl"
    if not file.exists():
        rows = list(_rows())[:ROWS]
        random.Random(0).shuffle(rows)
        WORK.mkdir(parents=True, exist_ok=True)
        staged = file.with_suffix(".part")
        staged.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        staged.replace(file)
    return file


def _rows() -> Iterator[dict[str, str]]:
    data = MATERIAL / "data"

    def read(name: str) -> str:
        blob = (data / name).read_bytes()
        return (gzip.decompress(blob) if name.endswith(".gz") else blob).decode("utf-8")

    def row(question: str, given: str, answer: str) -> dict[str, str]:
        return {"instruction": question, "input": given, "output": answer}

    def alpaca(name: str) -> Iterator[dict[str, str]]:
        for item in json.loads(read(name)):
            yield row(item["instruction"], item.get("input") or "", item.get("output") or item.get("response") or "")

    yield from alpaca("instruct_nc/llamafactory_alpaca_en_demo.json.gz")
    yield from alpaca("instruct_nc/code_alpaca_2k.json.gz")
    for line in filter(None, read("annotated/gsm8k.jsonl.gz").split("\n")):
        yield row(json.loads(line)["question"], "", json.loads(line)["answer"])
    for name in ("aqua", "creak", "ecqa", "qasc", "sensemaking", "strategyqa"):
        for line in read(f"flan_cot/{name}_train.tsv.gz").split("\n"):
            cells = line.replace("\\n", "\n").split("\t")
            if len(cells) > 2:
                yield row(cells[0], "", f"{cells[2]} {cells[1]}")
    yield from alpaca("instruct/gpteacher_roleplay.json.gz")
    yield from alpaca("instruct/gpteacher_toolformer_dedupe_only.json.gz")
    for line in filter(None, read("instruct/self_instruct_seed_tasks.jsonl").split("\n")):
        first = json.loads(line)["instances"][0]
        yield row(json.loads(line)["instruction"], first["input"], first["output"])
    yield from alpaca("instruct_nc/alpaca_data.json.gz")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="small sizes, one repetition")
    parser.add_argument("--one", choices=["novelty", "near"], help="one run of didact, for the clock")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--data", type=Path)
    given = parser.parse_args()
    if given.one:
        print("RESULT " + json.dumps(one(given.one, given.n, given.data or pool())))
    else:
        for made in figures(given.quick):
            print("RESULT " + json.dumps(made))
