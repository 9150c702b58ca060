"""A gain inside a domain beside what it cost outside."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from planted import Fake, heldout, subject

from didact.audit import DomainConfig, Finding, audit
from didact.instance import Instance


def find(inside: float, outside: float, before: float = 0.4, nats: float = 1.0, globs: tuple[str, ...] = ()) -> Finding:
    def knows(share: float, other: float) -> Callable[[Instance], float]:
        return lambda x: other if x.origin.cluster.startswith("far-") else share

    base = Fake(knows(before, before), 1, 1)
    tuned = Fake(knows(inside, outside), 1, 2, nats_per_token=nats)
    return audit([DomainConfig(smallest=0.15, inside=list(globs))], subject(base, tuned, heldout=heldout(60)))[0]


@pytest.mark.parametrize(
    ("inside", "outside", "nats", "category"),
    [
        (0.9, 0.0, 1.0, "a gain inside at a cost outside"),
        (0.9, 0.9, 1.0, "a gain inside and outside"),
        (0.9, 0.4, 1.0, "a gain inside without a loss outside"),
        (0.9, 0.4, 1.5, "a gain inside at a cost outside"),
        (0.4, 0.4, 1.0, "no gain inside the domain is shown"),
        (0.0, 0.4, 1.0, "a loss inside the domain"),
    ],
)
def test_domain(inside: float, outside: float, nats: float, category: str) -> None:
    found = find(inside, outside, nats=nats)
    if (inside, outside, nats) == (0.9, 0.4, 1.0):  # within the interval's reach, but never a loss
        assert found.category in (category, "a gain inside, its cost open")
    else:
        assert found.category == category


def test_a_domain_can_be_named_and_one_that_matches_nothing_is_refused() -> None:
    named = find(0.9, 0.0, globs=("far-*",))
    assert named.category == "a loss inside the domain"
    assert find(0.9, 0.9, globs=("nowhere",)).verdict.startswith(
        "Cannot be said. The globs nowhere match fewer than 30"
    )
