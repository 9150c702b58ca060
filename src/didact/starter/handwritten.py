"""Handwritten digits as a task, from the copy that scikit-learn brings, in the words of the picture world's `digit`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from didact.errors import missing_extra
from didact.starter.picture_tasks import templates
from didact.starter.scenes import png

if TYPE_CHECKING:
    from didact.sources import Row, Task

LICENCE = "CC-BY-4.0"  # UCI Machine Learning Repository, Optical Recognition of Handwritten Digits
SOURCE = "scikit-learn:digits"


def digits(limit: int | None = None, scale: int = 4) -> Task:
    """The digits as one task; rows: image (PNG of 8 * scale pixels a side, grey in RGB), text (0 to 9) and key."""
    from didact.sources import Task

    return Task(
        name="handwritten",
        cluster="handwritten",
        licence=LICENCE,
        rows=lambda: rows(limit, scale),
        templates=templates("digit"),
        group=("key",),
        languages=("en",),
    )


def rows(limit: int | None = None, scale: int = 4) -> Iterator[Row]:
    """The rows, in scikit-learn's order."""
    from didact.sources import Row

    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise missing_extra("scikit-learn", "digits") from error
    found = load_digits()
    for number, (picture, label) in enumerate(zip(found.images[:limit], found.target[:limit], strict=True), 1):
        grey = np.kron(picture, np.ones((scale, scale))) * (255 / 16)
        pixels = np.repeat(grey.round().astype(np.uint8)[:, :, None], 3, axis=2)
        yield Row(SOURCE, number, {"image": png(pixels), "text": str(label), "key": f"{SOURCE}:{number}"})
