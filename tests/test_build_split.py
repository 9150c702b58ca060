"""Splits that mean something: whole clusters with what is close to them, and rows that share a source on one side."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from didact.build import BuildConfig, build
from didact.build.plan import LEFT_OUT, plan, read
from didact.build.repeats import Repeats
from didact.build.rows import Rows
from didact.errors import UsageError
from didact.instance import Drop, Instance
from didact.sources import FileSource, Row, Task, open_source
from didact.template import Template

ASK = (Template("t", prompt="{{ q }}?", answer="{{ a }}"), Template("u", prompt="Say {{ q }}.", answer="{{ a }}"))
PREMISE = "a premise that is long enough to be a source of its own, number"


def task(name: str, cluster: str = "", rows: Sequence[dict[str, Any]] = (), **more: Any) -> Task:
    data = list(rows) or [{"q": f"{name} {i}", "a": str(i)} for i in range(20)]

    def again() -> Iterator[Row]:
        return (Row(f"{name}.jsonl", number, dict(row)) for number, row in enumerate(data, 1))

    return Task(name, cluster or name, "MIT", again, ASK, **more)


def built(tasks: Sequence[Task], drops: list[Drop] | None = None, **settings: Any) -> list[Instance]:
    return list(build(tasks, BuildConfig(**settings), (drops if drops is not None else []).append))


def trained(instances: Sequence[Instance]) -> set[str]:
    return {i.origin.task for i in instances if i.tags["split"] == "train"}


BOTH = "read_comp_with_commonsense"
FLAN = [
    "nli",
    "Paraphrase Detection",
    "reading comprehension",
    "commonsense",
    BOTH,
    "sentiment",
]


@pytest.mark.parametrize(
    ("held", "gone"),
    [
        ("nli", {"Paraphrase Detection"}),
        ("Paraphrase Detection", {"nli"}),
        (BOTH, {"reading comprehension", "commonsense"}),
        ("commonsense", {BOTH}),
        ("reading comprehension", {BOTH}),
        ("sentiment", set()),
    ],
)
def test_holding_a_cluster_out_takes_what_is_close_to_it_out_of_training(held: str, gone: set[str]) -> None:
    drops: list[Drop] = []
    instances = built([task(name) for name in FLAN], drops, heldout_clusters=[held])
    assert trained(instances) == set(FLAN) - gone - {held}
    assert {i.origin.task for i in instances} == set(FLAN) - gone  # nor is it tested on
    assert {drop.origin.task for drop in drops} == gone
    assert all(d.reason == LEFT_OUT and d.detail.endswith(f"cluster {held} is held out") for d in drops)


def test_the_rule_can_be_changed_and_does_not_hold_for_tasks() -> None:
    tasks = [task(name) for name in FLAN]
    assert trained(built(tasks, heldout_clusters=["nli"], leave_out={})) == set(FLAN) - {"nli"}
    mine = built(tasks, heldout_clusters=["nli"], leave_out={"nli": ["sentiment"]})
    assert trained(mine) == set(FLAN) - {"nli", "sentiment"}
    assert trained(built(tasks, heldout_tasks=["nli"])) == set(FLAN) - {"nli"}
    with pytest.raises(UsageError, match=r"^build: every task is held out"):
        built([task("nli"), task("paraphrase")], heldout_clusters=["nli"])


def pairs(n: int, each: int, apart: bool) -> list[dict[str, Any]]:
    order = [i % (n // each) if apart else i // each for i in range(n)]
    return [{"premise": f"{PREMISE} {k}", "q": f"{i}", "a": "yes"} for i, k in enumerate(order)]


@pytest.mark.parametrize("apart", [False, True])
def test_rows_that_share_a_long_text_stay_on_one_side_without_being_told(apart: bool) -> None:
    rows = pairs(300, 3, apart)
    instances = built([task("nli", rows=rows)], heldout_rows=0.3)
    sides: dict[str, set[str]] = {}
    for instance in instances:
        sides.setdefault(rows[instance.origin.row - 1]["premise"], set()).add(instance.tags["split"])
    assert len(sides) == 100
    assert all(len(found) == 1 for found in sides.values())
    off = built([task("nli", rows=rows)], heldout_rows=0.3, find_groups=False)
    held = {rows[i.origin.row - 1]["premise"] for i in off if i.tags["split"] == "heldout"}
    assert held & {rows[i.origin.row - 1]["premise"] for i in off if i.tags["split"] == "train"}


def test_what_was_found_is_told() -> None:
    config, rows = BuildConfig(heldout_rows=0.3), Rows()
    tasks = [task("nli", rows=pairs(90, 3, False)), task("other")]
    found = read(tasks, config, rows, lambda drop: None, lambda done: None)
    assert found == ["premise", ""]
    made = plan(tasks, config, rows, found)
    assert made.notes == (
        'task "nli": rows that share "premise" stay on one side (it repeats, and the source names no group)',
    )
    assert list(made.groups) == [("premise",), ()]


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        (lambda i: f"{PREMISE} {i // 3}", "text"),
        (lambda i: f"{PREMISE} {i % 20_000}", "text"),  # far apart in the file
        (lambda i: f"{PREMISE} {i}", ""),  # never repeats
        (lambda i: PREMISE, ""),  # an instruction that stands in every row
        (lambda i: f"{PREMISE} {i % 4}", ""),  # a label in many words
        (lambda i: f"short {i // 3}", ""),
        (lambda i: f"{PREMISE} {0 if i % 20 == 0 else i}", ""),  # seldom
    ],
)
def test_which_columns_hold_a_shared_source(column: Any, wanted: str) -> None:
    repeats = Repeats()
    for i in range(60_000):
        repeats.look({"id": i, "label": "yes" if i % 2 else "no", "text": column(i)})
    assert repeats.column() == wanted
    assert all(len(counts) <= 4096 for counts in repeats.counts.values())


def test_groups_of_the_source_come_first() -> None:
    rows = [{**row, "g": str(i % 2)} for i, row in enumerate(pairs(300, 3, False))]
    instances = built([task("nli", rows=rows, group=("g",))], heldout_rows=1)
    assert len({i.origin.row % 2 for i in instances if i.tags["split"] == "heldout"}) == 1
    assert len({i.origin.row % 2 for i in instances if i.tags["split"] == "train"}) == 1


def test_rows_come_back_from_memory_and_from_disk_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datetime
    import decimal

    import didact.build.rows as module

    monkeypatch.setattr(module, "IN_MEMORY", 400)
    data = {
        "text": "a\u2028b\x85\ud800 {{ x }} \0", "none": None, "list": [1, 2.5, {"k": "v"}],
        "odd": [{"\0": "bytes"}, {"\0": "bytes", "value": "?"}, {"\0": ["x"], "value": "y"}],
        "odder": {"\0": "date", "value": 1},
        "day": datetime.date(2020, 1, 2),
        "when": datetime.datetime(2020, 1, 2, 3, 4), "price": decimal.Decimal("1.10"), "raw": b"\x00\xff",
    }  # fmt: skip
    rows = Rows(tmp_path)
    for number in range(1, 6):
        rows.add(Row("one" if number < 5 else "other", number, {**data, "n": number}), number, 0)
    rows.end_task()
    rows.end_task()
    rows.finish()
    rows.save()
    for kept in (rows, Rows.load(tmp_path)):
        found = list(kept.of_task(0))
        assert [row.data for row in found] == [{**data, "n": number} for number in range(1, 6)]
        assert [(row.source, row.number) for row in found[3:]] == [("one", 4), ("other", 5)]
        assert kept.task_of(4) == 0
        assert list(kept.of_task(1)) == []
    assert (tmp_path / "rows.jsonl").stat().st_size > 400


def test_a_file_beside_its_copy_is_counted_as_leaked(tmp_path: Path) -> None:
    """A dev file that is the test file: every one of its rows is held out in one task and learnt in another."""
    rows = [{"q": f"what is {i} and {i}", "a": str(2 * i)} for i in range(30)]
    for name in ("dev", "test"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "t.yaml").write_text('templates: [{name: t, prompt: "{{ q }}?", answer: "{{ a }}"}]')
    from didact.build.report import mixture_of
    from didact.build.shards import build_in

    def open_tasks(drop: Any) -> list[Task]:
        sources = [FileSource(path=f"{name}.jsonl", templates="t.yaml") for name in ("dev", "test")]
        return [task for source in sources for task in open_source(source, tmp_path, drop)]

    config = BuildConfig(heldout_tasks=["test"], heldout_rows=0)
    made = mixture_of(build_in(tmp_path / "work", "k", open_tasks, config, lambda *_: None))
    assert made["leaks"]["same"] == {"dev": 30}
    assert Counter(made["leaks"]["shares 13 words"]) == {}
