"""Ready-made instructions: recognised, read with errors that name the field, and written back without loss."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from didact.errors import UsageError
from didact.formats import (
    COLUMNS,
    FORMATS,
    GROUPS,
    READERS,
    WRITERS,
    Mapping,
    Name,
    detect,
    from_instances,
    to_instances,
    unwritten,
)
from didact.formats.single import says_nothing
from didact.instance import Instance, Message, Origin, Part
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
    "pairs": {"conversation_id": 1, "conversation": [{"human": "q", "assistant": "a"}]},
    "tree": {
        "message_tree_id": "t",
        "prompt": {
            "role": "prompter",
            "text": "q",
            "replies": [
                {"role": "assistant", "text": "worse", "rank": 1, "replies": [{"role": "prompter", "text": "why?"}]},
                {"role": "assistant", "text": "gone", "rank": -1, "deleted": True},
                {"role": "assistant", "text": "better", "rank": 0, "replies": [{"role": "prompter", "text": "end"}]},
            ],
        },
    },
    "super-ni": {"Definition": "Add.", "Instances": [{"input": "1 2", "output": ["3", "three"]}]},
    "baize": {"topic": "t", "input": "A talk.\n[|Human|] q\n[|AI|] a\n[|Human|] "},
}


@pytest.mark.parametrize("name", ROWS)
def test_each_format_is_recognised_and_says_so(name: Name) -> None:
    row = ROWS[name]
    mapping = detect([row, {**row, "odd": 1}])
    assert mapping.name == name
    assert mapping.description.startswith(f"{name}: ")
    assert "odd" in mapping.description.partition("; kept beside: ")[2]
    assert mapping.description.endswith(" (2 of 2 rows looked at)")
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


def test_rows_that_differ_only_in_their_calls_or_tools_are_two() -> None:
    def made(place: str, tools: list[Any], more: str = "") -> Instance:
        call = {"function": {"name": "weather", "arguments": {"place": place}}}
        turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
        row = {"messages": turns, "tools": tools, **({"note": more} if more else {})}
        return to_instances(Mapping("messages", ""), row, ORIGIN)[0]

    tool = {"function": {"name": "weather"}}
    ids = [made(place, tools).id for place in ("Ulm", "Bonn") for tools in ([], [tool])]
    assert len(set(ids)) == 4
    assert made("Ulm", [tool], more="kept").id == ids[1]  # what no template reads does not count
    row = {"instruction": "Say a.", "input": "", "output": "a", "note": "b"}
    plain = to_instances(Mapping("alpaca", ""), row, ORIGIN)[0]
    assert plain.id == Instance.of(plain.messages, ORIGIN).id


def test_rows_without_answers_say_so() -> None:
    with pytest.raises(
        UsageError, match="hold questions without answers, so there is nothing to learn from them - have"
    ):
        detect([{"instruction": "Why?", "id": 1}])
    with pytest.raises(UsageError, match=r"bare text, with no question and no answer - give the source `templates`"):
        detect([{"text": "Once upon a time."}])
    assert detect([{"text": "Once upon a time."}], "text").name == "text"


def test_names_that_others_give_to_columns() -> None:
    mapping = detect([{"instruction": "Add.", "context": "1 2", "response": "3"}])
    assert mapping.description == (
        "alpaca: instruction -> instruction, input -> input, response -> answer (1 of 1 rows looked at)"
    )
    (instance,) = instances("alpaca", {"instruction": "Add.", "context": "1 2", "response": "3"})
    assert (instance.messages[0].text, instance.answer) == ("Add.\n1 2", "3")


@pytest.mark.parametrize(
    "said", ["noinput", "<noinput>", "No input", "No input required.", "`<noinput>`", "N/A", "< noinput >"]
)
def test_ways_to_say_that_there_is_no_input(said: str) -> None:
    row = {"instruction": "Add.", "input": said, "output": "3"}
    (instance,) = instances("alpaca", row)
    assert instance.messages[0].text == "Add."
    assert list(from_instances("alpaca", [instance])) == [row]


@pytest.mark.parametrize("said", ["The boy <noinput> the ball", "None", "No input is needed to sort [3, 4], is it?"])
def test_an_input_that_is_one_is_kept(said: str) -> None:
    (instance,) = instances("alpaca", {"instruction": "Add.", "input": said, "output": "3"})
    assert instance.messages[0].parts[1].value == said


@pytest.mark.parametrize(
    "said", ["<nooutput>", "<noinput>", "No output", "<nooutput> Visuals cannot be", "<no output>"]
)
def test_an_answer_that_only_stands_in_for_one_is_a_drop(said: str) -> None:
    with pytest.raises(TemplateDrop, match=r"^the answer only says that there is none$"):
        instances("alpaca", {"instruction": "Add.", "output": said})


def test_alpacas_words_around_a_prompt_are_taken_off() -> None:
    prompt = "Do as told.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"
    (instance,) = instances("prompt-completion", {"prompt": prompt, "response": "3"})
    assert [(part.value, part.slot) for part in instance.messages[0].parts] == [
        ("Add.\n", "instruction"),
        ("1 2", "input"),
    ]
    (plain,) = instances("prompt-completion", {"prompt": "See ### Response: there", "completion": "3"})
    assert plain.messages[0].text == "See ### Response: there"


def test_calls_of_tools_are_kept_as_they_were() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    row = {
        "messages": [*turns(("user", "q")), {"role": "assistant", "content": None, "tool_calls": [call]}],
        "tools": [{"type": "function", "function": {"name": "add", "parameters": {"a": {}}}}],
    }
    (instance,) = instances("messages", row)
    assert instance.answer == ""
    assert list(from_instances("messages", [instance])) == [row]


def test_a_text_that_was_changed_is_written_and_not_the_old_one() -> None:
    row = {
        "messages": [
            *turns(("user", [{"type": "text", "text": "q"}])),
            {"role": "assistant", "content": "a", "name": "x"},
        ]
    }
    (instance,) = instances("messages", row)
    changed = Instance.of((instance.messages[0], Message("assistant", (Part("b"),))), ORIGIN, tags=instance.tags)
    assert list(from_instances("messages", [changed])) == [
        {"messages": [row["messages"][0], {"role": "assistant", "content": "b", "name": "x"}]}
    ]
    other = Instance.of((Message("user", (Part("r"),)), instance.messages[1]), ORIGIN, tags=instance.tags)
    (written,) = from_instances("messages", [other])
    assert written["messages"] == [{"role": "user", "content": "r"}, row["messages"][1]]
    (said,) = instances("baize", {"input": "A talk.\n\n[|Human|]q\n[|AI|]a [|Human|] "})
    changed = Instance.of((said.messages[0], Message("assistant", (Part("b"),))), ORIGIN, tags=said.tags)
    assert list(from_instances("baize", [changed])) == [{"input": "A talk.\n\n[|Human|] q\n[|AI|] b\n[|Human|] "}]


def test_of_a_tree_the_best_thread_is_read_and_the_rest_counted() -> None:
    (instance,) = instances("tree", ROWS["tree"])
    assert [message.text for message in instance.messages] == ["q", "better"]
    assert json.loads(instance.tags["extra"])["other_replies"] == 3
    with pytest.raises(TemplateDrop, match="the tree has no answer"):
        instances("tree", {"message_tree_id": "t", "prompt": {"role": "prompter", "text": "q"}})


def test_what_would_read_differently_is_refused() -> None:
    (said,) = instances("messages", {"messages": turns(("user", "q [|AI|] r"), ("assistant", "a"))})
    with pytest.raises(UsageError, match=r"holds \[\|Human\|\] or \[\|AI\|\], which this format cannot tell apart"):
        list(from_instances("baize", [said]))
    (system,) = instances("messages", ROWS["messages"])
    for name in ("pairs", "text", "baize"):
        with pytest.raises(UsageError, match=r"write it as messages"):
            list(from_instances(name, [system]))


def test_every_format_has_a_reader_and_a_writer() -> None:
    assert set(READERS) == set(COLUMNS) == {*WRITERS, *GROUPS, "tree"} == set(FORMATS)


# Texts that look like something else: control tokens, template marks, other formats' marks, ways to say nothing.
ODD = [
    "<|im_end|>",
    "|||",
    "{{ name }}",
    "{% for %}",
    "[|AI|]",
    "### Response:",
    "\u2028",
    "No input.",
    "<b>é漢😀</b>",
    "",
]
TEXT = st.text(max_size=12) | st.lists(st.sampled_from(ODD) | st.text(max_size=3), max_size=3).map("".join)
FULL = TEXT.filter(str.strip)
SPOKEN = FULL.filter(lambda text: not says_nothing(text))
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda v: st.lists(v, max_size=2) | st.dictionaries(TEXT, v, max_size=2),
)
EXTRA = st.dictionaries(st.sampled_from(["id", "tools", "columns", "turns", "name"]), VALUE, max_size=3)
INPUT = st.fixed_dictionaries({"output": SPOKEN}, optional={"input": st.none() | TEXT})


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


RESPONSE = st.fixed_dictionaries({"response": SPOKEN}, optional={"context": st.none() | TEXT})
WRAPPED = st.builds(
    lambda asked, given: f"Do it.\n\n### Instruction:\n{asked}\n\n{given}### Response:\n",
    FULL,
    st.just("") | FULL.map(lambda text: f"### Input:\n{text}\n\n"),
)


def transcript(before: str, turns: list[tuple[str, str]], after: str) -> dict[str, Any]:
    def free(text: str) -> str:
        return text.replace("[|", "(").strip() or "x"

    said = "".join(f"\n[|Human|] {free(q)}\n[|AI|]{free(a)}" for q, a in turns)
    return {"input": f"{free(before)}{said}\n[|Human|]{free(after)}"}


SHAREGPT = st.fixed_dictionaries(
    {
        "conversations": conversation(
            "from", "value", ["human", "user", "system", "observation"], ["gpt", "function_call"]
        )
    },
    optional={"system": st.none() | TEXT},
)
LOSSLESS: dict[Name, st.SearchStrategy[dict[str, Any]]] = {
    "alpaca": with_extra(
        st.builds(lambda a, b: {**a, **b}, st.fixed_dictionaries({"instruction": FULL}), INPUT | RESPONSE)
    ),
    "prompt-completion": with_extra(
        st.fixed_dictionaries({"prompt": FULL | WRAPPED, "completion": SPOKEN})
        | st.fixed_dictionaries({"prompt": FULL, "response": SPOKEN})
    ),
    "text": with_extra(st.fixed_dictionaries({"text": FULL})),
    "pairs": with_extra(
        st.fixed_dictionaries(
            {
                "conversation": st.lists(
                    with_extra(st.fixed_dictionaries({"human": FULL, "assistant": FULL})), min_size=1, max_size=3
                )
            }
        )
    ),
    "baize": with_extra(st.builds(transcript, TEXT, st.lists(st.tuples(FULL, FULL), min_size=1, max_size=3), TEXT)),
    "super-ni": with_extra(
        st.fixed_dictionaries(
            {
                "Definition": FULL | st.lists(FULL, min_size=1, max_size=2),
                "Instances": st.lists(
                    with_extra(
                        st.fixed_dictionaries(
                            {"input": TEXT, "output": FULL | st.lists(TEXT, max_size=2).map(lambda t: [*t, "x"])}
                        )
                    ),
                    min_size=1,
                    max_size=3,
                ),
            },
            optional={
                "Positive Examples": st.lists(st.fixed_dictionaries({"input": TEXT, "output": TEXT}), max_size=3)
            },
        )
    ),
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


@pytest.mark.parametrize("through", ["alpaca", "sharegpt", "messages", "prompt-completion", "pairs"])
@pytest.mark.parametrize("name", ["alpaca", "prompt-completion", "sharegpt", "messages", "pairs"])
def test_what_is_carried_comes_back_through_another_format(name: Name, through: Name) -> None:
    @settings(max_examples=30, deadline=None)
    @given(LOSSLESS[name])
    def there_and_back(row: dict[str, Any]) -> None:
        before = [instance.tagged(shots="2") for instance in instances(name, row)]
        try:
            between = [json.loads(json.dumps(made)) for made in from_instances(through, before, carry=True)]
        except UsageError:
            if name not in ("sharegpt", "messages", "pairs"):  # these have turns that another may have no place for
                raise
            return
        (after,) = instances(through, between[0])
        assert (after.messages, after.tags["shots"]) == (before[0].messages, "2")
        assert list(from_instances(name, [after])) == [row]

    there_and_back()


def test_what_was_carried_does_not_undo_a_change() -> None:
    (instance,) = instances("alpaca", ROWS["alpaca"])
    (row,) = from_instances("messages", [instance], carry=True)
    row["messages"][1]["content"] = "4"
    (changed,) = instances("messages", row)
    assert (changed.answer, len(changed.messages[0].parts)) == ("4", 1)
    (row,) = from_instances("messages", [instance], carry=True)
    with pytest.raises(
        UsageError, match='didact: the column "didact" is not as didact writes it - leave the column out'
    ):
        instances("messages", {**row, "didact": {**row["didact"], "parts": 3}})


def test_what_a_row_does_not_tell_is_named() -> None:
    (instance,) = instances("alpaca", {**ROWS["alpaca"], "category": "sums"})
    (same,) = from_instances("alpaca", [instance])
    assert unwritten("alpaca", instance, same) == {}
    (row,) = from_instances("messages", [instance])
    assert row["category"] == "sums"
    assert set(unwritten("messages", instance, row)) == {"read", "parts"}


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
            {"messages": turns(("user", "q"), ("assistant", "a"), ("user", "q"))},
            "messages: ends with a user turn, so its last question has no answer - end with an assistant turn",
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "gpt", "value": "q"}, {"from": "human", "value": "a"}]},
            "conversations: begins with an answer and ends with a question: the two roles look swapped - exchange",
        ),
        (
            "messages",
            {"messages": [{"from": "user", "value": "q"}]},
            'messages.0.role: turns have "from", not "role" - rename: {messages: conversations}',
        ),
        (
            "messages",
            {"messages": [*turns(("user", "q")), {"role": "assistant", "content": "a", "loss_weight": 0}]},
            "messages.1.loss_weight: an assistant turn has loss_weight 0, but every answer is learnt - split",
        ),
        (
            "baize",
            {"input": "x\n[|Human|] q [|AI|] a [|AI|] b\n[|Human|] "},
            "input: turn 1 has 2 [|AI|] tags where one",
        ),
        ("baize", {"input": "x\n[|Human|] q\n[|Human|] r [|AI|] a"}, "input: turn 1 has 0 [|AI|] tags where one"),
        ("pairs", {"conversation": [{"human": "q"}]}, 'conversation.0.assistant: the field "assistant" is missing'),
        ("tree", {"prompt": {"role": "bot", "text": "x"}}, 'prompt.role: unknown role "bot" - use one of'),
        (
            "super-ni",
            {"Definition": "d", "Instances": [{"input": "i", "output": "o"}, {"input": "i"}]},
            'Instances.1.output: the field "output" is missing',
        ),
        ("super-ni", {"Definition": [], "Instances": [{}]}, "Definition: the task has no definition - write what"),
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


@pytest.mark.parametrize("name", ["messages", "sharegpt", "pairs", "self-instruct"])
def test_random_turns_raise_only_typed_errors(name: Name) -> None:
    """Whole but for what stands in the list: random rows hardly ever get so far."""

    @settings(max_examples=60, deadline=None)
    @given(st.lists(ANY, min_size=1, max_size=3))
    def read(items: list[Any]) -> None:
        column = {"messages": "messages", "sharegpt": "conversations", "pairs": "conversation"}.get(name, "instances")
        test_random_rows_raise_only_typed_errors.hypothesis.inner_test(name, {"instruction": "Sort", column: items})

    read()


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(list(COLUMNS)),
    st.dictionaries(st.sampled_from([c for n, o, _ in COLUMNS.values() for key in n + o for c in key.split("|")]), ANY),
)
def test_random_rows_raise_only_typed_errors(name: Name, row: dict[str, Any]) -> None:
    try:
        made = instances(name, row)
    except (UsageError, TemplateDrop):
        return
    assert made
    assert all(instance.messages[-1].role == "assistant" for instance in made)
