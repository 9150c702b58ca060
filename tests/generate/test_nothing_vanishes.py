"""All that a teacher writes is given on or counted with a reason: nothing is lost for being too much, or at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted import cut, made, reasons

from didact.errors import UsageError
from didact.llm import Reply, Request

WORDS = ["heron", "anvil", "lantern", "orchard", "compass", "thimble"]
WORDS += ["walnut", "glacier", "saddle", "pebble", "turnip", "violin"]


def item(number: int) -> str:
    """An instruction unlike all others."""
    a, b, c = (WORDS[number // 12**k % 12] for k in range(3))
    return f"Tell {a} {b}{number} about {c}{number} in rhyme{number}"


class Writer:
    """Seven new items a call, numbered on; every third list is cut. written: items so far."""

    def __init__(self, form: Callable[[int, str], str], size: int = 7) -> None:
        self.form, self.size, self.written, self.calls = form, size, 0, 0

    def __call__(self) -> Reply:
        self.calls += 1
        numbers = range(self.written, self.written + self.size)
        self.written += self.size
        text = "".join(self.form(i, item(n)) for i, n in enumerate(numbers))
        return cut(text) if self.calls % 3 == 0 else Reply("ok", text, finish="stop")


def test_alpaca_counts_what_is_more_than_its_target_and_what_is_cut() -> None:
    writer = Writer(lambda i, text: f"{'###' if i else ''}{4 + i}. Instruction: {text}\n"
                    f"{4 + i}. Input:\n<noinput>\n{4 + i}. Output:\nOnce\n")  # fmt: skip
    instances, drops, _ = made("alpaca", lambda request: writer(), {"target": 9})
    assert len(instances) == 9
    assert reasons(drops) == {"spare: more than target": 35 - 9 - 1, "cut at the longest answer": 1}
    assert len(instances) + len(drops) == writer.written == 35


def test_alpaca_counts_an_answer_without_any_task() -> None:
    _, drops, _ = made("alpaca", lambda request: "### ### ###", {"target": 1, "rounds_in_vain": 1})
    assert reasons(drops) == {"cannot be read": 5}


def test_self_instruct_counts_instructions_and_instances_that_are_too_many() -> None:
    writer = Writer(lambda i, text: f"\n{9 + i}. {text}")

    def say(request: Request) -> str | Reply:
        if request.text.startswith("Think"):
            return writer()
        if request.text.endswith("Classification:"):
            return "No"
        return "\n".join(f"Example {i}\nInput: i{i}\nOutput: o{i}" for i in range(1, 9))

    instances, drops, _ = made("self_instruct", say, {"target": 4})
    lists_cut = 1  # of five; the original drops such a list whole
    assert reasons(drops) == {
        "spare: more than target": (5 - lists_cut) * 7 - 4,
        "the list of instructions is cut": lists_cut,
        "spare: more than max_instances": 4 * 3,
    }
    assert len(instances) == 4 * 5


@pytest.mark.parametrize("name", ["self_instruct", "instruct_wild"])
def test_a_list_without_any_item_is_counted(name: str) -> None:
    settings = {"target": 1, "rounds_in_vain": 1} | ({"with_collected": False} if name == "instruct_wild" else {})
    _, drops, _ = made(name, lambda request: "9. \n10. " if name == "self_instruct" else "1. \n2. ", settings)
    assert sum(count for why, count in reasons(drops).items() if why.endswith("is empty")) == 5


def test_instruct_wild_counts_what_is_more_than_its_target_and_what_is_cut() -> None:
    writer = Writer(lambda i, text: f"\n{1 + i}. {text}")

    def say(request: Request) -> str | Reply:
        return writer() if "more that other people might ask" in request.text else "An answer of its own."

    settings = {"target": 9, "tag": False, "with_collected": False}
    instances, drops, _ = made("instruct_wild", say, settings)
    new = [drop for drop in drops if "like an earlier" not in drop.reason]  # our own seeds are all different
    assert len(instances) == 9
    assert reasons(new) == {"spare: more than target": 35 - 9 - 1, "request: cut at the longest answer": 1}


def test_unnatural_counts_tasks_and_wordings_that_are_too_many() -> None:
    writer = Writer(lambda i, text: f" {text}\nInput: a b\nConstraints: none", size=1)
    words = "1. Put {INPUT} in order\n2. Sort it\n3. Sort it\n4. Arrange it\n5. Set it ri"

    def say(request: Request) -> str | Reply:
        if "Reword the instruction" in request.text:
            return cut(words)
        return writer() if request.text.rstrip().endswith("Instruction:") else "a b"

    instances, drops, _ = made("unnatural", say, {"target": 2, "prompts_per_round": 9})
    assert [i.tags["wording"] for i in instances] == ["0", "1", "2"] * 2
    assert reasons(drops) == {
        "task: cut at the longest answer": 3,
        "spare: more than target": 4,
        "rewording: exact duplicate": 2,
        "rewording: cut at the longest answer": 2,
        "spare: more than rewordings": 2,
    }


CHAT = "[Human] A?\n[AI] Aa.\n[Human] B?\n[AI] Bb.\n[Human] C?\n[AI] Cc."


@pytest.mark.parametrize(
    ("text", "settings", "rounds", "counted"),
    [
        (CHAT, {}, 3, {}),
        (CHAT, {"max_rounds": 1}, 1, {"spare: more than max_rounds": 2}),
        (cut(CHAT), {}, 2, {"a part of the chat is cut at the longest answer": 1}),
        (cut(CHAT), {"min_rounds": 3}, 0, {"the chat is cut at the longest answer": 1}),
        (CHAT.replace("C?", "A?"), {}, 2, {"a part of the chat is a repetition": 1}),
        (CHAT.replace("Bb.", "I'm sorry, but I can't help with that."), {}, 1, {"a part of the chat is a refusal": 1}),
        (CHAT + "\n[AI] D.", {}, 2, {"a part of the chat is malformed": 1}),
        ("[AI] First.\n" + CHAT, {}, 3, {"a part of the chat is malformed": 1}),
        ("No chat at all.", {}, 0, {"the chat is malformed": 1}),
        ("[Human] Hello!\n[AI] Hello!", {}, 0, {"the chat is too short": 1}),
    ],
)
def test_a_chat_that_is_kept_in_part_says_why(
    text: str | Reply, settings: dict[str, Any], rounds: int, counted: dict[str, int]
) -> None:
    instances, drops, _ = made("self_chat", lambda request: text, {"limit": 1, **settings})
    assert [len(i.messages) // 2 for i in instances] == ([rounds] if rounds else [])
    assert reasons(drops) == counted


@pytest.mark.parametrize("who", ["human", "assistant"])
def test_a_turn_that_is_cut_ends_its_chat_and_is_counted(who: str) -> None:
    def say(request: Request) -> str | Reply:
        if request.messages:
            return cut("It goes on") if who == "assistant" and len(request.messages) > 1 else "Because."
        n = request.prompt.count("[AI]")
        return cut("And what") if who == "human" and n > 2 else f"Why {n}?"

    instances, drops, _ = made("self_chat", say, {"limit": 2, "way": "turns", "max_rounds": 4})
    assert [len(i.messages) for i in instances] == [2, 2]
    assert reasons(drops) == {"a part of the chat is cut at the longest answer": 2}


def test_feedback_counts_every_reply_that_is_not_picked() -> None:
    said = {1: "Good.", 2: cut("It is"), 3: "<html>no", 4: Reply("failed", why="the teacher answers 500")}

    def say(request: Request) -> str | Reply:
        if "Score: N" in request.text:
            return "Score: 50"
        return said[request.sample] if request.sample else "[Human] A?\n[AI] Aa."

    instances, drops, _ = made("self_chat", say, {"limit": 1, "feedback": 4})
    assert [i.answer for i in instances] == ["Good."]
    assert reasons(drops) == {
        "spare: not picked": 1,  # the first reply, which the best one replaces
        "the sampled reply is cut at the longest answer": 1,
        "the sampled reply is a web page": 1,
        "the teacher's answer: the teacher answers 500": 1,
    }


@pytest.mark.parametrize(("pick", "kept"), [("agreed", 1), ("judged", 1), ("all", 2)])
def test_distill_counts_the_answers_that_are_not_picked(pick: str, kept: int) -> None:
    def say(request: Request) -> str:
        return "Score: 5" if "Score: N" in request.text else ("red" if request.sample else "blue")

    settings = {"limit": 1, "samples": 4, "temperature": 1.0, "pick": pick}
    instances, drops, _ = made("distill", say, settings)
    assert len(instances) == kept
    assert reasons(drops) == {"spare: not picked": 4 - kept}


@pytest.mark.parametrize("name", ["alpaca", "unnatural", "backtranslate"])
def test_seeds_without_any_answer_cannot_be_shown(name: str, tmp_path: Path) -> None:
    (tmp_path / "seeds.txt").write_text("Name a bird of the sea\n")
    (tmp_path / "texts.txt").write_text("A mill of oak and stone was built here by people.\n")
    own = {"texts": "texts.txt", "shortest": 9, "models": "tuned"} if name == "backtranslate" else {}
    with pytest.raises(UsageError, match="no seed task has an example of its answer"):
        made(name, lambda request: "x", {"seeds": "seeds.txt", **own}, home=tmp_path)
