"""Templates: promptsource's as it is, didact's own, slots, the sandbox, and what each says of rows that do not fit."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import need_material
from hypothesis import given, settings
from hypothesis import strategies as st

from didact.errors import UsageError
from didact.template import Template, TemplateDrop, expand, load_templates, template_file


def promptsource(text: str, choices: str | None = None, **metadata: str) -> Template:
    return Template("t", text, answer_choices=choices, metadata=metadata, source="promptsource", file="t.yaml")


def own(**fields: Any) -> Template:
    return Template("t", file="t.yaml", **fields)


def text(template: Template, row: dict[str, Any]) -> tuple[str, str]:
    rendered = template.render(row)
    return "".join(part.value for part in rendered.parts), rendered.answer


def material_rows(*parts: str) -> list[dict[str, Any]]:
    with gzip.open(need_material(*parts), "rt", encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize("dataset", ["rotten_tomatoes", "commonsense_qa"])
def test_promptsource_renders_as_the_published_t0_rows(dataset: str) -> None:
    rows = material_rows("annotated", f"{dataset}.jsonl.gz")
    found = load_templates(need_material("p3", "promptsource_templates", dataset))
    templates = {f"{dataset}_{template.name.replace(' ', '_')}": template for template in found}
    published = [row for row in material_rows("p3", "t0_rendered.jsonl.gz") if row["template"].startswith(dataset)]
    for row in published:
        prompt, answer = text(templates[row["template"]], rows[row["row"]])
        assert (prompt, answer) == (row["prompt"].strip(), row["completion"].removesuffix("<|endoftext|>").strip())
    assert len(published) == {"rotten_tomatoes": 400, "commonsense_qa": 200}[dataset]


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
        '"questoin"? (rename: {COLUMN: question} gives it that name)'
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


OWN = """
templates:
  - name: words
    instruction: Is it good?
    input: "{{ text }}"
    answer: "{{ label }}"
    labels: {label: {negative: bad, positive: good}}
  - name: choices
    prompt: "{{ text }} Good?"
    answer: "{{ answer_choices[0] }}"
    answer_choices: ["yes", "no"]
    metadata: {metrics: Accuracy}
"""


def test_own_yaml(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    words, choices = load_templates(tmp_path / "own.yaml")
    rendered = words.render({"text": "Fine.", "label": "positive"})
    assert (rendered.answer, rendered.choices) == ("good", ("bad", "good"))
    assert choices.render({"text": "Fine."}).choices == ("yes", "no")
    with pytest.raises(UsageError, match=r"^label: the label 'other' is outside the choices \(negative, positive\)"):
        words.render({"text": "Fine.", "label": "other"})


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("a: b: c", "1: not YAML: mapping values are not allowed in this context - mend this line"),
        ("a: 1", ' no "templates" in it - a template file lists its templates under that key'),
        ("templates: [{prompt: x, answer: y}]", 'name: template 1 has no "name" - give each template a name'),
        (
            "templates: [{name: n, promt: x, answer: y}]",
            'promt: template "n" has an unknown key "promt" - did you mean "prompt"?',
        ),
        (
            "templates: [{name: n, prompt: x, input: z, answer: y}]",
            ' template "n" needs an answer, and either a prompt or an instruction with an input - write '
            "instruction, input and answer",
        ),
        (
            "templates: [{name: n, prompt: x, answer: y, answer_choices: [yes, no]}]",
            ' template "n": answer_choices and labels must be texts - YAML reads yes and no as true and false: '
            'quote them, "yes"',
        ),
        ("templates: {u: {name: n}}", ' template n has no "jinja" - it is not a promptsource template'),
        (
            "templates: [{name: n, prompt: x, answer: y}, {name: n, prompt: x, answer: y}]",
            'name: two templates are called "n"',
        ),
        ("templates: !!python/object:os.system {}", "1: not YAML: could not determine a constructor for the tag"),
    ],
)
def test_broken_template_files_are_told_in_one_line(tmp_path: Path, written: str, line: str) -> None:
    (tmp_path / "t.yaml").write_text(written)
    with pytest.raises(UsageError) as raised:
        load_templates(tmp_path / "t.yaml")
    assert str(raised.value).startswith(f"{tmp_path / 't.yaml'}:{line}")


def test_broken_jinja_names_file_and_template() -> None:
    with pytest.raises(UsageError, match=r'^t.yaml: template "t": not valid Jinja \(line 1\): .* - mend the template'):
        promptsource("{% if %} ||| x").codes()


def test_template_files_are_found_by_path_or_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert template_file("gsm8k", tmp_path).name == "gsm8k.yaml"
    (tmp_path / "mine.yaml").write_text(OWN)
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
