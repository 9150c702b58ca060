"""Drop what would lose its answer, or its end, when cut at the longest sequence that is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.curate.context import Context
from didact.errors import UsageError
from didact.instance import Instance, Verdict


class LengthConfig(BaseModel):
    """The longest sequence is `tune.max_length`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["length"] = Field("length", description="answers that are cut at tune.max_length")


def length(config: LengthConfig, instances: Sequence[Instance], context: Context) -> list[Verdict]:
    """One verdict per instance; the score is its number of tokens up to the last one that is trained."""
    if context.tokens is None:
        raise UsageError("length counts tokens, but there is no model to count with", "take it out of curate")
    verdicts = []
    for instance in instances:
        weights = context.tokens(instance).weights
        end = max((i + 1 for i, weight in enumerate(weights) if weight), default=0)
        reason = "the answer is cut at the longest sequence" if end > context.max_length else ""
        verdicts.append(Verdict(not reason, reason, float(end)))
    return verdicts
