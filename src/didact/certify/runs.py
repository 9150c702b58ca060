"""Proofs about whole runs: stopped and resumed, saved and loaded again."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from didact.certify.subject import Proof, Subject, verdict
from didact.errors import Interrupted
from didact.tune import Step, TuneConfig, save, tune
from didact.vision import of_row

if TYPE_CHECKING:
    import torch

    from didact.model import Loaded

STEPS = 4
ROWS = 4  # in a step
WEIGHTS, LOGITS = 1e-5, 1e-4


def resume(subject: Subject) -> Proof:
    """A run that is stopped and goes on ends with the very weights of one that was not."""
    few = {"max_steps": STEPS, "checkpoint_minutes": 0.0, "batch_size": min(ROWS, subject.config.batch_size)}
    config = subject.config.model_copy(update=few)
    with tempfile.TemporaryDirectory(prefix="didact-certify-") as folder:
        clean = _weights(subject, config, Path(folder) / "clean", stop_after=0)
        stopped = _weights(subject, config, Path(folder) / "stopped", stop_after=STEPS // 2)
    names = f"SHA-256 {clean[0][:16]} and {stopped[0][:16]} after {STEPS} steps"
    if subject.base.device.type == "cpu":
        return verdict(float(clean[0] != stopped[0]), 0.0, names)
    gap = max(float((a - b).abs().max()) for a, b in zip(clean[1], stopped[1], strict=True))
    return verdict(gap, WEIGHTS, f"largest difference of a weight after {STEPS} steps; it is 0 on a CPU")


def reload(subject: Subject) -> Proof:
    """What is saved and loaded again gives the logits of the live model, and is told where to stop."""
    import torch

    from didact.model import load_tuned

    loaded, data = subject.load(), subject.fitted.tokens
    config = subject.config.model_copy(update={"max_steps": 1, "batch_size": min(ROWS, subject.config.batch_size)})
    tune(loaded, subject.method, data[: config.batch_size], config)
    ids_BT = torch.tensor([[*loaded.virtual, *data[0].ids]], device=loaded.device)
    seen = of_row(loaded, data[0], ids_BT)
    loaded.model.eval()
    with torch.no_grad(), tempfile.TemporaryDirectory(prefix="didact-certify-") as folder:
        tuned = Path(folder) / "tuned"
        live = loaded.model(input_ids=ids_BT, use_cache=False, **seen).logits.float()
        save(loaded, subject.method, tuned)
        again = load_tuned(tuned, str(loaded.device))
        found = again.model(input_ids=ids_BT, use_cache=False, **seen).logits.float()
        told = json.loads((tuned / "generation_config.json").read_text("utf-8"))["eos_token_id"]
    stops = told if isinstance(told, list) else [told]
    if stops != list(loaded.renderer.stop_ids):
        return Proof(math.inf, LOGITS, False, f"generation stops at {stops}, not at {list(loaded.renderer.stop_ids)}")
    if again.renderer.hash != loaded.renderer.hash:
        return Proof(math.inf, LOGITS, False, "the saved tokenizer or chat template is another one")
    gap = float((live - found).abs().max() / max(1.0, float(live.abs().max())))
    return verdict(gap, LOGITS, f"logits of {ids_BT.shape[1]} tokens; generation stops at {stops}")


def _weights(subject: Subject, config: TuneConfig, folder: Path, stop_after: int) -> tuple[str, list[torch.Tensor]]:
    """The trained weights of a short run, perhaps stopped on its way, and their hash."""
    import torch

    data, done = subject.fitted.tokens[: STEPS * config.batch_size], 0

    def count(step: Step) -> None:
        nonlocal done
        done = step.step

    def run(stop: Callable[[], bool]) -> Loaded:
        loaded = subject.load()
        tune(loaded, subject.method, data, config, folder=folder, report=count, stop=stop)
        return loaded

    if stop_after:
        with suppress(Interrupted):
            run(lambda: done >= stop_after)
    loaded = run(lambda: False)
    named = sorted((name, weight) for name, weight in loaded.model.named_parameters() if weight.requires_grad)
    weights, total = [weight.detach().cpu() for _, weight in named], hashlib.sha256()
    for weight in weights:
        total.update(weight.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest(), weights
