from __future__ import annotations

import json
from pathlib import Path

from didact.reproduce import REPRODUCTIONS
from didact.reproduce.page import index, page, picture
from didact.reproduce.seen import told

PAGES = Path(__file__).resolve().parents[2] / "docs" / "reproductions"


def test_pages_of_the_documentation_are_what_their_results_give() -> None:
    results = {file.stem: json.loads(file.read_text("utf-8")) for file in PAGES.glob("*.json")}
    assert results, "the documentation has no results"
    for name, found in results.items():
        assert (PAGES / f"{name}.md").read_text("utf-8") == page(found)
        assert (PAGES / f"{name}.svg").read_text("utf-8") == picture(found)
        assert not found["quick"]
        assert found["seeds"] >= 3
        words = told(REPRODUCTIONS[name])
        assert {part: found[part] for part in words} == words  # the page says what the code tries
    ordered = [results[name] for name in REPRODUCTIONS if name in results]
    missing = {name: told(module)["title"] for name, module in REPRODUCTIONS.items() if name not in results}
    assert (PAGES / "README.md").read_text("utf-8") == index(ordered, missing)
