"""Does a sign appear? Decided by intervals alone, so that no reproduction can talk itself into its claim.

A sign is a difference that a paper lets us expect. All signs of a reproduction must appear for its claim to appear, so
testing several at once makes that verdict stricter, not looser.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from didact.audit.interval import Interval

Expect = Literal["more", "same", "no less"]
Verdict = Literal["appears", "does not appear", "cannot be told"]
Overall = Literal["the sign appears", "the sign appears in part", "the sign does not appear", "cannot be told"]


@dataclass(frozen=True)
class Sign:
    """One difference: what it should show, what was seen, and the smallest that would matter (a fraction)."""

    says: str
    expects: Expect
    seen: Interval
    smallest: float = 0.05

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


def overall(signs: Sequence[Verdict]) -> Overall:
    """Appears: all do. In part: some do. Does not: none does, and one is ruled out. Else cannot be told."""
    found = set(signs)
    if found == {"appears"}:
        return "the sign appears"
    if "appears" in found:
        return "the sign appears in part"
    return "the sign does not appear" if "does not appear" in found else "cannot be told"


def sentence(name: str, signs: Sequence[Sign]) -> str:
    """The verdict in a sentence: which signs appear, which do not, and why others cannot be told."""
    verdict = overall([sign.verdict for sign in signs])
    parts = []
    for kind in ("appears", "does not appear", "cannot be told"):
        some = [sign for sign in signs if sign.verdict == kind]
        told = [f"{sign.says} ({points(sign.seen)}{'; ' + sign.why if sign.why else ''})" for sign in some]
        if told:
            parts.append(f"{kind}: {'; '.join(told)}")
    head = f"{verdict[0].upper()}{verdict[1:]}"
    count = sum(sign.verdict == "appears" for sign in signs)
    return f"{head} ({count} of {len(signs)}). {'. '.join(part[0].upper() + part[1:] for part in parts)}."


def points(seen: Interval) -> str:
    """A difference in points with its interval."""
    if not math.isfinite(seen.low):
        return f"{100 * seen.value:+.1f} points".replace("-", "−")
    return f"{100 * seen.value:+.1f} points [{100 * seen.low:+.1f}, {100 * seen.high:+.1f}]".replace("-", "−")
