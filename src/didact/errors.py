"""The errors that reach a person: one line saying where, what, and what to do.

`UsageError` is for whatever a user can mend (exit code 2). `Interrupted` is a stop that was asked for: the state is
saved and the same command goes on. Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class UsageError(Exception):
    """Something the user can mend, told as `file:line:field: problem - fix`.

    `file`, `line` (1-based) and `field` are left out where they do not apply. Never multi-line.
    """

    def __init__(
        self,
        problem: str,
        fix: str = "",
        *,
        file: str | Path | None = None,
        line: int | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem, self.fix, self.line, self.field = problem, fix, line, field
        self.file = None if file is None else str(file)

    def at(self, *, file: str | Path | None = None, line: int | None = None, field: str | None = None) -> UsageError:
        """The same error with the places filled in that were not known where it was raised."""
        return type(self)(
            self.problem,
            self.fix,
            file=self.file if self.file is not None else file,
            line=self.line if self.line is not None else line,
            field=self.field if self.field is not None else field,
        )

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.field) if part is not None)
        text = f"{place}: {self.problem}" if place else self.problem
        return " ".join((f"{text} - {self.fix}" if self.fix else text).split())


class Interrupted(Exception):
    """The user (Ctrl-C, SIGTERM) stopped the work; all that was finished is saved. Exit code 130 or 143."""

    def __init__(self, message: str, code: int = 130) -> None:
        super().__init__(message)
        self.code = code


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean "x"?` for the closest known name, or a list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f'did you mean "{close[0]}"?' if close else f"use one of: {', '.join(names)}"


def missing_extra(package: str, extra: str) -> UsageError:
    """The one-line hint when an optional dependency is not installed."""
    return UsageError(f"{package} is not installed", f"pip install 'didact[{extra}]'")
