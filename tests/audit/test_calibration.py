"""Confidence beside accuracy: planted over- and underconfidence are found, a calibrated model is not accused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from planted import Fake, everywhere, heldout, subject, untuned

from didact.audit import CalibrationConfig, Finding, audit
from didact.instance import Instance


@dataclass
class Sure(Fake):
    """Says its choice with a given probability."""

    confidence: float = 0.9

    def rank(self, instances: Sequence[Instance]) -> list[list[float]]:
        def of(instance: Instance) -> list[float]:
            mine, others = self._choice(instance), len(instance.choices) - 1
            rest = math.log((1 - self.confidence) / max(1, others))
            return [math.log(self.confidence) if i == mine else rest for i in range(others + 1)]

        return [of(instance) for instance in instances]


def find(confidence: float, knows: float, rows: int = 100) -> Finding:
    items = heldout(rows, levels=("heldout_task", "seen_template"), kinds=("options",))
    tuned = Sure(everywhere(knows), 1, 2, confidence=confidence)
    return audit([CalibrationConfig(smallest=0.1)], subject(Sure(everywhere(0), 1, 1), tuned, heldout=items))[0]


@pytest.mark.parametrize(
    ("confidence", "knows", "category"),
    [(0.95, 0.2, "overconfident"), (0.3, 0.9, "underconfident"), (0.85, 0.8, "well calibrated")],
)
def test_calibration(confidence: float, knows: float, category: str) -> None:
    found = find(confidence, knows)
    assert found.category == category
    assert found.value == pytest.approx(confidence - (knows + (1 - knows) / 4), abs=0.1)
    assert found.details["ece"]["tuned"] == pytest.approx(abs(found.value), abs=0.12)


def test_few_items_and_broken_rankings_are_said() -> None:
    assert "Only 10 held-out items" in find(0.9, 0.9, 5).verdict

    class Broken(Fake):
        def rank(self, instances: Sequence[Instance]) -> list[list[float]]:
            return [[math.nan] * len(x.choices) for x in instances]

    (found,) = audit([CalibrationConfig()], subject(untuned(), Broken(everywhere(1), 1, 2)))
    assert "rankings are not finite" in found.verdict
