"""Instances of an instruction as teachers write them: parsed, and filtered by the rules of Self-Instruct."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from didact.generate.faults import fault


def parse_examples(text: str) -> list[tuple[str, str] | None]:
    """(input, output) pairs of an input-first answer; None for an example that cannot be read."""
    text = re.split(r"\n\s*Task:", text)[0]
    parts = [part for part in re.split(r"(?m)^\s*Example\s*\d*\s*[.:]?[ \t]*$", text) if part.strip()]
    found: list[tuple[str, str] | None] = []
    for part in parts:
        halves = re.split(r"(?m)^\s*Output\s*\d*\s*:", part, maxsplit=1)
        if len(halves) == 1:
            found.append(("", part.strip()) if len(parts) == 1 and "Input:" not in part else None)
            continue
        given = re.sub(r"^\s*Input\s*\d*\s*:", "", halves[0]).strip()
        if re.fullmatch(r"(?:n/?a|none|no input|<no ?input>)\.?", given, re.IGNORECASE):
            given = ""
        found.append((given, halves[1].strip()))
    return found


def parse_labelled(text: str) -> list[tuple[str, str] | None]:
    """(input, label) pairs of an output-first answer; None for one without its input."""
    text = re.split(r"\n\s*Task:", text)[0]
    found: list[tuple[str, str] | None] = []
    for part in re.split(r"(?i)class label\s*\d*\s*:", text)[1:]:
        label, _, given = part.strip().partition("\n")
        found.append((given.strip(), label.strip()) if given.strip() else None)
    return found


def checked(
    found: Sequence[tuple[str, str] | None], cut: bool, instruction: str
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The instances that are kept, and (reason, detail) of the others, by the original's rules.

    One non-empty input with two different outputs drops the whole task.
    """
    kept: list[tuple[str, str]] = []
    dropped: list[tuple[str, str]] = []
    last = len(found) - 1
    for i, pair in enumerate(found):
        why = "cannot be read" if pair is None else "cut at the longest answer" if cut and i == last else ""
        if not why and pair is not None:
            why = _pair_fault(*pair, instruction) or ("exact duplicate" if pair in kept else "")
        if why or pair is None:
            dropped.append((why, repr(pair)[:200]))
        else:
            kept.append(pair)
    if not found:
        dropped.append(("cannot be read", ""))
    outputs = Counter(given for given, _ in set(kept) if given)
    if any(count > 1 for count in outputs.values()):
        dropped += [("one input has two outputs", repr(pair)[:200]) for pair in kept]
        kept = []
    return kept, dropped


def _pair_fault(given: str, answer: str, instruction: str) -> str:
    if not answer:
        return "the output is empty"
    if given == answer:
        return "the output is the input"
    if given.endswith(":") or answer.endswith(":"):
        return "ends in a colon"
    why = fault(answer, instruction)
    return f"the output is {why}" if why else (fault(given) if given else "")
