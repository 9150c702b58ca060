"""Scenes of the picture world: things in two rows and two columns, drawn from a seed as a small PNG.

What tells two pictures of one scene apart (where in its cell a thing lies, how bright it is, the noise behind it) is
drawn anew each time, so pictures cannot be learnt by heart. The PNG is not compressed, so that its bytes, and the ids
of all instances, are the same with every version of zlib.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from didact.starter.world import table

SIDE, CELL = 32, 16  # pixels of a picture, and of each of its four places
FIRST, SECOND = 0, 2  # the upper and the lower left place


@dataclass(frozen=True, slots=True)
class Thing:
    """What lies in a place: a kind in a colour; or what is written there, a digit."""

    name: str
    colour: str

    def __str__(self) -> str:
        return f"{self.colour} {self.name}"


@dataclass(frozen=True, slots=True)
class Scene:
    """Four places, in the order in which they are read; None is empty."""

    places: tuple[Thing | None, Thing | None, Thing | None, Thing | None]

    @property
    def things(self) -> list[Thing]:
        return [thing for thing in self.places if thing is not None]

    @property
    def key(self) -> str:
        """What makes two scenes the same, whatever their pixels."""
        return " / ".join(str(thing) if thing is not None else "-" for thing in self.places)

    @property
    def caption(self) -> str:
        """All things in the order in which they are read."""
        named = [f"a {thing}" for thing in self.things]
        told = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
        return told[0].upper() + told[1:] + "."

    def place_of(self, number: int) -> str:
        """The name of a place."""
        return str(world()["places"][number])


def world() -> Mapping[str, Any]:
    """Colours, kinds, places, digits and tasks of the picture world."""
    found: Mapping[str, Any] = table("pictures")
    return found


def lay(rng: Random, things: Sequence[Thing]) -> Scene:
    """A scene with these things, each in a place of its own."""
    places: list[Thing | None] = [None] * 4
    for place, thing in zip(rng.sample(range(4), len(things)), things, strict=True):
        places[place] = thing
    return Scene((places[0], places[1], places[2], places[3]))


def draw(scene: Scene, rng: Random) -> bytes:
    """The scene as a PNG of 32 x 32 pixels in RGB."""
    noise = np.random.default_rng(rng.getrandbits(64))
    pixels = noise.integers(0, 30, (SIDE, SIDE, 3), dtype=np.int64) + rng.randrange(25)
    for number, thing in enumerate(scene.places):
        if thing is not None:
            shape = _shape(thing.name)
            top = CELL * (number // 2) + 1 + rng.randrange(CELL - 1 - shape.shape[0])
            left = CELL * (number % 2) + 1 + rng.randrange(CELL - 1 - shape.shape[1])
            part = pixels[top : top + shape.shape[0], left : left + shape.shape[1]]
            ink = np.array(world()["colours"][thing.colour]) * rng.uniform(0.8, 1.0)
            part[shape] = ink + noise.integers(-8, 9, (int(shape.sum()), 3))
    return png(pixels.clip(0, 255).astype(np.uint8))


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels (height, width, 3) as a PNG, stored without compression."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", _stored(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _stored(data: bytes) -> bytes:
    """A zlib stream of stored blocks (RFC 1950 and 1951)."""
    blocks = [data[i : i + 65535] for i in range(0, len(data), 65535)] or [b""]
    found = b"\x78\x01"
    for i, block in enumerate(blocks):
        found += struct.pack("<BHH", i == len(blocks) - 1, len(block), len(block) ^ 0xFFFF) + block
    return found + struct.pack(">I", zlib.adler32(data))


@cache
def _shape(name: str) -> NDArray[np.bool_]:
    """The pixels of a kind or, twice as large as written down, of a digit."""
    lines = world()["digits"][int(name)] if name.isdigit() else world()["kinds"][name]
    found = np.array([[point == "#" for point in line] for line in lines])
    return np.kron(found, np.ones((2, 2), bool)).astype(bool) if name.isdigit() else found
