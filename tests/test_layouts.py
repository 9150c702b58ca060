"""Layouts in which a record is no line, and rows made of rows."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from didact.entities import entities
from didact.errors import UsageError
from didact.files import records
from didact.instance import Drop
from didact.layouts import unrolled
from didact.sources import FileSource, Task, open_source

ECHO = "templates: [{name: echo, prompt: 'Echo {{ row }}', answer: x}]"


def opened(folder: Path, drops: list[Drop] | None = None, **settings: Any) -> Task:
    (folder / "echo.yaml").write_text(ECHO)
    config = FileSource.model_validate({"templates": "echo.yaml", **settings})
    return open_source(config, folder, (drops if drops is not None else []).append)[0]


def rows(folder: Path, drops: list[Drop] | None = None, **settings: Any) -> list[dict[str, Any]]:
    return [row.data for row in opened(folder, drops, **settings).rows()]


SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Boats",
            "paragraphs": [
                {
                    "context": "The ferry is red.",
                    "qas": [
                        {"id": "1", "question": "Colour?", "answers": [{"text": "red", "answer_start": 13}]},
                        {
                            "id": "2",
                            "question": "Age?",
                            "is_impossible": True,
                            "answers": [],
                            "plausible_answers": [{"text": "red", "answer_start": 13}],
                        },
                    ],
                },
                {"context": "Empty.", "qas": []},
            ],
        }
    ],
}


def test_squad_is_recognised_and_flattened(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text(json.dumps(SQUAD))
    first, second = rows(tmp_path, path="q.json")
    assert first == {
        "id": "1",
        "title": "Boats",
        "context": "The ferry is red.",
        "question": "Colour?",
        "answers": {"text": ["red"], "answer_start": [13]},
        "squad": {"document": {"version": "v2.0"}},
    }
    assert second["answers"] == {"text": [], "answer_start": []}
    assert second["is_impossible"] is True
    assert second["squad"] == {"closes": [{"paragraph": {"context": "Empty."}}]}
    assert [row.number for row in opened(tmp_path, path="q.json").rows()] == [1, 2]


def test_a_question_that_lacks_something_is_named_or_dropped(tmp_path: Path) -> None:
    broken = json.loads(json.dumps(SQUAD))
    del broken["data"][0]["paragraphs"][0]["qas"][1]["question"]
    (tmp_path / "q.json").write_text(json.dumps(broken))
    with pytest.raises(UsageError, match=r"q.json:2: the question is not as in SQuAD: 'question' - mend it, or drop"):
        rows(tmp_path, path="q.json")
    drops: list[Drop] = []
    assert len(rows(tmp_path, drops, path="q.json", on_error="drop")) == 1
    assert [drop.reason for drop in drops] == ["malformed record"]


def test_splits_of_arrays_get_column_names(tmp_path: Path) -> None:
    data = {"train": [["hello", "greet"], ["bye", "leave"]], "test": [["hi", "greet"]]}
    (tmp_path / "c.json").write_text(json.dumps(data, indent=1))
    read = rows(tmp_path, path="c.json", columns=["text", "intent"], where={"split": "test"})
    assert read == [{"text": "hi", "intent": "greet", "split": "test"}]
    with pytest.raises(UsageError, match=r'c.json: the rows of "train" are arrays without names - name the 2 values'):
        rows(tmp_path, path="c.json")
    with pytest.raises(UsageError, match=r"c.json:1: 2 values where `columns` names 1 - mend the row"):
        rows(tmp_path, path="c.json", columns=["text"])


CONLL = "-DOCSTART- -X- O O\n\n# a comment\nAda NNP B-NP B-PER\nKing NNP I-NP I-PER\n\n\nran VBD B-VP O\n"


def test_conll_gives_tokens_tags_and_entities(tmp_path: Path) -> None:
    (tmp_path / "n.conll").write_text(CONLL)
    first, second = rows(tmp_path, path="n.conll")
    assert first == {
        "tokens": ["Ada", "King"],
        "field_2": ["NNP", "NNP"],
        "field_3": ["B-NP", "I-NP"],
        "ner_tags": ["B-PER", "I-PER"],
        "entities": [{"text": "Ada King", "type": "PER", "start": 0, "end": 2}],
        "before": ["-DOCSTART- -X- O O", "# a comment"],
    }
    assert second == {
        "tokens": ["ran"],
        "field_2": ["VBD"],
        "field_3": ["B-VP"],
        "ner_tags": ["O"],
        "entities": [],
    }
    columns = ["tokens", "pos", "chunks", "ner_tags"]
    assert rows(tmp_path, path="n.conll", columns=columns)[0]["pos"] == ["NNP", "NNP"]
    assert [row.number for row in opened(tmp_path, path="n.conll").rows()] == [4, 8]


def test_conll_lines_may_be_apart_by_tabs_and_separators_hold_one(tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_bytes("#\tO\r\n# 1\tB-loc\r\n\t\r\n\u2028\tO\r\n".encode())
    first, second = rows(tmp_path, path="n.txt", layout="conll")
    assert first["tokens"] == ["#", "# 1"]
    assert second["ner_tags"] == ["O"]


def test_a_sentence_with_a_wrong_line_is_named_and_dropped_whole(tmp_path: Path) -> None:
    (tmp_path / "n.conll").write_text("Ada B-PER\nKing\nsaw O\n\nran O\n")
    with pytest.raises(UsageError, match=r"n.conll:2: 1 fields in a line of a sentence that has 2 - mend the line, or"):
        rows(tmp_path, path="n.conll")
    drops: list[Drop] = []
    assert [row["tokens"] for row in rows(tmp_path, drops, path="n.conll", on_error="drop")] == [["ran"]]
    assert len(drops) == 1


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-a I-a B-a O", [("a", 0, 2), ("a", 2, 3)]),
        ("I-a I-a I-b O", [("a", 0, 2), ("b", 2, 3)]),
        ("O I-a O I-a", [("a", 1, 2), ("a", 3, 4)]),
        ("S-a B-a I-a E-a", [("a", 0, 1), ("a", 1, 4)]),
        ("U-a U-a B-a L-a", [("a", 0, 1), ("a", 1, 2), ("a", 2, 4)]),
        ("a a O b-c", [("a", 0, 2), ("b-c", 3, 4)]),
        ("B-a I-b _ E-c", [("a", 0, 1), ("b", 1, 2), ("c", 3, 4)]),
        ("I- I- O S-", [("", 0, 2), ("", 3, 4)]),
    ],
)
def test_tags_of_every_scheme_give_entities(tags: str, found: list[tuple[str, int, int]]) -> None:
    given = entities(["t0", "t1", "t2", "t3"], tags.split())
    assert [(e["type"], e["start"], e["end"]) for e in given] == found
    assert all(e["text"] == " ".join(f"t{i}" for i in range(e["start"], e["end"])) for e in given)


def test_tags_and_tokens_of_other_lengths_are_no_entities() -> None:
    with pytest.raises(ValueError, match="2 tokens but 1 tags"):
        entities(["a", "b"], ["O"])


def test_lists_in_a_row_are_unrolled(tmp_path: Path) -> None:
    passage = {
        "text": "P",
        "questions": [
            {"question": "q1", "answers": [{"text": "a", "label": 1}, {"text": "b", "label": 0}]},
            {"question": "q2", "answers": [{"text": "c", "label": 0}]},
            {"question": "q3", "answers": []},
        ],
    }
    (tmp_path / "m.jsonl").write_text(json.dumps({"idx": 7, "passage": passage}) + "\n")
    settings = {
        "path": "m.jsonl",
        "unroll": {"q": "passage.questions", "a": "q.answers"},
        "rename": {"passage.text": "paragraph", "q.question": "question", "a.text": "answer", "a.label": "label"},
        "labels": {"a.label": ["wrong", "right"]},
    }
    read = list(opened(tmp_path, **settings).rows())
    wanted = [("P", "q1", "a", "right"), ("P", "q1", "b", "wrong"), ("P", "q2", "c", "wrong")]
    columns = ("paragraph", "question", "answer", "label")
    assert [tuple(row.data[column] for column in columns) for row in read] == wanted
    assert [row.number for row in read] == [1, 2, 3]
    with pytest.raises(UsageError, match=r'm.jsonl:1:passage.text: unroll: "passage.text" is no list in the row'):
        rows(tmp_path, path="m.jsonl", unroll={"q": "passage.text"})
    with pytest.raises(UsageError, match=r'"pasage.questions" is not in the row - did you mean "passage"\?'):
        rows(tmp_path, path="m.jsonl", unroll={"q": "pasage.questions"})


def test_a_whole_document_is_unrolled(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(json.dumps({"version": 1, "items": [{"x": ["a", "b"]}, {"x": ["c"]}]}))
    read = rows(tmp_path, path="d.json", layout="object", unroll={"item": "items"}, rename={"item.x.0": "x"})
    assert [row["x"] for row in read] == ["a", "c"]


def test_a_pattern_takes_lines_apart(tmp_path: Path) -> None:
    (tmp_path / "t.train").write_bytes("HUM:ind Who was Jos\xe9 ?\nLOC:city Where ?\n".encode("latin-1"))
    settings: dict[str, Any] = {"path": "t.train", "layout": "lines", "encoding": "latin-1"}
    read = rows(tmp_path, **settings, pattern=r"(?P<coarse>\w+):(?P<fine>\w+) (?P<text>.*)")
    assert read[0] == {"coarse": "HUM", "fine": "ind", "text": "Who was José ?"}
    with pytest.raises(UsageError, match=r't.train:1: the line "HUM:ind Who was José \?" does not fit the pattern'):
        rows(tmp_path, **settings, pattern=r"(?P<coarse>\d+):.*")
    for pattern, problem in ((r"(", "not a regular expression"), (r"a.*", "it names no column")):
        with pytest.raises(ValueError, match=problem):
            FileSource.model_validate({**settings, "pattern": pattern})


def test_files_that_belong_together_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"goal": "a"}\n\n{"goal": "b"}\n')
    (tmp_path / "labels.lst").write_text("1\n0\n")
    (tmp_path / "more.txt").write_text("x\ny\n")
    settings: dict[str, Any] = {"path": "d.jsonl", "beside": {"label": "labels.lst", "other": "more.txt"}}
    assert rows(tmp_path, **settings) == [
        {"goal": "a", "label": "1", "other": "x"},
        {"goal": "b", "label": "0", "other": "y"},
    ]
    named = rows(tmp_path, **settings, labels={"label": ["no", "yes"]}, where={"goal": "b"})
    assert [row["label"] for row in named] == ["no"]
    with pytest.raises(UsageError, match=r'd.jsonl has a column "goal" itself - choose another name'):
        rows(tmp_path, path="d.jsonl", beside={"goal": "labels.lst"})


@pytest.mark.parametrize(("labels", "short"), [("1\n", "labels.lst"), ("1\n0\n1\n", "d.jsonl")])
def test_files_of_other_lengths_are_refused(tmp_path: Path, labels: str, short: str) -> None:
    (tmp_path / "d.jsonl").write_text('{"goal": "a"}\n{"goal": "b"}\n')
    (tmp_path / "labels.lst").write_text(labels)
    with pytest.raises(UsageError, match=rf"{short}:beside.label: ends after \d rows, before .*: they do not belong"):
        rows(tmp_path, path="d.jsonl", beside={"label": "labels.lst"})


def test_no_line_is_left_out_of_files_that_belong_together(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"goal": "a"}\n{"goal": \n{"goal": "c"}\n')
    (tmp_path / "labels.lst").write_text("1\n0\n1\n")
    with pytest.raises(UsageError, match=r"d.jsonl:2: malformed JSON"):
        rows(tmp_path, path="d.jsonl", beside={"label": "labels.lst"}, on_error="drop")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "paragraphs", "qas", "context", "question", "answers", "text", "a"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(value=JSON, layout=st.sampled_from(["json", "squad", "splits", "object"]), columns=st.sampled_from([[], ["x"]]))
def test_random_documents_raise_only_typed_errors(value: Any, layout: Any, columns: list[str]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "d.json"
        path.write_text(json.dumps(value))
        faults: list[str] = []
        try:
            read = list(records(path, lambda reason, error: faults.append(reason), layout, columns=columns))
            read = list(unrolled(read, {"item": "data"}, path, lambda reason, error: faults.append(reason)))
        except UsageError:
            return
        assert all(isinstance(row, dict) for _, row in read)


@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet="ab \t\n#-BIO\u2028\u0085", max_size=60), columns=st.sampled_from([[], ["w", "t"]]))
def test_random_columns_raise_only_typed_errors(text: str, columns: list[str]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "d.conll"
        path.write_text(text, newline="")
        try:
            read = list(records(path, lambda reason, error: None, columns=columns))
        except UsageError:
            return
        for _, row in read:
            beside = ("entities", "before", "after")
            assert len({len(value) for name, value in row.items() if name not in beside}) == 1
