"""Ready-made instructions: recognised, read with errors that name the field, and written back without loss."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from didact.errors import UsageError
from didact.formats import COLUMNS, READERS, WRITERS, Mapping, Name, detect, from_instances, to_instances
from didact.instance import Instance, Origin
from didact.template import TemplateDrop

ORIGIN = Origin("rows.jsonl", 7, task="t")


def instances(name: Name, row: dict[str, Any]) -> list[Instance]:
    return to_instances(Mapping(name, ""), row, ORIGIN)


def turns(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in pairs]


ROWS: dict[Name, dict[str, Any]] = {
    "alpaca": {"instruction": "Add.", "input": "1 2", "output": "3"},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
        "system": "Be kind.",
    },
    "messages": {"messages": turns(("system", "s"), ("user", "q"), ("assistant", "a")), "tools": [{"name": "f"}]},
    "prompt-completion": {"prompt": "Add 1 2", "completion": " 3"},
    "self-instruct": {
        "id": "seed_task_0",
        "instruction": "Add.",
        "instances": [{"input": "1 2", "output": "3"}, {"input": "", "output": "4"}],
        "is_classification": False,
    },
}


@pytest.mark.parametrize("name", ROWS)
def test_each_format_is_recognised_and_says_so(name: Name) -> None:
    row = ROWS[name]
    mapping = detect([row, {**row, "odd": 1}])
    assert mapping.name == name
    assert mapping.description.startswith(f"{name}: ")
    assert mapping.description.endswith("odd (2 of 2 rows looked at)")
    assert "\n" not in mapping.description


def test_a_format_can_be_named_and_unknown_columns_are_refused() -> None:
    both = {**ROWS["alpaca"], **ROWS["prompt-completion"]}
    assert detect([both]).name == "alpaca"
    assert detect([both], "prompt-completion").name == "prompt-completion"
    with pytest.raises(UsageError) as raised:
        detect([{"question": "q", "reply": "a"}])
    assert str(raised.value) == (
        "the columns (question, reply) are no format of ready-made instructions that is known - give the source "
        "`templates`, or rename columns to instruction, input and output"
    )


def test_slots_of_alpaca() -> None:
    (instance,) = instances("alpaca", ROWS["alpaca"])
    assert [(part.value, part.slot) for part in instance.messages[0].parts] == [
        ("Add.\n", "instruction"),
        ("1 2", "input"),
    ]
    assert (instance.answer, instance.origin.via) == ("3", "format:alpaca")


def test_every_format_has_a_reader_and_a_writer() -> None:
    assert set(READERS) == set(COLUMNS) == {*WRITERS, "self-instruct"}


TEXT = st.text(max_size=12)
FULL = TEXT.filter(str.strip)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda v: st.lists(v, max_size=2) | st.dictionaries(TEXT, v, max_size=2),
)
EXTRA = st.dictionaries(st.sampled_from(["id", "tools", "columns", "turns", "name"]), VALUE, max_size=3)
INPUT = st.fixed_dictionaries({"output": FULL}, optional={"input": st.none() | TEXT})


def conversation(role: str, text: str, users: list[str], assistants: list[str]) -> st.SearchStrategy[list[Any]]:
    extra = st.dictionaries(st.sampled_from(["id", "weight", "name", "rest", "column", ""]), VALUE, max_size=2)
    plain = FULL | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": FULL}), min_size=1, max_size=2)

    def turn(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
        told = st.builds(lambda n, t, more: {**more, role: n, text: t}, st.sampled_from(names), plain, extra)
        call = st.builds(lambda n, more: {**more, role: n, "tool_calls": [{"f": 1}]}, st.sampled_from(names), extra)
        silent = call.map(lambda made: {**made, text: None})
        return told | call | silent

    middle = st.lists(turn(users) | turn(assistants), max_size=3)
    return st.tuples(middle, turn(assistants)).map(lambda both: [*both[0], both[1]])


def with_extra(row: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda extra, made: {**extra, **made}, EXTRA, row)


SHAREGPT = st.fixed_dictionaries(
    {
        "conversations": conversation(
            "from", "value", ["human", "user", "system", "observation"], ["gpt", "function_call"]
        )
    },
    optional={"system": st.none() | TEXT},
)
LOSSLESS: dict[Name, st.SearchStrategy[dict[str, Any]]] = {
    "alpaca": with_extra(st.builds(lambda a, b: {**a, **b}, st.fixed_dictionaries({"instruction": FULL}), INPUT)),
    "prompt-completion": with_extra(st.fixed_dictionaries({"prompt": FULL, "completion": FULL})),
    "self-instruct": with_extra(
        st.fixed_dictionaries({"instruction": FULL, "instances": st.lists(with_extra(INPUT), min_size=1, max_size=3)})
    ),
    "messages": with_extra(
        st.fixed_dictionaries(
            {"messages": conversation("role", "content", ["user", "system", "tool", "developer"], ["assistant"])}
        )
    ),
    "sharegpt": with_extra(SHAREGPT),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_round_trips_lose_nothing(name: Name) -> None:
    @settings(max_examples=60, deadline=None)
    @given(LOSSLESS[name])
    def there_and_back(row: dict[str, Any]) -> None:
        made = instances(name, row)
        written = list(from_instances(name, [Instance.from_json(instance.to_json()) for instance in made]))
        assert written == [row]

    there_and_back()


OR_DROP = "or drop such rows: on_error: drop"


@pytest.mark.parametrize(
    ("name", "row", "line"),
    [
        (
            "alpaca",
            {"instrution": "x", "output": "y"},
            'instruction: the field "instruction" is missing - did you mean "instrution"?',
        ),
        (
            "alpaca",
            {"instruction": " ", "output": "y"},
            f'instruction: the field "instruction" is empty - fill it, {OR_DROP}',
        ),
        (
            "alpaca",
            {"instruction": 3, "output": "y"},
            f"instruction: holds a number where text should be - mend it, {OR_DROP}",
        ),
        (
            "alpaca",
            {"instruction": "x", "input": [], "output": "y"},
            f"input: holds a list where text should be - mend it, {OR_DROP}",
        ),
        (
            "alpaca",
            {"instruction": "x", "output": None},
            f"output: holds null where text should be - mend it, {OR_DROP}",
        ),
        ("self-instruct", {"instruction": "x", "instances": []}, 'instances: the field "instances" is empty'),
        (
            "self-instruct",
            {"instruction": "x", "instances": [{"input": ""}]},
            'instances.0.output: the field "output" is missing - use one of: input or drop',
        ),
        (
            "self-instruct",
            {"instruction": "x", "instances": ["y"]},
            "instances.0: holds text where an object should be",
        ),
        ("messages", {"messages": turns(("usr", "q"))}, 'messages.0.role: unknown role "usr" - did you mean "user"?'),
        (
            "messages",
            {"messages": [{"content": "q"}]},
            "messages.0.role: the role is missing - use one of: assistant, ",
        ),
        ("messages", {"messages": turns(("user", None))}, "messages.0.content: holds null where text should be"),
        ("messages", {"messages": turns(("user", "q"))}, "messages: no assistant turn to learn from - add the answer"),
        (
            "messages",
            {"messages": turns(("assistant", "a"), ("user", "q"))},
            "messages: ends with a user turn, so its last question has no answer - end with an assistant turn",
        ),
        (
            "messages",
            {"messages": turns(("user", [{"type": "image_url", "image_url": "x"}]))},
            'messages.0.content.0: a content part of type "image_url", but only text is read - leave it out',
        ),
        ("messages", {"messages": "hello"}, "messages: holds text where a list should be"),
        ("messages", {"messages": [["user", "q"]]}, "messages.0: holds a list where an object should be"),
        (
            "sharegpt",
            {"conversations": turns(("user", "q"))},
            'conversations.0.from: turns have "role", not "from" - rename: {conversations: messages}',
        ),
    ],
)
def test_faults_name_their_field(name: Name, row: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError) as raised:
        instances(name, row)
    assert str(raised.value).startswith(line)


@pytest.mark.parametrize("name", ["alpaca", "prompt-completion", "self-instruct"])
def test_an_empty_answer_is_a_drop_not_an_error(name: Name) -> None:
    empty: dict[str, Any] = {
        "alpaca": {"output": " "},
        "prompt-completion": {"completion": ""},
        "self-instruct": {"instances": [{"input": "", "output": ""}]},
    }
    with pytest.raises(TemplateDrop, match=r"^the answer is empty$"):
        instances(name, {**ROWS[name], **empty[name]})


def test_a_conversation_does_not_fit_a_format_of_one_question() -> None:
    with pytest.raises(UsageError, match="one question and one answer - write conversations as messages"):
        list(from_instances("alpaca", instances("messages", ROWS["messages"])))


ANY = st.recursive(
    VALUE, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(["from", "value", "role", "content"]), v)
)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(list(COLUMNS)),
    st.dictionaries(st.sampled_from([c for n, o, _ in COLUMNS.values() for c in n + o]), ANY),
)
def test_random_rows_raise_only_typed_errors(name: Name, row: dict[str, Any]) -> None:
    try:
        made = instances(name, row)
    except (UsageError, TemplateDrop):
        return
    assert made
    assert all(instance.messages[-1].role == "assistant" for instance in made)
