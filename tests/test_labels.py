"""Labels are matched by name: what a file counts and what a template counts are never taken for the same."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from didact.errors import UsageError
from didact.labels import LabelConfig, bind
from didact.template import Template

TREC = LabelConfig.model_validate(
    {
        "names": ["DESC", "ENTY", "ABBR"],
        "choices": {"ABBR": "Abbreviation", "ENTY": ["Entity", "Thing"], "DESC": "Description"},
    }
)


def template(
    text: str = "{{ text }} ||| {{ answer_choices[label] }}", choices: str | None = None, **more: Any
) -> Template:
    return Template("t", text, answer_choices=choices, source="promptsource", file="t.yaml", **more)


def answers(bound: Template) -> dict[str, str]:
    return {name: bound.render({"text": "x", "label": name}).answer for name in ("DESC", "ENTY", "ABBR")}


def test_choices_in_any_order_give_each_name_its_word() -> None:
    right = {"DESC": "Description", "ENTY": "Entity", "ABBR": "Abbreviation"}
    for choices in ("Abbreviation ||| Entity ||| Description", "description ||| Abbreviation ||| entity"):
        found = answers(bind(template(choices=choices), {"label": TREC}))
        assert {name: word.capitalize() for name, word in found.items()} == right
    thing = bind(template(choices="Abbreviation ||| Thing ||| Description"), {"label": TREC})
    assert answers(thing)["ENTY"] == "Thing"


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        (
            "Abbreviation ||| Entity ||| Definition",
            'template "t": its choice "Definition" is none of the names declared for label - add the word: '
            'labels.label.choices: {NAME: ["Definition"]}, or leave the template out: use: ["*", "!t"]',
        ),
        (
            "Abbreviation ||| Entity",
            'template "t": none of its choices (Abbreviation, Entity) is "DESC" of label - leave the template out: '
            'use: ["*", "!t"]',
        ),
        (
            "Entity ||| Thing ||| Description",
            'template "t": its choice "Thing" is not exactly one of the names declared',
        ),
    ],
)
def test_choices_that_do_not_match_the_names_are_refused(choices: str, problem: str) -> None:
    with pytest.raises(UsageError) as raised:
        bind(template(choices=choices), {"label": TREC})
    assert str(raised.value).startswith(f"labels: {problem}")


def test_counting_without_declared_names_is_refused() -> None:
    with pytest.raises(UsageError) as raised:
        bind(template(choices="no ||| yes"), {})
    assert str(raised.value) == (
        'labels: template "t" picks among no, yes by the number in column "label" - say what the numbers of the file '
        "mean: labels: {label: [name of 0, name of 1, ...]}"
    )
    # The row's own choices are counted by the row itself.
    assert bind(template(choices='{{ options | join("|||") }}'), {}).labels == {}


def test_comparing_the_number_needs_the_order_of_the_templates() -> None:
    text = "{{ text }} ||| {% if label == 0 %}short{% else %}long{% endif %}"
    with pytest.raises(
        UsageError, match=r'^labels: template "t" uses the number in column "label", and may count other'
    ):
        bind(template(text), {"label": TREC})
    ordered = TREC.model_copy(update={"order": ["ABBR", "ENTY", "DESC"]})
    assert answers(bind(template(text), {"label": ordered})) == {"DESC": "long", "ENTY": "long", "ABBR": "short"}
    with pytest.raises(UsageError, match="its choices are not in the declared order of label"):
        bind(template(choices="Description ||| Entity ||| Abbreviation"), {"label": ordered})


def test_a_test_for_no_label_is_not_counting() -> None:
    text = "{{ text }} ||| {% if label != -1 %}{{ answer_choices[label] }}{% endif %}"
    assert (
        answers(bind(template(text, "Abbreviation ||| Entity ||| Description"), {"label": TREC}))["ABBR"]
        == "Abbreviation"
    )


def test_own_templates_declare_words_by_name() -> None:
    words = {"DESC": "tell", "ENTY": "thing", "ABBR": "short"}
    mine = Template("t", "{{ text }}", "{{ label }}", labels={"label": words}, file="t.yaml")
    assert answers(bind(mine, {"label": TREC})) == words
    with pytest.raises(UsageError, match=r"its labels are yes, no; the source declares DESC, ENTY, ABBR for label"):
        bind(Template("t", "{{ text }}", "{{ label }}", labels={"label": {"yes": "a", "no": "b"}}), {"label": TREC})


@pytest.mark.parametrize(
    ("config", "value", "name"),
    [
        (["no", "yes"], 1, "yes"),
        (["no", "yes"], "0", "no"),
        (["no", "yes"], 1.0, "yes"),
        (["no", "yes"], True, "yes"),
        (["no", "yes"], "yes", "yes"),
        ({"names": {1: "World", 2: "Sports"}}, "2", "Sports"),
        ({"choices": {"yes": ["true"], "no": ["false"]}}, "yes", "yes"),
        ({}, "anything", "anything"),
    ],
)
def test_values_of_the_file_have_names(config: Any, value: Any, name: str) -> None:
    assert LabelConfig.model_validate(config).name_of(value, "label") == name


@pytest.mark.parametrize("value", [-1, 2, "-1", "2", "maybe", 0.5, float("nan"), None, [0], {"a": 1}, "²"])
def test_other_values_are_outside_the_choices(value: Any) -> None:
    with pytest.raises(UsageError) as raised:
        LabelConfig(names=["no", "yes"]).name_of(value, "label")
    problem = "the row has no label" if value is None else f"the label {value!r} is outside the choices (no, yes)"
    assert str(raised.value) == f"label: {problem} - mend `labels` or the row, or drop such rows: on_error: drop"


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ([False, True], "quote them"),
        ({"names": ["a", "b"], "choices": {"a": True}}, "quote them"),
        ({"names": ["a", "b"], "choices": {"c": "x"}}, '"c" is not one of the names'),
        ({"names": ["a", "b"], "order": ["a"]}, "order must hold each of the names once"),
        (["a", "a"], "a name is given twice"),
    ],
)
def test_contradictory_declarations_are_refused(config: Any, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        LabelConfig.model_validate(config)
