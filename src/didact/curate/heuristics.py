"""Drop what nothing can be learnt from: empty or placeholder answers, empty questions, and exact duplicates.

Of equal conversations the first is kept. Equal questions with different answers are not duplicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.curate.context import Context
from didact.instance import Instance, Verdict


class HeuristicsConfig(BaseModel):
    """Rules that need no model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["heuristics"] = Field("heuristics", description="empty answers and exact duplicates")
    duplicates: bool = Field(True, description="drop exact duplicates of an earlier instance")
    placeholders: list[str] = Field(
        ["<nooutput>", "nooutput", "<no output>"], description="answers that stand for no answer, in any case"
    )


def heuristics(config: HeuristicsConfig, instances: Sequence[Instance], context: Context) -> list[Verdict]:
    """One verdict per instance; `near` of a duplicate is the id of the one that is kept."""
    placeholders = {text.casefold() for text in config.placeholders}
    first: dict[tuple[tuple[str, str], ...], str] = {}
    verdicts = []
    for instance in instances:
        answer = instance.answer.strip()
        key = tuple((message.role, message.text) for message in instance.messages)
        if not answer:
            verdicts.append(Verdict(False, "the answer is empty"))
        elif answer.casefold() in placeholders:
            verdicts.append(Verdict(False, "the answer is a placeholder"))
        elif not any(message.text.strip() for message in instance.context):
            verdicts.append(Verdict(False, "the question is empty"))
        elif config.duplicates and key in first:
            verdicts.append(Verdict(False, "exact duplicate", near=first[key]))
        else:
            first[key] = instance.id
            verdicts.append(Verdict(True))
    return verdicts
