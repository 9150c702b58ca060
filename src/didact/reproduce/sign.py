"""Does a sign appear? Decided by intervals alone, so that no reproduction can talk itself into its claim.

A sign is a difference that a paper lets us expect. All signs of the claim must appear for it to appear, so testing
several at once makes that verdict stricter, not looser. Controls must appear for anything to be told at all; signs
beside the claim are shown and decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from didact.audit.interval import Interval

Expect = Literal["more", "same", "no less"]
Verdict = Literal["appears", "does not appear", "cannot be told"]
Role = Literal["claim", "beside", "control"]
Overall = Literal["the sign appears", "the sign appears in part", "the sign does not appear", "cannot be told"]
KINDS: dict[Verdict, str] = {
    "appears": "Appears",
    "does not appear": "Does not appear",
    "cannot be told": "Cannot be told",
}


@dataclass(frozen=True)
class Sign:
    """One difference: what it should show, what was seen, and the smallest that would matter (a fraction)."""

    says: str
    expects: Expect
    seen: Interval
    smallest: float = 0.05
    role: Role = "claim"

    @property
    def verdict(self) -> Verdict:
        low, high = self.seen.low, self.seen.high
        if not (math.isfinite(low) and math.isfinite(high)):
            return "cannot be told"
        if self.expects == "more":
            if high < self.smallest:
                return "does not appear"
            return "appears" if low > 0 else "cannot be told"
        if low > -self.smallest and (self.expects == "no less" or high < self.smallest):
            return "appears"
        outside = high < 0 or (self.expects == "same" and low > 0)
        return "does not appear" if outside else "cannot be told"

    @property
    def why(self) -> str:
        """Why nothing can be told: the interval beside the smallest difference that matters; else empty."""
        if self.verdict != "cannot be told":
            return ""
        if not math.isfinite(self.seen.low):
            return "there is no interval"
        width = 100 * (self.seen.high - self.seen.low)
        return f"the interval is {width:.0f} points wide, and {100 * self.smallest:g} points matter"


def overall(signs: Sequence[Sign]) -> Overall:
    """Appears: all of the claim do; in part: some; does not: none, and one is ruled out; else cannot be told."""
    found = {sign.verdict for sign in signs if sign.role == "claim"}
    if any(sign.role == "control" and sign.verdict != "appears" for sign in signs):
        return "cannot be told"
    if found == {"appears"}:
        return "the sign appears"
    if "appears" in found:
        return "the sign appears in part"
    return "the sign does not appear" if "does not appear" in found else "cannot be told"


def count(signs: Sequence[Sign]) -> tuple[int, int]:
    """How many signs of the claim appear, and of how many."""
    claim = [sign for sign in signs if sign.role == "claim"]
    return sum(sign.verdict == "appears" for sign in claim), len(claim)


def sentence(signs: Sequence[Sign]) -> str:
    """The verdict in a sentence: which signs appear, which do not, and why others cannot be told."""
    verdict, (some, all_) = overall(signs), count(signs)
    parts = [f"{verdict[0].upper()}{verdict[1:]} ({some} of {all_})"]
    for kind, name in KINDS.items():
        told = [
            f"{sign.says} ({points(sign.seen)}{'; ' + sign.why if sign.why else ''})"
            for sign in signs
            if sign.verdict == kind and sign.role == "claim"
        ]
        if told:
            parts.append(f"{name}: {'; '.join(told)}")
    lost = [sign.says for sign in signs if sign.role == "control" and sign.verdict != "appears"]
    if lost:
        parts.append(f"A control fails: {'; '.join(lost)}")
    return ". ".join(parts) + "."


def points(seen: Interval) -> str:
    """A difference in points with its interval."""
    if not math.isfinite(seen.low):
        return f"{100 * seen.value:+.1f} points".replace("-", "−")
    return f"{100 * seen.value:+.1f} points [{100 * seen.low:+.1f}, {100 * seen.high:+.1f}]".replace("-", "−")
