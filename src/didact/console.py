"""What a run says: calm lines, and progress bars where someone is watching. No colour with NO_COLOR or in a pipe."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Update = Callable[[int, int, str], None]  # done, of how many, a note


class Console:
    """Speaks to the terminal; `quiet` says nothing at all."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console as Rich
        from rich.theme import Theme

        styles = {"stage": "bold", "answer": "green", "context": "dim", "stop": "magenta", "aside": "dim"}
        styles |= {"instruction": "cyan", "input": "yellow", "demo": "blue"}
        self.rich = Rich(quiet=quiet, highlight=False, soft_wrap=True, theme=Theme(styles))

    def say(self, text: str, style: str = "") -> None:
        """One line. The text is content: markup and control characters in it have no power."""
        self.rich.print(printable(text), style=style or None, markup=False, emoji=False)

    def stage(self, name: str, text: str) -> None:
        """One line about a stage."""
        from rich.text import Text

        self.rich.print(Text.assemble((f"{name:<9}", "stage"), printable(text)))

    @contextmanager
    def progress(self, name: str) -> Iterator[Update]:
        """A bar with the time left; `update(done, total, note)` moves it. Shows nothing where nobody watches."""
        if not self.rich.is_terminal or self.rich.quiet:
            yield lambda done, total, note: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns: list[Any] = [
            TextColumn(f"[stage]{name:<9}[/]"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("[aside]{task.fields[note]}[/]"),
            TimeRemainingColumn(),
        ]
        with Progress(*columns, console=self.rich, transient=True) as bar:
            task = bar.add_task(name, total=None, note="")
            yield lambda done, total, note: bar.update(task, completed=done, total=total, note=note)


def printable(text: str) -> str:
    """The text with control characters, which could steer a terminal, written out; line ends and tabs stay."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else f"\\x{ord(c):02x}" for c in text)
