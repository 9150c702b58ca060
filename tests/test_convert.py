"""From one format and container to another: every row accounted for, nothing half-written, nothing lost in silence."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from didact import files, formats
from didact.console import Console
from didact.containers import write_rows
from didact.convert import convert, format_name, open_data
from didact.errors import UsageError
from didact.instance import Instance, Origin

ALPACA = [
    {"instruction": "Add.", "input": "1 2", "output": "3", "level": 1},
    {"instruction": 'Say\n"so"', "input": "", "output": "so, é 😀\u2028 end"},
    {"instruction": "Nothing.", "input": "noinput", "output": "<nooutput>"},
    {"instruction": "Empty.", "output": " "},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in files.records(path, lambda reason, error: (_ for _ in ()).throw(error))]


def said(monkeypatch_console: Console) -> str:
    assert isinstance(monkeypatch_console.rich.file, io.StringIO)
    return monkeypatch_console.rich.file.getvalue()


@pytest.fixture
def console() -> Console:
    made = Console()
    made.rich.file = io.StringIO()
    return made


def run(
    source: Path, out: Path, to: str, console: Console, carry: bool = False, **settings: Any
) -> list[dict[str, Any]]:
    convert(open_data(source, **settings), out, format_name(to, "--to"), console, carry, replace=False)
    return read(out)


@pytest.mark.parametrize("name", ["out.jsonl", "out.json", "out.jsonl.gz", "out.json.zst", "out.ndjson"])
def test_the_same_format_is_written_back_equal_and_the_rest_is_counted(
    tmp_path: Path, name: str, console: Console
) -> None:
    source = write(tmp_path / "rows.jsonl", ALPACA)
    assert run(source, tmp_path / name, "alpaca", console) == ALPACA[:2]
    lines = said(console).split("\n")
    assert lines[1] == f"4 rows read, 2 written to {tmp_path / name} as alpaca"
    assert lines[2].startswith("dropped: 1 the answer only says that there is none; first: ")
    assert lines[3] == f"dropped: 1 the answer is empty; first: {source.absolute()}:4"
    assert lines[4:] == [""]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["rows.jsonl", name])


def test_what_another_format_cannot_hold_is_told_or_carried(tmp_path: Path, console: Console) -> None:
    source = write(tmp_path / "rows.jsonl", ALPACA[:2])
    rows = run(source, tmp_path / "m.jsonl", "messages", console)
    assert rows[0] == {
        "messages": [{"role": "user", "content": "Add.\n1 2"}, {"role": "assistant", "content": "3"}],
        "level": 1,
    }
    assert "lost: which part is instruction, input or example (1 instances)" in said(console)
    assert "--carry keeps what can be kept in a column didact" in said(console)
    run(source, tmp_path / "c.jsonl", "messages", console, carry=True)
    assert run(tmp_path / "c.jsonl", tmp_path / "back.jsonl", "alpaca", console) == ALPACA[:2]


def test_instances_that_do_not_fit_are_counted_with_their_reason(tmp_path: Path, console: Console) -> None:
    turns = [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")]
    source = write(tmp_path / "rows.jsonl", [{"messages": turns}, {"messages": turns[:2]}])
    assert run(source, tmp_path / "a.jsonl", "alpaca", console) == [
        {"instruction": "user", "input": "", "output": "assistant"}
    ]
    told = f"not written: 1 instances: {source}:1: this format holds one question and one answer - write conversations"
    assert told in said(console)
    with pytest.raises(UsageError, match=r"b.jsonl: no row is left to write - most often \(1\): .*two.jsonl:1: this"):
        run(write(tmp_path / "two.jsonl", [{"messages": turns}]), tmp_path / "b.jsonl", "alpaca", console)
    assert not (tmp_path / "b.jsonl").exists()


def test_tables_keep_types_where_they_can_and_count_what_they_cannot(tmp_path: Path, console: Console) -> None:
    source = write(tmp_path / "rows.jsonl", ALPACA[:2])
    assert run(source, tmp_path / "t.csv", "alpaca", console) == [
        {**ALPACA[0], "level": "1"}, {**ALPACA[1], "level": ""}
    ]  # fmt: skip
    assert "numbers and truth values in level: became text (1 rows)" in said(console)
    assert "no level: became an empty field (1 rows)" in said(console)
    assert run(source, tmp_path / "t.parquet", "alpaca", console) == [ALPACA[0], {**ALPACA[1], "level": None}]
    assert "no level: became null (1 rows)" in said(console)
    with pytest.raises(UsageError, match=r"t.tsv:3: a text has a tab or a line end in it, which tsv cannot hold"):
        run(source, tmp_path / "t.tsv", "alpaca", console)
    with pytest.raises(UsageError, match=r"messages: holds a list or an object, which a csv or tsv field cannot"):
        run(source, tmp_path / "m.csv", "messages", console)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "t.csv", "t.parquet"]


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.feather"])
def test_tool_calls_come_back_verbatim_from_arrow(tmp_path: Path, console: Console, name: str) -> None:
    """Arrow gives all structs the same keys, and nulls that nobody wrote would reach the prompt."""
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}
    other = {"role": "assistant", "content": "b", "tool_calls": [{"function": {"name": "g", "arguments": {"b": "x"}}}]}
    rows = [
        {"messages": [{"role": "user", "content": "q"}, call], "tools": [{"name": "f"}]},
        {"messages": [{"role": "user", "content": "q"}, other], "tools": [{"name": "g", "strict": True}]},
    ]
    assert run(write(tmp_path / "r.jsonl", rows), tmp_path / name, "messages", console) == rows


def test_arrow_streams_as_datasets_writes_them(tmp_path: Path) -> None:
    import pyarrow

    table = pyarrow.table({"instruction": ["a", "b"], "output": ["x", "y"]})
    with pyarrow.OSFile(str(tmp_path / "s.arrow"), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert read(tmp_path / "s.arrow") == table.to_pylist()
    (tmp_path / "bad.arrow").write_bytes(b"ARROW1 but not really")
    with pytest.raises(UsageError, match=r"bad.arrow: not readable as Arrow: "):
        read(tmp_path / "bad.arrow")


def test_a_file_that_is_there_stays_unless_told_otherwise(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("mine\n")
    with pytest.raises(UsageError, match="there is a file already - give another name, or --force"):
        write_rows(out, lambda: iter([{"a": 1}]))
    assert out.read_text() == "mine\n"
    assert write_rows(out, lambda: iter([{"a": 1}]), replace=True)[0] == 1
    assert read(out) == [{"a": 1}]


@pytest.mark.parametrize("name", ["o.jsonl", "o.json.gz", "o.csv", "o.parquet"])
def test_a_fault_on_the_way_leaves_nothing_half_written(tmp_path: Path, name: str) -> None:
    def rows() -> Any:
        yield {"a": "1"}
        raise UsageError("the source ends badly")

    (tmp_path / name).write_text("before")
    with pytest.raises(UsageError, match="ends badly"):
        write_rows(tmp_path / name, rows, replace=True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "before")]


def test_a_file_that_does_not_read_back_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = files.records
    monkeypatch.setattr(files, "records", lambda path, fault, layout: list(real(path, fault))[:1])
    with pytest.raises(UsageError, match="1 of 2 rows read back - write jsonl instead"):
        write_rows(tmp_path / "o.jsonl", lambda: iter([{"a": 1}, {"a": 2}]))
    monkeypatch.setattr(
        files, "records", lambda path, fault, layout: [(n, {**r, "b": 0}) for n, r in real(path, fault)]
    )
    with pytest.raises(UsageError, match="a row does not read back as it was"):
        write_rows(tmp_path / "o.jsonl", lambda: iter([{"a": 1}]))
    assert list(tmp_path.iterdir()) == []


def test_the_same_bytes_each_time(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl.gz", lambda: iter([{"a": "é"}]))
    write_rows(tmp_path / "b.jsonl.gz", lambda: iter([{"a": "é"}]))
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()) == '{"a": "é"}\n'.encode()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("o.txt", "lines can be read, but not written - write one of: jsonl, json, csv"),
        ("o.parquet.gz", "parquet is compressed inside, and cannot be read from .gz - leave .gz out"),
        ("o", "its name does not tell how to read it"),
    ],
)
def test_names_that_cannot_be_written(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        write_rows(tmp_path / name, lambda: iter([{"a": "1"}]))


def test_formats_are_named_or_refused(tmp_path: Path, console: Console) -> None:
    with pytest.raises(UsageError, match='--to: no format is called "alpacca" - did you mean "alpaca"'):
        format_name("alpacca", "--to")
    with pytest.raises(UsageError, match="tree can be read, but not written - choose one of: "):
        run(write(tmp_path / "r.jsonl", ALPACA), tmp_path / "o.jsonl", "tree", console)


def test_a_run_and_task_files_are_read(tmp_path: Path, console: Console) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    source = open_data(write(tmp_path / "rows.jsonl", ALPACA[:1]))
    (made,) = source.instances()
    made = made.tagged(split="train", template="t", shots="2")
    (tmp_path / "run" / "kept.jsonl").write_text(json.dumps(made.to_json()) + "\n")
    rows = run(tmp_path / "run", tmp_path / "o.jsonl", "alpaca", console, carry=True)
    assert rows[0]["didact"]["tags"] == {"template": "t", "shots": "2"}
    (back,) = open_data(tmp_path / "o.jsonl").instances()
    assert (back.messages, back.tags["shots"], back.origin) == (made.messages, "2", made.origin)
    folder = tmp_path / "tasks"
    folder.mkdir()
    task = {
        "Definition": ["Say it"],
        "Instances": [{"id": "1", "input": "a", "output": ["b", "c"]}, {"input": "d", "output": "e"}],
    }
    (folder / "one.json").write_text(json.dumps(task))
    assert run(folder, tmp_path / "t.jsonl", "super-ni", console) == [task]
    assert run(folder / "one.json", tmp_path / "u.jsonl", "super-ni", console) == [task]
    assert run(tmp_path / "t.jsonl", tmp_path / "v.jsonl", "super-ni", console) == [task]
    (folder / "two.json").write_text("[]")
    with pytest.raises(UsageError, match=r"two.json: "):
        run(folder, tmp_path / "w.jsonl", "super-ni", console)
    assert run(folder, tmp_path / "x.jsonl", "super-ni", console, on_error="drop") == [task]
    assert "2 rows read, 1 written" in said(console)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda v: st.lists(v, max_size=2) | st.dictionaries(TEXT, v, max_size=2),
    max_leaves=4,
)
ROWS = st.lists(st.dictionaries(st.sampled_from(["a", "b c", "é"]), VALUE, min_size=1), min_size=1, max_size=4)


@pytest.mark.parametrize("name", ["r.jsonl", "r.json", "r.json.zst", "r.parquet", "r.arrow", "r.csv", "r.tsv"])
def test_any_rows_come_back_equal_or_are_refused_or_counted(tmp_path: Path, name: str) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(ROWS)
    def there_and_back(rows: list[dict[str, Any]]) -> None:
        out = tmp_path / name
        try:
            _, lost = write_rows(out, lambda: iter(rows), replace=True)
        except UsageError:
            assert name.endswith((".csv", ".tsv", ".arrow", ".parquet"))
            return
        back = read(out)
        assert len(back) == len(rows)
        if not lost:
            assert back == rows

    there_and_back()


def test_ten_thousand_random_rows_through_three_formats() -> None:
    draw = random.Random(0)
    pieces = ["<|im_end|>", "|||", "{{ x }}", "é", "漢", "\u2028", "\n", " ", "a", "### Input:", "<noinput>", '"', "\\"]

    def text(least: int = 0) -> str:
        return "x" * least + "".join(draw.choices(pieces, k=draw.randrange(5)))

    rows = []
    for n in range(10_000):
        row: dict[str, Any] = {"instruction": text(1), "output": text(1), "id": n}
        if draw.random() < 0.8:
            row["input"] = draw.choice([None, "", text(), text(1)])
        rows.append(row)

    def through(name: formats.Name, instances: Any) -> list[Instance]:
        mapping = formats.Mapping(name, "")
        written = [json.loads(json.dumps(row)) for row in formats.from_instances(name, instances, carry=True)]
        return [formats.to_instances(mapping, row, Origin("r", n))[0] for n, row in enumerate(written, 1)]

    first = [
        formats.to_instances(formats.Mapping("alpaca", ""), row, Origin("r", n))[0] for n, row in enumerate(rows, 1)
    ]
    last = through("sharegpt", through("messages", through("sharegpt", first)))
    assert list(formats.from_instances("alpaca", last)) == rows


SUFFIXES = [
    ".jsonl",
    ".json",
    ".csv",
    ".tsv",
    ".yaml",
    ".parquet",
    ".arrow",
    ".conll",
    ".txt",
    ".jsonl.gz",
    ".json.zst",
]
SPARKS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b":",
    b",",
    b"\n",
    b"\t",
    b"\xff\xfe",
    b"\x00",
    b"- a: ",
    b"*x",
    b"&x ",
    b'{"a": 1}\n',
]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_random_bytes_give_rows_or_one_line(tmp_path: Path, suffix: str) -> None:
    @settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.binary(max_size=60) | st.lists(st.sampled_from(SPARKS) | st.binary(max_size=3), max_size=12).map(b"".join)
    )
    def look(data: bytes) -> None:
        path = tmp_path / f"r{suffix}"
        path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
        faults: list[UsageError] = []
        try:
            for number, row in files.records(path, lambda reason, error: faults.append(error)):
                assert number >= 1
                assert isinstance(row, dict)
        except UsageError as error:
            faults.append(error)
        assert all("\n" not in str(error) for error in faults)
        try:
            list(open_data(path, on_error="drop").instances())
        except UsageError as error:
            faults.append(error)
        assert all("\n" not in str(error) for error in faults)

    look()


KEYS = [
    *("instruction", "output", "messages", "conversations", "role", "content", "from", "value", "prompt", "instances"),
    *("input", "Definition", "Instances", "conversation", "text", "replies", "didact", "read", "id", "origin", "tags"),
]
ODD = st.recursive(
    VALUE, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(KEYS), v, max_size=4), max_leaves=8
)


def test_random_rows_give_instances_or_drops_and_none_is_lost(tmp_path: Path) -> None:
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.dictionaries(st.sampled_from(KEYS), ODD, min_size=1, max_size=5), min_size=1, max_size=4))
    def look(rows: list[dict[str, Any]]) -> None:
        try:
            source = open_data(write(tmp_path / "r.jsonl", rows), on_error="drop")
            made = list(source.instances())
        except UsageError:
            return
        assert source.rows == len(rows)
        assert len({instance.origin.row for instance in made if instance.origin.via != ""}) <= len(rows)

    look()


def test_no_trace_of_the_unfinished_file_after_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> Any:
        raise OSError(28, os.strerror(28), str(path))

    monkeypatch.setattr("didact.containers._opened", full)
    with pytest.raises(UsageError, match="the disk is full"):
        write_rows(tmp_path / "o.jsonl", lambda: iter([{"a": 1}]))
    assert list(tmp_path.iterdir()) == []


def test_a_saved_hub_dataset_is_read(tmp_path: Path, console: Console) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    datasets.Dataset.from_list(ALPACA[:1]).save_to_disk(str(tmp_path / "saved"))
    assert run(tmp_path / "saved", tmp_path / "o.jsonl", "alpaca", console) == ALPACA[:1]
