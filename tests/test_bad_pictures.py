"""Bad pictures on the command line: one line `file:row:field: problem - fix`, exit code 2, nothing left; or a drop."""

from __future__ import annotations

import io
import json
import shutil
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import make_seeing

from didact import cli
from didact.processor import FILES

Image = pytest.importorskip("PIL.Image")
FETCH = "fetch it again"
SMALLER = "make it smaller"
# what is wrong: (the row's picture, its question, its answer, the field, the problem, the cure)
CASES: dict[str, tuple[Any, str, str, str, str, str]] = {
    "missing": ("none.png", "", "", "image.0", 'there is no picture "none.png"', "check the name"),
    "unreadable": ("text.png", "", "", "image.0", "the picture is none that can be read: 8 bytes", "give it as PNG"),
    "truncated": ("half.png", "", "", "image.0", "the picture is truncated", FETCH),
    "zero size": ("empty.png", "", "", "image.0", "the picture is empty (0 bytes)", FETCH),
    "no pixels": ("flat.png", "", "", "image.0", "the picture has no pixels", FETCH),
    "animated": ("moves.gif", "", "", "image.0", "the picture is animated (2 frames)", "take one frame of it"),
    "bomb": ("bomb.png", "", "", "image.0", "the picture is a decompression bomb", SMALLER),
    "20,000 pixels": ("wide.png", "", "", "image.0", "the picture has 20,000 x 10 pixels", SMALLER),
    "link": ("link.png", "", "", "image.0", 'the picture "link.png" lies outside of the data folder', "put it there"),
    "dots": ("../out.png", "", "", "image.0", 'the picture "../out.png" lies outside of the data folder', "put it"),
    "url": ("http://localhost/a.png", "", "", "image.0", "and nothing is fetched unasked", "fetch it once"),
    "more marks": ("0.png", "<image><image>Same?", "", "image", "2 <image> marks, but 1 picture", "let each picture"),
    "fewer marks": ("0.png", "What?", "", "image", "0 <image> marks, but 1 picture", "let each picture have one mark"),
    "no picture": (None, "", "", "image", "1 <image> mark, but no picture", "name the picture in a column image"),
    "in the answer": ("0.png", "Draw.", "<image>", "messages.1", "a picture in the answer", "put it in the question"),
}
FINE = ("cmyk.jpg", "deep.png", "turned.jpg")


def saved(image: Any, kind: str = "PNG", **settings: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return out.getvalue()


def empty_png(width: int, height: int) -> bytes:
    """The head of a picture of such a size, with next to no data."""
    pieces = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(10))),
        (b"IEND", b""),
    )
    chunks = (struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in pieces)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "data"
    place.mkdir()
    noise = Image.fromarray((np.random.default_rng(0).random((48, 64, 3)) * 255).astype("uint8"))
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    turned = Image.Exif()
    turned[0x0112] = 6
    made = {
        "0.png": saved(noise), "text.png": b"no image", "half.png": saved(noise)[:4000], "empty.png": b"",
        "flat.png": empty_png(0, 5), "moves.gif": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "bomb.png": empty_png(20_000, 20_000), "wide.png": empty_png(20_000, 10),
        "cmyk.jpg": saved(noise.convert("CMYK"), "JPEG"), "turned.jpg": saved(noise, "JPEG", exif=turned),
        "deep.png": saved(Image.fromarray(np.arange(4096, dtype="uint16").reshape(64, 64) * 16)),
    }  # fmt: skip
    for name, content in made.items():
        (place / name).write_bytes(content)
    (tmp_path / "out.png").write_bytes(made["0.png"])
    (place / "link.png").symlink_to(tmp_path / "out.png")
    monkeypatch.chdir(place)
    return place


def row(number: int, picture: Any, asked: str = "", said: str = "") -> dict[str, Any]:
    question = asked or f"<image>\nWhat is number {number}?"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": said or "red"}]
    return {"conversations": turns, **({} if picture is None else {"image": picture})}


def build(rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, policy: str, what: str = "build") -> int:
    Path("rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    Path("recipe.yaml").write_text(
        f"name: bad\nmodel: base\nsources: [{{type: file, path: rows.jsonl, on_error: {policy}}}]\n"
        "build: {heldout_rows: 0, heldout_templates: 0}\ncurate: [{type: heuristics}]\n"
        "tune: {max_steps: 1, batch_size: 4, precision: fp32}\n"
    )
    monkeypatch.setattr(sys, "argv", ["didact", what, "recipe.yaml", "--out", "out"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("case", CASES)
def test_a_bad_picture_is_one_line_or_a_counted_drop(
    case: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, asked, said, field, problem, cure = CASES[case]
    rows = [row(0, "0.png"), row(1, "0.png"), row(2, picture, asked, said), row(3, "0.png")]
    assert build(rows, monkeypatch, "stop") == 2
    told = capsys.readouterr().err.strip()
    assert "\n" not in told
    assert told.removeprefix(f"{home}/").startswith(f"rows.jsonl:3:{field}: ")
    assert problem in told
    assert f" - {cure}" in told
    assert "or drop such rows: on_error: drop" in told
    assert not Path("out/built.jsonl").exists()
    assert not Path("out/pictures").exists()
    assert build(rows, monkeypatch, "drop") == 0
    assert len(Path("out/built.jsonl").read_text().splitlines()) == 3
    (drop,) = (json.loads(line) for line in Path("out/dropped.jsonl").read_text().splitlines())
    assert (drop["reason"], drop["origin"]["row"]) == ("faulty row", 3)
    assert "1 faulty row" in capsys.readouterr().out


def test_odd_pictures_are_made_plain_and_upright(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build([row(n, name) for n, name in enumerate(FINE)], monkeypatch, "stop") == 0
    kept = [Image.open(path) for path in Path("out/pictures").iterdir()]
    assert {image.mode for image in kept} == {"RGB"}
    assert sorted(image.size for image in kept) == [(48, 64), (64, 48), (64, 64)]  # one was turned by its EXIF


def test_texts_among_pictures_train_and_a_model_without_a_processor_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_seeing(home / "base", "llava")
    rows = [row(0, "0.png"), row(1, None, "Say red."), row(2, "0.png"), row(3, None, "Say red again.")]
    assert build(rows, monkeypatch, "stop", "tune") == 0
    assert Path("out/tuned/config.json").exists()
    for name in FILES:
        (home / "base" / name).unlink(missing_ok=True)
    shutil.rmtree("out")
    capsys.readouterr()
    assert build(rows, monkeypatch, "stop", "tune") == 2
    told = capsys.readouterr().err.strip()
    assert "\n" not in told
    assert "the model reads pictures, but its folder has no processor - add the preprocessor_config.json" in told
