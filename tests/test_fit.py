"""Rows that are too long, and templates that rewrite history: nothing is cut, dropped or unrolled without a count."""

from __future__ import annotations

import io
import json
import re
from types import SimpleNamespace
from typing import Any

import pytest
from test_chat_templates import TOOLS, tokenizer

from didact.console import Console
from didact.errors import UsageError
from didact.fit import TOO_LONG, fit, unrolled, whole
from didact.instance import Instance, Message, Origin, Part
from didact.render import Renderer
from didact.show import show_tokens


def row(*turns: str, system: str = "", number: int = 1, **tags: str) -> Instance:
    messages = [Message("system", (Part(system, "instruction"),))] if system else []
    for i, text in enumerate(turns):
        role, slot = ("assistant", "answer") if i % 2 else ("user", "instruction")
        messages.append(Message(role, (Part(text, slot),)))  # type: ignore[arg-type]
    return Instance.of(tuple(messages), Origin("rows.jsonl", number), tags=tags)


def texts(fitted: Any) -> list[list[str]]:
    return [[message.text for message in instance.messages] for instance in fitted.instances]


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(tokenizer("chatml"))


SHORT, LONG = row("hi", "yes"), row("word " * 60, "the answer", system="Be short.", number=2)


def test_what_fits_is_left_alone_and_nothing_is_said(renderer: Renderer) -> None:
    fitted = fit([SHORT], renderer, 100, "keep_answer")
    assert (texts(fitted), fitted.drops, fitted.notes) == ([["hi", "yes"]], [], [])
    assert fitted.instances[0] is SHORT


def test_drop_counts_rows_and_answers(renderer: Renderer) -> None:
    fitted = fit([SHORT, LONG], renderer, 100, "drop")
    assert texts(fitted) == [["hi", "yes"]]
    assert [(drop.origin.row, drop.reason) for drop in fitted.drops] == [(2, "longer than the longest sequence")]
    assert fitted.notes == ["1 of 2 rows are longer than 100 tokens: 1 dropped, 1 answers with them"]


def test_refuse_leaves_them_to_the_loop(renderer: Renderer) -> None:
    assert len(fit([SHORT, LONG], renderer, 100, "refuse").tokens) == 2


def test_keep_answer_cuts_the_prompt_at_its_end(renderer: Renderer) -> None:
    fitted = fit([SHORT, LONG], renderer, 120, "keep_answer")
    system, user, answer = texts(fitted)[1]
    assert (system, answer) == ("Be short.", "the answer")
    assert ("word " * 60).startswith(user)
    assert 100 < len(fitted.tokens[1].ids) <= 120
    assert fitted.notes == [
        "1 of 2 rows are longer than 120 tokens: 1 had their prompt cut, 0 dropped, 0 answers with them"
    ]


def test_keep_answer_cuts_the_input_before_the_instruction(renderer: Renderer) -> None:
    user = Message("user", (Part("Sum this up, please, in a word. ", "instruction"), Part("long " * 9, "input")))
    instance = Instance.of((user, Message("assistant", (Part("ok", "answer"),))), Origin("f", 1))
    (cut,) = fit([instance], renderer, 90, "keep_answer").instances
    assert cut.messages[0].parts[0] == user.parts[0]
    assert user.parts[1].value.startswith(cut.messages[0].parts[1].value)
    assert cut.origin == instance.origin


def test_keep_answer_lets_the_oldest_exchange_go_first(renderer: Renderer) -> None:
    fitted = fit([row("a" * 50, "old", "b", "new", system="s")], renderer, 90, "keep_answer")
    assert texts(fitted) == [["s", "b", "new"]]
    assert "1 had their prompt cut, 0 dropped, 1 answers with them" in fitted.notes[0]


@pytest.mark.parametrize("policy", ["keep_answer", "split"])
def test_an_answer_too_long_by_itself_is_dropped_and_never_cut(renderer: Renderer, policy: Any) -> None:
    fitted = fit([row("q", "x" * 200)], renderer, 100, policy)
    assert (fitted.tokens, [drop.reason for drop in fitted.drops]) == ([], [TOO_LONG])
    assert "1 dropped, 1 answers" in fitted.notes[0]


def test_split_keeps_every_answer_and_the_system_turn(renderer: Renderer) -> None:
    turns = [text for i in range(6) for text in (f"question {i}", f"answer {i}")]
    fitted = fit([row(*turns, system="sys")], renderer, 120, "split")
    assert len(fitted.instances) > 1
    assert all(len(tokens.ids) <= 120 for tokens in fitted.tokens)
    assert all(said[0] == "sys" for said in texts(fitted))
    assert [text for said in texts(fitted) for text in said[1:]] == turns
    assert sum(len(tokens.turns) for tokens in fitted.tokens) == 6
    assert "1 were split between turns, 0 dropped, 0 answers with them" in fitted.notes[0]


def test_split_leaves_out_an_exchange_that_is_too_long_and_counts_its_answer(renderer: Renderer) -> None:
    fitted = fit([row("a", "b", "c" * 200, "d", "e", "f")], renderer, 100, "split")
    assert texts(fitted) == [["a", "b"], ["e", "f"]]
    assert "1 answers with them" in fitted.notes[0]


def test_a_template_that_strips_thinking_gets_one_row_per_answer() -> None:
    renderer = Renderer(tokenizer("qwen3"))
    fitted = fit([row("a", "<think>\nx\n</think>\n\nb", "c", "<think>\ny\n</think>\n\nd")], renderer, 500, "drop")
    assert [len(tokens.turns) for tokens in fitted.tokens] == [1, 1]
    learnt = [renderer.tokenizer.decode(t.ids[slice(*t.turns[0])]) for t in fitted.tokens]
    assert learnt == ["<think>\nx\n</think>\n\nb<|im_end|>", "<think>\ny\n</think>\n\nd<|im_end|>"]
    assert "x" not in renderer.tokenizer.decode(fitted.tokens[1].ids)
    assert fitted.notes == [
        "the chat template rewrites earlier turns, so each answer is its own row: 1 conversations became 2 rows"
    ]
    longest = whole(row("a", "<think>\nx\n</think>\n\nb", "c", "d"), renderer)
    assert [renderer.tokenizer.decode(longest.ids[slice(*turn)])[-11:] for turn in longest.turns] == ["d<|im_end|>"]


def test_show_prints_the_rows_that_training_sees() -> None:
    run, console = SimpleNamespace(renderer=lambda: Renderer(tokenizer("qwen3"))), Console()
    console.rich.file = told = io.StringIO()
    thinks = "<think>\nx\n</think>\n\nb"
    show_tokens(console, run, row("a", thinks, "c", "d"))  # type: ignore[arg-type]
    text = told.getvalue()
    assert "rewrites earlier turns, so 2 answers are rows of their own" in text
    assert len(re.findall(r"\d+ tokens, \d+ of them learnt", text)) == 2


def test_a_call_keeps_its_place_when_messages_before_it_go() -> None:
    renderer = Renderer(tokenizer("hermes"))
    call = {"type": "function", "function": {"name": "weather", "arguments": {"place": "Ulm"}}}
    extra = json.dumps({"columns": {"tools": TOOLS}, "turns": {"3": {"rest": {"tool_calls": [call]}}}})
    instance = row("o" * 600, "old", "and Ulm?", "", extra=extra)
    (tokens,) = fit([instance], renderer, 600, "keep_answer").tokens
    said = renderer.tokenizer.decode(tokens.ids[slice(*tokens.turns[0])])
    assert said.count('"name": "weather"') == 1
    assert "old" not in renderer.tokenizer.decode(tokens.ids)


def calls(**function: Any) -> dict[str, Any]:
    return {"turns": {"1": {"rest": {"tool_calls": [{"function": function} if function else {"name": "f"}]}}}}


@pytest.mark.parametrize(
    ("family", "extra", "problem"),
    [
        ("chatml", {"columns": {"tools": TOOLS}}, "does not show the tools"),
        ("chatml", calls(name="f"), "no place for tool calls"),
        ("hermes", {"turns": {"1": {"rest": {"function_call": {"name": "f"}}}}}, "in `function_call`"),
        ("hermes", calls(), "no function with a name"),
        ("hermes", calls(name="f", arguments="{"), "no JSON"),
        ("hermes", calls(name="f", arguments={"a": "<|im_end|>"}), "holds the control token '<|im_end|>'"),
        ("hermes", {"columns": {"tools": "{"}}, "`tools` is text, but no JSON"),
        ("hermes", {"columns": {"tools": 3}}, "`tools` is no list"),
    ],
)
def test_calls_that_would_be_lost_or_forged_are_refused(family: str, extra: dict[str, Any], problem: str) -> None:
    instance = row("q", "", extra=json.dumps(extra))
    with pytest.raises(UsageError, match=problem) as caught:
        fit([instance], Renderer(tokenizer(family)), 500, "drop")
    assert str(caught.value).startswith("rows.jsonl:1: ")


def test_unrolled_rows_learn_their_last_answer_alone() -> None:
    rows = unrolled(row("a", "b", "c", "d", system="s"))
    assert [[m.text for m in r.messages] for r in rows] == [["s", "a", "b"], ["s", "a", "b", "c", "d"]]
    assert {r.tags["train"] for r in rows} == {"last"}
