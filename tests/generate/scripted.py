"""A scripted teacher for strategies: answers are a function of the request; what was asked is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from didact.generate import GENERATE, Context
from didact.instance import Drop, Instance
from didact.llm import Reply, Request
from didact.llm.nouns import State


def bad(why: str, state: State = "rejected") -> Reply:
    return Reply(state, why=why)


def cut(text: str) -> Reply:
    return Reply("ok", text, finish="length")


class Scripted:
    """say: a request's text -> a text, or a Reply. asked: all requests, in rounds."""

    def __init__(self, say: Callable[[Request], str | Reply], name: str = "scripted") -> None:
        self.say, self.name = say, name
        self.asked: list[list[Request]] = []

    def ask(self, requests: Iterable[Request]) -> list[Reply]:
        self.asked.append(list(requests))
        answers = [self.say(request) for request in self.asked[-1]]
        return [
            a if isinstance(a, Reply) else Reply("ok", a, finish="stop", key=f"{i:032x}") for i, a in enumerate(answers)
        ]

    @property
    def texts(self) -> list[str]:
        return [request.text for round_ in self.asked for request in round_]


def made(
    name: str,
    say: Callable[[Request], str | Reply] | Scripted,
    settings: dict[str, Any],
    seed: int = 0,
    home: Path = Path(),
    **context: Any,
) -> tuple[list[Instance], list[Drop], Scripted]:
    """What a strategy makes with a scripted teacher, what it drops, and the teacher with all that it was asked."""
    config, function, _ = GENERATE[name]
    teacher = say if isinstance(say, Scripted) else Scripted(say)
    drops: list[Drop] = []
    context = {"llm": lambda name: teacher, "drop": drops.append, "home": home, "seed": seed, **context}
    return list(function(config(**settings), Context(**context))), drops, teacher


def pairs(instances: Sequence[Instance]) -> list[tuple[str, str, str]]:
    """(instruction, input, answer) of instances of one question."""
    found = []
    for instance in instances:
        asked = instance.messages[-2].parts
        slots = {part.slot: part.value.strip() for part in asked}
        found.append((slots.get("instruction", ""), slots.get("input", ""), instance.answer))
    return found


def reasons(drops: Sequence[Drop]) -> dict[str, int]:
    found: dict[str, int] = {}
    for drop in drops:
        found[drop.reason] = found.get(drop.reason, 0) + 1
    return found


def fluent(request: Request) -> str:
    """One teacher that has something for each of the prompts."""
    text, number = request.text, request.sample
    if text.startswith("Think of a series"):
        kinds = ("Name item {0} ab{0}", "How far do {0} boats sail by night {0}{0}", "Tell {0} why owls{0} hoot so{0}")
        return " " + "\n10. ".join(kind.format(number) for kind in kinds)
    if text.rstrip().endswith("Classification:"):
        return "No"
    if "tasks for an assistant" in text:
        task = " Tell the a{0} story b{0} of {1} c{0} d{0}\n{2}. Input:\n<noinput>\n{2}. Output:\nOnce {0} {1}\n###\n"
        other = task.replace("Tell the a{0} story b{0} of {1}", "Which e{0} f{0} of my g{0} {1} ate")
        return f"{task.format(number, 'owls', 4)}5. Instruction:{other.format(number, 'mice', 5)}"
    if "more that other people might ask" in text:
        return f"1. What is the {number} colour of snow in town?\n2. Who sang song {number} in the opera?"
    if text.startswith("Say of the request"):
        return "Kind: open question\nSensitive: none"
    if "GIVEN PROMPT:" in text:
        return (
            text.split("GIVEN PROMPT:")[1].split("PROMPT:")[0].rsplit("\n\n", 1)[0].strip()
            + f" Also say why, {number}."
        )
    if "Answer with one word, Equal" in text:
        return "Different"
    if "look at one picture together" in text or text.startswith("You look at a picture"):
        if text.rstrip().endswith("Description:"):
            return f"A picture of {len(text)} things, one beside the other."
        return f"Question: What lies on the {len(text)}?\nAnswer: A thing, on the left."
    if "Score: N" in text:
        return "It is fine.\nScore: 5"
    if "Below is a chat between" in text:
        return (
            "[Human] Hello!\n[AI] Hello!\n[Human] What is it?\n[AI] A thing.\n[Human] And why?\n[AI] Because of that."
        )
    if text.rstrip().endswith("Instruction:"):
        return f" Sort the words of line {number}\nInput: b a {number}\nConstraints: none"
    if "Reword the instruction" in text:
        return "1. Put in order: {INPUT}\n2. Please arrange them"
    if text.rstrip().endswith("[Request]"):
        return "How was the mill built?"
    if "Example 1\nInput:" in text or "Class label" in text:
        return f"Example 1\nInput: {len(text)}\nOutput: one"
    return f"An answer of {len(text)} letters."
