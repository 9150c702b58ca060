"""Write docs/recipe.md, all that a recipe can say, from the descriptions beside the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from didact.recipe import json_schema

PAGE = Path(__file__).resolve().parents[1] / "docs" / "recipe.md"
HEAD = """# The recipe

All that a recipe can say. This page is written by `python tools/recipe_reference.py` from the settings themselves;
`didact init --schema` prints the same for your editor. An unknown key is refused with the nearest valid name.
`--set section.key=value` changes a setting on the command line; numbers reach into lists: `--set sources.0.limit=100`.
"""


def reference() -> str:
    """The page as text: a table of the recipe's own keys, then one per section and variant."""
    schema = json_schema()
    parts = [HEAD, "## Top level\n", _table(schema)]
    for name, section in sorted(schema["$defs"].items()):
        kind = section["properties"].get("type", {}).get("const")
        title = f"type: {kind}" if kind else name.removesuffix("Config").lower()
        parts += [f"\n## {title}\n\n{section.get('description', '').splitlines()[0]}\n", _table(section)]
    return "\n".join(parts)


def _table(section: dict[str, Any]) -> str:
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key, about in section["properties"].items():
        if key == "type":
            continue
        default = "needed" if key in section.get("required", ()) else f"`{_shown(about.get('default'))}`"
        rows.append(f"| `{key}` | {default} | {about['description'].replace('|', chr(92) + '|')} |")
    return "\n".join(rows) if len(rows) > 2 else "Nothing to set."


def _shown(value: Any) -> str:
    """A default as YAML would say it; sections show as `...`."""
    if isinstance(value, dict):
        return "..." if value else "{}"
    if isinstance(value, list):
        return f"[{', '.join(str(item['type']) if isinstance(item, dict) else str(item) for item in value)}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value) or '""'


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
