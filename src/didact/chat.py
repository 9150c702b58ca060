"""Talk to a base model and to what tuning made of it, side by side; both are asked through the training renderer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

from didact.album import scratch
from didact.console import Console, printable
from didact.errors import UsageError
from didact.instance import PICTURES, Message, Part
from didact.pictures import check, keep, told

HELP = "Type a message. /image PATH shows a picture with the next one, /new starts afresh, /quit ends."


class Voice(Protocol):
    """A model that answers piece by piece."""

    def stream(self, messages: Sequence[Message]) -> Iterator[str]:
        """The answer to a conversation, as it is made."""
        ...


def chat(voices: Mapping[str, Voice], lines: Iterable[str], console: Console) -> None:
    """Put each line to every voice and show the answers; each voice remembers its own conversation."""
    histories: dict[str, list[Message]] = {name: [] for name in voices}
    pictures: list[Part] = []
    for line in lines:
        text = line.strip()
        if text == "/quit":
            return
        if text == "/new":
            histories, pictures = {name: [] for name in voices}, []
            continue
        if text.split(maxsplit=1)[:1] == ["/image"]:
            pictures += _picture(text.removeprefix("/image").strip(), console)
            continue
        if not text:
            continue
        if not console.rich.is_terminal:
            console.say(f"you: {text}")
        for history in histories.values():
            history.append(Message("user", (*pictures, Part(text, "instruction"))))
        show = _side_by_side if console.rich.is_terminal else _in_turn
        try:
            answers = show(voices, histories, console)
        except UsageError as error:  # a model that reads only text, or a conversation that is too long for it
            if not pictures:
                raise
            console.say(str(error))
            histories, pictures = {name: history[:-1] for name, history in histories.items()}, []
            continue
        pictures = []
        for name, answer in answers.items():
            histories[name].append(Message("assistant", (Part(answer, "answer"),)))


def typed(console: Console) -> Iterator[str]:
    """Lines as a person types them, until the end of input."""
    console.say(HELP, "aside")
    while True:
        try:
            yield console.rich.input("[bold]you[/] ")
        except EOFError:
            return


def _picture(name: str, console: Console) -> list[Part]:
    """The picture at a path, for the next message; what is wrong with it is told, and the talk goes on."""
    if not name:
        console.say("which picture? /image PATH")
        return []
    try:
        path = keep(check(Path(name.strip("\"'")).expanduser()), scratch() / PICTURES)
    except UsageError as error:
        console.say(error.problem)  # its cures are for rows
        return []
    console.say(told(path), "aside")
    return [Part(str(path), "input", "image")]


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
