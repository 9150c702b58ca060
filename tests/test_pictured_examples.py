"""Examples with pictures before a question: each with its own, within the budget, kept when the question's change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from didact.audit.blind import _asked_of, _swapped, _without
from didact.build import BuildConfig, build
from didact.instance import Instance
from didact.sources import open_source
from didact.sources.config import PictureWorldSource
from didact.token_count import counter, picture_tokens, tokenizer_json

pytest.importorskip("PIL.Image")


def built(folder: Path, tasks: list[str], **few_shot: Any) -> list[Instance]:
    source = PictureWorldSource(rows_per_task=30, only=tasks)
    opened = open_source(source, folder, lambda drop: pytest.fail(str(drop)), folder)
    few = {"share": 1.0, "shots": [2], "layouts": ["q-a"], **few_shot}
    config = BuildConfig(heldout_rows=0.2, heldout_templates=1, few_shot=few)
    return list(build(opened, config, lambda drop: pytest.fail(str(drop)), tokenizer_json("starter")))


@pytest.mark.parametrize(("task", "each"), [("colour", 1), ("pictures", 2)])
def test_each_example_brings_its_own_pictures(task: str, each: int, tmp_path: Path) -> None:
    instances = built(tmp_path, [task])
    answers = {(i.origin.row, i.images[-each:]): i.answer for i in instances}
    held = {i.origin.row for i in instances if i.tags["split"] == "heldout"}
    for one in instances:
        assert len(one.images) == 3 * each
        assert len(set(one.images)) > each
        parts = one.messages[0].parts
        ends = [n for n, part in enumerate(parts) if part.slot == "demo" and part.value.endswith("\n\n")]
        assert len(ends) == 2
        for row, start, end in zip(one.origin.parents, (0, ends[0] + 1), ends, strict=True):
            number = int(row.rpartition(":")[2])
            assert number not in held
            shown = tuple(part.value for part in parts[start:end] if part.kind == "image")
            assert parts[end].value == f"\nA: {answers[number, shown]}\n\n"
            assert parts[start].value == "Q: "
            assert {part.slot for part in parts[start : end + 1]} == {"demo"}
        question = parts[ends[1] + 1 :]
        assert [part.kind for part in question].count("image") == each
        assert not any(part.slot == "demo" for part in question)


def test_pictures_count_in_the_budget(tmp_path: Path) -> None:
    count, limit = counter(tokenizer_json("starter")), 120
    free = built(tmp_path, ["colour"], max_tokens=limit)
    tight = built(tmp_path, ["colour"], max_tokens=limit, picture_tokens=40)
    assert all(one.tags["shots"] == "2" and "pruned" not in one.tags for one in free)
    for one in tight:
        assert count(one.prompt) + 40 * len(one.images) <= limit + 40 * (one.tags.get("shots") is None)
        assert one.tags["pruned"] == ("1" if "shots" in one.tags else "2")
    assert any("shots" in one.tags for one in tight)


def test_a_model_says_how_many_tokens_a_picture_takes(tmp_path: Path) -> None:
    told = {
        "llava": {"image_seq_length": 36},
        "paligemma": {"vision_config": {"image_size": 32, "patch_size": 8}},
        "instructblip": {"num_query_tokens": 4},
        "qwen2_5_vl": {},
    }
    found = {}
    for kind, more in told.items():
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "config.json").write_text(json.dumps({"model_type": kind, **more}))
        found[kind] = picture_tokens(str(tmp_path / kind))
    assert found == {"llava": 36, "paligemma": 16, "instructblip": 4, "qwen2_5_vl": 0}
    (tmp_path / "words").mkdir()
    assert picture_tokens("starter") == picture_tokens(str(tmp_path / "words")) == 0


def test_to_ask_without_the_picture_leaves_the_examples_theirs(tmp_path: Path) -> None:
    one, other = built(tmp_path, ["colour"])[:2]
    swapped = _swapped(one, _asked_of(other))
    assert swapped.images == (*one.images[:2], other.images[-1])
    assert _without(one).images == one.images[:2]
    assert _without(one).messages[0].text == one.messages[0].text
