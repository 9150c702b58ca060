"""mixing: the rates that were asked for are the rates that come out, without a row used twice unless that is asked."""

from __future__ import annotations

import runpy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from didact.build import BuildConfig, build
from didact.build.config import MixingConfig, presets
from didact.build.mixing import Supply, cap, mix
from didact.errors import UsageError
from didact.instance import Drop, Instance
from didact.recipe import parse_recipe
from didact.sources import Row, Task
from didact.template import Template
from didact.token_count import tokenizer_json

SIZES = {"flan2021/a": 40, "flan2021/b": 400, "t0/c": 2000, "cot/d": 100}
ASK = tuple(Template(f"t{i}", prompt=f"{i}: {{{{ q }}}}?", answer="{{ a }}") for i in range(4))


def tasks() -> list[Task]:
    def rows(name: str, n: int) -> Iterator[Row]:
        return (Row(name, number, {"q": f"{name} {number}", "a": str(number)}) for number in range(1, n + 1))

    return [
        Task(name, name.split("/")[0], "MIT", lambda name=name, n=n: rows(name, n), ASK)  # type: ignore[misc]
        for name, n in SIZES.items()
    ]


def made(**settings: Any) -> list[Instance]:
    drops: list[Drop] = []
    config = BuildConfig(**{"heldout_rows": 0, **settings})
    found = list(build(tasks(), config, drops.append, tokenizer_json("starter")))
    assert not drops
    return found


def counted(instances: list[Instance]) -> dict[str, int]:
    return {name: Counter(i.origin.task for i in instances)[name] for name in SIZES}


def rates(instances: list[Instance]) -> dict[str, float]:
    return {name: n / len(instances) for name, n in counted(instances).items()}


@pytest.mark.parametrize(
    ("mixing", "asked"),
    [
        ({"by": "size"}, [40, 400, 2000, 100]),
        ({"by": "equal"}, [1, 1, 1, 1]),
        ({"by": "capped", "maximum": 200}, [40, 200, 200, 100]),
        ({"by": "temperature", "temperature": 2, "maximum": 10_000}, [40**0.5, 400**0.5, 2000**0.5, 10]),
        ({"by": "temperature", "temperature": 1, "maximum": 200}, [40, 200, 200, 100]),
        ({"by": "weights", "weights": {"flan2021/*": 1, "t0": 2, "cot/d": 1}}, [1 / 11, 10 / 11, 2, 1]),
    ],
)
@pytest.mark.parametrize("total", [None, 150, 5000])
def test_the_rates_that_come_out_are_those_asked_for(mixing: dict[str, Any], asked: list[float], total: int) -> None:
    instances = made(mixing={**mixing, "total": total})
    for found, wanted in zip(rates(instances).values(), asked, strict=True):
        assert found == pytest.approx(wanted / sum(asked), abs=1.01 / len(instances))
    assert all(n <= SIZES[name] for name, n in counted(instances).items())
    assert len({(i.origin.task, i.origin.row) for i in instances}) == len(instances)
    if total == 150:
        assert len(instances) == 150


def test_a_total_beyond_what_there_is_keeps_the_rates_and_says_so_or_repeats_rows_in_other_words() -> None:
    supplies = [Supply("a", "x", 40, 4, 40), Supply("b", "x", 400, 4, 400)]
    mixture = mix(supplies, MixingConfig(by="equal", total=200))
    assert mixture.quotas == {"a": 40, "b": 40}
    assert mixture.notes == (
        '80 of 200 instances: task "a" has no more than 40 (its rate is 50.00%); mixing.repeat uses rows again',
    )
    again = made(mixing={"by": "equal", "total": 400, "repeat": True})
    assert counted(again) == dict.fromkeys(SIZES, 100)
    words = Counter((i.origin.task, i.origin.row, i.tags["template"]) for i in again)
    assert max(words.values()) == 1
    times = Counter(i.origin.row for i in again if i.origin.task == "flan2021/a")
    assert set(times.values()) == {2, 3}


def test_caps_by_task_and_by_glob() -> None:
    assert counted(made(max_per_task=90)) == {"flan2021/a": 40, "flan2021/b": 90, "t0/c": 90, "cot/d": 90}
    by_glob = made(max_per_task={"flan2021/*": 30, "t0": 500})
    assert counted(by_glob) == {"flan2021/a": 30, "flan2021/b": 30, "t0/c": 500, "cot/d": 100}
    assert counted(made(max_per_task=90, mixing={"by": "capped", "maximum": 60}))["t0/c"] == 60


def test_t0_counts_a_task_once_per_template_up_to_the_maximum() -> None:
    found = made(
        templates_per_row=9, heldout_templates=0, mixing={"by": "capped", "maximum": 400, "per_template": True}
    )
    assert counted(found) == {"flan2021/a": 160, "flan2021/b": 1600, "t0/c": 400, "cot/d": 400}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "weights"}, "mixing by weights needs weights"),
        ({"by": "equal", "weights": {"a": 1}}, "weights count only with by: weights, and this is by: equal"),
        ({"repeat": True}, "repeat needs a total"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^r.yaml:2:build.mixing: {message}"):
        parse_recipe(f"name: r\nbuild: {{mixing: {settings}}}".replace("True", "true"), "r.yaml")


def test_weights_that_match_nothing_are_refused_unless_a_preset_brought_them() -> None:
    with pytest.raises(UsageError, match=r'^build.mixing.weights: "t9/\*" matches no task - use one of: cot, '):
        made(mixing={"by": "weights", "weights": {"t9/*": 1}})
    with pytest.raises(UsageError, match="every task has weight 0"):
        mix([Supply("x", "x", 9, 1, 9)], BuildConfig.model_validate({"preset": "flan-collection"}).mixing, preset=True)


def test_a_task_that_no_weight_is_for_is_named() -> None:
    supplies = [Supply("a", "x", 40, 4, 40), Supply("b", "y", 40, 4, 40), Supply("c", "z", 9, 1, 9, "super-ni/c")]
    mixture = mix(supplies, MixingConfig(by="weights", weights={"a": 1, "super-ni/*": 1}))
    assert mixture.quotas == {"a": 9, "b": 0, "c": 9}
    assert mixture.notes == ("no weight is for b: nothing of it",)
    assert cap(("c", "z", "super-ni/c"), {"super-ni/*": 5, "*": 7}) == 5
    assert cap(("b", "y", ""), {"super-ni/*": 5}) is None


def test_presets_give_the_published_numbers_and_the_recipe_changes_them() -> None:
    flan = BuildConfig.model_validate({"preset": "flan2021"})
    assert (flan.max_per_task, flan.mixing.by, flan.mixing.maximum) == (30000, "capped", 3000)
    assert (flan.options.share, flan.options.layouts, flan.few_shot.share) == (1.0, ["dashes"], 0.0)
    other = BuildConfig.model_validate({"preset": "flan2021", "mixing": {"maximum": 99}, "options": {"share": 0.2}})
    assert (other.mixing.by, other.mixing.maximum, other.options.share) == ("capped", 99, 0.2)
    assert other.options.layouts == ["dashes"]
    assert BuildConfig.model_validate(other.model_dump(mode="json")) == other  # as a run's folder keeps it
    both = BuildConfig.model_validate({"preset": "flan-collection"})
    assert both.mixing.weights == {
        "flan2021/*": 0.40, "t0/*": 0.32, "super-ni/*": 0.20, "cot/*": 0.05, "dialog/*": 0.03
    }  # fmt: skip
    assert list(both.max_per_task.values()) == [30000, 20000, 5000, 100000, 200000]  # type: ignore[union-attr]
    assert (both.few_shot.share, both.few_shot.max_tokens, both.inverted) == (0.5, 1920, 0.3)
    t0 = BuildConfig.model_validate({"preset": "t0"})
    assert (t0.mixing.maximum, t0.mixing.per_template, t0.templates_per_row) == (500_000, True, 1000)
    ni = BuildConfig.model_validate({"preset": "super-ni"})
    assert (ni.max_per_task, ni.heldout_per_task) == (100, 100)
    with pytest.raises(UsageError, match=r"^r.yaml:1:build.preset: .*flan2021"):
        parse_recipe("build: {preset: flan}", "r.yaml")


def test_the_flan_collection_mixes_the_parts_that_are_there() -> None:
    found = rates(made(preset="flan-collection", mixing={"total": 300}))
    for name, rate in {"t0/c": 0.32, "cot/d": 0.05}.items():
        assert found[name] == pytest.approx(rate / 0.77, abs=0.01)
    assert found["flan2021/a"] + found["flan2021/b"] == pytest.approx(0.40 / 0.77, abs=0.01)


def test_every_preset_says_where_it_is_from_and_builds() -> None:
    for name, preset in presets().items():
        assert "arXiv" in preset["source"]
        assert made(preset=name), name


def test_the_page_about_presets_says_what_they_are() -> None:
    root = Path(__file__).resolve().parents[1]
    page = runpy.run_path(str(root / "tools" / "preset_reference.py"))["reference"]()
    assert (root / "docs" / "presets.md").read_text("utf-8") == page, "run: python tools/preset_reference.py"
    for name, preset in presets().items():
        assert f"## {name}\n\nSource: {preset['source']}." in page


def test_another_way_of_mixing_leaves_the_weights_of_a_preset_behind() -> None:
    config = BuildConfig.model_validate({"preset": "flan-collection", "mixing": {"by": "size"}})
    assert (config.mixing.by, config.mixing.weights) == ("size", {})
    kept = BuildConfig.model_validate({"preset": "flan-collection", "mixing": {"maximum": 10}})
    assert (kept.mixing.by, len(kept.mixing.weights)) == ("weights", 5)


def test_instructblip_draws_tasks_by_the_square_root_of_their_size() -> None:
    found = rates(made(preset="instructblip", mixing={"total": 400}))
    whole = sum(size**0.5 for size in SIZES.values())
    for name, size in SIZES.items():
        assert found[name] == pytest.approx(size**0.5 / whole, abs=0.02)
