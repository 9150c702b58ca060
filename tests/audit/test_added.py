"""What generated instances add: a planted difference is found, none is claimed where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from planted import Fake, everywhere, heldout, subject, trained, untuned

from didact.audit import AddedConfig, Arm, Finding, audit
from didact.instance import Instance


def generated(right: str = "yes") -> list[Instance]:
    """Every other training instance is a teacher's."""
    found = []
    for i, row in enumerate(trained()):
        origin = replace(row.origin, via="generate:distill") if i % 2 else row.origin
        found.append(replace(row, origin=origin, tags={**row.tags, "right": right if i % 4 == 1 else "no"}))
    return found


def asked(knows: float, without: float, rows: Sequence[Instance] | None = None) -> tuple[Finding, list[list[Instance]]]:
    given: list[list[Instance]] = []

    def retrain(arm: Arm) -> Fake:
        given.append(list(arm.instances))
        return Fake(everywhere(without), 0.97, 5)

    tuned = Fake(everywhere(knows), 0.97, 2)
    on = generated() if rows is None else list(rows)
    (finding,) = audit([AddedConfig()], subject(untuned(), tuned, trained=on, retrain=retrain))
    return finding, given


@pytest.mark.parametrize(
    ("knows", "without", "category"),
    [(0.9, 0.5, "they help"), (0.5, 0.9, "they harm"), (0.7, 0.7, "no difference seen")],
)
def test_a_planted_difference_is_found(knows: float, without: float, category: str) -> None:
    finding, given = asked(knows, without)
    assert finding.category == category
    assert finding.verdict.startswith(category.capitalize())
    assert not any(i.origin.via.startswith("generate:") for i in given[0])
    assert len(given[0]) == len(trained()) - len(trained()) // 2
    assert finding.value is not None
    assert abs(finding.value - (knows - without) * 0.75) < 0.15  # guesses and rambling are in both
    places = [row["where"] for row in finding.details["levels"]]
    assert places == ["new rows", "new wordings", "new tasks", "new clusters"]
    assert finding.details["right"] == 0.5
    assert "50.0% are right by their rows' rules" in finding.verdict


def test_it_says_when_there_is_nothing_to_compare() -> None:
    finding, given = asked(0.5, 0.5, trained())
    assert finding.verdict == "Cannot be said. No instance is generated, so there is nothing to compare."
    assert given == []
    (alone,) = audit([AddedConfig()], subject(untuned(), untuned(), trained=generated()))
    assert "No model can be retrained" in alone.verdict
    few = subject(untuned(), untuned(), trained=generated(), heldout=heldout(1), retrain=lambda rows: untuned())
    assert "Only 12 held-out items" in audit([AddedConfig()], few)[0].verdict
