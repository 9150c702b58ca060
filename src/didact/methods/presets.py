"""Published tuning settings that a recipe can begin from: `tune: {preset: alpaca}`."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import yaml


@cache
def tuning_presets() -> dict[str, dict[str, Any]]:
    """The presets by name: source, base, method, tune, notes."""
    text = resources.files("didact").joinpath("methods/presets.yaml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return found


def filled(data: dict[str, Any]) -> dict[str, Any]:
    """A recipe's raw data with what its tuning preset says below what it says itself."""
    tune = data.get("tune")
    preset = tuning_presets().get(str(tune.get("preset"))) if isinstance(tune, dict) else None
    if preset is None or not isinstance(tune, dict):
        return data
    own = data.get("method")
    method = preset["method"] if own is None else own
    if isinstance(own, dict) and own.get("type", preset["method"]["type"]) == preset["method"]["type"]:
        method = {**preset["method"], **own}
    return {**data, "tune": {**preset["tune"], **tune}, "method": method}
