"""Facts to pages: a README.md as dataset hubs read it, and one self-contained HTML page. Pure: facts in, text out.

Everything that comes from data is shown as text: escaped, control and direction characters made visible.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import jinja2
import yaml

from didact.audit.report import cell, visible
from didact.card.made import Fact

SIZES = {1_000: "1K", 10_000: "10K", 100_000: "100K", 1_000_000: "1M", 10_000_000: "10M", 100_000_000: "100M"}
DATA = "kept.jsonl"
# Told, as the library would guess types from the first rows: all of them may lack references, or a tag that later ones
# have. `json` (datasets from 4.7 on) keeps each object with the keys that it has.
FEATURES = [
    {"name": "id", "dtype": "string"},
    {"name": "messages", "list": [{"name": "role", "dtype": "string"}, {"name": "parts", "list": "json"}]},
    {"name": "references", "list": "string"},
    {"name": "choices", "list": "string"},
    {"name": "origin", "dtype": "json"},
    {"name": "tags", "dtype": "json"},
]
HUB_LICENCES = {
    "mit", "apache-2.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc0-1.0", "odc-by", "odbl", "pddl", "bsd-2-clause",
    "bsd-3-clause", "gpl-2.0", "gpl-3.0", "afl-3.0", "cdla-permissive-2.0", "unlicense",
}  # fmt: skip


def card_json(found: Fact) -> str:
    """The facts themselves."""
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def card_markdown(found: Fact) -> str:
    """The card as Markdown with the header that dataset hubs read."""
    head = yaml.safe_dump(header(found), sort_keys=False, allow_unicode=True).strip()
    body = _environment().get_template("card.md.jinja").render(card=found)
    return f"---\n{head}\n---\n\n" + re.sub(r"\n{3,}", "\n\n", body).strip() + "\n"


def card_html(found: Fact) -> str:
    """The card as a page with pictures; no network, no scripts."""
    return _environment().get_template("card.html.jinja").render(card=found, burst=sunburst(found["verbs"]["top"]))


def header(found: Fact) -> Fact:
    """What dataset hubs read: licence, size, tags, files."""
    licences = sorted({hub_licence(row["licence"]) for row in found["licences"]})
    size = found["counts"]["kept"]
    upper = next((limit for limit in SIZES if size < limit), None)
    lower = next((limit for limit in reversed(SIZES) if size >= limit), None)
    category = "n<1K" if lower is None else f"{SIZES[lower]}<n<{SIZES[upper] if upper else '1B'}"
    header: Fact = {"pretty_name": found["name"]}
    languages = sorted(row["language"] for row in found["languages"] if re.fullmatch("[a-z]{2,3}", row["language"]))
    header |= {"language": languages} if languages else {}
    if licences in ([], ["unknown"]):
        header["license"] = "unknown"
    elif set(licences) <= HUB_LICENCES:
        header["license"] = licences[0] if len(licences) == 1 else licences
    else:  # a hub takes small letters, digits, dots and dashes for a name; the table below tells the rest
        named = re.sub(r"[^a-z0-9.]+", "-", found["licences"][0]["licence"].lower()).strip("-.")
        header["license"], header["license_name"] = "other", named if named and len(found["licences"]) == 1 else "mixed"
    header["size_categories"] = [category]
    header["task_categories"] = ["text-generation"]
    header["tags"] = ["instruction-tuning", "didact", *(["synthetic"] if found["counts"]["generated"] else [])]
    header["configs"] = [{"config_name": "default", "data_files": [{"split": "train", "path": DATA}]}]
    header["dataset_info"] = {"features": FEATURES}
    return header


def hub_licence(text: str) -> str:
    """The hub's short name of a licence, "unknown" of none, or "other"."""
    plain = re.sub(r"[\s_]+", "-", text.strip().lower())
    return plain if plain in HUB_LICENCES else "other" if plain else "unknown"


def sunburst(top: Sequence[Fact], radius: float = 300, inner: float = 95, middle: float = 200) -> list[Fact]:
    """Arcs of the verbs, and outside them of their objects: SVG paths about (0, 0), places and angles of the names."""
    total = sum(row["count"] for row in top)
    arcs: list[Fact] = []
    turn = -math.pi / 2
    for number, row in enumerate(top):
        width = 2 * math.pi * row["count"] / total
        arcs.append(_arc(row["verb"], row["count"], number, (turn, turn + width), (inner, middle)))
        start = turn
        for thing, count in row["objects"]:
            part = 2 * math.pi * count / total
            arcs.append(_arc(thing, count, number, (start, start + part), (middle + 2, radius)))
            start += part
        turn += width
    return arcs


def _arc(name: str, count: int, number: int, angles: tuple[float, float], radii: tuple[float, float]) -> Fact:
    (a, b), (near, far) = angles, radii
    b = min(b, a + 2 * math.pi - 1e-4)  # a whole circle would end where it begins and vanish
    large = int(b - a > math.pi)
    corner = [
        (round(r * math.cos(t), 2), round(r * math.sin(t), 2)) for r, t in ((far, a), (far, b), (near, b), (near, a))
    ]
    path = "M{} {}A{r} {r} 0 {l} 1 {} {}".format(*corner[0], *corner[1], r=far, l=large)
    path += "L{} {}A{r} {r} 0 {l} 0 {} {}Z".format(*corner[2], *corner[3], r=near, l=large)
    middle, radius = (a + b) / 2, (near + far) / 2
    turn = math.degrees(middle) + (180 if math.cos(middle) < 0 else 0)  # never upside down
    return {
        "name": name,
        "count": count,
        "hue": (number * 137) % 360,
        "path": path,
        "x": round(radius * math.cos(middle), 2),
        "y": round(radius * math.sin(middle), 2),
        "turn": round(turn, 1),
        "named": (b - a) * radius >= 14 and len(name) * 7 <= far - near - 4,
        "outer": near > 150,
    }


def _environment() -> jinja2.Environment:
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([here, here.parent / "audit"]),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.jinja",)),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(visible=visible, cell=cell, number=_number, percent=_percent)
    return environment


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}%"
