"""build: what is held out stays out, the same seed gives the same instances, caps and references hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from didact.build import OUTSIDE, BuildConfig, build
from didact.errors import UsageError
from didact.formats import detect
from didact.instance import Drop, Instance
from didact.sources import Row, Task
from didact.template import Template
from didact.token_count import counter, tokenizer_json

ASK = tuple(Template(f"t{i}", prompt=f"{i}: {{{{ q }}}}?", answer="{{ a }}") for i in range(4))


def task(name: str = "one", rows: Sequence[dict[str, Any]] = (), n: int = 40, **more: Any) -> Task:
    data = list(rows) or [{"q": f"{name} {i}", "a": str(i)} for i in range(n)]

    def again() -> Iterator[Row]:
        return (Row("rows.jsonl", number, dict(row)) for number, row in enumerate(data, 1))

    return Task(**{"name": name, "cluster": name, "licence": "MIT", "rows": again, "templates": ASK, **more})


def built(tasks: Sequence[Task], drops: list[Drop] | None = None, **settings: Any) -> list[Instance]:
    config, taken = BuildConfig(**settings), drops if drops is not None else []
    return list(build(tasks, config, taken.append, tokenizer_json("starter") if config.few_shot.share else ""))


def side(instances: Sequence[Instance], split: str) -> list[Instance]:
    return [instance for instance in instances if instance.tags["split"] == split]


def levels(instances: Sequence[Instance]) -> Counter[tuple[str, str]]:
    return Counter((i.origin.task, i.tags.get("level", "train")) for i in instances)


def test_the_four_levels() -> None:
    tasks = [task("one"), task("two"), task("three"), task("four", cluster="far")]
    found = levels(built(tasks, heldout_clusters=["f*"], heldout_tasks=["thr*"], heldout_rows=5))
    assert found == {
        ("one", "train"): 35, ("one", "seen_template"): 5, ("one", "heldout_template"): 5,
        ("two", "train"): 35, ("two", "seen_template"): 5, ("two", "heldout_template"): 5,
        ("three", "heldout_task"): 40, ("four", "heldout_cluster"): 40,
    }  # fmt: skip


def test_no_held_out_row_and_no_held_out_template_is_in_training() -> None:
    instances = built([task(n=60)], heldout_rows=0.3, heldout_templates=2, templates_per_row=4)
    train, heldout = side(instances, "train"), side(instances, "heldout")
    assert {i.origin.row for i in train} & {i.origin.row for i in heldout} == set()
    unseen = {i.tags["template"] for i in heldout if i.tags["level"] == "heldout_template"}
    assert len(unseen) == 2
    assert unseen.isdisjoint(i.tags["template"] for i in train)
    seen = {i.tags["template"] for i in heldout if i.tags["level"] == "seen_template"}
    assert seen == {i.tags["template"] for i in train}
    assert {i.origin.row for i in instances} == set(range(1, 61))


def test_a_group_or_equal_content_is_never_on_both_sides() -> None:
    rows = [{"q": f"{i}", "a": "x", "group": f"{i % 9}"} for i in range(90)]
    grouped = built([task(rows=rows, group=("group",))], heldout_rows=3)
    held = {int(i.origin.row - 1) % 9 for i in side(grouped, "heldout")}
    assert len(held) == 3
    assert held.isdisjoint((i.origin.row - 1) % 9 for i in side(grouped, "train"))
    twice = [{"q": f"{i % 20}", "a": "x"} for i in range(40)]
    instances = built([task(rows=twice)], heldout_rows=0.5)
    held = {i.origin.row % 20 for i in side(instances, "heldout")}
    assert held.isdisjoint(i.origin.row % 20 for i in side(instances, "train"))
    with pytest.raises(
        UsageError, match=r'^rows.jsonl:1:grp: the group column "grp" is missing - did you mean "group"\?$'
    ):
        built([task(rows=rows, group=("grp",))])


def test_the_same_seed_gives_the_same_instances_in_the_same_order() -> None:
    tasks = [task("one"), task("two")]
    first, again, other = built(tasks, seed=1), built(tasks, seed=1), built(tasks, seed=2)
    assert first == again
    assert [i.id for i in first] != [i.id for i in other]
    assert [i.origin.task for i in first[:20]] != ["one"] * 20


def test_more_rows_leave_the_sides_of_the_old_ones() -> None:
    few = {i.origin.row for i in side(built([task(n=50)], heldout_rows=0.3), "heldout")}
    many = {i.origin.row for i in side(built([task(n=99)], heldout_rows=0.3), "heldout")}
    assert few == {row for row in many if row <= 50}


def test_a_column_can_force_the_split() -> None:
    rows = [{"q": f"{i}", "a": "x", "_split": "heldout" if i < 4 else "train"} for i in range(20)]
    instances = built([task(rows=rows)], heldout_rows=0.5)
    assert {i.origin.row for i in side(instances, "heldout")} == {1, 2, 3, 4}
    assert len(side(instances, "train")) == 16


def test_caps() -> None:
    instances = built([task(n=90)], max_per_task=7, heldout_per_task=3, heldout_rows=0.5)
    assert levels(instances) == {("one", "train"): 7, ("one", "seen_template"): 3, ("one", "heldout_template"): 3}
    assert max(i.origin.row for i in side(instances, "train")) > 7  # drawn from the whole file, not from its top
    wider = built([task(n=90)], max_per_task=7, heldout_rows=0.1)
    assert {i.origin.row for i in side(instances, "train")} == {i.origin.row for i in side(wider, "train")}


def test_other_answers_of_a_group_are_references() -> None:
    rows = [{"q": f"q{i // 3}", "a": f"answer {i}"} for i in range(30)]
    instances = built([task(rows=rows, group=("q",), references=True)], heldout_rows=4, heldout_templates=0)
    heldout = side(instances, "heldout")
    assert len(heldout) == 4
    for instance in heldout:
        number = int(instance.prompt.split("q")[1].rstrip("?"))
        assert {instance.answer, *instance.references} == {f"answer {3 * number + k}" for k in range(3)}
    assert len(side(instances, "train")) == 18
    assert not any(instance.references for instance in side(instances, "train"))


def test_rows_that_give_no_instance_are_dropped_with_reason_and_origin() -> None:
    letter = Template("t", "{{ q }}", "{{ a }}", answer_choices="A ||| B", metadata={"metrics": "Accuracy"})
    drops: list[Drop] = []
    rows = [{"q": "x", "a": "A"}, {"q": "y", "a": "E"}, {"q": "z", "a": " "}]
    assert len(built([task(rows=rows, templates=(letter,))], drops, heldout_rows=0)) == 1
    assert sorted((d.reason, d.origin.row, d.origin.via) for d in drops) == [
        ("the answer is empty", 3, "template:t"),
        (OUTSIDE, 2, "template:t"),
    ]


def test_faulty_rows_stop_or_are_dropped() -> None:
    rows = [{"q": "x", "a": "1"}, {"q": "y"}]
    with pytest.raises(UsageError, match=r'^rows.jsonl:2:a: the template needs the column "a", which the row lacks'):
        built([task(rows=rows)], heldout_rows=0)
    drops: list[Drop] = []
    assert len(built([task(rows=rows, on_error="drop")], drops, heldout_rows=0)) == 1
    assert [drop.reason for drop in drops] == ["faulty row"]
    broken = Template("t", "{{ ''.__class__ }}", "{{ q }}", file="t.yaml")
    with pytest.raises(UsageError, match=r"^t.yaml:.*sandbox"):
        built([task(rows=rows, on_error="drop", templates=(broken,))], heldout_rows=0)


def test_ready_made_instructions_become_instances() -> None:
    rows = [{"instruction": f"i{i}", "output": "o"} for i in range(10)]
    ready = task(rows=rows, templates=(), mapping=detect(rows))
    instances = built([ready], heldout_rows=2)
    assert levels(instances) == {("one", "train"): 8, ("one", "seen_template"): 2}
    assert {i.origin.via for i in instances} == {"format:alpaca"}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"heldout_tasks": ["oen"]}, 'build.heldout_tasks: "oen" matches nothing - did you mean "one"?'),
        ({"heldout_clusters": ["x"]}, 'build.heldout_clusters: "x" matches nothing - use one of: one'),
        ({"heldout_tasks": ["one"]}, "build: every task is held out - hold fewer tasks or clusters out"),
        (
            {"heldout_rows": 40},
            'build.heldout_rows: task "one" has 40 groups of rows; holding 40 out leaves none to train on - hold fewer '
            "rows out",
        ),
    ],
)
def test_impossible_settings_are_told(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError) as raised:
        built([task()], **settings)
    assert str(raised.value) == line


def test_two_tasks_of_one_name_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r'^sources: two tasks are called "one" - give one source another name: task: NAME$'
    ):
        built([task(), task()])


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.fixed_dictionaries({"q": st.text(max_size=3), "a": st.text(max_size=3)}), min_size=2, max_size=30),
    share=st.floats(0, 0.9),
    seed=st.integers(0, 99),
    per_row=st.integers(1, 5),
)
def test_no_content_is_ever_on_both_sides(rows: list[dict[str, str]], share: float, seed: int, per_row: int) -> None:
    try:
        instances = built([task(rows=rows)], heldout_rows=share, seed=seed, templates_per_row=per_row)
    except UsageError as error:
        assert "every row is held out" in str(error)  # noqa: PT017 - both ends are right
        return
    contents = {True: set[str](), False: set[str]()}
    for instance in instances:
        contents[instance.tags["split"] == "train"].add(repr(rows[instance.origin.row - 1]))
    assert contents[True].isdisjoint(contents[False])


TOPICS = ["art", "law", "sea", "sky"]
CLOSED = (
    Template("ask", "What is {{ q }} about?", "{{ a }}", answer_choices="art ||| law ||| sea ||| sky"),
    Template("name", "Name the topic of {{ q }}.", "{{ a }}", answer_choices="art ||| law ||| sea ||| sky"),
    Template("stated", "{{ q }}: art, law, sea or sky?", "{{ a }}", answer_choices="art ||| law ||| sea ||| sky"),
    Template("write", "Write about {{ a }}.", "{{ q }}", inverted=True),
)


def closed(n: int = 400, **more: Any) -> Task:
    rows = [{"q": f"text {i}", "a": TOPICS[i % 4], "why": f"because {i}", "g": str(i // 2)} for i in range(n)]
    return task(rows=rows, templates=CLOSED, **more)


def share(instances: Sequence[Instance], tag: str) -> float:
    return sum(tag in instance.tags for instance in instances) / len(instances)


def test_options_are_shown_in_a_share_of_the_instances_and_in_many_layouts() -> None:
    instances = built([closed()], options={"share": 0.5}, inverted=0.0, heldout_rows=0)
    open_ = [i for i in instances if i.tags["template"] != "stated"]
    assert share(open_, "options") == pytest.approx(0.5, abs=0.1)
    assert not any("options" in i.tags for i in instances if i.tags["template"] == "stated")  # it lists them itself
    assert len({i.tags.get("options") for i in open_}) > 10
    for instance in open_:
        assert ("options" in instance.tags) == all(topic in instance.prompt for topic in TOPICS)
        assert instance.answer in instance.choices == tuple(TOPICS)
    lines = built([closed()], options={"share": 1, "layouts": ["dashes"], "shuffle": False}, inverted=0.0)
    shown = next(i for i in lines if i.tags["template"] == "ask")
    assert shown.prompt.endswith("about?\nOptions:\n- art\n- law\n- sea\n- sky")
    orders = {i.prompt.split("Options:")[1] for i in built([closed()], options={"share": 1, "layouts": ["dashes"]})
              if "options" in i.tags}  # fmt: skip
    assert len(orders) == 24


def test_a_mark_can_be_the_answer() -> None:
    layout = {"share": 1, "layouts": ["letters-dot"], "answer": "mark"}
    for instance in built([closed()], options=layout, inverted=0.0):
        if "options" in instance.tags:
            assert instance.choices == ("A", "B", "C", "D")
            topic = TOPICS[(instance.origin.row - 1) % 4]
            assert f"{instance.answer}. {topic}" in instance.prompt


def test_examples_are_training_rows_of_other_groups_in_the_same_template() -> None:
    tasks = [closed(group=("g",)), task("far", n=30)]
    instances = built(
        tasks, few_shot={"share": 0.5, "shots": [3], "layouts": ["plain"]}, heldout_rows=0.3, heldout_tasks=["far"]
    )
    own = [i for i in instances if i.origin.task == "one"]
    assert share(own, "shots") == pytest.approx(0.5, abs=0.1)
    held = {i.origin.row for i in side(own, "heldout")}
    for instance in own:
        if "shots" not in instance.tags:
            assert not instance.origin.parents
            continue
        rows = [int(parent.removeprefix("rows.jsonl:")) for parent in instance.origin.parents]
        assert len(rows) == int(instance.tags["shots"]) == 3
        assert held.isdisjoint(rows)
        groups = [(row - 1) // 2 for row in (instance.origin.row, *rows)]
        assert len(set(groups)) == 4
        demos = [part.value for part in instance.messages[0].parts if part.slot == "demo"]
        for row, demo in zip(rows, demos, strict=True):
            template = next(t for t in CLOSED if t.name == instance.tags["template"])
            rendered = template.render({"q": f"text {row - 1}", "a": TOPICS[(row - 1) % 4]})
            assert demo == "".join(part.value for part in rendered.parts) + f"\n{rendered.answer}\n\n"
    far = [i for i in instances if i.origin.task == "far"]
    assert len(far) == 30
    assert not any("shots" in i.tags for i in far)  # it has no row that may be shown


@pytest.mark.parametrize("layout", ["plain", "q-a", "examples"])
def test_examples_stay_within_their_budget_of_tokens(layout: str) -> None:
    count = counter(tokenizer_json("starter"))
    free = built([closed()], few_shot={"share": 1, "shots": [5], "layouts": [layout]})
    limit = sorted(count(i.prompt) for i in free)[len(free) // 2]
    few = built([closed()], few_shot={"share": 1, "shots": [5], "layouts": [layout], "max_tokens": limit})
    assert [i.origin.row for i in free] == [i.origin.row for i in few]
    assert any("pruned" in i.tags for i in few)
    for whole, pruned in zip(free, few, strict=True):
        assert count(pruned.prompt) <= limit
        if count(whole.prompt) <= limit:  # nothing is left out that has room
            assert pruned == whole
        else:
            assert int(pruned.tags["shots"]) + int(pruned.tags["pruned"]) == int(whole.tags["shots"])
            assert set(pruned.origin.parents) < set(whole.origin.parents)


def test_a_question_that_keeps_no_example_says_why() -> None:
    few = {"share": 1, "shots": [5], "max_tokens": 10}
    none = built([closed()], few_shot=few)
    assert {(i.tags["zero-shot"], i.tags["pruned"]) for i in none} == {("no example fits into the token budget", "5")}
    assert not any("shots" in i.tags or i.origin.parents for i in none)
    plain = built([closed()])
    assert {i.prompt for i in none} == {i.prompt for i in plain}
    alone = built([task("far", n=30), task("one")], few_shot={"share": 1}, heldout_tasks=["far"])
    found = {i.tags.get("zero-shot") for i in alone if i.origin.task == "far"}
    assert found == {"no other training row gives an example"}


def test_ready_made_instructions_that_were_drawn_for_examples_say_why_they_have_none() -> None:
    rows = [{"instruction": f"Name {n}", "output": f"it is {n}"} for n in range(400)]
    ready = task("ready", rows=rows, templates=(), mapping=detect(rows))
    instances = built([ready, closed()], few_shot={"share": 0.5})
    found = [i.tags.get("zero-shot") for i in instances if i.origin.task == "ready"]
    assert set(found) == {None, "ready-made instructions have no template for examples"}
    assert found.count(None) == pytest.approx(len(found) / 2, rel=0.2)
    assert not any("shots" in i.tags for i in instances if i.origin.task == "ready")
    assert not any("zero-shot" in i.tags for i in built([ready]))


def test_a_budget_without_a_tokenizer_is_refused() -> None:
    config = BuildConfig(few_shot={"share": 0.5})
    with pytest.raises(UsageError, match=r"^build.few_shot.tokenizer: .* no tokenizer is there .* - name one"):
        list(build([closed()], config, lambda drop: None))


def test_reasoning_comes_before_the_answer_in_training_only() -> None:
    reasons = {"share": 0.5, "columns": ["why"], "layouts": ["reasons"]}
    assert not any("cot" in i.tags and "inverted" in i.tags for i in built([closed()], rationale=reasons))
    instances = built([closed()], rationale=reasons, inverted=0.0)
    train = side(instances, "train")
    assert share(train, "cot") == pytest.approx(0.5, abs=0.1)
    assert share(side(instances, "heldout"), "cot") == 0
    for instance in train:
        row = instance.origin.row - 1
        if "cot" in instance.tags:
            assert instance.answer == f"because {row}\nAnswer: {TOPICS[row % 4]}"
            assert instance.prompt.endswith("\nGive your reasons first, then the answer.")
            assert instance.choices == ()
        else:
            assert instance.answer == TOPICS[row % 4]


def test_turned_around_templates_have_a_rate_of_their_own_and_are_not_tested_with() -> None:
    for rate in (0.0, 0.3, 1.0):
        instances = built([closed(1000)], inverted=rate)
        assert share(side(instances, "train"), "inverted") == pytest.approx(rate, abs=0.05)
        assert share(side(instances, "heldout"), "inverted") == 0
    every = built([closed()], templates_per_row=3, inverted=0.3, heldout_rows=0)
    by_row = Counter((i.origin.row, i.tags["template"]) for i in every)
    assert max(by_row.values()) == 1  # no row twice in the same words
    assert len(every) == 1200
