"""Pictures as rows bring them: what is refused, in one line, and what is made of the rest. All are made here."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from didact import pictures
from didact.errors import UsageError
from didact.instance import Instance, Message, Origin, Part
from didact.pictures import check, keep, open_rgb

Image = pytest.importorskip("PIL.Image")
RED = Image.new("RGB", (30, 20), (255, 0, 0))
NOISE = Image.fromarray((np.random.RandomState(0).rand(64, 64, 3) * 255).astype("uint8"))
TURNED = Image.Exif()
TURNED[0x0112] = 6


def encoded(image, kind="PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png_of(width: int, height: int, depth: int = 8, lines: bytes = b"\0" * 1000) -> bytes:
    """A PNG that says it is so large, whatever it holds."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def refused(raw, **where) -> str:
    with pytest.raises(UsageError) as told:
        check(raw, file="rows.jsonl", line=3, field="image", **where)
    assert "\n" not in str(told.value)
    assert str(told.value).startswith("rows.jsonl:3:image: the") or "there is no" in str(told.value)
    return str(told.value)


def test_kept_as_it_is():
    for kind, ending in (("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp")):
        raw = encoded(RED, kind)
        found = check(raw)
        assert (found.bytes, found.width, found.height) == (raw, 30, 20)
        assert found.name.endswith(ending)


@pytest.mark.parametrize(
    "raw",
    [
        encoded(RED.convert("CMYK"), "JPEG", quality=100, subsampling=0),
        encoded(RED.convert("CMYK"), "TIFF"),
        encoded(RED.convert("P")),
        encoded(RED, "BMP"),
        encoded(RED.convert("RGBA")),
    ],
)
def test_other_kinds_become_rgb(raw):
    found = check(raw)
    with Image.open(io.BytesIO(found.bytes)) as image:
        assert (image.mode, image.size) == ("RGB", (30, 20))
        assert np.abs(np.asarray(image, int)[0, 0] - (255, 0, 0)).max() <= 3


def test_see_through_lies_on_white():
    raw = encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0)))
    with Image.open(io.BytesIO(check(raw).bytes)) as image:
        assert image.getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    with Image.open(io.BytesIO(check(encoded(palette, transparency=0)).bytes)) as image:
        assert image.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_become_eight_and_are_not_clipped(kind):
    deep = Image.fromarray(np.array([[0, 20000, 40000, 65535]], "uint16"))
    with Image.open(io.BytesIO(check(encoded(deep, kind)).bytes)) as image:
        assert np.abs(np.asarray(image)[0, :, 0] - np.array([0, 77.8, 155.6, 255])).max() <= 1


def test_sixteen_bits_of_each_colour_become_eight():
    found = check(png_of(1, 1, 16, b"\0" + struct.pack(">HHH", 65535, 32768, 0)))
    assert found.bytes[24] == 8  # bits of a sample
    with Image.open(io.BytesIO(found.bytes)) as image:
        assert image.getpixel((0, 0)) == (255, 128, 0)


def test_turned_by_exif_is_set_upright():
    picture = RED.copy()
    picture.paste((0, 0, 255), (0, 0, 30, 10))  # blue above
    found = check(encoded(picture, "JPEG", exif=TURNED, quality=95))
    with Image.open(io.BytesIO(found.bytes)) as image:
        assert image.size == (found.width, found.height) == (20, 30)
        assert image.getpixel((18, 15))[2] > 200  # above came to the right
        assert image.getpixel((2, 15))[0] > 200
        assert not image.getexif()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "empty"),
        (b"hello", "none that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "none that can be read"),
        (encoded(NOISE)[:5000], "truncated"),
        (encoded(NOISE, "JPEG")[:900], "truncated"),
        (encoded(NOISE, "BMP")[:-300], "truncated"),
        (encoded(NOISE, "WEBP")[:-200], "unreadable"),
        (encoded(NOISE, save_all=True, append_images=[NOISE.rotate(90)]), "animated (2 frames)"),
        (encoded(NOISE.convert("P"), "GIF", save_all=True, append_images=[NOISE.rotate(90).convert("P")]), "animated"),
        (encoded(Image.fromarray(np.zeros((2, 2), "float32")), "TIFF"), "floating-point"),
        (png_of(20_000, 20_000), "20,000"),
        (png_of(9_000, 9_000), "9,000 x 9,000 pixels"),
        (png_of(20_000, 1), "20,000 x 1 pixels"),
        (png_of(0, 5), "no pixels"),
    ],
)
def test_refused(raw, words):
    assert words in refused(raw).replace("400000000", "20,000")


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    def decode(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    refused(png_of(9_000, 9_000))


def test_only_files_of_the_data_folder(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "in.png").write_bytes(encoded(RED))
    (tmp_path / "out.png").write_bytes(encoded(RED))
    (data / "link.png").symlink_to(tmp_path / "out.png")
    (data / "own.png").symlink_to(data / "in.png")
    os.mkfifo(data / "pipe.png")
    names = {check(name, root=data).name for name in ("in.png", "./in.png", "own.png", str(data / "in.png"))}
    assert len(names) == 1
    for name in ("link.png", "../out.png", str(tmp_path / "out.png")):
        assert "outside of the data folder" in refused(name, root=data)
    assert "there is no picture" in refused("none.png", root=data)
    assert "is not a file" in refused("pipe.png", root=data)
    assert "is not a file" in refused(".", root=data)
    assert "name is empty" in refused("", root=data)
    for url in ("https://example.org/a.png", "file:///etc/passwd"):
        assert "is a URL" in refused(url, root=data)
    assert check(tmp_path / "out.png").width == 30  # a path that the user typed


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded(RED))
    monkeypatch.setattr(pictures, "MOST_BYTES", 10)
    assert "MiB" in refused("a.png", root=tmp_path)


def test_kept_once_whatever_its_name(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(RED))
    (tmp_path / "b.png").write_bytes(encoded(RED))
    folder = tmp_path / "run" / "pictures"
    places = {keep(check(name, root=tmp_path), folder) for name in ("a.png", "b.png", "a.png")}
    assert [p.name for p in places] == os.listdir(folder)
    assert os.stat(tmp_path / "a.png").st_nlink == 2  # linked
    (place,) = places
    place.unlink()
    place.write_bytes(b"half")
    keep(check("a.png", root=tmp_path), folder)
    assert open_rgb(place).getpixel((0, 0)) == (255, 0, 0)
    keep(check(encoded(RED.convert("CMYK"), "TIFF")), folder)
    assert sorted(os.listdir(folder)) == sorted(path.name for path in folder.iterdir() if path.suffix == ".png")


def test_gone_or_damaged_is_told(tmp_path):
    with pytest.raises(UsageError, match="missing"):
        open_rgb(tmp_path / "none.png")
    (tmp_path / "a.png").write_bytes(encoded(NOISE)[:3000])
    with pytest.raises(UsageError, match="damaged"):
        open_rgb(tmp_path / "a.png")


def test_a_thumbnail_is_small_and_sharp(tmp_path):
    for image, kind in ((RED.resize((8, 8)), "png"), (NOISE.resize((600, 400)), "jpeg")):
        uri = pictures.thumbnail(keep(check(encoded(image)), tmp_path))
        assert uri.startswith(f"data:image/{kind};base64,")
        with Image.open(io.BytesIO(pictures.decoded(uri))) as small:
            assert max(small.size) == 96


def test_a_data_uri_is_read_and_a_broken_one_told():
    assert pictures.decoded("data:image/png;base64,aGVsbG8=") == b"hello"
    for uri in ("data:image/png,hello", "data:image/png;base64,!!!"):
        with pytest.raises(UsageError, match="base64"):
            pictures.decoded(uri)


def test_content_decides_the_id_not_the_place(tmp_path):
    def instance(path: Path) -> Instance:
        parts = (Part(str(path), "input", "image"), Part("What is it?", "instruction"))
        return Instance.of((Message("user", parts), Message("assistant", (Part("red", "answer"),))), Origin("", 1))

    a, b = instance(tmp_path / "x" / "pictures" / "a.png"), instance(tmp_path / "y" / "pictures" / "a.png")
    assert a.id == b.id != instance(tmp_path / "x" / "pictures" / "c.png").id
    assert a.to_json() == b.to_json()
    assert Instance.from_json(a.to_json(), tmp_path / "x") == a
    assert a.images == (str(tmp_path / "x" / "pictures" / "a.png"),)
