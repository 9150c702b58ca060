"""GFLOP/s of the products that the fixtures' tuning is made of, weighted by their arithmetic: the machine's limit."""
import json, time
import torch
torch.set_num_threads(1)


def speed(shapes, dtype):
    """Harmonic mean over (m, k, n, share of the arithmetic)."""
    seconds = 0.0
    for m, k, n, share in shapes:
        a, b, best = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype), 1e9
        out = torch.empty(m, n, dtype=dtype)
        for _ in range(8):
            tick = time.perf_counter(); torch.mm(a, b, out=out); best = min(best, time.perf_counter() - tick)
        seconds += share * best / (2 * m * k * n / 1e9)
    return round(sum(s[3] for s in shapes) / seconds, 1)


small = [(2048, 384, 384, 4 * 384 * 384), (2048, 384, 1024, 2 * 384 * 1024), (2048, 1024, 384, 384 * 1024), (1024, 384, 16384, 0.5 * 384 * 16384 / 8)]
big = [(2048, 512, 512, 8 * 4 * 512 * 512), (2048, 512, 1536, 8 * 2 * 512 * 1536), (2048, 1536, 512, 8 * 512 * 1536), (512, 512, 128256, 0.5 * 512 * 128256)]
found = {f"{name}_{shape}": speed(some, dtype) for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)) for shape, some in (("small", small), ("bigvocab", big))}
print("RESULT " + json.dumps({**found, "bf16": found["bf16_small"]}))
