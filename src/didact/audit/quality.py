"""Few good rows or many bad ones? LIMA's question, at equal tokens (Zhou et al. 2023, arXiv 2305.11206).

Arms in miniature that read the same amount of text: a small clean set read several times, a large set in which a share
of the answers is wrong, the large set clean, and half of it twice (what deduplication would spare). Wrong answers come
from the right label space. Limit: noise here is wrong labels; bad style and bad prompts are not tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.audit.controls import random_labels
from didact.audit.exhibit import table, whiskers
from didact.audit.interval import Interval
from didact.audit.measure import failed, sample
from didact.audit.miniature import Outcome, asked_of, outcome, unlearnt
from didact.audit.standing import settled, standing
from didact.audit.subject import Finding, Subject
from didact.audit.verdict import count, percent, points
from didact.instance import Instance

QUESTION = "Do few clean rows teach more than many noisy ones of the same length?"


class QualityConfig(BaseModel):
    """Clean and small, noisy and large, clean and large, half of it twice: equal tokens."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["quality"] = "quality"
    size: int = Field(1200, ge=80, description="instances of the large set")
    part: int = Field(4, ge=2, le=32, description="how many times smaller the small set is, and how often it is read")
    noise: float = Field(0.3, gt=0, le=1, description="share of the noisy set whose answers are drawn at random")
    seeds: int = Field(1, ge=1, description="trainings of each arm")
    items: int = Field(200, ge=30, description="held-out instances asked, spread over tasks of all levels")
    smallest: float = Field(0.05, gt=0, lt=1, description="the smallest difference worth knowing, as a fraction")


def quality(config: QualityConfig, subject: Subject) -> list[Finding]:
    """One finding: the small clean arm minus the large noisy one; the others beside them."""
    if subject.retrain is None:
        return [failed("quality", QUESTION, "No model can be retrained here.")]
    asked = sample(subject.heldout, config.items, subject.seed)
    large = sample([i for i in subject.trained if i.answer], config.size, subject.seed)
    if len(asked) < 30 or len(large) < 80:
        told = f"Only {len(large)} training and {len(asked)} held-out instances; 80 and 30 are needed."
        return [failed("quality", QUESTION, told)]
    arms = sets(large, config.part, config.noise, subject.seed)
    found = {name: outcome(subject, name, rows, asked, config.seeds) for name, rows in arms.items()}
    base = asked_of("untuned", [subject.base], asked)
    if why := unlearnt(found["clean and large"], base, asked, subject.seed):
        return [failed("quality", QUESTION, why)]
    seed = subject.seed
    lead = found["clean and small"].lead(found["noisy and large"], asked, "score", seed)
    double = found["clean and large"].lead(found["half of it twice"], asked, "score", seed)
    category = {
        "more": "few clean rows teach more",
        "less": "many noisy rows teach more",
        "same": "few clean rows and many noisy ones teach alike",
        "open": "cannot be told",
    }[standing(lead, config.smallest)]
    few = len({i.id for i in arms["clean and small"]})
    verdict = (
        f"{category.capitalize()}. {few:,} clean rows read {config.part} times against {len(large):,} rows with "
        f"{percent(config.noise)} of answers drawn at random, at equal tokens: {points(lead)} in score (n={lead.n}, "
        f"{count(config.seeds, 'seed')}).{settled(lead, config.smallest)} All different rows against half of them "
        f"twice: "
        f"{points(double)}.{settled(double, config.smallest)}"
    )
    details: dict[str, Any] = {
        "category": category,
        "lead": lead.to_json(),
        "duplicates": double.to_json(),
        "detectable": lead.detectable,
        "seeds": config.seeds,
        "pictures": [
            whiskers(
                [
                    (name, f"{len({i.id for i in arms[name]}):,} rows", _of(one, asked, seed))
                    for name, one in found.items()
                ]
                + [("untuned", "", _of(base, asked, seed))],
                "percent",
                "Score of each arm, 95% intervals.",
            )
        ],
        "tables": [
            table(
                "Arms",
                ["arm", "different rows", "characters read", "score, %", "right form, %", "content, %"],
                [
                    [
                        name,
                        len({i.id for i in arms[name]}),
                        sum(len(i.prompt) + len(i.answer) for i in arms[name]),
                        *(100 * float(x.mean()) for x in (one.score, one.form, one.content)),
                    ]
                    for name, one in found.items()
                ],
            )
        ],
    }
    start = float(found["noisy and large"].score.mean())
    return [Finding("quality", QUESTION, verdict, lead.value, lead.low, lead.high, start, lead.n, [], details)]


def sets(large: Sequence[Instance], part: int, noise: float, seed: int) -> dict[str, list[Instance]]:
    """The arms' instances, equal in tokens as far as rows are alike in length."""
    n = len(large) // (2 * part) * 2 * part
    large = list(large[:n])
    wrong = random_labels(large, seed)
    every = max(1, round(1 / noise)) if noise < 0.5 else 1
    bad = {i for i in range(n) if i % every == 0} if noise < 0.5 else set(range(round(noise * n)))
    return {
        "clean and small": large[: n // part] * part,
        "noisy and large": [wrong[i] if i in bad else row for i, row in enumerate(large)],
        "clean and large": large,
        "half of it twice": large[: n // 2] * 2,
    }


def _of(one: Outcome, asked: Sequence[Instance], seed: int) -> Interval:
    return one.mean(asked, "score", seed)
