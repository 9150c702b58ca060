"""didact's part of the kit's `generate.py`: n prompts to its dummy server, over `didact.llm`, with the durable log.

The same prompts and the same line RESULT {json}; `asking_cpu_ms` is the CPU of the asking alone, per request, the rest
is starting Python. Until a teacher has accepted a call only three are sent, which costs one latency; `--warm` asks a few
prompts before the clock starts, as the first round of any work does.
"""

import time

T0 = time.perf_counter()
import argparse  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

from didact.llm import Endpoint, EndpointConfig, Llm, Log, Request  # noqa: E402

p = argparse.ArgumentParser()
p.add_argument("--n", type=int, default=2000)
p.add_argument("--port", type=int, default=8123)
p.add_argument("--latency", type=float, default=0.2)
p.add_argument("--slots", type=int, default=64)
p.add_argument("--warm", type=int, default=0, help="prompts asked before the clock starts")
p.add_argument("--sample", type=int, default=0, help="report memory after each so many prompts")
a = p.parse_args()


def cpu() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


with tempfile.TemporaryDirectory() as folder, Log(Path(folder) / "calls.jsonl") as log:
    config = EndpointConfig(base_url=f"http://127.0.0.1:{a.port}/v1", model="dummy", slots=a.slots)
    llm = Llm(Endpoint(config), log)
    llm.ask(Request(prompt=f"warm {i}") for i in range(a.warm))
    started, begin = cpu(), time.perf_counter()
    done, memory = 0, []
    for reply in llm.each(Request((("user", f"Write an instruction of kind {i}. " * 20),)) for i in range(a.n)):
        done += reply.ok
        if a.sample and done % a.sample == 0:
            memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024)
    seconds, used = time.perf_counter() - begin, cpu() - started
    unique = len(log)
    llm.close()
ideal = a.n * a.latency / a.slots
own = resource.getrusage(resource.RUSAGE_SELF)
result = {
    "how": "didact",
    "n": done,
    "s": round(seconds, 2),
    "ideal_s": round(ideal, 2),
    "of_ideal": round(ideal / seconds, 3),
    "import_s": round(time.perf_counter() - T0 - seconds, 2),
    "cpu_ms_per_request": round((own.ru_utime + own.ru_stime) / a.n * 1e3, 3),
    "asking_cpu_ms": round(used / a.n * 1e3, 3),
    "peak_rss_mb": own.ru_maxrss // 1024,
    "logged": unique,
    "calls": llm.counts.calls,
    "memory_kb": memory,
}
print("RESULT " + json.dumps(result))
