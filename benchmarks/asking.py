"""The requests behind generation: speed beside peers, a hundred thousand prompts, kills and faults.

`generate.py` runs this with the curation's figures; alone: python benchmarks/asking.py [--quick]. The kit's server and
peers come from the shared material (DIDACT_MATERIAL), distilabel, openai and httpx from .venv-distilabel (`make bench-
peers`; DIDACT_PEERS names the folder that holds it, if it is another).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MATERIAL = Path(os.environ.get("DIDACT_MATERIAL", ROOT.parent / "shared")).resolve()
PEERS = Path(os.environ.get("DIDACT_PEERS", ROOT)).resolve()
KIT, OURS = MATERIAL / "bench" / "peers", ROOT / "benchmarks" / "peers"
PORT, SLOTS, LATENCY = 8137, 64, 0.2
WAYS = ("didact", "didact, cold", "raw", "openai", "httpx", "distilabel")
Figure = dict[str, Any]


def figures(quick: bool) -> list[Figure]:
    """All figures of this file; each says its target, and why where it has no value."""
    found = []
    for measure in (speed, many, killed, faults):
        try:
            found += measure(quick)
        except Exception as error:  # the other figures still count
            found.append(missing(measure.__name__, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"))
    return found


def figure(name: str, value: float | bool | None, unit: str, target: float | None, ok: bool, **more: Any) -> Figure:
    return {"name": f"generate.{name}", "value": value, "unit": unit, "target": target, "ok": ok, **more}


def missing(name: str, why: str) -> Figure:
    return figure(name, None, "", None, False, why=why)


# ---- speed: 2,000 requests, 200 ms, 64 slots


def speed(quick: bool) -> list[Figure]:
    """Share of the ideal time and CPU per request, all ways round-robin against one server."""
    n, reps = (200, 1) if quick else (2000, 5)
    results: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    why: dict[str, str] = {}
    with kit_server(LATENCY, SLOTS):
        for rep in range(reps + (not quick)):  # the first is a warm-up
            for way in WAYS:
                result = client(way, n, "--latency", str(LATENCY), "--slots", str(SLOTS))
                if "why" in result:
                    why[way] = result["why"]
                elif rep or quick:
                    results[way].append(result)
    found = []
    for way, some in results.items():
        name = f"speed.{way.replace(', ', '_')}"
        if not some:
            found.append(missing(name, why.get(way, "no result")))
            continue
        shares, cost = [r["of_ideal"] for r in some], [r.get("asking_cpu_ms", r["cpu_ms_per_request"]) for r in some]
        own, cold = way == "didact", way.endswith("cold")
        share, each = statistics.median(shares), statistics.median(cost)
        spread = {"low": min(shares), "high": max(shares), "n": n, "reps": len(some)}
        spread |= {"possible": round(possible(n, 3 if cold else 0), 3)} if own or cold else {}
        found.append(
            figure(f"{name}.of_ideal", share, "share", 0.95 if own else None, share >= 0.95 or not own, **spread)
        )
        more = {"whole_process": statistics.median(r["cpu_ms_per_request"] for r in some)}
        found.append(figure(f"{name}.cpu", each, "ms/request", 0.5 if own else None, each <= 0.5 or not own, **more))
    return found


def possible(n: int, careful: int) -> float:
    """The largest share of the ideal n * latency / slots that any client can reach: calls come in whole rounds of so
    many slots, and of a teacher never asked before only `careful` calls go out until the first answer, one latency
    later, so that a wrong key costs no more than these."""
    rounds = bool(careful) + -(-(n - careful) // SLOTS)
    return n / SLOTS / rounds


def client(way: str, n: int, *arguments: str) -> dict[str, Any]:
    """One way's RESULT, or {"why": ...}."""
    own = way.startswith("didact")
    python = Path(sys.executable) if own or way == "raw" else PEERS / ".venv-distilabel" / "bin" / "python"
    if not python.exists():
        return {"why": f"{python} is missing: make bench-peers"}
    script = [str(OURS / "didact_ask.py")] if own else [str(KIT / "generate.py"), "--how", way]
    warm = ["--warm", "3"] if own and "cold" not in way else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")} if own else dict(os.environ)
    command = [*pin(0), str(python), *script, "--n", str(n), "--port", str(PORT), *arguments, *warm]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), "")
    return json.loads(line[7:]) if line else {"why": (done.stderr.strip().splitlines() or ["no RESULT line"])[-1][:200]}


@contextmanager
def kit_server(latency: float, slots: int) -> Iterator[None]:
    """The kit's dummy server on another core."""
    script = KIT / "dummy_server.py"
    if not script.exists():
        raise FileNotFoundError(f"{script} is missing: set DIDACT_MATERIAL")
    command = [sys.executable, str(script), "--port", str(PORT), "--latency", str(latency), "--slots", str(slots)]
    server = subprocess.Popen([*pin(1), *command], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            time.sleep(0.1)
            try:
                served()
                break
            except OSError:
                continue
        yield
    finally:
        server.kill()
        server.wait()


def served() -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/stats", timeout=5) as answer:
        return int(json.load(answer)["served"])


def pin(number: int) -> list[str]:
    """Keeps a process on the first or second of the cores that we may use; with one core they share it."""
    if platform.system() != "Linux":
        return []
    cores = sorted(os.sched_getaffinity(0))
    return ["taskset", "-c", str(cores[number % len(cores)])]


# ---- 100,000 prompts


def many(quick: bool) -> list[Figure]:
    """Nothing lost, nothing asked twice, memory flat: prompts from an iterator, answers to the log and away."""
    n, slots = (20_000, 200) if quick else (100_000, 200)
    with kit_server(0.0, slots):
        result = client("didact, cold", n, "--latency", "0", "--slots", str(slots), "--sample", str(n // 10))
        if "why" in result:
            return [missing("many", result["why"])]
        asked = served()
    memory = result["memory_kb"]
    growth = (memory[-1] - memory[1]) / (0.8 * n) * 10_000 / 1024
    return [
        figure("many.lost", n - result["n"], "prompts", 0, result["n"] == result["logged"] == n, n=n),
        figure("many.doubled", asked - n, "prompts", 0, asked == n),
        figure("many.memory", round(growth, 3), "MB per 10,000 prompts", 1.0, growth < 1.0, start_kb=memory[1]),
        figure("many.cpu", result["asking_cpu_ms"], "ms/request", 2.0, result["asking_cpu_ms"] <= 2.0),
    ]


# ---- kill -9, and faults


def killed(quick: bool) -> list[Figure]:
    """Self-Instruct's accepted set for 1, 8 and 64 slots, and after kill -9 at 30 random points."""
    sys.path[:0] = [str(ROOT / "tests" / "llm"), str(ROOT / "tests" / "generate")]
    os.environ["PYTHONPATH"] = str(ROOT / "src")
    from test_killed import SLOTS as slots
    from test_killed import client as grow
    from test_killed import served as teacher

    times, rng = 4 if quick else 30, random.Random(1)
    with tempfile.TemporaryDirectory() as place, teacher() as server:
        folder, made = Path(place), []
        for number in (1, 8, 64):
            grow(server, folder / str(number), number)
            made.append((folder / str(number) / "made.jsonl").read_bytes())
        calls, before, kills = server.calls // 3, server.calls, 0
        for _ in range(times):
            point, moment = rng.randint(1, max(2, calls // times)), rng.choice(("before", "inside", "after", "sync"))
            kills += grow(server, folder / "killed", slots, point, moment) != 0
        grow(server, folder / "killed")
        same = (folder / "killed" / "made.jsonl").read_bytes() == made[0]
        again = server.calls - before - calls
    return [
        figure("self_instruct.same_for_slots", len(set(made)) == 1, "1, 8, 64 slots", None, len(set(made)) == 1),
        figure("self_instruct.same_after_kills", same, f"{kills} kills", None, same and kills > 0),
        figure("self_instruct.paid_again", again, "calls", kills * slots, again <= kills * slots, kills=kills),
    ]


def faults(quick: bool) -> list[Figure]:
    """Prompts to a server of which 30 % of the answers are faulty: each ends in a counted state."""
    sys.path.insert(0, str(ROOT / "tests" / "llm"))
    from faulty_server import FAULTS, Say, Server, completion, prompt_of

    from didact.llm import Endpoint, EndpointConfig, Llm, Log, Request

    n, rng = 500 if quick else 10_000, random.Random(2)
    odd = [Say(hang=True), Say(body=completion(None, refusal="no")), Say(body=completion("x", finish="length"))]
    kinds = [*FAULTS.values(), *odd]

    def script(data: dict[str, Any], before: int) -> Say:
        return rng.choice(kinds) if rng.random() < 0.3 else Say(body=completion("to " + prompt_of(data)))

    with tempfile.TemporaryDirectory() as place, Server(script) as server, Log(Path(place) / "calls.jsonl") as log:
        settings = {"slots": 64, "backoff": 0.01, "longest_wait": 0.1, "deadline": 1.0}
        llm = Llm(Endpoint(EndpointConfig(base_url=server.url, model="m", **settings)), log)
        replies = llm.ask(Request((("user", f"prompt {i}"),)) for i in range(n))
        llm.close()
    counts = llm.counts
    right = all(reply.text in (f"to prompt {i}", "x", "") for i, reply in enumerate(replies))
    ended = counts.ended if right and all(reply.ok or reply.why for reply in replies) else 0
    states = {"answered": counts.ok, "rejected": counts.rejected.total(), "failed": counts.failed.total()}
    ratio = server.calls / n
    return [
        figure("faults.counted", ended, "prompts", n, ended == n, **states),
        figure("faults.requests", round(ratio, 3), "per prompt", 1.6, ratio <= 1.6, waits=counts.waits),
    ]


def show(found: list[Figure]) -> None:
    """A table for people, then a line per figure for machines."""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for item in found:
        value = item["value"] if item["value"] is not None else f"- ({item.get('why', '')})"
        target = f"  target {item['target']}" if item["target"] is not None else ""
        target += f"  possible {item['possible']}" if "possible" in item else ""
        print(f"{'ok  ' if item['ok'] else 'MISS'}  {item['name']:<44} {value} {item['unit']}{target}")
    for item in found:
        print("RESULT " + json.dumps(item))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="small sizes, one repetition: does everything run?")
    show(figures(parser.parse_args().quick))
