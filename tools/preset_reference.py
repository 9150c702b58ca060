"""Write docs/presets.md, the published settings and the layouts that `build` knows, from the files that hold them."""

from __future__ import annotations

import json
from pathlib import Path

from didact.build.config import layouts, presets
from didact.methods.presets import tuning_presets

PAGE = Path(__file__).resolve().parents[1] / "docs" / "presets.md"
HEAD = """# Presets and layouts

This page is written by `python tools/preset_reference.py` from `src/didact/build/presets.yaml` and `layouts.yaml`, and
`src/didact/methods/presets.yaml`.

`build: {preset: NAME}` fills in the published settings of an instruction collection; whatever the recipe says itself
comes before them, field by field: `build: {preset: flan2021, mixing: {maximum: 1000}}`.
"""
TUNING = """
## Tuning

`tune: {preset: NAME}` fills in method and settings that were published for a system, for bases of its size: on another
size give `learning_rate` yourself. What the recipe says comes before them.

| preset | its base | method | settings | what differs |
|---|---|---|---|---|"""
SHAPES = {
    "options": "Layouts of answer options (`build.options.layouts`)",
    "few_shot": "Layouts of examples (`build.few_shot.layouts`)",
    "rationale": "Ways to ask for reasoning (`build.rationale.layouts`)",
}


def reference() -> str:
    """The page as text: a table of settings per preset, then the layouts, each as it looks."""
    parts = [HEAD]
    for name, preset in presets().items():
        parts += [f"\n## {name}\n\nSource: {preset['source']}.\n", "| setting | value |", "|---|---|"]
        parts += [f"| `{key}` | `{value}` |" for key, value in _flat("", preset["build"])]
        parts += ["", *(f"* {note}" for note in preset["notes"])]
    parts.append(TUNING)
    for name, preset in tuning_presets().items():
        settings = ", ".join(f"{key} {value}" for key, value in preset["tune"].items())
        method = ", ".join(str(value) if key == "type" else f"{key} {value}" for key, value in preset["method"].items())
        parts.append(f"| `{name}` | {preset['base']} | {method} | {settings} | {'; '.join(preset['notes'])} |")
    parts += ["", *(f"* `{name}`: {preset['source']}" for name, preset in tuning_presets().items())]
    for kind, title in SHAPES.items():
        parts += [f"\n## {title}\n", "| name | looks like |", "|---|---|"]
        parts += [f"| `{name}` | `{_example(kind, layout)}` |" for name, layout in layouts(kind).items()]
    return "\n".join(parts) + "\n"


def _flat(name: str, value: object) -> list[tuple[str, str]]:
    if isinstance(value, dict) and not any(glob in key for key in value for glob in "*/"):
        return [pair for key, item in value.items() for pair in _flat(f"{name}.{key}" if name else key, item)]
    return [(name, json.dumps(value))]


def _example(kind: str, layout: dict[str, str]) -> str:
    if kind == "options":
        first = layout.get("marks", "")
        marks = {"1": "12", "i": ["i", "ii"], "a": "ab", "A": "AB"}.get(first, ["", ""])
        items = [
            layout["item"].format(choice=choice, mark=mark) for choice, mark in zip(("yes", "no"), marks, strict=True)
        ]
        text = layout["head"] + layout.get("last", layout["between"]).join(items) + layout["tail"]
    elif kind == "few_shot":
        shown = layout["before"] + "EXAMPLE" + layout["after"] + "ITS ANSWER" + layout["between"]
        text = layout["head"] + shown + layout["before"] + "QUESTION" + layout["cue"]
    else:
        text = f"QUESTION\n{layout['ask']} -> {layout['before']}REASONING{layout['between']}ANSWER{layout['after']}"
    return text.replace("\n", "⏎").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
