"""Planted truths: speakers whose knowledge is known, and the verdict that each must get."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from planted import LEVELS, Fake, Said, everywhere, heldout, instance, near_only, subject, trained, untuned

from didact.audit import Arm, GainConfig, Subject
from didact.audit.controls import chance, majority, random_labels, swapped
from didact.audit.gain import gain
from didact.audit.measure import choose_examples, generous_score, measure, sample
from didact.instance import Instance, Message, Origin, Part

CONFIG = GainConfig(examples=1)


def categories(examined: Subject, config: GainConfig = CONFIG) -> dict[str, str]:
    return {f.details["level"]: f.category for f in gain(config, examined)}


def all_levels(category: str) -> dict[str, str]:
    return dict.fromkeys(LEVELS, category)


def test_format_alone_is_not_task_learning() -> None:
    assert categories(subject(untuned(), Fake(everywhere(0), 0.97, 2))) == all_levels("format only")


def test_learning_on_trained_clusters_is_found_there_and_not_beyond() -> None:
    found = gain(CONFIG, subject(untuned(), Fake(near_only(0.6), 0.97, 2)))
    assert [f.category for f in found] == ["task learning"] * 3 + ["format only"]
    near, far = found[0], found[3]
    assert near.value == pytest.approx(0.6 * 0.97 + 0.4 * 0.25, abs=0.1)
    assert near.low is not None
    assert near.high is not None
    assert near.low < near.value < near.high
    assert near.baseline == pytest.approx(0.02 / 4, abs=0.02)
    assert "beats every control" in near.verdict
    assert "format was learnt" in far.verdict


def test_no_change_is_no_evidence() -> None:
    assert categories(subject(untuned(), untuned())) == all_levels("no evidence of task learning")
    assert categories(subject(untuned(0.3, 0.9), Fake(everywhere(0.3), 0.9, 5))) == all_levels(
        "no evidence of task learning"
    )


def test_worse_is_called_worse() -> None:
    found = gain(CONFIG, subject(untuned(0.8, 0.9), Fake(everywhere(0.1), 0.9, 2)))
    assert {f.category for f in found} == {"worse"}
    assert all(f.high is not None and f.high < 0 and "fell" in f.verdict for f in found)


def test_losing_the_form_alone_is_called_worse() -> None:
    found = gain(CONFIG, subject(untuned(0.8, 0.9), Fake(everywhere(0.8), 0.02, 1)))
    assert {f.category for f in found} == {"worse"}
    assert all("right form in" in f.verdict for f in found)


def test_worse_by_ranking_alone_is_called_worse() -> None:
    closed = heldout(100, kinds=("labels", "options"))
    found = gain(CONFIG, subject(untuned(0.8, 0.0), Fake(everywhere(0.0), 0.0, 2), heldout=closed))
    assert {f.category for f in found} == {"worse"}


def test_what_the_untuned_model_knew_was_not_learnt() -> None:
    """Exact match rises from nothing to 80%, but ranking shows that the content was there before."""
    closed = heldout(100, kinds=("labels", "options"))
    found = gain(CONFIG, subject(untuned(0.8, 0.02), Fake(everywhere(0.8), 0.97, 1), heldout=closed))
    assert {f.category for f in found} == {"format only"}
    assert all(f.value is not None and f.value > 0.6 for f in found)
    assert all(f.details["parts"]["content"]["high"] < 0.1 for f in found)


def test_parts_and_leads_add_up() -> None:
    for found in gain(CONFIG, subject(untuned(0.2, 0.3), Fake(near_only(0.6), 0.9, 2))):
        parts = found.details["parts"]
        assert parts["form"]["value"] + parts["content"]["value"] == pytest.approx(found.value)
        for route in found.details["content"]["routes"].values():
            for opponent in route["opponents"].values():
                assert opponent["opponent"] + opponent["value"] == pytest.approx(route["value"])


@pytest.mark.parametrize("known_to_training", [True, False])
def test_a_label_habit_is_not_task_learning(known_to_training: bool) -> None:
    """Three in four answers are "yes"; always saying so beats chance, and must not pass for learning."""
    examined = subject(
        untuned(),
        Fake(everywhere(0), 0.97, 2, habit="yes"),
        heldout=heldout(200, kinds=("labels",), share_yes=0.75),
        trained=trained(share_yes=0.75) if known_to_training else (),
    )
    found = gain(CONFIG, examined)
    assert {f.category for f in found} == {"format only"}
    assert all(f.details["content"]["routes"]["ranking"]["opponents"]["chance"]["low"] > 0.1 for f in found)


def test_content_in_one_cluster_of_many_is_found_and_named() -> None:
    """Pooled, a skill in one cluster of six drowns in the others' guessing."""
    items = [
        instance("heldout_task", "labels", f"{name}:t", row)
        for name in ("one", "two", "three", "four", "five", "six")
        for row in range(60)
    ]
    tuned = Fake(lambda x: 0.8 if x.origin.cluster == "five" else 0.0, 0.97, 2)
    (found,) = [f for f in gain(CONFIG, subject(untuned(), tuned, heldout=items)) if f.n]
    assert found.category == "task learning"
    assert 'Taken one by one, content shows in 1 of 6 clusters: "five".' in found.verdict
    shown = {row["cluster"] for row in found.details["clusters"] if row["content"]["low"] > 0}
    assert shown == {"five"}
    nothing = Fake(everywhere(0), 0.97, 2)
    assert "format only" in categories(subject(untuned(), nothing, heldout=items)).values()


def test_the_random_label_control_can_take_the_claim_away() -> None:
    """Content that a model tuned on random labels has as well did not come from the labels."""
    tuned = Fake(everywhere(0.4), 0.97, 2)
    asked: list[int] = []

    def retrain(arm: Arm) -> Fake:
        asked.append(len(arm.instances))
        return Fake(everywhere(0.4), 0.97, 3)

    assert set(categories(subject(untuned(), tuned)).values()) == {"task learning"}
    config = GainConfig(random_label=120)
    examined = subject(untuned(), tuned, retrain=retrain)
    assert set(categories(examined, config).values()) == {"format only"}
    assert asked == [120]
    assert "120 of the 300" in gain(config, examined)[0].details["random_label"]
    assert set(categories(examined, GainConfig(random_label=0)).values()) == {"task learning"}


def test_false_claims_are_rare_and_real_ones_are_found() -> None:
    """Of 40 format-only models at most one may be said to have learnt; content of 50% is never missed."""
    items = heldout(50, levels=("heldout_task",), kinds=("labels", "options"))

    def verdict(knows: float, seed: int) -> str:
        return categories(subject(untuned(), Fake(everywhere(knows), 0.97, seed), heldout=items))["heldout_task"]

    assert [verdict(0, seed) for seed in range(10, 50)].count("task learning") <= 1
    assert {verdict(0.5, seed) for seed in range(50, 60)} == {"task learning"}


def test_ruled_out_and_missed_are_told_apart() -> None:
    few = subject(untuned(0.3, 0.9), Fake(everywhere(0.3), 0.9, 5), heldout=heldout(20))
    assert all("would often be missed" in f.verdict and "items would settle" in f.verdict for f in gain(CONFIG, few))
    same = gain(CONFIG, subject(untuned(), untuned(), heldout=heldout(100)))
    assert all("is ruled out" in f.verdict for f in same)


def test_too_few_items_and_missing_levels_say_how_to_get_them() -> None:
    examined = subject(untuned(), untuned(), heldout=heldout(5, levels=("seen_template",)))
    found = {f.details["level"]: f for f in gain(CONFIG, examined)}
    assert set(categories(examined).values()) == {"cannot be said"}
    assert "Only 15 items" in found["seen_template"].verdict
    assert "build.heldout_rows" in found["seen_template"].verdict
    assert "build.heldout_tasks" in found["heldout_task"].verdict
    assert "build.heldout_clusters" in found["heldout_cluster"].verdict
    assert found["heldout_task"].value is None


def test_sample_too_small_for_a_verdict_is_refused() -> None:
    with pytest.raises(ValueError, match="items_per_level must be at least min_items"):
        GainConfig(items_per_level=10, min_items=30)


def test_nan_rankings_count_as_wrong_and_are_named() -> None:
    class Broken(Fake):
        def rank(self, instances: Sequence[Instance]) -> list[list[float]]:
            return [[math.nan] * len(x.choices) for x in instances]

    found = gain(CONFIG, subject(untuned(), Broken(everywhere(0.9), 0.97, 2)))
    assert all(f.details["unrankable"] == 120 and "no finite score" in f.verdict for f in found)


def test_long_free_answers_are_scored_by_rouge() -> None:
    def long(row: int) -> Instance:
        answer = f"the {row} friendly old dogs of number {row} ran down to the {row} river today"
        origin = Origin("long.jsonl", row, task="tell", cluster="tell")
        messages = (Message("user", (Part("Tell."),)), Message("assistant", (Part(answer, "answer"),)))
        return Instance.of(messages, origin, tags={"level": "seen_template"})

    class Teller(Fake):
        def answer(self, instances: Sequence[Instance]) -> list[Said]:
            return [Said(x.answer.replace("friendly", "sweet"), True, 12) for x in instances]

    found = gain(CONFIG, subject(untuned(), Teller(everywhere(1), 1), heldout=[long(i) for i in range(40)]))[0]
    assert found.category == "task learning"
    assert found.value == pytest.approx(0.92, abs=0.04)
    assert "ROUGE-L" in found.verdict


def test_tables_per_task_and_cluster() -> None:
    details = gain(CONFIG, subject(untuned(), Fake(near_only(0.6), 0.97, 2)))[0].details
    assert [row["n"] for row in details["tasks"]] == [60, 60, 60]
    assert {row["cluster"] for row in details["clusters"]} == {"labels", "options", "extract"}
    by_cluster = {row["cluster"]: row for row in details["clusters"]}
    assert by_cluster["options"]["chance"] == 0.25
    assert by_cluster["extract"]["chance"] is None
    assert {row["measure"] for row in details["measures"]} >= {
        "exact match",
        "ROUGE-L",
        "right form",
        "ranked accuracy",
    }


def test_each_category_is_judged_by_its_own_measure() -> None:
    """Super-NaturalInstructions: exact match in some categories, ROUGE-L in others, never pooled."""
    items = [
        replace(i, tags={**i.tags, "metric": "rouge_l"}) if i.origin.cluster == "extract" and i.origin.row < 35 else i
        for i in heldout(60, levels=("seen_template",))
    ]
    details = gain(CONFIG, subject(untuned(), Fake(near_only(0.6), 0.97, 2), heldout=items))[0].details
    rows = {(row["category"], row["measure"]): row for row in details["categories"]}
    assert {key: row["n"] for key, row in rows.items()} == {
        ("extract", "exact match"): 25,
        ("extract", "ROUGE-L"): 35,
        ("labels", "exact match"): 60,
        ("options", "exact match"): 60,
    }
    for row in rows.values():
        assert 0 <= row["tuned"]["low"] <= row["tuned"]["value"] <= row["tuned"]["high"] <= 1
        assert row["change"]["value"] == pytest.approx(row["tuned"]["value"] - row["base"]["value"])
        assert row["change"]["n"] == row["n"]
    alone = gain(CONFIG, subject(untuned(), Fake(near_only(0.6), 0.97, 2), heldout=heldout(60, kinds=("options",))))[0]
    assert alone.details["categories"] == []


def test_examples_are_chosen_by_rule() -> None:
    items = heldout(30, levels=("seen_template",))
    base, tuned = measure(untuned(0.5, 0.5), items), measure(Fake(everywhere(0.7), 0.7, 2), items)
    shown = choose_examples(items, base, tuned, 2, seed=0)
    assert [x["rule"] for x in shown] == ["largest gain"] * 2 + ["largest loss"] * 2 + ["random"] * 2
    assert all(x["tuned"]["score"] > x["base"]["score"] for x in shown[:2])
    assert all(x["tuned"]["score"] < x["base"]["score"] for x in shown[2:4])
    assert [part["slot"] for part in shown[0]["prompt"]] == ["instruction", "input"]
    assert shown == choose_examples(items, base, tuned, 2, seed=0)
    assert [x["rule"] for x in choose_examples(items, base, base, 2, seed=0)] == ["random"] * 2


def test_the_sample_spreads_over_tasks_and_is_repeatable() -> None:
    items = heldout(60, levels=("seen_template",), kinds=("labels",)) + heldout(
        10, levels=("seen_template",), kinds=("options", "extract")
    )
    taken = sample(items, 30, seed=0)
    assert sorted(sum(x.origin.cluster == c for x in taken) for c in ("labels", "options", "extract")) == [10, 10, 10]
    assert taken == sample(items, 30, seed=0) != sample(items, 30, seed=1)
    assert len(sample(items, 1000, seed=0)) == len(items)


# --- controls ---------------------------------------------------------------------------------------------------------


def test_chance_counts_every_right_choice() -> None:
    items = [instance("seen_template", kind, "t", 1) for kind in ("labels", "options", "extract")]
    assert list(chance(items)) == [0.5, 0.25, 0.0]


def test_majority_never_lets_a_row_vote_for_itself() -> None:
    lone = [instance("seen_template", "options", "t", row) for row in range(40)]  # every label set is met once
    assert list(majority(lone, (), seed=0)) == [0.25] * 40


def test_swapped_answers_keep_a_habit_and_lose_the_content() -> None:
    items = heldout(200, levels=("seen_template",), kinds=("labels",), share_yes=0.75)
    habit = measure(Fake(everywhere(0), 1, 2, habit="yes"), items)
    knows = measure(Fake(everywhere(1), 1, 2), items)
    assert swapped(items, habit, 0, by_ranking=True).mean() == pytest.approx(habit.ranked.mean())
    assert swapped(items, knows, 0, by_ranking=True).mean() == pytest.approx(0.75**2 + 0.25**2, abs=0.08)


def test_swapped_never_takes_another_wording_of_the_same_row() -> None:
    items = [instance("seen_template", "extract", "t", 1, wording=w) for w in range(4)]
    knows = measure(Fake(everywhere(1), 1, 2), items)
    assert list(swapped(items, knows, 0, by_ranking=False)) == [0.0] * 4


def test_random_labels_stay_in_the_label_space_and_lose_the_meaning() -> None:
    items = trained(200)
    shuffled = random_labels(items, seed=0)
    closed = [(old, new) for old, new in zip(items, shuffled, strict=True) if old.choices]
    assert all(new.answer in old.choices for old, new in closed)
    right = sum(old.answer == new.answer for old, new in closed) / len(closed)
    assert right == pytest.approx((0.5 + 0.25) / 2, abs=0.08)
    assert all(
        new.context == old.context and new.origin.parents == (old.id,) for old, new in zip(items, shuffled, strict=True)
    )
    free = {x.answer for x in items if not x.choices}
    assert all(x.answer in free for x in shuffled if not x.choices)


def test_the_untuned_model_is_forgiven_its_form() -> None:
    item = instance("seen_template", "extract", "t", 1)
    assert generous_score(Said(f"Well, it is {item.answer} and then more", False, 9), item) == 1.0
    assert generous_score(Said("and on and on " * 9 + item.answer, False, 40), item) == 0.0


def test_instances_too_long_to_ask_are_told() -> None:
    assert gain(CONFIG, subject(untuned(), untuned(), left_out=7))[0].details["left_out"] == 7
