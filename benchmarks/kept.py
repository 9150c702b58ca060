"""What the parts of methods_programs.py share: figures that are kept in files, and how they are printed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MATERIAL = Path(os.environ.get("DIDACT_MATERIAL", ROOT.parent / "shared")).resolve()
WORK = ROOT / "build" / "bench-methods-programs"


def cell(name: str, make: Callable[[], Any]) -> Any:
    """A figure out of its file, measured and written there if it is not there."""
    from didact.checkpoint import remembered

    return remembered(WORK / f"{name}.json", make)


def result(name: str, value: float | None, unit: str, target: float | None, ok: bool, **more: Any) -> None:
    told = {"name": name, "value": value, "unit": unit, "target": target, "ok": ok, **more}
    print("RESULT " + json.dumps(told), flush=True)


def settings(seed: int, **more: Any) -> Any:
    from didact.tune import TuneConfig

    return TuneConfig(precision="fp32", batch_size=16, seed=seed, checkpoint_minutes=60, **more)
