"""The commands: list the reproductions, or make some and write their figures and pages."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from didact import fingerprint
from didact.console import Console
from didact.errors import UsageError, nearest
from didact.folder import Folder, now
from didact.instance import digest
from didact.reproduce import REPRODUCTIONS
from didact.reproduce.bench import Bench
from didact.reproduce.page import index, page, picture, table
from didact.reproduce.seen import to_json, told

QUICK = "quick: far too few instances and questions for the verdict to mean anything"


def chosen(name: str) -> list[str]:
    """The reproductions that a name means; raises UsageError with the nearest name."""
    if name == "all":
        return list(REPRODUCTIONS)
    if name not in REPRODUCTIONS:
        raise UsageError(f'no reproduction is called "{name}"', nearest(name, [*REPRODUCTIONS, "all"]), field="NAME")
    return [name]


def listing(out: Path) -> list[str]:
    """A line per reproduction: its name, its question, and what was seen, if it was made."""
    lines = []
    for name, module in REPRODUCTIONS.items():
        found = _read(out, name)
        state = f"{found['verdict']} ({found['date']})" if found else "not made yet"
        lines.append(f"{name:<18} {told(module)['title']}\n{'':<18} {state}")
    return lines


def reproduce(
    names: Sequence[str], out: Path, console: Console, *, seeds: int = 3, quick: bool = False, base: str = "starter"
) -> list[dict[str, Any]]:
    """Make reproductions, write their results and pages into `out`, and say them; what is there and fits stays."""
    results = []
    with Folder(out) as folder:
        if folder.note:
            console.say(folder.note, "aside")
        for name in names:
            results.append(one(name, folder, console, seeds=seeds, quick=quick, base=base))
            say(results[-1], console)
        folder.write("README.md", _index(out))
    return results


def one(name: str, folder: Folder, console: Console, *, seeds: int, quick: bool, base: str) -> dict[str, Any]:
    """The result of a reproduction: the one that is there, if nothing that decides it changed, else made."""
    made_of = digest([fingerprint.code("reproduce"), fingerprint.model(base), seeds, quick])
    found = _read(folder.path, name)
    if not found or found["made_of"] != made_of:
        began = time.monotonic()
        bench = Bench(folder, console, base, seeds, quick, name)
        words = {"name": name, **told(REPRODUCTIONS[name])}
        seen = to_json(words, REPRODUCTIONS[name].reproduce(bench))
        found = {
            **seen,
            "seeds": seeds,
            "quick": QUICK if quick else "",
            "base": base,
            "date": now()[:10],
            "trained": bench.speakers,
            "seconds": round(time.monotonic() - began),
            "made_of": made_of,
        }
        folder.write(f"{name}.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    folder.write(f"{name}.svg", picture(found))
    folder.write(f"{name}.md", page(found))
    return found


def publish(out: Path, pages: Path) -> list[str]:
    """Write the results in `out` and their pages into another folder; quick ones stay out. Gives their names."""
    results = [found for found in (_read(out, name) for name in REPRODUCTIONS) if found and not found["quick"]]
    with Folder(pages) as folder:
        for found in results:
            folder.write(f"{found['name']}.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
            folder.write(f"{found['name']}.svg", picture(found))
            folder.write(f"{found['name']}.md", page(found))
        folder.write("README.md", _index(pages))
    (pages / "lock").unlink(missing_ok=True)
    return [found["name"] for found in results]


def say(found: dict[str, Any], console: Console) -> None:
    console.say(f"\n{found['name']}: {found['title']}", "stage")
    console.say(table(found))
    if found["quick"]:
        console.say(found["quick"], "aside")
    console.say(found["sentence"])


def _index(out: Path) -> str:
    results = {name: found for name in REPRODUCTIONS if (found := _read(out, name))}
    missing = {name: told(module)["title"] for name, module in REPRODUCTIONS.items() if name not in results}
    return index(list(results.values()), missing)


def _read(out: Path, name: str) -> dict[str, Any]:
    """The result of a reproduction; empty if there is none, or it is damaged."""
    try:
        found = json.loads((out / f"{name}.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and {"made_of", "verdict", "count"} <= found.keys() else {}
