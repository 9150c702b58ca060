"""Instructions about pictures: what the teacher is told, what becomes of its three kinds of text, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted import cut, made, reasons

from didact.errors import UsageError
from didact.llm import Reply, Request
from didact.starter.scenes import png

pytest.importorskip("PIL.Image")
TALK = "Question: What stands there?\nAnswer: A mill.\n\nQuestion: Where is it?\nAnswer: On the left,\nby the river."


def home(tmp_path: Path, **row: Any) -> Path:
    pixels = np.zeros((50, 100, 3), np.uint8)
    (tmp_path / "mill.png").write_bytes(png(pixels))
    (tmp_path.parent / "out.png").write_bytes(png(pixels))
    boxes = [{"label": "mill", "box": [10, 5, 50, 45]}, {"label": "boat", "box": [0.5, 0.25, 1, 1]}]
    whole = {"image": "mill.png", "captions": ["A mill by a river.", "An old mill."], "boxes": boxes, **row}
    (tmp_path / "seen.jsonl").write_text(json.dumps(whole) + "\n")
    return tmp_path


def say(request: Request) -> str | Reply:
    if "one hard question" in request.text:
        return "Question: Why is it there?\nAnswer: Mills need water.\nSo it stands by the river."
    return "A mill stands by a river." if request.text.endswith("Description:") else TALK


def test_three_kinds_with_the_picture_in_the_first_question(tmp_path: Path) -> None:
    instances, drops, teacher = made("llava", say, {"rows": "seen.jsonl"}, home=home(tmp_path), pictures=tmp_path)
    assert not drops
    talk, description, reasoning = instances
    assert [i.tags["kind"] for i in instances] == ["conversation", "description", "reasoning"]
    assert [m.role for m in talk.messages] == ["user", "assistant"] * 2
    assert [m.text for m in talk.messages] == [
        "What stands there?",
        "A mill.",
        "Where is it?",
        "On the left,\nby the river.",
    ]
    assert description.answer == "A mill stands by a river."
    assert reasoning.answer == "Mills need water.\nSo it stands by the river."
    for instance in instances:
        assert [part.kind for part in instance.messages[0].parts] == ["image", "text"]
        assert len(instance.images) == 1
        assert Path(instance.images[0]).parent == tmp_path / "pictures"
        assert instance.origin.parents == ("seen.jsonl:1",)
        assert instance.origin.teacher == "scripted"
    for text in teacher.texts:
        assert "- An old mill." in text
        assert "mill: 0.10, 0.10, 0.50, 0.90" in text  # pixels brought to 0 to 1
        assert "boat: 0.50, 0.25, 1.00, 1.00" in text


def test_without_boxes_none_are_told_of(tmp_path: Path) -> None:
    place = home(tmp_path, boxes=None, captions="A mill.")
    _, _, teacher = made("llava", say, {"rows": "seen.jsonl", "kinds": ["description"]}, home=place, pictures=tmp_path)
    (text,) = teacher.texts
    assert "from 0 to 1" not in text
    assert "- A mill." in text


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("description", "As the captions say, a mill stands by a river.", "it speaks of captions or boxes"),
        ("description", "A mill at [0.10, 0.20, 0.30, 0.40].", "it speaks of captions or boxes"),
        ("description", "I'm sorry, but I can't help with that.", "a refusal"),
        ("conversation", "What stands there? A mill.", "not written as questions and answers"),
        ("conversation", "Question: What?\nQuestion: Where?\nAnswer: A mill.", "not written as questions and answers"),
        ("conversation", "Question: What?\nAnswer: A mill.\nQuestion: Where?", "not written as questions and answers"),
        ("conversation", "Question: What?\nAnswer: A mill.\nQuestion: What?\nAnswer: It.", "asks the same twice"),
        ("conversation", "Question: What is in the bounding box?\nAnswer: A mill.", "it speaks of captions or boxes"),
        ("reasoning", TALK, "not written as questions and answers"),
        ("reasoning", cut("Question: Why?\nAnswer: Bec"), "cut"),
    ],
)
def test_what_is_no_use_is_dropped_with_its_reason(tmp_path: Path, kind: str, text: str | Reply, reason: str) -> None:
    settings = {"rows": "seen.jsonl", "kinds": [kind]}
    instances, drops, _ = made("llava", lambda request: text, settings, home=home(tmp_path), pictures=tmp_path)
    assert not instances
    assert reasons(drops) == {f"{kind}: {reason}": 1}
    assert drops[0].origin.source == "seen.jsonl:1"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"image": "none.png"}, "image: there is no picture"),
        ({"image": "../out.png"}, "outside of the data folder"),
        ({"image": None}, 'image: the row has no "image"'),
        ({"captions": []}, 'captions: the row has no "captions"'),
        ({"captions": [3]}, "captions: the captions are no texts"),
        ({"boxes": [{"label": "mill"}]}, "boxes.0: the box is not written"),
        ({"boxes": [{"label": "mill", "box": [50, 5, 10, 45]}]}, "boxes.0: the box is not written"),
        (
            {"boxes": [{"label": "mill", "box": [0, 0, 200, 10]}]},
            "boxes.0: the box lies outside of the picture (100 x 50)",
        ),
    ],
)
def test_a_faulty_row_is_named(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as told:
        made("llava", say, {"rows": "seen.jsonl"}, home=home(tmp_path, **row), pictures=tmp_path)
    assert words in str(told.value)
    assert "seen.jsonl:1:" in str(told.value)
