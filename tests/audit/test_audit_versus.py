"""Two tuned models side by side: the better one is named where it is better, and nobody where nothing is shown."""

from __future__ import annotations

import pytest
from planted import Fake, everywhere, heldout, near_only, texts

from didact.audit.verdict import LEVELS
from didact.audit.versus import Pair, headline, versus

NAMES = ("old", "new")


def test_the_better_one_is_named_where_it_is_better() -> None:
    models = (Fake(near_only(0.8), 1, 1, nats_per_token=1.0), Fake(everywhere(0.8), 1, 2, nats_per_token=1.3))
    found = versus(Pair(NAMES, models, heldout(60), texts()))
    by = {finding.details.get("level"): finding for finding in found}
    assert by["heldout_cluster"].category == "new is better"
    assert by["heldout_cluster"].value == pytest.approx(0.6, abs=0.15)
    assert by["seen_template"].category == "no difference shown"
    assert "Holm (1979)" in by["seen_template"].verdict
    assert "of none" in by["seen_template"].verdict or "ruled out" in by["seen_template"].verdict
    assert found[-1].category == "new reads plain text worse"
    assert headline(found, NAMES) == "new is better on new clusters."
    assert by["heldout_cluster"].examples[0]["titles"] == {"base": "old", "tuned": "new"}


def test_equal_models_are_not_told_apart_and_few_items_say_so() -> None:
    same = (Fake(everywhere(0.5), 1, 1), Fake(everywhere(0.5), 1, 1))
    found = versus(Pair(NAMES, same, heldout(60)))
    assert len(found) == len(LEVELS)
    assert headline(found, NAMES) == "No difference between old and new is shown."
    (none,) = versus(Pair(NAMES, same, heldout(2)))
    assert "Only 24 items are held out from both" in none.verdict
