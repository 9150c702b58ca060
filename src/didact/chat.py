"""Talk to a base model and to what tuning made of it, side by side; both are asked through the training renderer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Protocol

from didact.console import Console, printable
from didact.instance import Message, Part

HELP = "Type a message. /new starts afresh, /quit ends."


class Voice(Protocol):
    """A model that answers piece by piece."""

    def stream(self, messages: Sequence[Message]) -> Iterator[str]:
        """The answer to a conversation, as it is made."""
        ...


def chat(voices: Mapping[str, Voice], lines: Iterable[str], console: Console) -> None:
    """Put each line to every voice and show the answers; each voice remembers its own conversation."""
    histories: dict[str, list[Message]] = {name: [] for name in voices}
    for line in lines:
        text = line.strip()
        if text == "/quit":
            return
        if text == "/new":
            histories = {name: [] for name in voices}
            continue
        if not text:
            continue
        if not console.rich.is_terminal:
            console.say(f"you: {text}")
        for history in histories.values():
            history.append(Message("user", (Part(text, "instruction"),)))
        show = _side_by_side if console.rich.is_terminal else _in_turn
        for name, answer in show(voices, histories, console).items():
            histories[name].append(Message("assistant", (Part(answer, "answer"),)))


def typed(console: Console) -> Iterator[str]:
    """Lines as a person types them, until the end of input."""
    console.say(HELP, "aside")
    while True:
        try:
            yield console.rich.input("[bold]you[/] ")
        except EOFError:
            return


def _in_turn(voices: Mapping[str, Voice], histories: dict[str, list[Message]], console: Console) -> dict[str, str]:
    answers = {}
    for name, voice in voices.items():
        console.rich.print(f"{name}: ", end="", markup=False)
        pieces = []
        for piece in voice.stream(histories[name]):
            console.rich.print(printable(piece), end="", markup=False, emoji=False)
            pieces.append(piece)
        console.rich.print()
        answers[name] = "".join(pieces)
    return answers


def _side_by_side(voices: Mapping[str, Voice], histories: dict[str, list[Message]], console: Console) -> dict[str, str]:
    from rich.columns import Columns
    from rich.live import Live
    from rich.panel import Panel
    from rich.text import Text

    answers = dict.fromkeys(voices, "")
    width = max(20, console.rich.width // len(voices) - 1)

    def view() -> Columns:
        panels = [Panel(Text(printable(text)), title=name, width=width) for name, text in answers.items()]
        return Columns(panels, padding=0)

    streams = [voice.stream(histories[name]) for name, voice in voices.items()]
    with Live(view(), console=console.rich, refresh_per_second=12) as live:
        for pieces in zip_longest(*streams, fillvalue=""):
            for name, piece in zip(answers, pieces, strict=True):
                answers[name] += piece
            live.update(view())
    return answers
