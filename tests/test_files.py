"""Reading files: the same rows from every layout and compression, and one line for every kind of damage."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from didact.errors import UsageError
from didact.files import records

ROWS = [{"a": "x", "b": "1"}, {"a": "é\u0085ü\u2028.", "b": "2"}]


def stop(reason: str, error: UsageError) -> None:
    raise error


def read(
    path: Path, fault: Callable[[str, UsageError], None] = stop, **options: Any
) -> list[tuple[int, dict[str, Any]]]:
    return list(records(path, fault, **options))


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(data)


CONTENTS = {
    "rows.jsonl": json_lines(ROWS),
    "crlf.jsonl": json_lines(ROWS).replace(b"\n", b"\r\n\r\n"),
    "bom.jsonl": b"\xef\xbb\xbf" + json_lines(ROWS),
    "rows.json": json.dumps(ROWS, indent=1).encode(),
    "lines.json": json_lines(ROWS),
    "rows.csv": "a,b\nx,1\né\u0085ü\u2028.,2\n".encode(),
    "bom-crlf.csv": b"\xef\xbb\xbf" + "a,b\r\nx,1\r\n\r\né\u0085ü\u2028.,2\r\n".encode(),
    "rows.tsv": "a\tb\nx\t1\né\u0085ü\u2028.\t2\n".encode(),
}


@pytest.mark.parametrize("pack", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", CONTENTS)
def test_every_layout_gives_the_same_rows(tmp_path: Path, name: str, pack: str) -> None:
    data = {"": bytes, ".gz": gzip.compress, ".zst": zstd}[pack](CONTENTS[name])
    (tmp_path / (name + pack)).write_bytes(data)
    assert [row for _, row in read(tmp_path / (name + pack))] == ROWS


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet") == [(1, ROWS[0]), (2, ROWS[1])]


def test_compression_is_told_by_the_content_not_by_the_name(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(gzip.compress(json_lines(ROWS)))
    assert len(read(tmp_path / "rows.jsonl")) == 2


def test_two_zstd_frames_are_one_file(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl.zst").write_bytes(zstd(json_lines(ROWS[:1])) + zstd(json_lines(ROWS[1:])))
    assert [row for _, row in read(tmp_path / "rows.jsonl.zst")] == ROWS


def test_a_number_is_the_line_where_the_record_begins(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\n{"a": 1}\n\n{"a": 2}\n')
    (tmp_path / "a.csv").write_bytes(b'a,b\n"two\nlines",1\nx,2\n')
    (tmp_path / "a.json").write_bytes(b'[{"a": 1},\n\n{"a": 2}]')
    assert [number for number, _ in read(tmp_path / "a.jsonl")] == [2, 4]
    assert [number for number, _ in read(tmp_path / "a.csv")] == [2, 4]
    assert [number for number, _ in read(tmp_path / "a.json")] == [1, 2]


def test_bare_lines_and_declared_encodings(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("schön\r\n\nzwei\n".encode("latin-1"))
    assert [row["text"] for _, row in read(tmp_path / "a.txt", encoding="latin-1")] == ["schön", "", "zwei"]
    (tmp_path / "b.jsonl").write_bytes(json_lines(ROWS).decode().encode("utf-16"))
    assert [row for _, row in read(tmp_path / "b.jsonl", encoding="utf-16")] == ROWS


def test_a_table_without_header_and_a_tsv_with_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b'clc95\t1\t\tSomebody "left".\n')
    row = {"source": "clc95", "label": "1", "mark": "", "sentence": 'Somebody "left".'}
    assert read(tmp_path / "a.tsv", columns=list(row)) == [(1, row)]
    (tmp_path / "b.tsv").write_bytes(b'a\tb\n"x\ty"\t2\n')
    assert read(tmp_path / "b.tsv", quoted=True) == [(2, {"a": "x\ty", "b": "2"})]


def test_a_line_that_is_a_conversation_is_a_row(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    (tmp_path / "a.jsonl").write_text(json.dumps(turns) + "\n")
    assert read(tmp_path / "a.jsonl") == [(1, {"messages": turns})]


NO_ROWS = "the file holds no rows - give a file with rows"
OR_DROP = "or drop such rows: on_error: drop"
ENCODING = "save the file as UTF-8, or name its encoding in the source, such as encoding: latin-1"
OBJECT = f'write an object, such as {{"instruction": ..., "output": ...}}, {OR_DROP}'
NO_HEADER = "if the file has no header, give the source `columns: [...]`"
# name of the file, its bytes, the line that is printed after the path
DAMAGE: dict[str, tuple[str, bytes, str]] = {
    "malformed": (
        "a.jsonl",
        b'{"a": 1}\n{"a": }\n',
        f"2: malformed JSON: expecting value at column 7 - mend the line, {OR_DROP}",
    ),
    "array in jsonl": (
        "a.jsonl",
        b'[\n {"a": 1}\n]\n',
        "1: a JSON array, where each line should hold one object - rename the file to .json, or add layout: json",
    ),
    "latin-1": (
        "a.jsonl",
        '{"a": 1}\n{"a": "schön"}\n'.encode("latin-1"),
        f"2: not utf-8 text (byte 0xf6 at position 11) - {ENCODING}",
    ),
    "utf-16": (
        "a.jsonl",
        '{"a": 1}\n'.encode("utf-16"),
        "1: the file is UTF-16, not UTF-8 - save it as UTF-8, or add encoding: utf-16 to the source",
    ),
    "utf-16 without BOM": (
        "a.csv",
        "a,b\n".encode("utf-16-le"),
        "1: the file is UTF-16, not UTF-8 - save it as UTF-8, or add encoding: utf-16 to the source",
    ),
    "NaN": ("a.jsonl", b'{"a": NaN}\n', f"1: NaN is not JSON: write null - mend the line, {OR_DROP}"),
    "key twice": ("a.jsonl", b'{"a": 1, "a": 2}\n', f'1: the key "a" is given twice - mend the line, {OR_DROP}'),
    "half a character": (
        "a.jsonl",
        b'{"a": ["\\ud800"]}\n',
        f"1: half of a surrogate pair (\\ud800-\\udfff) in a text - mend the line, {OR_DROP}",
    ),
    "too deep": (
        "a.jsonl",
        b'{"a":' + b"[" * 100_000 + b"\n",
        f"1: malformed JSON: too deeply nested or too large a number - mend the line, {OR_DROP}",
    ),
    "a string": ("a.jsonl", b'"x"\n', f"1: holds a JSON string, not an object - {OBJECT}"),
    "a number": ("a.json", b'[{"a": 1}, 3]', f"2: holds a JSON number, not an object - {OBJECT}"),
    "an object": (
        "a.json",
        b'{"data": []}',
        " holds one JSON object, not an array of rows - save its rows as JSON lines, one object per line, "
        "or say where they lie: layout: object, unroll: {...}",
    ),
    "a one-line array": (
        "a.jsonl",
        b'[{"a": 1}, {"a": 2}]\n',
        "1: a JSON array, where each line should hold one object - rename the file to .json, or add layout: json",
    ),
    "cut json": (
        "a.json",
        b'[{"a": 1},\n',
        "2: malformed JSON: expecting value at column 1 - mend the file at this line",
    ),
    "trailing comma": (
        "a.json",
        b'[{"a": 1},\n]',
        "2: malformed JSON: a comma before the closing bracket at column 1 - mend the file at this line",
    ),
    "empty": ("a.jsonl", b"", f" {NO_ROWS}"),
    "blank": ("a.jsonl.gz", gzip.compress(b"\n \n"), f" {NO_ROWS}"),
    "only a header": ("a.csv", b"a,b\n", f" {NO_ROWS}"),
    "cut gz": (
        "a.jsonl.gz",
        gzip.compress(json_lines(ROWS * 99))[:-20],
        " its compressed data is cut off or damaged - fetch the file again",
    ),
    "cut zst": (
        "a.jsonl.zst",
        zstd(json_lines(ROWS * 99))[:-5],
        " its compressed data is cut off or damaged - fetch the file again",
    ),
    "not gz": ("a.jsonl.gz", json_lines(ROWS), " is named .gz but holds no gzip data - rename it or fetch it again"),
    "not parquet": (
        "a.parquet",
        b"abc",
        " not readable as Parquet: Parquet file size is 3 bytes, smaller than the minimum file footer (8 bytes)"
        " - fetch or write the file again",
    ),
    "no layout": (
        "a.train",
        b"x",
        " its name does not tell how to read it - add `layout:` "
        "(arrow, conll, csv, json, jsonl, lines, parquet, tsv, yaml) to the source",
    ),
    "no header": (
        "a.csv",
        b'"3","x"\n',
        f'1: the first line looks like data: "3" cannot be a column name - {NO_HEADER}',
    ),
    "fields": (
        "a.csv",
        b"a,b\n1,2\n1,2,3\n",
        f"3: 3 fields where the header has 2 - mend the row, or if the file has no header give `columns`, {OR_DROP}",
    ),
    "unbalanced quotes": (
        "a.csv",
        b'a,b\n1,"2\n3,4\n',
        "2: malformed csv: unexpected end of data - mend the quotes of this row (quoted: false may fit the file), "
        + OR_DROP,
    ),
    "tabs in csv": ("a.csv", b"a\tb\n1\t2\n", "1: the header has only one column - the file may need layout: tsv"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_told_in_one_line(tmp_path: Path, case: str) -> None:
    name, data, line = DAMAGE[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError) as raised:
        read(tmp_path / name)
    assert str(raised.value) == f"{tmp_path / name}:{line}"
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(b"{}\n")
    with pytest.raises(UsageError, match=r'trian.jsonl: no such file - did you mean "train.jsonl"\?'):
        read(tmp_path / "trian.jsonl")
    with pytest.raises(UsageError, match="is a folder, not a file - name a file in it"):
        read(tmp_path, layout="jsonl")


@pytest.mark.parametrize(
    ("name", "data", "reasons"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": }\n"x"\n\xff\n{"a": 2}\n', ["malformed JSON", "not an object", "wrong encoding"]),
        ("a.csv", b'a,b\n1,2\n1\n"x"y,2\n3,4\n', ["wrong number of fields", "malformed row"]),
    ],
)
def test_faulty_rows_can_be_dropped_and_counted(tmp_path: Path, name: str, data: bytes, reasons: list[str]) -> None:
    (tmp_path / name).write_bytes(data)
    dropped: list[str] = []
    assert len(read(tmp_path / name, lambda reason, error: dropped.append(reason))) == 2
    assert dropped == reasons


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=80) | st.text(alphabet='{}[]":,\n\r\t ab1\\u0"é', max_size=60).map(str.encode))
def test_random_bytes_give_rows_or_a_usage_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("random")
    for name in ("a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.parquet", "a.jsonl.gz"):
        (folder / name).write_bytes(data)
        for fault in (stop, lambda reason, error: None):
            try:
                rows = read(folder / name, fault)
            except UsageError as error:
                told = str(error)
                assert told.startswith(str(folder / name))
            else:
                assert all(isinstance(row, dict) for _, row in rows)
