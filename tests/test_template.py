"""Templates: promptsource's as it is, didact's own, slots, the sandbox, and what each says of rows that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import need_material
from hypothesis import given, settings
from hypothesis import strategies as st

from didact.errors import UsageError
from didact.template import Template, TemplateDrop, expand, template_file
from didact.template_set import load_templates


def promptsource(text: str, choices: str | None = None, **metadata: str) -> Template:
    return Template("t", text, answer_choices=choices, metadata=metadata, source="promptsource", file="t.yaml")


def own(**fields: Any) -> Template:
    return Template("t", file="t.yaml", **fields)


def text(template: Template, row: dict[str, Any]) -> tuple[str, str]:
    rendered = template.render(row)
    return "".join(part.value for part in rendered.parts), rendered.answer


def test_every_promptsource_template_loads() -> None:
    files = sorted(need_material("p3", "promptsource_templates").rglob("templates.yaml"))
    templates = [template for file in files for template in load_templates(file)]
    assert len(templates) == 1875
    assert all(template.codes() for template in templates)


def test_slots_tell_what_comes_from_the_row() -> None:
    template = promptsource(
        "{% set short = text.split()[0] %}Is {{ short }} one of {{ answer_choices | join(', ') }} {{ 'or' }} not? "
        "||| yes",
        "a ||| b",
    )
    parts = template.render({"text": "cat sat"}).parts
    assert [(part.value, part.slot) for part in parts] == [
        ("Is ", "instruction"),
        ("cat", "input"),
        (" one of a, b or not?", "instruction"),
    ]


def test_choices_of_the_row_are_input_and_captured_text_carries_no_marks() -> None:
    template = promptsource(
        "{% set all %}{{ options[0] }}!{% endset %}{{ answer_choices[0] }} {{ all | length }} {{ all }} ||| x",
        '{{ options | join("|||") }}',
    )
    parts = template.render({"options": ["ab", "c"]}).parts
    assert [(part.value, part.slot) for part in parts] == [("ab 3 ab!", "input")] or [
        (part.value, part.slot) for part in parts
    ] == [("ab ", "input"), ("3 ", "input"), ("ab!", "input")]


def test_instruction_and_input_of_own_templates_are_slots() -> None:
    template = own(instruction="Name the capital of {{ country }}.", input="Facts: {{ facts }}", answer="{{ capital }}")
    rendered = template.render({"country": "Peru", "facts": "none", "capital": "Lima"})
    assert [(part.value, part.slot) for part in rendered.parts] == [
        ("Name the capital of ", "instruction"),
        ("Peru", "input"),
        (".\n", "instruction"),
        ("Facts: none", "input"),
    ]
    assert rendered.answer == "Lima"


def test_bars_in_data_do_not_split_the_template() -> None:
    row = {"text": "a ||| b", "options": ["x|||y", "z"]}
    template = promptsource("{{ text }} ||| {{ answer_choices[0] }}", '{{ options | join("|||") }}')
    rendered = template.render(row)
    assert (rendered.parts[0].value, rendered.answer, rendered.choices) == ("a ||| b", "x|||y", ("x|||y", "z"))


def test_promptsource_cuts_printed_values_at_2048_characters_and_own_templates_do_not() -> None:
    row = {"text": "word " * 1000}
    prompt, _ = text(promptsource("Q: {{ text }} ||| y"), row)
    assert 2040 < len(prompt) <= 2051
    assert prompt.endswith("...")
    assert len(text(own(prompt="Q: {{ text }}", answer="y"), row)[0]) > 4900


def test_promptsource_helpers_are_there_and_always_choose_alike() -> None:
    template = promptsource("{{ words | choice }} {{ words | random }} {{ votes | most_frequent }} ||| y")
    row = {"words": [str(n) for n in range(1000)], "votes": ["a", "b", "a", "b", "c"]}
    assert len({text(template, row) for _ in range(5)}) == 1
    assert text(template, row)[0].endswith("['a', 'b']")
    assert text(template, row) != text(template, {**row, "other": 1})


def test_columns_with_a_hyphen_are_reached_through_row() -> None:
    assert text(own(prompt="{{ row['my-column'] }}", answer="y"), {"my-column": "hello"})[0] == "hello"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (
            promptsource("{% if label == 1 %}{{ text }} ||| yes{% endif %}"),
            "the template gives no question and answer for the row",
        ),
        (promptsource("{{ text }} ||| a ||| b"), "the template gives no question and answer for the row"),
        (promptsource("{{ text }} ||| {{ empty }}"), "the answer is empty"),
        (promptsource("{{ empty }} ||| x"), "the prompt is empty"),
        (promptsource("{{ text }} ||| {{ items[3] }}"), "a value that the template needs is not in the row"),
        (promptsource("{{ text + 1 }} ||| x"), "the template fails on the row"),
        (promptsource("{{ half }} ||| x"), "half of a surrogate pair in the text"),
    ],
)
def test_rows_that_give_no_example_are_dropped_with_a_reason(template: Template, reason: str) -> None:
    row = {"text": "t", "label": 0, "empty": " ", "items": []}
    with pytest.raises(TemplateDrop) as raised:
        template.render({**row, "half": "\ud800"} if "surrogate" in reason else row)
    assert raised.value.reason == reason


def test_a_missing_column_names_template_column_and_nearest() -> None:
    with pytest.raises(UsageError) as raised:
        promptsource("{{ question }} ||| x").render({"questoin": "q", "answer": "a"})
    assert str(raised.value) == (
        'question: the template needs the column "question", which the row lacks (template "t") - did you mean '
        '"questoin"? (rename: {COLUMN: question} gives it that name), or drop such rows: on_error: drop'
    )
    with pytest.raises(UsageError, match=r'^txt: the template needs "txt" inside a column.*did you mean "text"\?$'):
        promptsource("{{ choices.txt }} ||| x").render({"choices": {"text": ["a"]}})
    assert text(promptsource("{% if other is defined %}no{% endif %}yes ||| x"), {}) == ("yes", "x")


@pytest.mark.parametrize("label", [-1, 2, None, "1"])
def test_a_label_outside_the_choices_is_refused(label: Any) -> None:
    template = promptsource("{{ text }} ||| {{ answer_choices[label] }}", "no ||| yes")
    with pytest.raises(UsageError) as raised:
        template.render({"text": "t", "label": label})
    assert str(raised.value) == (
        f"label: the label {label!r} is none of the positions of the choices (no, yes) "
        '(template "t") - mend the label, or drop such rows: on_error: drop'
    )


def test_the_column_answer_choices_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"^answer_choices: a column is called .* rename: \{answer_choices: options\}$"
    ):
        promptsource("{{ text }} ||| x").render({"text": "t", "answer_choices": "a"})


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ text.__init__.__globals__ }}",
        "{{ '{0.__class__}'.format(text) }}",
        "{% set x = items.append(1) %}{{ x }}",
        "{{ text | attr('__class__') }}",
        "{{ zip.mro() }}",
        "{{ 'a' * 1000001 }}",
        "{{ 1000001 * items }}",
        "{{ 9 ** 1001 }}",
    ],
)
def test_leaving_the_sandbox_is_refused(attack: str) -> None:
    for template in (promptsource(attack + " ||| x"), own(prompt=attack, answer="x"), own(prompt="p", answer=attack)):
        with pytest.raises(UsageError, match=r"^t.yaml: the template tries to leave the sandbox: .* - leave it out"):
            template.render({"text": "t", "items": ["i"]})
    template = promptsource("{{ text }} ||| x", attack)
    with pytest.raises(UsageError, match="sandbox"):
        template.render({"text": "t", "items": ["i"]})


LOOP = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    "bomb",
    [
        LOOP,
        LOOP.replace("range(100000)", "range(100000) | map('string')"),
        "{% for i in range(90000) recursive %}{{ loop(range(90000)) }}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% set x %}" + LOOP + "{% endset %}",
    ],
)
def test_a_template_that_never_ends_is_stopped(bomb: str) -> None:
    for template in (promptsource(bomb + " ||| x"), own(prompt="p", answer=bomb), own(instruction=bomb, answer="x")):
        with pytest.raises(UsageError, match=r"^t.yaml: the template never ends: .* - mend the template$"):
            template.render({"text": "t"})


@pytest.mark.parametrize(
    "bomb",
    [
        "{% set ns = namespace(x='aaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='aaaa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set x = 'a' * 900000 %}{% for i in range(90000) %}{{ x }}{% endfor %}",
        "{% set x = 'a' * 900000 %}{% set y %}{% for i in range(90000) %}{{ x }}{% endfor %}{% endset %}{{ y }}",
        "{% set x = 'a' * 900000 %}{{ x | replace('a', x) }}",
        "{% set x = 'a' * 900000 %}{{ x.replace('', x) }}",
        "{% set x = 'a' * 900000 %}{{ ([x] * 9000) | join }}",
        "{% set x = 'a' * 900000 %}{{ x.join(x) }}",
        "{{ 'a'.center(999999999) }}",
        "{{ 'a'.ljust(width=999999999) }}",
        "{{ 'a' | center(999999999) }}",
        "{{ 'a' | indent(width=999999999) }}",
        "{{ ['a'] | batch(999999999, 'a') | list }}",
        "{{ '%0999999999d' % 5 }}",
        "{{ '%*d' % (999999999, 5) }}",
        "{{ '%999999999s' | format('a') }}",
        "{{ '{:999999999}'.format(5) }}",
        "{{ '{:{}}'.format(5, 999999999) }}",
    ],
)
def test_a_template_that_fills_the_memory_is_refused(bomb: str) -> None:
    with pytest.raises(UsageError, match=r"^t.yaml: the template tries to leave the sandbox: .* of more than"):
        own(prompt=bomb, answer="x").render({})


def test_what_templates_honestly_do_is_within_bounds() -> None:
    template = own(
        prompt="{% for a, b in zip(words, range(3)) %}{{ loop.index }}/{{ loop.length }} {{ a ~ b }}{{ ', ' if not "
        "loop.last }}{% else %}none{% endfor %} {{ words | join(' ') | replace('a', 'b') | center(9) }}",
        answer="{{ '%s-%05d' % (words[0], 7) }} {{ '%.2f' | format(2.5) }} {{ '{}'.format(words | length + 1) }}",
    )
    assert text(template, {"words": ["a", "c"]}) == ("1/2 a0, 2/2 c1    b c", "a-00007 2.50 3")
    assert text(own(prompt="{{ n | round }} {{ n | tojson }}", answer="x"), {"n": 12345678}) == (
        "12345678 12345678",
        "x",
    )


def test_what_an_instruction_sets_the_answer_sees() -> None:
    template = own(instruction="{% set last = steps[-1] %}Go on.", input="{{ steps[0] }}", answer="{{ last }}")
    assert text(template, {"steps": ["a", "b"]}) == ("Go on.\na", "b")


def test_tagged_tokens_give_entities() -> None:
    template = own(
        prompt="{{ tokens | join(' ') }}",
        answer="{% for e in tokens | entities(tags) %}{{ e.text }} is {{ e.type }}{{ '. ' }}{% endfor %}",
    )
    row = {"tokens": ["Ada", "King", "saw", "Rome"], "tags": ["B-PER", "I-PER", "O", "B-LOC"]}
    assert text(template, row) == ("Ada King saw Rome", "Ada King is PER. Rome is LOC.")
    with pytest.raises(TemplateDrop) as raised:
        template.render({**row, "tags": [1, 2, 0, 3]})
    assert raised.value.detail == (
        "ValueError: the tag 1 is no name: declare the names of the tags in the source's `labels`"
    )


def test_a_row_is_never_changed_by_a_template() -> None:
    row = {"text": "a|||b", "items": [{"k": "v|||"}]}
    before = json.dumps(row)
    promptsource("{{ text }}{{ items }} ||| x").render(row)
    assert json.dumps(row) == before


def test_answer_choices_are_closed_only_where_the_answer_is_one_of_them() -> None:
    inverted = promptsource(
        "Write a {{ answer_choices[label] }} review. ||| {{ text }}", "bad ||| good", metrics="BLEU"
    )
    letters = promptsource("{{ text }} A or B? ||| {{ letter }}", "A ||| B", metrics="Accuracy")
    assert inverted.render({"label": 1, "text": "Fine."}).choices == ()
    assert letters.render({"letter": "E", "text": "Fine."}).choices == ("A", "B")


def test_broken_jinja_names_file_and_template() -> None:
    with pytest.raises(UsageError, match=r'^t.yaml: template "t": not valid Jinja \(line 1\): .* - mend the template'):
        promptsource("{% if %} ||| x").codes()


def test_template_files_are_found_by_path_or_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert template_file("gsm8k", tmp_path).name == "gsm8k.yaml"
    (tmp_path / "mine.yaml").write_text("templates: [{name: n, prompt: x, answer: y}]")
    monkeypatch.setenv("MINE", "mine.yaml")
    assert template_file("${MINE}", tmp_path) == tmp_path / "mine.yaml"
    with pytest.raises(
        UsageError, match=r'^templates: no template file "gsm8" - give a path, or did you mean "gsm8k"\?$'
    ):
        template_file("gsm8", tmp_path)


def test_expand_fills_in_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "/data")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert expand("${HERE}/a ${NOWHERE:-b}/c") == "/data/a b/c"
    with pytest.raises(UsageError, match="the environment variable NOWHERE is not set"):
        expand("${NOWHERE}/a")


def test_gsm8k_templates_give_number_and_working() -> None:
    row = {"question": "What is 2 + 3?", "answer": "2 + 3 = <<2+3=5>>5.\n#### 5"}
    for template in load_templates(template_file("gsm8k", Path())):
        prompt, answer = text(template, row)
        assert "<<" not in answer
        assert answer in ("5", "2 + 3 = 5.\nThe answer is 5.", "What is 2 + 3?"), template.name
        assert prompt


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["|||", "{{ 1 }}"]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3),
    max_leaves=6,
)
SOURCES = st.text(alphabet="{}%|' ab.[]()_-+1", max_size=40) | st.sampled_from(
    [
        "{{ a }} ||| {{ b }}",
        "{{ a.b }} ||| {{ a['c'] | join(b) }}",
        "{% for x in a %}{{ x[0] }}{% endfor %} ||| {{ b + a }}",
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    source=SOURCES, choices=st.none() | SOURCES, row=st.fixed_dictionaries({"a": JSON, "b": JSON}), is_own=st.booleans()
)
def test_random_templates_and_rows_raise_only_typed_errors(
    source: str, choices: str | None, row: dict[str, Any], is_own: bool
) -> None:
    template = own(prompt=source, answer=source, answer_choices=choices) if is_own else promptsource(source, choices)
    try:
        rendered = template.render(row)
    except (UsageError, TemplateDrop):
        return
    assert rendered.answer == rendered.answer.strip() != ""
    assert not any(mark in part.value for part in rendered.parts for mark in ("\udc02", "\udc03", "\udc7c"))
