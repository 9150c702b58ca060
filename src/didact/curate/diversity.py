"""Keep a part that stands for the whole: instances that cover the rest, or lie far apart, with a quota per cluster.

`facility_location`: one after the other the instance that lifts most the similarity of all instances to the nearest
kept one; lazy evaluation gives the greedy choice, which reaches at least 63% of the best coverage there is (Nemhauser
et al. 1978; Minoux 1978). `k_center`: the instance farthest from all kept ones, at most twice the best radius (Gonzalez
1985). Vectors are TF-IDF, or those of a model that is named. Above some thousand instances coverage is measured on a
sample of them. Limits: far apart also means odd, so filter what is broken first.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from didact.curate.context import Context
from didact.curate.vectors import tf_idf, unit
from didact.errors import UsageError
from didact.instance import Instance, Verdict

COVERED = 2000  # instances whose coverage is measured
CHUNK = 1024


class DiversityConfig(BaseModel):
    """How many are kept, and how they are chosen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["diversity"] = Field("diversity", description="all but a part that stands for the whole")
    keep: float = Field(0.5, gt=0, description="how many instances are kept: up to 1 a share, above 1 a number")
    method: Literal["facility_location", "k_center"] = Field(
        "facility_location", description="cover the rest, or lie far apart"
    )
    quotas: Literal["none", "cluster", "task", "source"] = Field(
        "none", description="share what is kept equally among clusters, tasks or sources, as far as they reach"
    )
    compare: Literal["prompt", "whole"] = Field("prompt", description="compare the question, or also its answer")
    embedding: str = Field(
        "",
        description='whose vectors are compared: a teacher whose api is embeddings, or a model (a folder, "starter" '
        "or a hub id) by its mean hidden states; empty: TF-IDF",
    )


def diversity(config: DiversityConfig, instances: Sequence[Instance], context: Context) -> list[Verdict]:
    """One verdict per instance; `near` is the kept one of its group most like it, the score their cosine."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for number, instance in enumerate(instances):
        groups["" if config.quotas == "none" else getattr(instance.origin, config.quotas)].append(number)
    wanted = math.ceil(config.keep * len(instances)) if config.keep <= 1 else int(config.keep)
    texts = [i.prompt if config.compare == "prompt" else f"{i.prompt}\n{i.answer}" for i in instances]
    vectors_TC = _vectors(config.embedding, texts, context)
    select = facility_location if config.method == "facility_location" else k_center
    verdicts = [Verdict(True)] * len(instances)
    quotas = share_out(wanted, {name: len(group) for name, group in groups.items()})
    for name, group in groups.items():
        own_TC = vectors_TC[group]
        kept = select(own_TC, quotas[name])
        for place, near, cosine in _nearest(own_TC, kept):
            if near < 0:
                verdicts[group[place]] = Verdict(False, "its group has no place left")
            else:
                like = instances[group[near]].id
                verdicts[group[place]] = Verdict(False, "others that are kept stand for it", cosine, like)
    return verdicts


def _vectors(embedding: str, texts: Sequence[str], context: Context) -> Any:
    if not embedding:
        return tf_idf(texts)
    if context.embed is None:
        raise UsageError("no embedding model can be loaded here", "take embedding out: TF-IDF", field="embedding")
    return unit(context.embed(texts, embedding))


def share_out(wanted: int, sizes: dict[str, int]) -> dict[str, int]:
    """Equal shares of a number, none larger than its group; what small groups leave goes to the others."""
    quotas, left = dict.fromkeys(sizes, 0), min(wanted, sum(sizes.values()))
    while left:
        hungry = [name for name in sizes if quotas[name] < sizes[name]]
        each = max(1, left // len(hungry))
        for name in hungry[:left] if each == 1 else hungry:
            more = min(each, sizes[name] - quotas[name], left)
            quotas[name] += more
            left -= more
    return quotas


def facility_location(vectors_TC: Any, count: int) -> list[int]:
    """Rows chosen greedily to cover the rows (or an evenly spaced sample of them), in the order of choice."""
    total = len(vectors_TC)
    covered_RC = vectors_TC[:: math.ceil(total / COVERED)] if total > COVERED else vectors_TC
    best_R = np.zeros(len(covered_RC), np.float32)

    def gain(row: int) -> float:
        return float(np.maximum(vectors_TC[row] @ covered_RC.T - best_R, 0).sum(dtype=np.float64))

    # What a row adds can only shrink, so the top of the heap is the choice once its gain is of this round.
    heap = [(-value, row, 0) for row, value in enumerate(_first_gains(vectors_TC, covered_RC))]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and len(chosen) < count:
        _, row, measured = heapq.heappop(heap)
        if measured < len(chosen):
            heapq.heappush(heap, (-gain(row), row, len(chosen)))
            continue
        chosen.append(row)
        best_R = np.maximum(best_R, vectors_TC[row] @ covered_RC.T)
    return chosen


def k_center(vectors_TC: Any, count: int) -> list[int]:
    """Rows, each the farthest from all before it; the first is the one nearest to the middle."""
    if not count or not len(vectors_TC):
        return []
    chosen = [int((vectors_TC @ vectors_TC.mean(axis=0)).argmax())]
    nearest_T = vectors_TC @ vectors_TC[chosen[0]]
    nearest_T[chosen[0]] = np.inf
    while len(chosen) < min(count, len(vectors_TC)):
        row = int(nearest_T.argmin())
        chosen.append(row)
        nearest_T = np.maximum(nearest_T, vectors_TC @ vectors_TC[row])
        nearest_T[row] = np.inf
    return chosen


def _first_gains(vectors_TC: Any, covered_RC: Any) -> Iterator[float]:
    for start in range(0, len(vectors_TC), CHUNK):
        similar_NR = np.maximum(vectors_TC[start : start + CHUNK] @ covered_RC.T, 0)
        yield from similar_NR.sum(axis=1, dtype=np.float64).tolist()


def _nearest(vectors_TC: Any, kept: Sequence[int]) -> Iterator[tuple[int, int, float]]:
    """(row, most similar kept row, cosine) of every row that is not kept."""
    ordered = sorted(kept)
    rest = np.setdiff1d(np.arange(len(vectors_TC)), ordered)
    if not ordered:
        yield from ((row, -1, 0.0) for row in rest.tolist())
        return
    for start in range(0, len(rest), CHUNK):
        rows = rest[start : start + CHUNK]
        similar_NK = vectors_TC[rows] @ vectors_TC[ordered].T
        near_N = similar_NK.argmax(axis=1)
        for row, near, cosine in zip(rows.tolist(), near_N.tolist(), similar_NK.max(axis=1).tolist(), strict=True):
            yield row, ordered[near], cosine
