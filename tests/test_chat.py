from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from didact.chat import chat
from didact.console import Console
from didact.errors import UsageError
from didact.instance import Message


class Parrot:
    """A model that says back what it was told, in small pieces, and how many turns it knows of."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def stream(self, messages: Sequence[Message]) -> Iterator[str]:
        self.seen.append([f"{message.role}: {message.text}" for message in messages])
        yield from (messages[-1].text, " ", str(len(messages)))


def talk(lines: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, list[list[str]]]:
    parrot = Parrot()
    chat({"base": parrot, "tuned": Parrot()}, lines, Console())
    return capsys.readouterr().out, parrot.seen


def test_both_models_answer_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    told, _ = talk(["hello\n", "\n", "again\n"], capsys)
    assert told.splitlines() == [
        "you: hello",
        "base: hello 1",
        "tuned: hello 1",
        "you: again",
        "base: again 3",
        "tuned: again 3",
    ]


def test_each_remembers_its_own_conversation(capsys: pytest.CaptureFixture[str]) -> None:
    _, seen = talk(["a", "b"], capsys)
    assert seen[1] == ["user: a", "assistant: a 1", "user: b"]


def test_new_forgets_and_quit_ends(capsys: pytest.CaptureFixture[str]) -> None:
    _, seen = talk(["a", "/new", "b", "/quit", "c"], capsys)
    assert seen == [["user: a"], ["user: b"]]


def test_control_characters_of_a_model_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    told, _ = talk(["\x1b[2Jgone [bold]x[/bold]"], capsys)
    assert "\x1b" not in told
    assert "\\x1b[2Jgone [bold]x[/bold]" in told


def test_the_tuned_model_answers_at_the_command_line(tmp_path: Path, tiny_llama: Path) -> None:
    """Both voices of a run folder, asked through a pipe."""
    from shutil import copytree

    copytree(tiny_llama, tmp_path / "tuned")
    (tmp_path / "recipe.json").write_text(f'{{"model": "{tiny_llama}"}}')
    (tmp_path / "recipe.yaml").write_text(f"model: {tiny_llama}\n")
    command = [sys.executable, "-m", "didact", "chat", str(tmp_path)]
    done = subprocess.run(command, input="Hello there.\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    you, base, *rest = done.stdout.splitlines()
    assert you == "you: Hello there."
    assert base.startswith("base: ")
    tuned = [line for line in rest if line.startswith("tuned: ")]
    assert tuned == [base.replace("base: ", "tuned: ")]  # the same weights behind the same renderer


def test_a_folder_without_a_tuned_model_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "didact", "chat", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no tuned model here" in done.stderr


class Seer:
    """A model that says which pictures it is shown; or a blind one, that refuses them."""

    def __init__(self, blind: bool = False) -> None:
        self.blind = blind

    def stream(self, messages: Sequence[Message]) -> Iterator[str]:
        pictures = [part for message in messages for part in message.parts if part.kind == "image"]
        if pictures and self.blind:
            raise UsageError("the row has an image, but the model reads only text", "use rows without images")
        yield f"{len(pictures)} pictures, {len(messages)} turns"


def test_a_picture_is_shown_with_the_next_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (8, 6), "red").save(tmp_path / "a b.png")
    lines = [
        "/image",
        f"/image {tmp_path}/none.png",
        f"/image {tmp_path}/a b.png",
        "What is it?",
        "And now?",
        "/new",
        "So?",
    ]
    chat({"tuned": Seer()}, lines, Console())
    told = capsys.readouterr().out
    assert "which picture? /image PATH" in told
    assert "there is no picture" in told
    assert "8x6]" in told
    assert [line for line in told.splitlines() if line.startswith("tuned")] == [
        "tuned: 1 pictures, 1 turns",
        "tuned: 1 pictures, 3 turns",
        "tuned: 0 pictures, 1 turns",
    ]


def test_a_blind_model_says_so_and_the_talk_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (8, 6), "red").save(tmp_path / "a.png")
    chat({"tuned": Seer(blind=True)}, [f"/image {tmp_path}/a.png", "What is it?", "And now?"], Console())
    told = capsys.readouterr().out
    assert "reads only text" in told
    assert "tuned: 0 pictures, 1 turns" in told
