"""lm-evaluation-harness through its own API: what it makes of base and tuned, item by item.

Needs the extra `evaluate`. Models are handed over as they are loaded, so whatever method tuned them is in place.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from didact.errors import UsageError, missing_extra, nearest

if TYPE_CHECKING:
    from didact.model import Loaded

Scores = dict[str, dict[str, list[tuple[float, float]]]]  # task -> metric -> (base, tuned) by item
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def harness(base: Loaded, tuned: Loaded, settings: Any, home: Path) -> Scores:
    """Scores of both models on the tasks that `settings` (the config of the probe `external`) names."""
    with _offline(not settings.online):
        try:
            from lm_eval import simple_evaluate
            from lm_eval.models.huggingface import HFLM
            from lm_eval.tasks import TaskManager
        except ImportError as error:
            raise missing_extra("lm-eval", "evaluate") from error
        folder = home / settings.folder if settings.folder else None
        if folder is not None and not folder.is_dir():
            raise UsageError(
                "no such folder of tasks", "name one beside the recipe", file=folder, field="audit.external.folder"
            )
        manager = TaskManager(include_path=str(folder) if folder else None, include_defaults=True)
        for task in settings.tasks:
            if task not in manager.all_tasks:
                raise UsageError(
                    f'the harness has no task "{task}"', nearest(task, manager.all_tasks), field="audit.external.tasks"
                )
        found: list[dict[str, dict[str, dict[Any, float]]]] = []
        for loaded in (base, tuned):
            chat = bool(settings.chat and getattr(loaded.tokenizer, "chat_template", None))
            told = simple_evaluate(
                model=HFLM(pretrained=loaded.model.eval(), tokenizer=loaded.tokenizer, batch_size=16),
                tasks=list(settings.tasks),
                num_fewshot=settings.shots,
                limit=settings.limit,
                task_manager=manager,
                log_samples=True,
                bootstrap_iters=0,
                apply_chat_template=chat,
                verbosity="ERROR",
            )
            found.append({task: _items(samples) for task, samples in told["samples"].items()})
    before, after = found
    return {
        task: {
            metric: [
                (before[task][metric][item], after[task][metric][item])
                for item in items
                if item in after[task].get(metric, {})
            ]
            for metric, items in by.items()
        }
        for task, by in before.items()
    }


def _items(samples: list[dict[str, Any]]) -> dict[str, dict[Any, float]]:
    """Metric -> item -> figure, for metrics that are one finite number per item."""
    found: dict[str, dict[Any, float]] = {}
    for sample in samples:
        for metric in sample.get("metrics", ()):
            value = sample.get(metric)
            if isinstance(value, (int, float)) and math.isfinite(value):
                found.setdefault(metric, {})[sample["doc_id"]] = float(value)
    return found


@contextlib.contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Keep the hub's libraries from the network, which they read when they are imported first."""
    before = {name: os.environ.get(name) for name in OFFLINE}
    if wanted:
        os.environ.update(dict.fromkeys(OFFLINE, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
