"""Drop instances that say nearly the same as an earlier one: Jaccard similarity of their word n-grams.

The whole instance is compared, question and answer; of rows that a template rendered what comes from the row. Those
made from one row by several templates, and those of different tasks, are alike on purpose and stay; so are those about
different pictures. Of a group the first is kept, so after this filter no two instances that are compared reach the
threshold (Lee et al. 2022, arXiv 2107.06499, for what duplicates do to training). Limits: the same in other words is
not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.curate.alike import nearest_alike
from didact.curate.context import Context
from didact.curate.words import own_texts, shares_instruction
from didact.instance import Instance, Verdict


class NearDuplicatesConfig(BaseModel):
    """How alike two instances may be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["near_duplicates"] = Field("near_duplicates", description="instances nearly equal to an earlier one")
    threshold: float = Field(0.7, gt=0, le=1, description="Jaccard similarity from which two are duplicates")
    n: int = Field(3, ge=1, le=20, description="words in a row that are counted as one")
    method: Literal["auto", "exact", "minhash"] = Field(
        "auto", description="minhash needs less memory and may miss a pair; auto: exact up to 120 million characters"
    )


def near_duplicates(config: NearDuplicatesConfig, instances: Sequence[Instance], context: Context) -> list[Verdict]:
    """One verdict per instance; `near` is the most alike of those kept before it, the score their similarity."""
    shared = [shares_instruction(instance) for instance in instances]

    def apart(i: int, j: int) -> bool:
        if instances[i].pictured != instances[j].pictured:
            return True
        a, b = instances[i].origin, instances[j].origin
        return shared[i] and shared[j] and (a.task != b.task or (a.source, a.row) == (b.source, b.row))

    found = nearest_alike(
        [" ".join(own_texts(instance)) for instance in instances],
        config.threshold,
        config.n,
        exact={"auto": None, "exact": True, "minhash": False}[config.method],
        apart=apart if any(shared) or any(instance.images for instance in instances) else None,
    )
    return [
        Verdict(True) if near < 0 else Verdict(False, "near duplicate", score, instances[near].id)
        for score, near in found
    ]
