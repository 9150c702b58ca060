"""CoNLL and SQuAD as formats: recognised, read as instructions, and written back as they were, or refused."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import need_material
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from didact import files
from didact.console import Console
from didact.convert import convert, format_name, open_data
from didact.errors import UsageError
from didact.formats import Mapping, from_instances, to_instances
from didact.instance import Instance, Message, Origin, Part
from didact.sources import FileSource, open_source

ORIGIN = Origin("rows.jsonl", 7, task="t")
QUIET = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CONTEXT = "The ferry is red. The pier is old."
ROW = {"id": "q1", "title": "Boats", "context": CONTEXT, "question": "Colour?"}
ROW |= {"answers": {"text": ["red"], "answer_start": [13]}}
QUESTION = {"id": "2", "question": "Age?", "is_impossible": True, "answers": [], "plausible_answers": []}
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Boats",
            "url": "u",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "document_id": 3,
                    "qas": [
                        {"id": "1", "question": "Colour?", "answers": [{"text": "red", "answer_start": 13, "by": 5}]},
                        QUESTION,
                    ],
                },
                {"context": "Nobody asks.", "qas": []},
                {"context": CONTEXT, "qas": [{**QUESTION, "id": "3"}]},
                {"context": CONTEXT, "qas": [{**QUESTION, "title": "t", "squad": {"opens": 1}}]},
            ],
        },
        {"title": "Nothing", "paragraphs": []},
        {"paragraphs": [{"context": "So.", "qas": [{"question": "Why?", "answers": []}]}]},
        {"title": "Nothing", "paragraphs": [{"context": "Not asked.", "qas": []}]},
    ],
}
CONLL = """-DOCSTART- -X- -X- O

# about Ada
Ada NNP I-NP B-PER
King NNP I-NP I-PER

ran VBD I-VP O
-DOCSTART- -X- -X- O
. . O O

# that was all
"""


@pytest.fixture
def console() -> Console:
    made = Console()
    made.rich.file = io.StringIO()
    return made


def said(console: Console) -> str:
    assert isinstance(console.rich.file, io.StringIO)
    return console.rich.file.getvalue()


def run(source: Path, out: Path, to: str, console: Console, carry: bool = False, **settings: Any) -> Path:
    convert(open_data(source, **settings), out, format_name(to, "--to"), console, carry, replace=True)
    return out


def rows_of(path: Path, layout: files.Layout = "auto") -> list[dict[str, Any]]:
    def stop(reason: str, error: UsageError) -> None:
        raise error

    return [row for _, row in files.records(path, stop, layout)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def instance(name: Any, row: dict[str, Any]) -> Instance:
    (made,) = to_instances(Mapping(name, ""), row, ORIGIN)
    return made


def test_squad_is_written_back_through_every_container(tmp_path: Path, console: Console) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SQUAD))
    assert json.loads(run(tmp_path / "s.json", tmp_path / "a.json", "squad", console).read_text()) == SQUAD
    first = said(console).split("\n")
    assert first[0].startswith("squad: question -> instruction, context -> input, answers -> answer and references")
    assert first[1] == f"5 rows read, 5 written to {tmp_path / 'a.json'} as squad"
    for between, form in (("b.jsonl", "squad"), ("b.jsonl.gz", "squad"), ("m.jsonl", "messages")):
        run(tmp_path / "s.json", tmp_path / between, form, console, carry=form != "squad")
        back = run(tmp_path / between, tmp_path / "back.json.gz", "squad", console)
        assert json.loads(gzip.decompress(back.read_bytes())) == SQUAD
    console.rich.file = io.StringIO()
    run(tmp_path / "s.json", tmp_path / "b.parquet", "squad", console)
    assert "no plausible_answers: became null" in said(console)
    back = json.loads(run(tmp_path / "b.parquet", tmp_path / "back.json", "squad", console).read_text())
    assert [len(article["paragraphs"]) for article in back["data"]] == [4, 0, 1, 1]


def test_an_answer_the_others_and_none(tmp_path: Path) -> None:
    two = {**ROW, "answers": {"text": ["red", "is red", "red"], "answer_start": [13, 10, 13]}}
    made = instance("squad", two)
    assert [(part.value, part.slot) for part in made.messages[0].parts] == [
        ("Colour?\n", "instruction"),
        (CONTEXT, "input"),
    ]
    assert (made.answer, made.references) == ("red", ("is red",))
    assert instance("squad", {**ROW, "answers": []}).answer == "unanswerable"
    (tmp_path / "s.json").write_text(json.dumps(SQUAD))
    (task,) = open_source(FileSource(path="s.json"), tmp_path, lambda drop: None)
    assert task.group == ("context",)


def test_rows_of_the_hub_become_a_document_and_a_changed_answer_is_found_in_its_text() -> None:
    made = instance("squad", ROW)
    assert list(from_instances("squad", [made])) == [ROW]

    def changed(answer: str, row: dict[str, Any], context: str = CONTEXT) -> list[dict[str, Any]]:
        parts = (Part("Colour?\n", "instruction"), Part(context, "input"))
        messages = (Message("user", parts), Message("assistant", (Part(answer),)))
        return list(from_instances("squad", [Instance.of(messages, ORIGIN, tags=instance("squad", row).tags)]))

    assert changed("old", ROW)[0]["answers"] == {"text": ["old"], "answer_start": [30]}
    assert changed("red", ROW, "A red one.")[0]["answers"] == {"text": ["red"], "answer_start": [2]}
    none = {**ROW, "answers": {"text": [], "answer_start": []}, "is_impossible": True}
    assert changed("unanswerable", none, "Other.")[0]["answers"] == none["answers"]
    assert changed("old", none)[0]["is_impossible"] is False
    with pytest.raises(UsageError, match=r'answers: the answer "blue" does not stand in the text - write it as alpaca'):
        changed("blue", ROW)
    with pytest.raises(UsageError, match=r'answers: the answer "is" stands in the text more than once, and nothing'):
        changed("is", ROW)


def test_an_instance_of_another_format_gets_an_id_and_comes_back_without(tmp_path: Path, console: Console) -> None:
    alpaca = [{"instruction": "Colour?", "input": CONTEXT, "output": "red"}]
    source = write(tmp_path / "a.jsonl", [*alpaca, {"instruction": "Say so.", "output": "so"}])
    run(source, tmp_path / "s.json", "squad", console)
    question = json.loads((tmp_path / "s.json").read_text())["data"][0]["paragraphs"][0]["qas"][0]
    assert question["answers"] == [{"text": "red", "answer_start": 13}]
    assert len(question["id"]) == 16
    lines = said(console)
    assert f"not written: 1 instances: {source}:2:context: has no text that the question is asked of - write" in lines
    assert "lost:" not in lines
    assert rows_of(run(tmp_path / "s.json", tmp_path / "b.jsonl", "alpaca", console)) == alpaca


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"answers": {"text": ["red"], "answer_start": []}}, "answers: the answers are not as in SQuAD: answer_start"),
        ({"answers": {"text": ["red"]}}, "answers: the answers are not as in SQuAD: 'answer_start'"),
        ({"answers": "red"}, "answers: the answers are not as in SQuAD: "),
        ({"answers": {"text": [3], "answer_start": [1]}}, "answers.text.0: holds a number where text should be"),
        ({"answers": {"text": [" "], "answer_start": [1]}}, "answers.text.0: the answer is empty - fill it, or drop"),
        ({"answers": {"text": ["a"], "answer_start": ["1"]}}, "answers.answer_start.0: holds text where a number of"),
        ({"is_impossible": True}, "is_impossible: says that the question cannot be answered, and answers stand"),
        ({"context": " "}, 'context: the field "context" is empty'),
    ],
)
def test_faults_of_questions_name_their_field(row: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as raised:
        instance("squad", {**ROW, **row})
    assert str(raised.value).startswith(told)


def test_articles_and_paragraphs_without_lists_are_told_not_lost(tmp_path: Path) -> None:
    broken = {"data": [*SQUAD["data"], {"title": "x"}, {"title": "y", "paragraphs": [{"context": "c"}]}]}
    (tmp_path / "s.json").write_text(json.dumps(broken))
    with pytest.raises(UsageError, match=r"s.json:6: an article that is not as in SQuAD: it has no list of paragraphs"):
        rows_of(tmp_path / "s.json")
    source = open_data(tmp_path / "s.json", on_error="drop")
    assert len(list(source.instances())) == 5
    assert [drop.reason for drop in source.drops] == ["malformed record"] * 2


def test_a_document_without_its_first_questions_is_one_still(tmp_path: Path, console: Console) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SQUAD))
    rows = rows_of(tmp_path / "s.json")
    back = json.loads(run(write(tmp_path / "r.jsonl", rows[1:]), tmp_path / "b.json", "squad", console).read_text())
    assert [article.get("title") for article in back["data"]] == ["Boats", "Nothing", None, "Nothing"]
    assert [len(paragraph["qas"]) for paragraph in back["data"][0]["paragraphs"]] == [1, 0, 1, 1]
    odd = [{**rows[0], "squad": {"opens": [{"chapter": {}}]}}]
    with pytest.raises(UsageError, match='squad: the column "squad" is not as didact writes it - leave the column out'):
        run(write(tmp_path / "odd.jsonl", odd), tmp_path / "c.json", "squad", console)
    assert not (tmp_path / "c.json").exists()


def test_conll_is_written_back_through_every_container(tmp_path: Path, console: Console) -> None:
    (tmp_path / "n.conll").write_text(CONLL)
    read = rows_of(tmp_path / "n.conll")
    assert [row["tokens"] for row in read] == [["Ada", "King"], ["ran"], ["."]]
    assert read[2]["before"] == ["-DOCSTART- -X- -X- O"]
    assert read[2]["after"] == ["# that was all"]
    for between, form in (("a.conll", "conll"), ("b.jsonl", "conll"), ("c.bio.gz", "conll"), ("m.jsonl", "sharegpt")):
        run(tmp_path / "n.conll", tmp_path / between, form, console, carry=form != "conll")
        assert rows_of(run(tmp_path / between, tmp_path / "back.iob", "conll", console)) == read
    assert (tmp_path / "back.iob").read_text() == (
        "-DOCSTART- -X- -X- O\n\n# about Ada\nAda\tNNP\tI-NP\tB-PER\nKing\tNNP\tI-NP\tI-PER\n\n"
        "ran\tVBD\tI-VP\tO\n\n-DOCSTART- -X- -X- O\n\n.\t.\tO\tO\n\n# that was all\n"
    )
    assert "lost" not in said(console)


def test_tokens_one_to_a_line_and_their_tags(tmp_path: Path) -> None:
    made = instance("conll", {"tokens": ["Ada", "ran"], "tags": ["U-PER", "O"], "split": "train"})
    assert [part.value for part in made.messages[0].parts] == ["Give every token its tag, one to a line.\n", "Ada\nran"]
    assert made.answer == "U-PER\nO"
    assert list(from_instances("conll", [made])) == [
        {"tokens": ["Ada", "ran"], "tags": ["U-PER", "O"], "split": "train"}
    ]


def test_conll_under_names_that_do_not_tell_it(tmp_path: Path, console: Console) -> None:
    for name in ("eng.train", "eng.txt"):
        (tmp_path / name).write_text(CONLL)
        assert open_data(tmp_path / name).name == "conll"
        assert len(rows_of(run(tmp_path / name, tmp_path / "o.txt", "conll", console), "conll")) == 3
    (tmp_path / "prose.txt").write_text("It was late. O\nShe ran O\n\n")
    with pytest.raises(UsageError, match=r"prose.txt: the rows hold bare text"):
        open_data(tmp_path / "prose.txt")
    (tmp_path / "pos.tsv").write_text("Ada\tNNP\nran\tVBD\n\n")
    assert rows_of(run(tmp_path / "pos.tsv", tmp_path / "p.conll", "conll", console, format="conll")) == [
        {"tokens": ["Ada", "ran"], "ner_tags": ["NNP", "VBD"], "entities": rows_of(tmp_path / "p.conll")[0]["entities"]}
    ]


def test_what_conll_cannot_hold_is_told_row_by_row(tmp_path: Path, console: Console) -> None:
    good = {"tokens": ["a", "b"], "ner_tags": ["O", "B-x"], "pos_tags": ["X", "Y"], "split": "dev", "entities": [1]}
    rows = [
        good,
        {**good, "tokens": ["-DOCSTART-", "b"]},
        {**good, "tokens": ["a ", "\t"]},
    ]
    source = write(tmp_path / "r.jsonl", rows)
    back = rows_of(run(source, tmp_path / "o.conll", "conll", console))
    assert back == [{"tokens": ["a", "b"], "field_2": ["X", "Y"], "ner_tags": ["O", "B-x"], "entities": [
        {"text": "b", "type": "x", "start": 1, "end": 2}
    ]}]  # fmt: skip
    lines = said(console)
    for told in (
        f'{source}:2:tokens.0: "-DOCSTART-" begins a document in CoNLL - mend it, or write jsonl',
        f'{source}:3:tokens.0: "a X O" is empty, or has a tab, a line end, a NUL or blanks at its ends',
        "split: CoNLL has no place for it (1 rows)",
        "the name of the column pos_tags (1 rows)",
        "entities that the tags do not tell (1 rows)",
    ):
        assert told in " ".join(lines.split())
    assert f"3 rows read, 1 written to {tmp_path / 'o.conll'}" in lines


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"ner_tags": ["O"]}, "ner_tags: 2 tokens but 1 tags - mend it, or drop such rows"),
        ({"ner_tags": [0, 1]}, "ner_tags.0: holds a number where text should be - say what the numbers mean: labels:"),
        ({"tokens": ["a", 3]}, "tokens.1: holds a number where text should be"),
        ({"tokens": ["a", "b\nc"]}, "tokens.1: holds a line end - mend it"),
    ],
)
def test_faults_of_sentences_name_their_field(row: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as raised:
        instance("conll", {"tokens": ["a", "b"], "ner_tags": ["O", "O"], **row})
    assert str(raised.value).startswith(told)


def test_what_is_no_sentence_with_tags_is_not_written_as_one(tmp_path: Path, console: Console) -> None:
    rows = [
        {"instruction": "Tag.", "input": "Ada\nran", "output": "B-PER\nO"},
        {"instruction": "Tag.", "input": "Ada ran", "output": "B-PER O"},
        {"instruction": "Tag.", "input": "Ada\nran", "output": "O"},
    ]
    source = write(tmp_path / "a.jsonl", rows)
    (back,) = rows_of(run(source, tmp_path / "o.conll", "conll", console))
    assert back["ner_tags"] == ["B-PER", "O"]
    lines = " ".join(said(console).split())
    assert f'{source}:2:ner_tags: "Ada ran" with "B-PER O" is no token with its tag - write it as alpaca' in lines
    assert f"{source}:3:ner_tags: 2 lines of input but 1 of answer, where each token needs its tag" in lines
    assert "lost: the turns as they are (1 instances)" in lines
    with pytest.raises(UsageError, match=r"o.conll: conll can be read, but not written - write one of: .*--to conll"):
        run(source, tmp_path / "o.conll", "alpaca", console)


WORD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r\t"), min_size=1, max_size=5)
TOKEN = WORD.filter(lambda word: word == word.strip(" \ufeff")) | st.sampled_from(["#", "-X-", "\u00a0", "😂", "O"])
TAGS = st.sampled_from(["O", "B-PER", "I-PER", "E-LOC", "S-LOC", "U-x y", "I-misc", "NN"])
LINE = st.sampled_from(["-DOCSTART-", "-DOCSTART- -X- O", "# text = a b", "#"])


@st.composite
def sentences(draw: st.DrawFn) -> dict[str, Any]:
    length, fields = draw(st.integers(1, 4)), draw(st.integers(0, 2))
    column = st.lists(TOKEN, min_size=length, max_size=length)
    row = {"tokens": draw(column), **{f"field_{n}": draw(column) for n in range(2, fields + 2)}}
    row["ner_tags"] = draw(st.lists(TAGS, min_size=length, max_size=length))
    if before := draw(st.lists(LINE, max_size=2)):
        row["before"] = before
    return row


def test_any_sentences_come_back_from_conll(tmp_path: Path, console: Console) -> None:
    @QUIET
    @given(st.lists(sentences(), min_size=1, max_size=4), st.lists(LINE, max_size=2))
    def there_and_back(rows: list[dict[str, Any]], after: list[str]) -> None:
        rows[-1] |= {"after": after} if after else {}
        source = write(tmp_path / "r.jsonl", rows)
        once = rows_of(run(source, tmp_path / "o.conll", "conll", console))
        assert [{k: v for k, v in row.items() if k != "entities"} for row in once] == rows
        again = run(tmp_path / "o.conll", tmp_path / "p.conll", "conll", console)
        assert again.read_bytes() == (tmp_path / "o.conll").read_bytes()
        assert rows_of(run(tmp_path / "p.conll", tmp_path / "q.jsonl", "conll", console)) == once

    there_and_back()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
FULL = TEXT.filter(str.strip)
VALUE = st.none() | st.booleans() | st.integers(0, 9) | TEXT | st.lists(TEXT, max_size=2)
MORE = st.dictionaries(
    st.sampled_from(["version", "title", "url", "squad", "name", "didact", "context"]), VALUE, max_size=2
)
SAME = st.sampled_from(["a text", "another text"])
ANSWER = st.fixed_dictionaries(
    {"text": FULL, "answer_start": st.integers(0, 9)}, optional={"answer_id": st.integers(0, 9)}
)


def with_more(made: st.SearchStrategy[dict[str, Any]], *own: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda more, it: {**{k: v for k, v in more.items() if k not in own}, **it}, MORE, made)


QA = with_more(
    st.fixed_dictionaries({"question": FULL, "answers": st.lists(ANSWER, max_size=2)}, optional={"id": TEXT})
    | st.fixed_dictionaries(
        {"question": FULL, "id": TEXT, "is_impossible": st.just(True)},
        optional={"answers": st.lists(ANSWER, max_size=1), "plausible_answers": st.lists(ANSWER, max_size=1)},
    )
)
PARAGRAPH = with_more(st.fixed_dictionaries({"context": SAME | FULL, "qas": st.lists(QA, max_size=2)}), "context")
ARTICLE = with_more(
    st.fixed_dictionaries({"paragraphs": st.lists(PARAGRAPH, max_size=3)}, optional={"title": SAME}), "title"
)
DOCUMENT = with_more(st.fixed_dictionaries({"data": st.lists(ARTICLE, min_size=1, max_size=3)}))


def test_any_document_comes_back_from_squad(tmp_path: Path, console: Console) -> None:
    @QUIET
    @given(DOCUMENT)
    def there_and_back(document: dict[str, Any]) -> None:
        (tmp_path / "s.json").write_text(json.dumps(document))
        questions = [q for a in document["data"] for p in a["paragraphs"] for q in p["qas"]]
        if not questions:
            with pytest.raises(UsageError, match="the file holds no rows"):
                rows_of(tmp_path / "s.json")
            return
        run(tmp_path / "s.json", tmp_path / "r.jsonl", "squad", console)
        assert len(rows_of(tmp_path / "r.jsonl")) == len(questions)
        for source in ("s.json", "r.jsonl"):
            back = run(tmp_path / source, tmp_path / "o.json", "squad", console)
            assert json.loads(back.read_text()) == document

    there_and_back()


@pytest.mark.parametrize("language", ["en", "ar", "de", "hi", "zh"])
def test_xquad_comes_back_equal(tmp_path: Path, console: Console, language: str) -> None:
    source = need_material("annotated_raw", f"xquad.{language}.json.gz")
    back = run(source, tmp_path / "o.json", "squad", console)
    assert json.loads(back.read_text()) == json.loads(gzip.decompress(source.read_bytes()))


@pytest.mark.parametrize("part", ["train", "dev", "test"])
def test_wnut_comes_back_line_by_line(tmp_path: Path, console: Console, part: str) -> None:
    source = need_material("annotated_raw", f"wnut17_{part}.conll.gz")
    back = run(source, tmp_path / "o.conll", "conll", console).read_text().split("\n")
    lines = [line.rstrip("\r") for line in gzip.decompress(source.read_bytes()).decode().split("\n")]
    assert [line for line in back if line.strip()] == [line for line in lines if line.strip()]
