"""Pictures in ready-made rows: read from every form that is known, written back, and refused where they do not fit."""

import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from didact.build import BuildConfig, build
from didact.convert import convert, open_data
from didact.errors import UsageError
from didact.formats import from_instances
from didact.formats.pictured import HOLD, MARKED, _marked
from didact.instance import Drop, Instance
from didact.sources import FileSource, open_source

Image = pytest.importorskip("PIL.Image")


def png(colour: Any) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("red", "blue", "green"):
        (folder / f"{name}.png").write_bytes(png(name))
    return folder


def read(folder: Path, rows: list[dict[str, Any]], home: Path | None = None, **settings) -> list[Instance]:
    """The instances of rows that lie in a file in a folder."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    drops: list[Drop] = []
    source = FileSource(path=str(file), **settings)
    tasks = open_source(source, folder, drops.append, home or folder.parent / "run")
    found = list(build(tasks, BuildConfig(heldout_rows=0, heldout_templates=0), drops.append))
    assert settings.get("on_error") == "drop" or not drops
    return sorted(found, key=lambda i: i.origin.row)


def shape(instance: Instance) -> list[list[str]]:
    """Texts as they are, pictures as their colour."""

    def told(part):
        if part.kind == "text":
            return part.value
        with Image.open(part.value) as image:
            return {(255, 0, 0): "RED", (0, 0, 255): "BLUE", (0, 128, 0): "GREEN"}[image.getpixel((0, 0))]

    return [[told(part) for part in message.parts] for message in instance.messages]


def asked(*content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}, {"role": "assistant", "content": "a"}]}


def said(text: str, answer: str = "a", **columns: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
    return {"id": "7", **columns, "conversations": turns}


TEXT = {"type": "text", "text": "What?"}
URI = "data:image/png;base64," + base64.b64encode(png("red")).decode()
ONE = [["RED", "What?"], ["a"]]
ROWS = {
    "llava": (said("<image>\nWhat?", image="red.png"), ONE),
    "llava, behind": (said("What?\n<image>", image="red.png"), [["What?", "RED"], ["a"]]),
    "sharegpt": (said("<image>What?", images=["red.png"]), ONE),
    "sharegpt, two": (
        said("<image>\n<image>\nSame?", images=["red.png", "blue.png"]),
        [["RED", "BLUE", "Same?"], ["a"]],
    ),
    "image_url": (asked({"type": "image_url", "image_url": {"url": "red.png"}}, TEXT), ONE),
    "image_url, text": (asked({"type": "image_url", "image_url": "red.png"}, TEXT), ONE),
    "data uri": (asked({"type": "image_url", "image_url": {"url": URI}}, TEXT), ONE),
    "image": (asked(TEXT, {"type": "image", "image": "red.png"}), [["What?", "RED"], ["a"]]),
    "image of a column": (asked({"type": "image"}, TEXT) | {"images": ["red.png"]}, ONE),
    "image by number": (
        asked({"type": "image", "index": 1}, {"type": "image", "index": 0}, TEXT) | {"images": ["red.png", "blue.png"]},
        [["BLUE", "RED", "What?"], ["a"]],
    ),
    "alpaca": (
        {"instruction": "What is it?", "input": "<image>", "output": "a", "image": "red.png"},
        [["What is it?\n", "RED"], ["a"]],
    ),
    "prompt": ({"prompt": "<image>What?", "completion": "a", "images": ["red.png"]}, ONE),
    "pairs": ({"conversation": [{"human": "<image>What?", "assistant": "a"}], "image": "red.png"}, ONE),
}


@pytest.mark.parametrize("name", ROWS)
def test_every_form_is_read(data, name):
    row, wanted = ROWS[name]
    (found,) = read(data, [row])
    assert shape(found) == wanted
    assert all(
        Path(path).is_absolute() and Path(path).parent == data.parent / "run" / "pictures" for path in found.images
    )
    assert "\0" not in json.dumps([part.value for message in found.messages for part in message.parts])


@pytest.mark.parametrize("to", ["messages", "sharegpt", "didact"])
@pytest.mark.parametrize("name", ROWS)
def test_written_in_another_form_and_read_again_it_is_the_same(data, tmp_path, name, to, monkeypatch):
    from didact.console import Console

    (first,) = read(data, [ROWS[name][0]])
    out = tmp_path / "elsewhere" / "out.jsonl"
    out.parent.mkdir()
    convert(open_data(data / "rows.jsonl"), out, to, Console(), carry=True, replace=False)
    assert sorted(os.listdir(out.parent)) == ["out.jsonl", "pictures"]
    text = out.read_text("utf-8")
    paths = [piece for piece in text.split('"') if piece.endswith(".png")]
    assert paths
    assert all(path.startswith("pictures/") for path in paths)
    assert ("<image>" in text) == (to == "sharegpt")
    (again,) = open_data(out).instances()
    assert (again.id, shape(again)) == (first.id, shape(first))
    assert Path(again.images[0]).name == Path(first.images[0]).name


@pytest.mark.parametrize("name", ["llava", "sharegpt", "sharegpt, two"])
def test_written_as_it_was_read(data, name):
    row = ROWS[name][0]
    (instance,) = read(data, [row])
    (written,) = from_instances("sharegpt", [instance])
    assert written["id"] == "7"
    turns = [turn["value"].replace("<image>\n", "<image>") for turn in written["conversations"]]
    assert turns == [turn["value"].replace("<image>\n", "<image>") for turn in row["conversations"]]
    column = "image" if "image" in row else "images"
    assert type(written[column]) is type(row[column])


def test_texts_without_pictures_are_mixed_in(data):
    found = read(data, [said("<image>\nWhat?", image="red.png"), said("Why?"), said("How?", image=None)])
    assert [shape(i)[0] for i in found] == [["RED", "What?"], ["Why?"], ["How?"]]


def test_a_mark_in_a_file_without_pictures_is_a_text(data):
    (found,) = read(data, [said("What does <image> mean in XML?")])
    assert shape(found)[0] == ["What does <image> mean in XML?"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (said("<image>\n<image>\nWhat?", image="red.png"), "2 <image> marks, but 1 picture"),
        (said("What?", image="red.png"), "0 <image> marks, but 1 picture"),
        (said("<image> What?", images=["red.png", "blue.png"]), "1 <image> mark, but 2 pictures"),
        (said("<image> What?", images=[]), "1 <image> mark, but 0 pictures"),
        (said("<image> What?"), "1 <image> mark, but no picture"),
        (said("Draw.", "<image>", image="red.png"), "a picture in the answer"),
        (said("<image>Draw.", image="../out.png"), "outside of the data folder"),
        (said("<image>Draw.", image="link.png"), "outside of the data folder"),
        (said("<image>Draw.", image="none.png"), "there is no picture"),
        (said("<image>Draw.", image="half.png"), "truncated"),
        (said("<image>Draw.", image="https://example.org/a.png"), "is a URL"),
        (said("<image>Draw.", image=["red.png", 3]), "not a path"),
        (asked({"type": "image"}, TEXT), "1 <image> mark, but 0 pictures"),
        (asked({"type": "image", "index": 4}, TEXT) | {"images": ["red.png"]}, "1 <image> mark, but 1 picture"),
        (asked({"type": "video", "video": "a.mp4"}, TEXT), 'type "video"'),
    ],
)
def test_a_faulty_row_is_named_and_the_others_are_trained_on(data, row, words):
    noise = Image.fromarray((np.random.RandomState(0).rand(64, 64, 3) * 255).astype("uint8"))
    noise.save(data / "noise.png")
    (data / "half.png").write_bytes((data / "noise.png").read_bytes()[:4000])
    (data.parent / "out.png").write_bytes(png("red"))
    (data / "link.png").symlink_to(data.parent / "out.png")
    good = (
        asked({"type": "image", "image": "blue.png"}, TEXT) if "messages" in row else said("<image>", image="blue.png")
    )
    with pytest.raises(UsageError) as told:
        read(data, [good, row])
    assert words in str(told.value)
    assert "\n" not in str(told.value)
    assert "rows.jsonl:2:" in str(told.value)
    found = read(data, [good, row, good | {"id": 9}], on_error="drop")
    assert [shape(i)[0][0] for i in found] == ["BLUE", "BLUE"]


def test_pictures_of_another_folder(data, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    rows = [said("<image>\nWhat?", image="red.png")]
    (found,) = read(tmp_path / "elsewhere", rows, pictures=str(data))
    assert shape(found) == ONE


def test_a_url_is_fetched_where_it_is_allowed(data):
    import threading
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(data))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        (found,) = read(data, [said("<image>\nWhat?", image=f"{url}/red.png")], picture_urls=True)
        assert shape(found) == ONE
        for bad, words in ((f"{url}/none.png", "cannot be fetched"), ("ftp://127.0.0.1/a.png", "no http or https")):
            with pytest.raises(UsageError, match=words):
                read(data, [said("<image>\nWhat?", image=bad)], picture_urls=True)
        server.shutdown()


def test_bytes_in_parquet_and_a_saved_hub_dataset(data, tmp_path):
    datasets = pytest.importorskip("datasets")
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = [{"image": {"bytes": png("red"), "path": None}, **said("<image>\nWhat?")}]
    pq.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (found,) = open_data(tmp_path / "rows.parquet").instances()
    assert shape(found) == ONE
    turns = [said("<image><image>Same?")["conversations"]]
    features = datasets.Features(
        images=datasets.List(datasets.Image()),
        conversations=datasets.List({"from": datasets.Value("string"), "value": datasets.Value("string")}),
    )
    pictures = [[Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")]]
    dataset = datasets.Dataset.from_dict({"images": pictures, "conversations": turns}, features=features)
    dataset.save_to_disk(str(tmp_path / "saved"))
    (found,) = open_data(tmp_path / "saved").instances()
    assert shape(found) == [["RED", "BLUE", "Same?"], ["a"]]


def test_marks_and_holds_are_each_others_inverse():
    held = [f"\0picture:pictures/{c * 16}.png\0" for c in "ab"]
    befores = ("", "x", "a>\n", "image>\n", "\n", "x ", "x\n", " x", "\nx")
    middles = (held[0], held[0] + held[1], f"{held[0]} and {held[1]}", f"{held[0]}\n{held[1]}")
    for before in befores:
        for middle in middles:
            for after in ("", "y", "\n", "\ny", " y", "y\n"):
                text = before + middle + after
                names = iter(HOLD.findall(text))
                marked = _marked(HOLD.split(text))
                assert MARKED.sub(lambda _, names=names: f"\0picture:{next(names)}\0", marked) == text


def test_a_row_cannot_name_a_file_by_a_hold_of_its_own(data):
    row = said("\0picture:pictures/../../secret.png\0<image>What?", image="red.png")
    (found,) = read(data, [row])
    assert len(found.images) == 1


def test_a_run_can_be_read_as_data(data, tmp_path):
    (first,) = read(data, [ROWS["llava"][0]], tmp_path / "run")
    (tmp_path / "run" / "kept.jsonl").write_text(json.dumps(first.to_json()) + "\n", "utf-8")
    (again,) = open_data(tmp_path / "run" / "kept.jsonl").instances()
    assert (again.id, shape(again)) == (first.id, ONE)
