"""Quirks of data as people publish it: the right rows, or one line with file, line, field and cure.

Whatever is wrong with a row, rows read = instances + drops: nothing is lost in silence, and nothing is invented.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from didact.build import BuildConfig, build
from didact.curate import STRATEGIES, Context, DecontaminateConfig
from didact.errors import UsageError
from didact.instance import Drop, Instance
from didact.sources import FileSource, open_source

TEMPLATES = """templates:
  - {name: feel, instruction: "Is it good or bad?", input: "{{ text }}", answer: "{{ answer_choices[label] }}",
     answer_choices: "bad ||| good"}
"""
LABELS = {"label": ["bad", "good"]}


def made(folder: Path, name: str, data: bytes, **settings: Any) -> tuple[list[Instance], list[Drop]]:
    """The instances and drops of a file of labelled texts."""
    (folder / name).write_bytes(data)
    (folder / "feel.yaml").write_text(TEMPLATES)
    drops: list[Drop] = []
    config = FileSource.model_validate({"path": name, "templates": "feel.yaml", "labels": LABELS, **settings})
    tasks = open_source(config, folder, drops.append)
    return list(build(tasks, BuildConfig(heldout_rows=0, find_groups=False), drops.append)), drops


ROWS = "text,label\n" + "".join(f"film {n},{n % 2}\n" for n in range(6))
# what is wrong -> (file, bytes, settings, rows that are there, reasons of the drops, the line that stops it otherwise)
QUIRKS: dict[str, tuple[str, bytes, dict[str, Any], int, dict[str, int], str]] = {
    "no label": (
        "r.jsonl",
        b'{"text": "a", "label": 1}\n{"text": "b"}\n',
        {}, 2, {"faulty row": 1},
        'r.jsonl:2:label: labels names the column "label", which the row lacks - use one of: text '
        "or drop such rows: on_error: drop",
    ),
    "label -1": (
        "r.csv",
        (ROWS + "film 6,-1\n").encode(),
        {}, 7, {"faulty row": 1},
        "r.csv:8:label: the label '-1' is outside the choices (bad, good)",
    ),
    "unbalanced quotes": (
        "r.csv",
        (ROWS + '"never closed,1\n').encode(),
        {}, 7, {"malformed row": 1},
        "r.csv:8: malformed csv: unexpected end of data - mend the quotes of this row (quoted: false may fit the file)",
    ),
    "quotes inside a field": (
        "r.csv",
        (ROWS + 'a "b" c,1\n' + '"a ""b"" c",0\n').encode(),
        {}, 8, {}, "",
    ),
    "one record over two lines": (
        "r.csv",
        (ROWS + '"first line\nsecond line",1\n').encode(),
        {}, 7, {}, "",
    ),
    "a record too long": (
        "r.csv",
        (ROWS + "one, two,1\n").encode(),
        {}, 7, {"wrong number of fields": 1},
        "r.csv:8: 3 fields where the header has 2 - mend the row, or if the file has no header give `columns`, ",
    ),
    "no header": (
        "r.csv",
        ROWS.partition("\n")[2].encode(),
        {"columns": ["text", "label"]}, 6, {}, "",
    ),
    "latin-1": (
        "r.csv",
        ROWS.encode() + "café,1\n".encode("latin-1"),
        {"encoding": "latin-1"}, 7, {}, "",
    ),
    "latin-1 undeclared": (
        "r.csv",
        ROWS.encode() + "café,1\n".encode("latin-1"),
        {}, 7, {"wrong encoding": 1},
        "r.csv:8: not utf-8 text (byte 0xe9 at position 4) - save the file as UTF-8, or name its encoding in",
    ),
    "glued labels": (
        "r.txt",
        b"1 good film\n0 bad film\n1 fine\n",
        {"pattern": r"(?P<label>[01]) (?P<text>.+)"}, 3, {}, "",
    ),
    "a label that is not glued": (
        "r.txt",
        b"1 good film\nno label here\n",
        {"pattern": r"(?P<label>[01]) (?P<text>.+)"}, 2, {"malformed row": 1},
        "r.txt:2",
    ),
    "jsonl named json": (
        "r.json",
        b'{"text": "a", "label": 1}\r\n{"text": "b", "label": 0}\r\n',
        {}, 2, {}, "",
    ),
    "an array in jsonl": (
        "r.jsonl",
        b'[{"text": "a", "label": 1},\n {"text": "b", "label": 0}]\n',
        {"layout": "json"}, 2, {}, "",
    ),
    "a byte order mark and CRLF": (
        "r.csv",
        b"\xef\xbb\xbf" + ROWS.replace("\n", "\r\n").encode(),
        {}, 6, {}, "",
    ),
    "blank lines": (
        "r.jsonl",
        b'\n{"text": "a", "label": 1}\n\n \n{"text": "b", "label": 0}\n\n',
        {}, 2, {}, "",
    ),
    "a broken line": (
        "r.jsonl",
        b'{"text": "a", "label": 1}\n{"text": "\\escape", "label": 1}\n',
        {}, 2, {"malformed JSON": 1},
        "r.jsonl:2: malformed JSON: invalid \\escape at column 11 - mend the line, ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("quirk", QUIRKS)
def test_rows_are_instances_or_drops(tmp_path: Path, quirk: str) -> None:
    name, data, settings, rows, reasons, line = QUIRKS[quirk]
    instances, drops = made(tmp_path, name, data, **settings, on_error="drop")
    assert Counter(drop.reason for drop in drops) == reasons
    assert len(instances) + len(drops) == rows
    assert len({instance.origin.row for instance in instances} | {drop.origin.row for drop in drops}) == rows
    if not line:
        assert len(made(tmp_path, name, data, **settings)[0]) == rows
        return
    with pytest.raises(UsageError) as raised:
        made(tmp_path, name, data, **settings)
    assert str(raised.value).replace(f"{tmp_path}/", "").startswith(line)
    assert all(str(tmp_path / name) in drop.detail or drop.detail.startswith(name) for drop in drops)


def test_an_array_in_jsonl_says_what_to_do(tmp_path: Path) -> None:
    name, data, _, _, _, _ = QUIRKS["an array in jsonl"]
    with pytest.raises(
        UsageError, match=r"r.jsonl:1: a JSON array, where each line should hold one object - rename the"
    ):
        made(tmp_path, name, data)


def test_a_missing_header_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r'r.csv:1: the first line looks like data: "0" cannot be a column name - if the'
    ):
        made(tmp_path, "r.csv", b"film 1,0\nfilm 2,1\n")


BOMB = b"- &a {text: x, label: 1}\n- &b [*a, *a]\n"


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (BOMB, "r.yaml: it repeats parts by YAML aliases - write them out, or save it as JSON"),
        (b"text: x\nlabel: 1\n", "r.yaml: holds one YAML object, not a list of rows - write a list"),
        (b"- text: x\n  label: [1\n", "r.yaml:3: not YAML: "),
        (
            b"- !!python/object/apply:os.system [true]\n",
            "r.yaml:1: not YAML: could not determine a constructor for the tag",
        ),
        (b"- {text: x, label: 1}\n- 3\n", "r.yaml:2: holds a JSON number, not an object"),
        (b"", "r.yaml: the file holds no rows"),
    ],
)
def test_yaml_is_read_safely_or_refused(tmp_path: Path, data: bytes, line: str) -> None:
    with pytest.raises(UsageError) as raised:
        made(tmp_path, "r.yaml", data)
    assert str(raised.value).replace(f"{tmp_path}/", "").startswith(line)
    rows = b"- {text: a, label: 1}\n- text: |\n    two\n    lines\n  label: 0\n"
    assert [i.messages[0].parts[-1].value for i in made(tmp_path, "r.yaml", rows)[0]] in (
        ["a", "two\nlines"],
        ["two\nlines", "a"],
    )


def test_placeholders_that_nobody_filled_in(tmp_path: Path) -> None:
    rows = [{"instruction": f"Who are you, {n}?", "output": "I am {{name}}, by {{ author }}."} for n in range(4)]
    (tmp_path / "r.json").write_text(json.dumps(rows))

    def answers(**settings: Any) -> list[str]:
        (task,) = open_source(FileSource(path="r.json", **settings), tmp_path, lambda drop: None)
        return [row.data["output"] for row in task.rows()]

    with pytest.raises(
        UsageError, match=r"r.json:fill: 4 of 4 rows looked at hold {{author}}, which nobody has filled in"
    ):
        answers()
    assert answers(fill={"name": "Didact", "author": "us"}) == ["I am Didact, by us."] * 4
    with pytest.raises(
        UsageError, match=r"hold {{author}}, which nobody has filled in - say what it stands for: fill: {"
    ):
        answers(fill={"name": "Didact"})
    talk = {"instruction": "How do I write a template?", "output": "Write {{name}}."}
    few = [talk, rows[0], {"instruction": "Why?", "output": "So."}]
    (tmp_path / "r.json").write_text(json.dumps(few))
    assert answers()[0] == "Write {{name}}."  # too few rows to be a form


def test_a_dev_file_that_is_the_test_file_leaves_nothing_to_learn_from(tmp_path: Path) -> None:
    rows = "".join(
        f'{{"instruction": "Name the {n}th thing that comes to your mind now", "output": "thing {n}"}}\n'
        for n in range(9)
    )
    for name in ("dev", "test"):
        (tmp_path / f"{name}.jsonl").write_text(rows)
    drops: list[Drop] = []
    tasks = [open_source(FileSource(path=f"{name}.jsonl"), tmp_path, drops.append)[0] for name in ("dev", "test")]
    instances = list(build(tasks, BuildConfig(heldout_tasks=["test"], heldout_rows=0), drops.append))
    heldout = [instance for instance in instances if instance.tags["split"] == "heldout"]
    trained = [instance for instance in instances if instance.tags["split"] == "train"]
    assert (len(heldout), len(trained), drops) == (9, 9, [])
    strategy = STRATEGIES["decontaminate"][1]
    verdicts = strategy(DecontaminateConfig(), trained, Context(heldout=heldout, tokens=None, max_length=100))
    assert not any(verdict.keep for verdict in verdicts)
    assert all(verdict.near for verdict in verdicts)


def test_a_first_row_without_its_label_is_dropped_like_any_other(tmp_path: Path) -> None:
    rows = b'{"text": "a"}\n' + b"".join(b'{"text": "film %d", "label": %d}\n' % (n, n % 2) for n in range(4))
    instances, drops = made(tmp_path, "r.jsonl", rows, on_error="drop")
    assert len(instances) == 4
    assert [(drop.reason, drop.origin.row) for drop in drops] == [("faulty row", 1)]
    with pytest.raises(UsageError, match=r"r.jsonl:1:label: .* - use one of: text or drop such rows: on_error: drop$"):
        made(tmp_path, "r.jsonl", rows)
    with pytest.raises(UsageError, match=r'r.jsonl:1:label: labels names the column "label", .* - use one of: text$'):
        made(tmp_path, "r.jsonl", rows[:14], on_error="drop", labels={"label": ["bad", "good"]})


def test_a_label_glued_to_its_text_names_the_option_that_takes_it_out(tmp_path: Path) -> None:
    lines = b"1:x film 0\n0:y film 1\n"
    with pytest.raises(UsageError) as raised:
        made(tmp_path, "r.train", lines, layout="lines")
    told = str(raised.value)
    assert 'r.train:1:label: labels names the column "label", which the row lacks' in told
    assert r'take it out: pattern: "(?P<label>\\S+) (?P<text>.*)"; else rename: {text: label}' in told
    pattern = r"(?P<label>\d):(?P<fine>\w) (?P<text>.*)"
    assert len(made(tmp_path, "r.train", lines, layout="lines", pattern=pattern)[0]) == 2


def test_rows_that_are_all_faulty_are_dropped_one_by_one(tmp_path: Path) -> None:
    asked = [{"type": "image_url", "image_url": "gone.png"}, {"type": "text", "text": "Who?"}]
    row = {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": "She."}]}
    (tmp_path / "r.jsonl").write_text(f"{json.dumps(row)}\n" * 3)
    drops: list[Drop] = []
    (task,) = open_source(FileSource(path="r.jsonl", on_error="drop"), tmp_path, drops.append)
    assert list(task.rows()) == []
    assert [(drop.reason, drop.origin.row) for drop in drops] == [("faulty row", n) for n in (1, 2, 3)]
