"""Bad data on the command line: one line `file:line:field: problem - fix`, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from didact import cli

DROP = "or drop such rows: on_error: drop"
GOOD = "".join(json.dumps({"instruction": f"Say {n}.", "output": str(n)}) + "\n" for n in range(120))
TEMPLATES = 'templates:\n  - {{name: one, prompt: "{}", answer: "{}", answer_choices: "no ||| yes"}}\n'
LABELLED = "".join(
    json.dumps({"instruction": f"Is {n} odd?", "label": n % 2 if n < 119 else 2}) + "\n" for n in range(120)
)

# what is wrong: (name of the file, its content, more lines of the source, templates, the line on stderr)
CASES: dict[str, tuple[str, bytes, str, str, str]] = {
    "malformed line": (
        "rows.jsonl",
        (GOOD + '{"instruction": }\n').encode(),
        "",
        "",
        f"rows.jsonl:121: malformed JSON: expecting value at column 17 - mend the line, {DROP}",
    ),
    "array in jsonl": (
        "rows.jsonl",
        json.dumps([{"instruction": "i", "output": "o"}], indent=1).encode(),
        "",
        "",
        "rows.jsonl:1: a JSON array, where each line should hold one object - rename the file to .json, or add layout: "
        "json",
    ),
    "latin-1": (
        "rows.jsonl",
        (GOOD + '{"instruction": "é", "output": "o"}\n').encode("latin-1"),
        "",
        "",
        "rows.jsonl:121: not utf-8 text (byte 0xe9 at position 18) - save the file as UTF-8, or name its encoding in "
        "the source, such as encoding: latin-1",
    ),
    "utf-16": (
        "rows.jsonl",
        GOOD.encode("utf-16"),
        "",
        "",
        "rows.jsonl:1: the file is UTF-16, not UTF-8 - save it as UTF-8, or add encoding: utf-16 to the source",
    ),
    "missing field": (
        "rows.jsonl",
        (GOOD + '{"instrution": "i", "output": "o"}\n').encode(),
        "",
        "",
        'rows.jsonl:121:instruction: the field "instruction" is missing - did you mean "instrution"? ' + DROP,
    ),
    "empty field": (
        "rows.jsonl",
        (GOOD + '{"instruction": "", "output": "o"}\n').encode(),
        "",
        "",
        f'rows.jsonl:121:instruction: the field "instruction" is empty - fill it, {DROP}',
    ),
    "mistyped field": (
        "rows.jsonl",
        (GOOD + '{"instruction": "i", "output": 3}\n').encode(),
        "",
        "",
        f"rows.jsonl:121:output: holds a number where text should be - mend it, {DROP}",
    ),
    "unknown role": (
        "rows.jsonl",
        b'{"messages": [{"role": "usr", "content": "q"}, {"role": "assistant", "content": "a"}]}\n',
        "",
        "",
        f'rows.jsonl:1:messages.0.role: unknown role "usr" - did you mean "user"? {DROP}',
    ),
    "missing column": (
        "rows.jsonl",
        GOOD.encode(),
        "",
        TEMPLATES.format("{{ instrution }}", "{{ output }}"),
        'rows.jsonl:1:instrution: the template needs the column "instrution", which the row lacks (template "one") - '
        'did you mean "instruction"? (rename: {COLUMN: instrution} gives it that name), ' + DROP,
    ),
    "label outside the choices": (
        "rows.jsonl",
        LABELLED.encode(),
        ", labels: {label: ['no', 'yes']}",
        TEMPLATES.format("{{ instruction }}", "{{ answer_choices[label] }}"),
        "rows.jsonl:120:label: the label 2 is outside the choices (no, yes) - mend `labels` or the row, " + DROP,
    ),
    "leaving the sandbox": (
        "rows.jsonl",
        GOOD.encode(),
        "",
        TEMPLATES.format("{{ ''.__class__.__mro__ }}", "{{ output }}"),
        "templates.yaml: the template tries to leave the sandbox: access to attribute '__class__' of 'str' object is "
        'unsafe. (template "one") - leave it out of the source\'s `use`, or write it without that',
    ),
    "wrong number of fields": (
        "rows.csv",
        b"instruction,output\n" + b"a,b\n" * 120 + b"a,b,c\n",
        "",
        "",
        "rows.csv:122: 3 fields where the header has 2 - mend the row, or if the file has no header give `columns`, "
        + DROP,
    ),
    "impossible size": (
        "rows.jsonl",
        GOOD.encode(),
        "}\nbuild: {heldout_rows: 500",
        "",
        'build.heldout_rows: task "rows" has 120 groups of rows; holding 500 out leaves none to train on - hold fewer '
        "rows out",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_data_is_one_line_and_leaves_nothing_half_written(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, data, more, templates, line = CASES[case]
    (tmp_path / name).write_bytes(data)
    (tmp_path / "templates.yaml").write_text(templates)
    more = f"{', templates: templates.yaml' if templates else ''}{more}"
    (tmp_path / "recipe.yaml").write_text(f"sources:\n  - {{type: file, path: {name}{more}}}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["didact", "build", "recipe.yaml", "--out", "out"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr().err.strip().replace(f"{tmp_path}/", "")
    assert (ended.value.code, told) == (2, line)
    left = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")}
    assert left <= {"recipe.yaml", "recipe.json", "run.json", "lock"}


@pytest.mark.parametrize("mark", ["\u0085", "\u2028", "\x1c"])
def test_characters_that_end_lines_elsewhere_and_a_bom_are_read(
    mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = json.dumps({"instruction": f"Say{mark}this.", "output": "this"}, ensure_ascii=False)
    text = "\ufeff" + row + "\r\n\r\n" + GOOD
    if mark == "\x1c":  # JSON wants control characters escaped, so it can only stand in a table
        text = "\ufeffinstruction,output\r\n" + f'"Say{mark}this.",this\r\n' + "a,b\r\n" * 50
    name = "rows.csv" if mark == "\x1c" else "rows.jsonl"
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    (tmp_path / "recipe.yaml").write_text(f"sources:\n  - {{type: file, path: {name}}}\nbuild: {{heldout_rows: 0}}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["didact", "build", "recipe.yaml", "--out", "out"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None)
    assert f"Say{mark}this." in (tmp_path / "out" / "built.jsonl").read_text("utf-8").replace("\\u001c", "\x1c")
