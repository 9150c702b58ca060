"""Filters over the training instances. A filter is one file and one line in `STRATEGIES`.

Each takes its Config, the instances and the Context, and gives one Verdict per instance, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field

from didact.curate.context import Context, HasWeights
from didact.curate.decontaminate import DecontaminateConfig, decontaminate
from didact.curate.diversity import DiversityConfig, diversity
from didact.curate.heuristics import HeuristicsConfig, heuristics
from didact.curate.judge import JudgeConfig, judge
from didact.curate.length import LengthConfig, length
from didact.curate.near_duplicates import NearDuplicatesConfig, near_duplicates
from didact.curate.novelty import NoveltyConfig, novelty
from didact.curate.quality import QualityConfig, quality
from didact.instance import Instance, Verdict

Strategy = Callable[[Any, Sequence[Instance], Context], list[Verdict]]
STRATEGIES: dict[str, tuple[type[BaseModel], Strategy]] = {
    "heuristics": (HeuristicsConfig, heuristics),
    "decontaminate": (DecontaminateConfig, decontaminate),
    "length": (LengthConfig, length),
    "novelty": (NoveltyConfig, novelty),
    "near_duplicates": (NearDuplicatesConfig, near_duplicates),
    "judge": (JudgeConfig, judge),
    "quality": (QualityConfig, quality),
    "diversity": (DiversityConfig, diversity),
}
Curate = Annotated[
    HeuristicsConfig
    | DecontaminateConfig
    | LengthConfig
    | NoveltyConfig
    | NearDuplicatesConfig
    | JudgeConfig
    | QualityConfig
    | DiversityConfig,
    Field(discriminator="type"),
]

__all__ = [
    "STRATEGIES",
    "Context",
    "Curate",
    "DecontaminateConfig",
    "DiversityConfig",
    "HasWeights",
    "HeuristicsConfig",
    "JudgeConfig",
    "LengthConfig",
    "NearDuplicatesConfig",
    "NoveltyConfig",
    "QualityConfig",
    "Strategy",
]
