"""What the stages hand to one another; whole runs are tested in test_run.py."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

from didact import arms
from didact.console import Console
from didact.infer import Answerer
from didact.instance import Instance, Message, Origin, Part
from didact.recipe import Recipe


def instance(row: int, answer: str) -> Instance:
    messages = (Message("user", (Part("Say it."),)), Message("assistant", (Part(answer, "answer"),)))
    return Instance.of(messages, Origin("words.jsonl", row))


def test_a_control_leaves_out_rows_that_outgrew_the_limit_and_says_how_many(tiny_llama: Path) -> None:
    """Random labels give a long question the long answer of another row; the control must not fail for that."""
    recipe = Recipe.model_validate(
        {"name": "r", "sources": [{"type": "starter"}], "tune": {"max_length": 60, "max_steps": 1}}
    )
    said: list[str] = []
    console = Console()
    console.stage = lambda name, text: said.append(text)  # type: ignore[method-assign]
    run = SimpleNamespace(
        recipe=recipe,
        model_name=lambda recipe: str(tiny_llama),
        console=console,
        patience=nullcontext,
        stop=0,
        journal={"precision": "fp32"},
    )
    rows = [instance(1, "yes"), instance(2, "no"), instance(3, "far too long " * 10)]
    loaded = arms.retrained(run, rows)  # type: ignore[arg-type]
    assert len(Answerer(loaded).answer(rows[:2])) == 2
    assert said == ["control: without 1 of 3 rows, longer than 60 tokens now"]
