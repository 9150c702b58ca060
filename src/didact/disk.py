"""Writing that survives a power cut, and a full disk told in one line."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from didact.errors import UsageError


@contextmanager
def room(place: Path, needed: int) -> Iterator[None]:
    """Check that `needed` bytes are free, and turn a disk that fills up all the same into one line."""
    free = shutil.disk_usage(place).free
    if free < needed:
        raise _full(place, needed, free)
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _full(place, needed, shutil.disk_usage(place).free) from error
    except Exception as error:
        if "No space left on device" not in str(error):  # safetensors wraps the error of the system
            raise
        raise _full(place, needed, shutil.disk_usage(place).free) from error


def flush(path: Path, deep: bool = True) -> None:
    """fsync a folder, and all that is in it."""
    for item in [*(sorted(path.rglob("*")) if deep else []), path]:
        handle = os.open(item, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _full(place: Path, needed: int, free: int) -> UsageError:
    problem = f"the disk is full: {needed:,} bytes are needed, {free:,} are free; what was saved before is untouched"
    return UsageError(problem, "free some space and run the same command", file=place)
