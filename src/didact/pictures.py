"""Pictures of rows: checked before they are decoded, made 8-bit and upright, and kept under a hash of their bytes.

A picture in an instance is a path, `pictures/<hash>.<ext>` in the folder of a run; whatever reads one afterwards finds
a single frame of 8-bit grey or RGB, so no model sees a turned, a clipped or a half-read picture. Needs Pillow.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import io
import os
import stat
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from didact.errors import UsageError, missing_extra

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS = 64_000_000  # width x height; some 200 MB when decoded
LONGEST_SIDE = 20_000  # pixels, exclusive
MOST_BYTES = 128 * 2**20
READ = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # nothing that runs a program or fetches a file to be read
KEPT = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp"}  # as they are; others are written as PNG
PLAIN = ("RGB", "L")
TURNED = 0x0112  # the EXIF tag of the orientation
DROP = "or drop such rows: on_error: drop"


@dataclass(frozen=True, slots=True)
class Checked:
    """A picture to train on. name: hash of its bytes, and their kind; path: the file that holds just these."""

    name: str
    width: int
    height: int
    bytes: bytes
    path: Path | None = None


def check(
    raw: bytes | str | Path,
    *,
    file: str | Path | None = None,
    line: int | None = None,
    field: str | None = None,
    root: Path | None = None,
) -> Checked:
    """A picture's bytes or its path (relative to `root`), looked at and brought to 8-bit grey or RGB, upright.

    file, line, field: where it is named, for the error. root: the folder that it must lie in, links followed; None
    for a path that the user has typed. Raises UsageError for what is missing, unreadable, truncated, empty, too large
    (before it is decoded), animated, outside of `root`, or a URL.
    """
    try:
        path, held = (None, raw) if isinstance(raw, bytes) else _read(raw, root)
        if not held:
            raise UsageError("the picture is empty (0 bytes)", f"fetch it again, {DROP}")
        return _checked(held, path)
    except UsageError as error:
        raise error.at(file=file, line=line, field=field) from error.__cause__


def keep(checked: Checked, folder: Path) -> Path:
    """Put a picture into a folder under its name, whole or not at all; gives the path.

    Its file is linked where bytes did not change and the disk allows, else written. Any number of processes may do so.
    """
    place = folder / checked.name
    with contextlib.suppress(OSError):
        if place.stat().st_size == len(checked.bytes):
            return place
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f".{checked.name}.{os.getpid()}.{threading.get_ident()}"
    try:
        try:
            if checked.path is None:
                raise OSError
            os.link(checked.path, new, follow_symlinks=True)
        except OSError:
            new.unlink(missing_ok=True)
            new.write_bytes(checked.bytes)
        new.replace(place)
    finally:
        new.unlink(missing_ok=True)  # of two links to one file, renaming leaves both
    return place


def open_rgb(path: str | Path) -> Image.Image:
    """A kept picture as RGB, decoded; UsageError if it is gone or damaged."""
    try:
        with _opened(Path(path).read_bytes()) as image:
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise UsageError("the picture is missing", "build again: didact build", file=path) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise UsageError(f"the picture is damaged: {error}", "build again: didact build", file=path) from error


def size(path: str | Path) -> tuple[int, int]:
    """Width and height of a kept picture, read from its head."""
    with _opened(Path(path).read_bytes()) as image:
        return image.size


def thumbnail(path: str | Path, side: int = 96) -> str:
    """A kept picture as a `data:` URI, at most `side` pixels wide and high; tiny ones are enlarged without blur."""
    image = open_rgb(path)
    tiny = max(image.size) * 2 <= side
    if tiny:
        times = side // max(image.size)
        image = image.resize((image.width * times, image.height * times), 0)
    image.thumbnail((side, side))
    out = io.BytesIO()
    if not tiny and len(image.getcolors(256) or ()) == 0:  # more colours than that: a photograph
        image.save(out, "JPEG", quality=80)
        return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
    image.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def told(path: str | Path) -> str:
    """A picture in words, for where only text can stand."""
    with contextlib.suppress(OSError, ValueError, SyntaxError, UsageError):
        width, height = size(path)
        return f"[image {Path(path).name} {width}x{height}]"
    return f"[image {Path(path).name}, missing]"


def pictured(path: str | Path) -> dict[str, str]:
    """A picture as pages show it: `text`, and `image`, a `data:` URI, while the file is there."""
    with contextlib.suppress(UsageError):
        return {"text": told(path), "image": thumbnail(path)}
    return {"text": told(path)}


def decoded(uri: str) -> bytes:
    """The bytes in a `data:` URI; UsageError if they are not written as base64."""
    head, _, body = uri.partition(",")
    try:
        if not head.endswith(";base64"):
            raise binascii.Error("it does not say ;base64")
        return base64.b64decode("".join(body.split()), validate=True)
    except binascii.Error as error:
        raise UsageError(f"the picture's data: URI is not base64: {error}", f"encode it again, {DROP}") from error


def is_url(text: str) -> bool:
    """Whether a text names something to be fetched, rather than a file."""
    return "://" in text[:32]


def _read(raw: str | Path, root: Path | None) -> tuple[Path, bytes]:
    if is_url(str(raw)):
        fix = f"fetch it once and name the file, or allow it: picture_urls: true, {DROP}"
        raise UsageError(f'the picture "{_short(raw)}" is a URL, and nothing is fetched unasked', fix)
    if not str(raw).strip() or "\0" in str(raw):
        raise UsageError("the picture's name is empty", f"name its file, {DROP}")
    named = Path(raw) if root is None else root / raw
    try:
        path = named.resolve(strict=True)
        if root is not None and not path.is_relative_to(root.resolve()):
            fix = f"put it there, or say where pictures lie: pictures: FOLDER, {DROP}"
            raise UsageError(f'the picture "{_short(raw)}" lies outside of the data folder {root}', fix)
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f'the picture "{_short(raw)}" is not a file', f"name a picture file, {DROP}")
        if status.st_size > MOST_BYTES:
            problem = f'the picture "{_short(raw)}" has {status.st_size / 2**20:.0f} MiB, more than {MOST_BYTES >> 20}'
            raise UsageError(problem, f"make it smaller, {DROP}")
        return path, path.read_bytes()
    except FileNotFoundError as error:
        fix = f"check the name, or say where pictures lie: pictures: FOLDER, {DROP}"
        raise UsageError(f'there is no picture "{_short(raw)}"', fix) from error
    except (OSError, RuntimeError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise UsageError(f'the picture "{_short(raw)}" cannot be read: {told}', f"check the file, {DROP}") from error


def _checked(held: bytes, path: Path | None) -> Checked:
    try:
        with _opened(held) as image:
            width, height = image.size
            _refuse_size(width, height)
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # a phone's has a preview behind it
            if frames > 1:
                raise UsageError(f"the picture is animated ({frames} frames)", f"take one frame of it, {DROP}")
            turned = image.getexif().get(TURNED, 1) in range(2, 9)
            deep = image.format == "PNG" and held[24:25] == b"\x10"
            if image.format in KEPT and image.mode in PLAIN and not turned and not deep and not _see_through(image):
                if image.format == "JPEG":
                    image.draft("RGB", (width // 8, height // 8))  # all its bytes are read, few pixels are made
                image.load()
                return Checked(_name(held, KEPT[image.format]), width, height, held, path)
            plain = _plain(image)
    except UsageError:
        raise
    except (OSError, ValueError, SyntaxError, MemoryError, EOFError, TypeError, KeyError, IndexError) as error:
        raise _unreadable(error, held) from error  # what Pillow raises for broken files is of many kinds
    out = io.BytesIO()
    plain.save(out, "PNG")
    return Checked(_name(out.getvalue(), "png"), plain.width, plain.height, out.getvalue())


def _opened(held: bytes) -> Image.Image:
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_extra("pillow", "images") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bombs (the size is looked at by us) and of odd metadata
        try:
            return Image.open(io.BytesIO(held), formats=READ)
        except Image.DecompressionBombError as error:
            raise UsageError(f"the picture is a decompression bomb: {error}", f"make it smaller, {DROP}") from error


def _refuse_size(width: int, height: int) -> None:
    if not width or not height:
        raise UsageError(f"the picture has no pixels ({width} x {height})", f"fetch it again, {DROP}")
    if width * height > MOST_PIXELS or max(width, height) >= LONGEST_SIDE:
        problem = f"the picture has {width:,} x {height:,} pixels, more than is decoded"
        raise UsageError(problem, f"make it smaller (a side below {LONGEST_SIDE:,}, {MOST_PIXELS:,} in all), {DROP}")


def _see_through(image: Image.Image) -> bool:
    return "transparency" in image.info


def _plain(image: Image.Image) -> Image.Image:
    """The picture as 8-bit RGB: upright, on white where it is see-through, sixteen bits brought to eight."""
    from PIL import Image, ImageOps

    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F":
        raise UsageError("the picture holds floating-point values", f"convert it to 8 bits, {DROP}")
    if upright.mode.startswith("I"):  # Pillow would clip at 255
        values = upright.convert("I").point(lambda value: value * (1 / 257))
        return values.convert("L").convert("RGB")
    if upright.mode in ("RGBA", "LA", "PA", "La", "RGBa") or _see_through(upright):
        clear = upright.convert("RGBA")
        white = Image.new("RGBA", clear.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, clear).convert("RGB")
    return upright.convert("RGB")


def _unreadable(error: BaseException, held: bytes) -> UsageError:
    told = (str(error).splitlines() or [""])[0]
    if held[1:4] == b"PNG" and b"\0\0\0\0" in (held[16:20], held[20:24]):
        return UsageError("the picture has no pixels", f"fetch it again, {DROP}")
    if "truncated" in told.lower() or "unrecognized data stream" in told or "broken" in told:
        return UsageError(f"the picture is truncated: {told}", f"fetch it again, {DROP}")
    if "cannot identify" in told:
        problem = f"the picture is none that can be read: {len(held):,} bytes beginning with {held[:8]!r}"
        return UsageError(problem, f"give it as {', '.join(READ)}, {DROP}")
    return UsageError(f"the picture is unreadable: {told or type(error).__name__}", f"fetch it again, {DROP}")


def _name(held: bytes, ending: str) -> str:
    return f"{hashlib.sha256(held).hexdigest()[:16]}.{ending}"


def _short(raw: Any) -> str:
    text = str(raw)
    return text if len(text) <= 120 else text[:117] + "..."
