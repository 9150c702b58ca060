"""Lists of instructions as teachers write them: parsed, cleaned, judged by the rules of Self-Instruct and Alpaca."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from didact.generate.faults import fault
from didact.generate.settings import Case

KEYWORDS = [
    *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps"),
    *("draw", "plot", "go to"),
]
ALPACA_KEYWORDS = [*KEYWORDS, "video", "audio", "music", "flowchart", "diagram"]


def split_list(text: str, first: int = 1) -> list[str]:
    """The items of a numbered list whose first number stood in the prompt; the teacher may have repeated it."""
    text = re.sub(rf"^\s*{first}\s?[.)]\s*", "", text)
    return [item for item in (" ".join(part.split()) for part in re.split(r"\n\s*\d+\s?[.)]\s*", "\n" + text)) if item]


def cleaned(text: str, case: Case = "first") -> str:
    """One line with a large first letter."""
    text = " ".join(text.split()).strip()
    return text.capitalize() if case == "original" else text[:1].upper() + text[1:]


def instruction_fault(
    text: str, min_words: int, max_words: int, keywords: Sequence[str], asked: str = "Think of a series of tasks"
) -> str:
    """Why an instruction is dropped, in the order of the original's rules; "" if it is kept."""
    count = len(text.split())
    if not text or count <= min_words:
        return "too short"
    if count > max_words:
        return "too long"
    found = next((word for word in keywords if re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE)), None)
    if found is not None:
        return "needs more than text"
    if text.lower().startswith("write a program"):
        return "asks for a program"
    if text[0] in string.punctuation:
        return "starts with punctuation"
    if not text[0].isascii():
        return "starts with another script"
    return fault(text, asked)
