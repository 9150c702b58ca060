"""Keep the instances whose instruction matters: the loss of the answer with it, over the loss without it, by the base.

Instruction-following difficulty (IFD; Li et al. 2024, arXiv 2308.12032): near 0 the base finds the answer as soon as it
reads the question; from 1 on the question makes the answer no likelier, so the two hardly belong together. Those are
dropped, and on demand all but the share with the highest values, which have most left to learn.
Limits: a question whose answer is long soon counts little; a base that knows nothing of a language says nothing of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.curate.context import Context
from didact.errors import UsageError
from didact.instance import Instance, Message, Verdict


class QualityConfig(BaseModel):
    """How much an instruction must help, and how many of the hardest stay."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["quality"] = Field("quality", description="answers that their instruction makes no likelier (IFD)")
    most: float = Field(1.0, gt=0, description="loss with the instruction over loss without it, from which on to drop")
    keep: float = Field(1.0, gt=0, le=1, description="share of the others that is kept, those with the highest ratio")


def quality(config: QualityConfig, instances: Sequence[Instance], context: Context) -> list[Verdict]:
    """One verdict per instance; the score is its ratio of losses."""
    if context.loss is None:
        raise UsageError("quality needs the losses of a base model", "take it out of curate")
    losses = list(context.loss([*instances, *map(bare, instances)]))
    ratios = [
        given / alone if alone > 0 else math.nan
        for given, alone in zip(losses[: len(instances)], losses[len(instances) :], strict=True)
    ]
    helped = [number for number, ratio in enumerate(ratios) if ratio < config.most]
    kept = set(sorted(helped, key=lambda number: (-ratios[number], number))[: math.ceil(config.keep * len(helped))])
    helps = set(helped)
    verdicts = []
    for number, ratio in enumerate(ratios):
        if math.isnan(ratio):
            verdicts.append(Verdict(False, "the answer has no loss by itself"))
        elif number in kept:
            verdicts.append(Verdict(True, "", ratio))
        else:
            easy = "easier for the base than those that are kept"
            verdicts.append(Verdict(False, easy if number in helps else "the instruction does not help", ratio))
    return verdicts


def bare(instance: Instance) -> Instance:
    """The same answer to a question that says nothing."""
    answer = instance.messages[-1:] if instance.answer else ()
    return Instance.of((Message("user", ()), *answer), instance.origin)
