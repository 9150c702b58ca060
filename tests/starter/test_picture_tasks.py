"""The picture world: the same for everyone, right in what it says, balanced, and in words that the starter knows."""

import hashlib
import io
import json
import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from didact.build import BuildConfig, build
from didact.errors import UsageError
from didact.sources import DigitsSource, PictureWorldSource, open_source
from didact.starter import base_folder
from didact.starter.picture_talk import KINDS
from didact.starter.picture_tasks import BARE, names, picture_tasks, rows, templates
from didact.starter.scenes import Scene, Thing, draw, world

Image = pytest.importorskip("PIL.Image")


def test_pictures_are_the_same_everywhere():
    scene = Scene((Thing("box", "red"), None, None, Thing("7", "blue")))
    raw = draw(scene, Random(5))
    assert hashlib.sha256(raw).hexdigest()[:16] == "a9cb6482ea2d6b8d"
    assert draw(scene, Random(6)) != raw
    with Image.open(io.BytesIO(raw)) as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")
        red, _, blue = (image.crop((0, 0, 16, 16)).getextrema()[i][1] for i in range(3))
        assert red > 170 > blue
        assert max(high for _, high in image.crop((16, 0, 32, 16)).getextrema()) < 70  # nothing lies there


@pytest.mark.parametrize("name", names())
def test_every_word_is_one_token_of_the_starter(name):
    pieces = json.loads((base_folder() / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    known = {piece[1:] for piece in pieces if piece.startswith("Ġ")}
    told = world()["tasks"].get(name, {})
    texts = [*told.get("talk", ()), *told.get("reason", ())]
    for row in rows(name, 30, 0):
        for turn in row.data.get("messages", ()):
            texts.append(turn["content"] if isinstance(turn["content"], str) else turn["content"][-1]["text"])
        for template in templates(name):
            rendered = template.render({**row.data, "image": "a", "other": "b"})
            texts += [part.value for part in rendered.parts if part.kind == "text"] + [rendered.answer]
    words = set(re.findall(r"\w+", re.sub(r"\{\{.*?\}\}", " ", " ".join(texts))))
    assert words <= known


def test_every_task_has_phrasings_enough():
    for name, told in world()["tasks"].items():
        assert len(set(told["phrasings"])) == len(told["phrasings"]) >= 12, name
        assert not set(told["phrasings"]) & {*told.get("talk", ()), *told.get("reason", ())}


def scene_of(key: str) -> list[str]:
    return key.split(" / ")


def test_answers_are_right_and_balanced():
    places, sides = world()["places"], Counter[str]()
    for row in rows("where", 300, 1):
        data = row.data
        assert scene_of(data["key"])[places.index(data["place"])].endswith(f" {data['kind']}")
        sides[data["place"]] += 1
    assert min(sides.values()) > 40
    truths = Counter[tuple[str, bool]]()
    for row in rows("there", 400, 1):
        data, things = row.data, scene_of(row.data["key"])
        assert (f"{data['colour']} {data['kind']}" in things) == (data["truth"] == "yes")
        assert any(thing.endswith(data["kind"]) for thing in things)  # a no is about what is half there
        truths[data["truth"], any(thing.startswith(data["colour"]) for thing in things)] += 1
    assert 160 < truths["yes", True] < 240
    assert min(truths["no", True], truths["no", False]) > 60  # the colour of another thing, or of none
    numbers = Counter(row.data["number"] for row in rows("often", 400, 1))
    assert set(numbers) == {"one", "two", "three", "four"}
    assert min(numbers.values()) > 60
    for row in rows("often", 100, 2):
        found = sum(thing.endswith(f" {row.data['kind']}") for thing in scene_of(row.data["key"]))
        assert world()["numbers"][found] == row.data["number"]
    for name in ("colours", "kinds", "pictures"):
        assert 80 < Counter(row.data["same"] for row in rows(name, 200, 1))["same"] < 120
    for row in rows("read", 50, 1):
        assert row.data["text"] == " ".join(t.split()[1] for t in scene_of(row.data["key"]) if t != "-")


def test_a_scene_is_on_one_side_in_every_task(tmp_path):
    source = PictureWorldSource(rows_per_task=150, only=["side", "height", "where"])
    tasks = open_source(source, tmp_path, lambda drop: None, tmp_path)
    split: dict[str, set[str]] = {}
    keys = {(row.source, row.number): row.data["key"] for task in tasks for row in task.rows()}
    made = list(build(tasks, BuildConfig(heldout_rows=0.3), lambda drop: None))
    for instance in made:
        split.setdefault(keys[instance.origin.source, instance.origin.row], set()).add(instance.tags["split"])
        assert len(instance.images) == 1
        assert Path(instance.images[0]).is_file()
        assert instance.origin.licence == "Apache-2.0"
    assert {tag for tags in split.values() for tag in tags} == {"train", "heldout"}
    assert all(len(tags) == 1 for tags in split.values())
    assert {i.tags["level"] for i in made if "level" in i.tags} == {"seen_template", "heldout_template"}


def test_captions_without_a_question_and_conversations_are_made_on_demand(tmp_path):
    tasks = open_source(
        PictureWorldSource(rows_per_task=12, only=[BARE, *KINDS]), tmp_path, lambda drop: None, tmp_path
    )
    config = BuildConfig(heldout_rows=0, heldout_templates=0)
    made = {task.name: list(build([task], config, lambda drop: None)) for task in tasks}
    for instance in made["pictures/bare"]:
        assert [part.kind for part in instance.messages[0].parts] == ["image"]
        assert instance.answer.startswith("A ")
    for instance in made["pictures/talk"]:
        assert len(instance.messages) >= 6
        assert len(instance.images) == 1
        assert len({message.text for message in instance.messages[::2]}) == len(instance.messages) // 2
    for instance in [*made["pictures/detail"], *made["pictures/reason"]]:
        assert len(instance.messages) == 2
    assert {task.name for task in picture_tasks(2, 0)} == {f"pictures/{name}" for name in world()["tasks"]}


def test_descriptions_and_reasoning_say_what_is_there():
    for row in rows("detail", 40, 3):
        told = row.data["messages"][1]["content"]
        for place, thing in zip(world()["places"], scene_of(row.data["key"]), strict=True):
            sentences = [part for part in told.split(", ") if place in part]
            assert len(sentences) == (thing != "-")
            assert all(set(thing.split()) <= set(part.split()) for part in sentences)
    ends = Counter[str]()
    for row in rows("reason", 400, 3):
        grounds, _, end = row.data["messages"][1]["content"].partition(": ")
        ends[end] += 1
        things = [thing for thing in scene_of(row.data["key"]) if thing != "-"]
        if end in ("yes", "no"):
            assert grounds.removeprefix("the ") in things  # what is there, whatever was asked
        elif end in world()["numbers"]:
            assert len(grounds.split(", ")) == world()["numbers"].index(end)
        else:
            one, other = grounds.split(", then ") if ", then " in grounds else grounds.split(" and ")
            assert (one == other) == (end == "same")
    assert min(ends[end] for end in ("yes", "no", "same", "different")) > 10


def test_two_pictures_in_one_question(tmp_path):
    tasks = open_source(PictureWorldSource(rows_per_task=20, only=["pictures"]), tmp_path, lambda drop: None, tmp_path)
    for instance in build(tasks, BuildConfig(heldout_rows=0, heldout_templates=0), lambda drop: None):
        assert [part.kind for part in instance.messages[0].parts] == ["image", "image", "text"]
        assert len(set(instance.images)) == 2


def test_a_task_that_is_not_there_is_told():
    with pytest.raises(UsageError, match="names no task of the picture world"):
        open_source(PictureWorldSource(only=["colur"]), Path(), lambda drop: None)


def test_handwritten_digits(tmp_path):
    pytest.importorskip("sklearn")
    (task,) = open_source(DigitsSource(limit=50), tmp_path, lambda drop: None, tmp_path)
    made = list(build([task], BuildConfig(heldout_rows=0, heldout_templates=0), lambda drop: None))
    assert {i.answer for i in made} == set("0123456789")
    assert {i.choices for i in made} == {tuple("0123456789")}
    assert {i.origin.licence for i in made} == {"CC-BY-4.0"}
    with Image.open(made[0].images[0]) as image:
        assert image.size == (32, 32)
        assert image.getextrema()[0][1] > 200
