"""Template files: didact's own YAML and what a set suggests, and one line for every broken file."""

from __future__ import annotations

from pathlib import Path

import pytest

from didact.errors import UsageError
from didact.template_set import load_set, load_templates

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
        ("zzz: x\ntemplates: [{name: n, prompt: x, answer: y}]", 'zzz: unknown key "zzz" - use one of: '),
        ("fields: a\ntemplates: [{name: n, prompt: x, answer: y}]", "fields: fields is no list - see the other sets"),
        ("rename: {a: no}\ntemplates: [{name: n, prompt: x, answer: y}]", "rename: rename holds what is no text"),
        (
            "defaults: {prompt: p}\ntemplates: [{name: n, prompt: x, answer: y}]",
            'defaults.prompt: unknown key "prompt"',
        ),
        ("templates: [{name: n, prompt: x, answer: y, inverted: 1}]", 'inverted: template "n": inverted is true or'),
        (
            "fields: [text]\ntemplates: [{name: n, prompt: '{{ txt }}', answer: y}]",
            'fields: template "n" uses the column "txt", which is none of the `fields` - did you mean "text"?',
        ),
        ("templates: !!python/object:os.system {}", "1: not YAML: could not determine a constructor for the tag"),
    ],
)
def test_broken_template_files_are_told_in_one_line(tmp_path: Path, written: str, line: str) -> None:
    (tmp_path / "t.yaml").write_text(written)
    with pytest.raises(UsageError) as raised:
        load_templates(tmp_path / "t.yaml")
    assert str(raised.value).startswith(f"{tmp_path / 't.yaml'}:{line}")


SET = """
dataset: someone/films
cluster: sentiment
languages: [en, de]
fields: [text, label]
rename: {review.body: text, stars: label}
labels: {label: [bad, good]}
group: [text]
defaults: {answer: "{{ label }}", labels: {label: {bad: poor, good: great}}, metadata: {metrics: Accuracy}}
templates:
  - {name: plain, prompt: "{{ text }}"}
  - {name: words, prompt: "{{ text }}?", labels: {label: {bad: "no", good: "yes"}}}
  - {name: back, prompt: "A {{ label }} one.", answer: "{{ text }}", inverted: true}
"""


def test_a_set_has_defaults_for_templates_that_are_not_turned_around(tmp_path: Path) -> None:
    (tmp_path / "films.yaml").write_text(SET)
    found = load_set(tmp_path / "films.yaml")
    plain, words, back = found.templates
    assert (found.dataset, found.cluster, found.group, found.references) == (
        "someone/films",
        "sentiment",
        ("text",),
        False,
    )
    assert plain.render({"text": "Fine.", "label": "good"}).choices == ("poor", "great")
    assert words.render({"text": "Fine.", "label": "good"}).answer == "yes"
    assert (back.inverted, back.labels, back.answer_choices) == (True, {}, None)
    assert plain.metadata == {"metrics": "Accuracy", "languages": "en, de"}
    assert back.metadata == {"metrics": "ROUGE", "languages": "en, de"}
