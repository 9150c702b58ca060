"""How fast rows are put into words: didact's templates beside promptsource's way and `datasets.map`.

    make bench-templates                          full; some minutes on a quiet core
    python benchmarks/templates.py --quick        few rows, once: does everything run?

The peers are run from the shared kit (DIDACT_MATERIAL) on the same rows, each in a process of its own, in turn with
ours: promptsource compiles a template for every row; `datasets.map` calls a compiled one for every row. Ours goes
through `Template.render`: protection of the separator, choices, slots, checks. Rates are rows per second of CPU time.
`make bench-peers` makes .venv-data, in which the peers run (without it: this Python, if it has `datasets`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MATERIAL = Path(os.environ.get("DIDACT_MATERIAL", ROOT.parent / "shared")).resolve()
KIT = MATERIAL / "bench" / "peers" / "render.py"
PEERS = Path(os.environ.get("DIDACT_PEERS", ROOT)).resolve()
WORK = ROOT / "build" / "bench-templates"
VARIANTS = {
    "promptsource's text": "the kit's template, as promptsource YAML would hold it",
    "own template": "the same in didact's form: instruction, input, answer",
    "own with choices": "and an answer out of fixed choices, by label",
}
PROMPTSOURCE, MAP = "promptsource_style", "datasets_map"


def rows(n: int) -> list[dict[str, Any]]:
    """Rows of about the length of Alpaca's: ten words asked, given a dozen in two of five, answered with forty."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnoprstuvw", k=draw.randint(2, 9))) for _ in range(2000)]

    def text(most: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(most // 2, most))).capitalize() + "."

    return [
        {"instruction": text(14), "input": text(18) if draw.random() < 0.4 else "", "output": text(60)}
        for _ in range(n)
    ]


def ours(data: Path, n: int, variant: str) -> dict[str, float]:
    """CPU seconds and rate of one of our variants over the rows of a file; loading is not counted."""
    from didact.template import Template

    read = [json.loads(line) for line in data.read_text("utf-8").split("\n") if line][:n]
    kits = "{{instruction}}\n{% if input %}Input: {{input}}\n{% endif %}Answer choices or free text.\n|||\n{{output}}"
    if variant == "promptsource's text":
        template = Template("kit", kits, source="promptsource")
    elif variant == "own template":
        asked = "{{ instruction }}\nAnswer choices or free text."
        template = Template("own", instruction=asked, input="{{ input }}", answer="{{ output }}")
    else:
        read = [{**row, "label": "good" if i % 3 else "bad"} for i, row in enumerate(read)]
        template = Template(
            "own",
            instruction="{{ instruction }}\n{{ answer_choices | join(' or ') }}?",
            input="{{ output }}",
            answer="{{ label }}",
            answer_choices="poor ||| great",
            labels={"label": {"bad": "poor", "good": "great"}},
        )
    template.render(read[0])
    start, parts = time.process_time(), 0
    for row in read:
        parts += len(template.render(row).parts)
    seconds = time.process_time() - start
    assert parts >= len(read), "every row gives a prompt"
    return {"cpu_s": seconds, "rows_cpu_s": len(read) / seconds}


def interpreter() -> str | None:
    """The Python that the peers run in."""
    own = PEERS / ".venv-data" / "bin" / "python"
    if own.exists():
        return str(own)
    return sys.executable if importlib.util.find_spec("datasets") else None


def rate(command: list[str]) -> float:
    """The rate that a process prints in its line RESULT; raises RuntimeError with its last words if it prints none."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise RuntimeError((done.stderr.strip() or "it printed no result").splitlines()[-1])
    return float(json.loads(lines[-1].removeprefix("RESULT "))["rows_cpu_s"])


def measure(data: Path, n: int, repetitions: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Rates of ours and of the peers, one of each in turn; and why a peer has none."""
    plan = {name: [sys.executable, __file__, "--ours", name, "--data", str(data), "--n", str(n)] for name in VARIANTS}
    python, missing = interpreter(), dict[str, str]()
    for how, count in ((PROMPTSOURCE, max(500, n // 5)), (MAP, n)):
        if not KIT.exists():
            missing[how] = f"{KIT} is missing: set DIDACT_MATERIAL"
        elif python is None:
            missing[how] = "no Python with `datasets` here: make bench-peers"
        else:
            plan[how] = [python, str(KIT), "--data", str(data), "--n", str(count), "--how", how]
    found: dict[str, list[float]] = {name: [] for name in plan}
    for _ in range(repetitions):
        for name, command in plan.items():
            if name in missing:
                continue
            try:
                found[name].append(rate(command))
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                missing[name] = str(error)
    return {name: rates for name, rates in found.items() if rates and name not in missing}, missing


def result(name: str, value: float | None, unit: str, target: float | None, why: str = "") -> None:
    record: dict[str, Any] = {"name": name, "value": value and round(value, 2), "unit": unit, "target": target}
    record["ok"] = value is not None and (target is None or value >= target)
    print("RESULT " + json.dumps(record | ({"why": why} if why else {})))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few rows, once")
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--ours", choices=list(VARIANTS), help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.ours:
        print("RESULT " + json.dumps(ours(told.data, told.n, told.ours)))
        return
    n, repetitions = (3000, 1) if told.quick else (told.n, told.repetitions)
    WORK.mkdir(parents=True, exist_ok=True)
    data = WORK / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(n)), "utf-8")
    found, missing = measure(data, n, repetitions)
    print(f"{n:,} rows, {repetitions} x, Python {platform.python_version()}, {platform.machine()}; rows per CPU second")
    for name, rates in found.items():
        middle = statistics.median(rates)
        print(f"  {name:22} {middle:>10,.0f}  ({min(rates):,.0f} - {max(rates):,.0f})  {VARIANTS.get(name, 'peer')}")
    for name, why in missing.items():
        print(f"  {name:22} {'-':>10}  {why}")
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    for name in VARIANTS:
        key = name.replace("'s", "").replace(" ", "_")
        result(f"templates.{key}.rows_per_second", medians.get(name), "rows/s", None, missing.get(name, ""))
        for peer, target in ((PROMPTSOURCE, 30), (MAP, 2.4)):
            ratio = medians[name] / medians[peer] if name in medians and peer in medians else None
            why = missing.get(peer, "") or missing.get(name, "")
            result(f"templates.{key}.against_{peer}", ratio, "ratio", target, why)


if __name__ == "__main__":
    main()
