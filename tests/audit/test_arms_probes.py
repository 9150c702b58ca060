"""Probes that train in miniature, on planted learners: how much, which part, how good, whose manner."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from planted import Fake, Said, everywhere, heldout, instance, subject, untuned

from didact.audit import Arm, Finding, ImitationConfig, QualityConfig, SizeConfig, SourceConfig, audit
from didact.audit.imitation import style
from didact.audit.power import fit, next_gain
from didact.audit.quality import sets
from didact.instance import Instance, Message, Part

TASKS = [f"{kind}:task{i}" for kind in ("labels", "options") for i in range(8)]
TRAINED = [instance("train", task.split(":")[0], task, row) for task in TASKS for row in range(40)]
ASKED = heldout(60, levels=("seen_template", "heldout_task"), kinds=("options",))


def learner(knows: Callable[[Arm], float]) -> Callable[[Arm], Fake]:
    return lambda arm: Fake(everywhere(knows(arm)), 0.98, 5)


def ask(config: object, knows: Callable[[Arm], float], **changes: object) -> list[Finding]:
    given = {"heldout": ASKED, "trained": TRAINED, "retrain": learner(knows), **changes}
    return audit([config], subject(untuned(), untuned(), **given))  # type: ignore[list-item]


# --- size


def test_a_power_law_is_fitted_and_foretells() -> None:
    sizes = [50, 100, 200, 400, 800]
    law = fit(sizes, np.array([0.1 + 2.0 * n**-0.5 for n in sizes]))
    assert (law.floor, law.scale, law.rate) == (
        pytest.approx(0.1, abs=0.01),
        pytest.approx(2, rel=0.1),
        pytest.approx(0.5),
    )
    rng = np.random.default_rng(0)
    hit = 0
    for seed in range(40):
        truth = [0.1 + 1.5 * n**-0.4 for n in (*sizes, 1600)]
        easy = rng.random(150)
        scores = np.stack([(easy > error)[None] * 1.0 for error in truth[:-1]])
        _, gain = next_gain(sizes, scores, range(150), 1600, seed, draws=100)
        hit += gain.low <= truth[-2] - truth[-1] <= gain.high
    assert hit >= 34


def test_a_rising_ladder_asks_for_more_and_a_flat_one_does_not() -> None:
    rising = ask(
        SizeConfig(ladders=["instances"], largest=640), lambda a: min(1, 0.12 * math.log2(len(a.instances) / 40))
    )
    assert rising[0].category == "more of the same would help"
    assert "for 640 more instances" in rising[0].verdict
    assert rising[0].details["pictures"][0]["kind"] == "line"
    flat = ask(SizeConfig(ladders=["instances"], smallest=0.05), lambda arm: 0.7)
    assert flat[0].category == "more of the same would not help"
    assert "about" not in flat[0].verdict.split("evidence")[0].split("limit")[1]
    priced = ask(SizeConfig(ladders=["instances"]), lambda arm: 0.7, seconds_per_instance=0.1, epochs=3.0)
    assert "6.4 minutes of training" in priced[0].verdict


@pytest.mark.parametrize("config", [SizeConfig(), SourceConfig(swap=False), QualityConfig()])
def test_arms_that_learnt_nothing_are_not_compared(config: object) -> None:
    """A ladder that has not begun to rise looks flat, and says nothing of more data."""
    found = ask(config, lambda arm: 0.0, retrain=lambda arm: untuned())
    assert {finding.category for finding in found} == {"cannot be said"}
    assert "not clearly better than untuned (+0.0 points" in found[0].verdict


def test_a_ladder_that_is_all_right_on_few_items_is_no_proof_of_the_end() -> None:
    perfect = Fake(everywhere(1.0), 1.0, 5)
    top = ask(SizeConfig(ladders=["instances"], items=60), lambda arm: 1.0, retrain=lambda arm: perfect)
    assert top[0].category == "cannot be told"
    assert top[0].low is not None
    assert top[0].low < -0.04


def test_the_ladder_of_tasks_keeps_the_number_of_instances() -> None:
    arms: list[Arm] = []

    def knows(arm: Arm) -> float:
        arms.append(arm)
        return 0.5

    ask(SizeConfig(ladders=["tasks"]), knows)
    tasks = [{i.origin.task for i in arm.instances} for arm in arms]
    assert [len(some) for some in tasks] == [2, 4, 8, 16]
    assert all(a < b for a, b in pairwise(tasks))
    assert {len(arm.instances) for arm in arms} == {80}
    few = ask(SizeConfig(), lambda arm: 0.5, trained=TRAINED[:4])
    assert "3 are needed" in few[0].verdict


# --- source


def test_the_part_that_teaches_is_named_and_the_others_are_not() -> None:
    found = ask(
        SourceConfig(swap=False), lambda a: 0.8 if any(i.origin.cluster == "options" for i in a.instances) else 0.1
    )
    assert found[0].category == "some parts teach what others do not"
    assert "falls most without options" in found[0].verdict
    assert found[0].details["p"]["options"] < 0.05 < found[0].details["p"]["labels"]
    assert found[0].details["correction"] == "Holm (1979)"
    same = ask(SourceConfig(swap=False), lambda arm: 0.5)
    assert same[0].category == "no part is shown to matter"
    assert "would often be missed" in same[0].verdict
    alone = ask(SourceConfig(by="strategy", swap=False), lambda arm: 0.5)
    assert "nothing to leave out" in alone[0].verdict


def test_whose_answers_are_learnt_is_compared_on_the_same_prompts() -> None:
    def told(row: Instance, who: str) -> Instance:
        answer = Message("assistant", (Part(f"{row.answer} by {who}", "answer"),))
        return Instance.of((row.messages[0], answer), replace(row.origin, teacher=who), row.references)

    both = [told(row, who) for row in TRAINED[:200] for who in ("good", "poor")]
    found = ask(SourceConfig(), lambda a: 0.8 if a.name == "answers of good" else 0.3, trained=both)[1]
    assert found.category == "answers of good teach more"
    assert "On 200 prompts" in found.verdict
    alone = ask(SourceConfig(), lambda arm: 0.5)[1]
    assert 'only "annotated"' in alone.verdict


# --- quality


def test_sets_are_equal_in_tokens_and_noisy_as_told() -> None:
    made = sets(TRAINED, 4, 0.25, 0)
    assert {len(rows) for rows in made.values()} == {640}
    assert Counter(Counter(i.id for i in made["clean and small"]).values()) == {4: 160}
    assert Counter(Counter(i.id for i in made["half of it twice"]).values()) == {2: 320}
    changed = sum(i.origin.via == "random_label" for i in made["noisy and large"])
    assert changed == 160
    assert sum(i.origin.via == "random_label" for i in sets(TRAINED, 4, 0.75, 0)["noisy and large"]) == 480


@pytest.mark.parametrize(
    ("clean", "noisy", "category"),
    [
        (0.8, 0.3, "few clean rows teach more"),
        (0.3, 0.8, "many noisy rows teach more"),
    ],
)
def test_quality(clean: float, noisy: float, category: str) -> None:
    (found,) = ask(QualityConfig(), lambda arm: noisy if "noisy" in arm.name else clean)
    assert found.category == category
    assert found.value == pytest.approx((clean - noisy) * 0.75, abs=0.15)


def test_quality_needs_data() -> None:
    (found,) = ask(QualityConfig(), lambda arm: 0.5, trained=TRAINED[:10])
    assert "Only 10 training" in found.verdict
    (cannot,) = ask(QualityConfig(), lambda arm: 0.5, retrain=None)
    assert "No model can be retrained" in cannot.verdict


# --- imitation


def sentence(row: Instance) -> Instance:
    """A free question whose answer is a sentence in the teacher's manner."""
    answer = f"Sure, the word is {row.answer}."
    return Instance.of((row.messages[0], Message("assistant", (Part(answer, "answer"),))), row.origin, tags=row.tags)


@dataclass
class Manner(Fake):
    """Speaks like the teacher; knows or does not know."""

    facts: float = 0.0

    def answer(self, instances: Sequence[Instance]) -> list[Said]:
        rows = enumerate(instances)
        return [
            Said(x.answer if i < self.facts * len(instances) else "Sure, the word is qua.", True, 5) for i, x in rows
        ]


def imitate(facts: float) -> Finding:
    items = [sentence(row) for row in heldout(120, levels=("heldout_cluster",), kinds=("extract",))]
    rows = [sentence(instance("train", "extract", "extract:t", row)) for row in range(60)]
    tuned = Manner(everywhere(0), 1, 2, facts=facts)
    given = {"heldout": items, "trained": rows, "retrain": lambda arm: tuned}
    return audit([ImitationConfig()], subject(untuned(), tuned, **given))[0]


def test_manner_without_facts_is_imitation() -> None:
    found = imitate(0.0)
    assert found.category == "imitation"
    assert found.details["changes"]["unsupported style"]["low"] > 0.3
    assert {row["instances"] for row in found.details["arms"]} == {60}


def test_manner_with_facts_is_skill() -> None:
    assert imitate(1.0).category == "style and skill"


def test_style_is_form_and_not_content() -> None:
    openings = frozenset({"sure"})
    assert style("Sure, it is so.", "Sure, it was not.", openings) == [1.0, 1.0, 1.0, 1.0, 1.0]
    assert style("- a\n- b\n- c", "A plain line.", openings) == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert style("", "A line.", openings) == [0.0, 0.0, 0.0, 0.0, 0.0]


def test_where_no_law_fits_less_is_said() -> None:
    steep = np.stack([(np.arange(100) < right)[None] * 1.0 for right in (0, 0, 55)])
    smooth = np.stack([(np.arange(100) < right)[None] * 1.0 for right in (40, 50, 58)])
    wide, narrow = (next_gain([64, 128, 256], scores, range(100), 512)[1] for scores in (steep, smooth))
    assert wide.low < 0 < narrow.low
