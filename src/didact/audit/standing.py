"""What an interval allows to say: more, less, the same for all that matters, or nothing yet."""

from __future__ import annotations

import math
from typing import Literal

from didact.audit.interval import Interval
from didact.audit.verdict import plain

Standing = Literal["more", "less", "same", "open"]


def standing(interval: Interval, smallest: float) -> Standing:
    """More or less where 0 is outside; the same where the interval lies within `smallest` of 0; else open."""
    if not math.isfinite(interval.low):
        return "open"
    if interval.low > 0 or interval.high < 0:
        return "more" if interval.low > 0 else "less"
    return "same" if max(-interval.low, interval.high) < smallest else "open"


def settled(interval: Interval, smallest: float) -> str:
    """The sentence that tells evidence of none from no evidence; empty where a difference is shown."""
    found = standing(interval, smallest)
    if found == "same":
        return f" A true difference of {plain(smallest)} points is ruled out."
    if found == "open" and math.isfinite(interval.low):
        return (
            f" A true difference under {plain(interval.detectable)} points would often be missed here, so that is no "
            f"evidence rather than evidence of none; about {interval.items_for(smallest):,} items would settle "
            f"{plain(smallest)} points."
        )
    return ""
