"""Rules for written answers: each fault is named, and what looks like it but is none stays."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from didact.curate import STRATEGIES, Context, HeuristicsConfig
from didact.curate.heuristics import CHECKS, RULES
from didact.instance import Instance, Message, Origin, Part

REFUSAL, PERSONA = "the answer is a refusal", "the answer speaks as a language model"
ECHO, COLON, WORDLESS = (
    "the answer repeats the question",
    "the answer ends in a colon",
    "the answer is punctuation only",
)
MARKS, SCRIPT = "the answer has marks of a chat template", "the answer is in another script than the question"


def made(
    question: str, answer: str, given: str = "", via: str = "format:alpaca", choices: tuple[str, ...] = ()
) -> Instance:
    parts = (Part(question, "instruction"), *((Part(given, "input"),) if given else ()))
    messages = (Message("user", parts), Message("assistant", (Part(answer, "answer"),)))
    return Instance.of(messages, Origin("rows", 1, via), choices=choices)


def reason(instance: Instance, **settings: object) -> str:
    (verdict,) = STRATEGIES["heuristics"][1](HeuristicsConfig.model_validate(settings), [instance], Context())
    assert verdict.keep == (verdict.reason == "")
    return verdict.reason


FAULTS = [
    ("refusal", "Name a fruit", "I’m sorry, but I can’t help with that.", REFUSAL),
    ("refusal", "写一首诗", "很抱歉，我不能这样做。", REFUSAL),
    ("refusal", "Name a fruit", "Apple. I'm sorry, but pears are out.", ""),
    ("refusal", "Name a fruit", "I am sorry, but " + "there is a long story about it " * 12, ""),
    ("persona", "Who are you?", "Well, as an AI language model I have no name.", PERSONA),
    ("persona", 'What does "as an AI language model" mean?', "Saying as an AI language model is a disclaimer.", ""),
    ("echo", "Write down a short poem", "Write down a short poem", ECHO),
    ("echo", "Write a poem about rain", "Write a poem about rain: drops fall.", ECHO),
    ("echo", "Say yes", "Say yes", ""),
    ("echo", "Write a poem about rain", "A poem about rain: drops fall.", ""),
    ("unfinished", "List fruits", "Here is the list:", COLON),
    ("unfinished", "列出水果", "水果如下：", COLON),
    ("unfinished", "List fruits", "Here: apples", ""),
    ("wordless", "List fruits", "...", WORDLESS),
    ("wordless", "Which sign adds?", "+", ""),
    ("wordless", "Draw a heart", "❤", ""),
    ("control", "Hello there", "Hi!<|im_end|>", MARKS),
    ("control", "Hello there", "Hi! [/INST] more", MARKS),
    ("control", "What does <|im_end|> do?", "<|im_end|> ends a turn.", ""),
    ("language", "Please describe the ocean in a few words.", "海洋是地球上最大的水体，覆盖了大部分表面。", SCRIPT),
    ("language", "请用几句话描述一下海洋的样子", "The ocean covers most of our planet with salt water.", SCRIPT),
    ("language", "Please describe the ocean in Chinese words.", "海洋是地球上最大的水体，覆盖了大部分表面。", ""),
    ("language", "Опишите, пожалуйста, океан в двух словах", "Океан большой, see Ocean. И очень глубокий.", ""),
    ("language", "Please name the capital of China.", "北京", ""),
]


@pytest.mark.parametrize(("rule", "question", "answer", "expected"), FAULTS)
def test_each_fault_has_its_reason_and_its_likeness_none(rule: str, question: str, answer: str, expected: str) -> None:
    instance = made(question, answer)
    assert reason(instance) == expected
    assert reason(instance, rules=[rule]) == expected
    assert reason(instance, rules=[other for other in RULES if other != rule]) == ""


def test_every_rule_has_its_check_and_both_kinds_of_case() -> None:
    assert set(CHECKS) == set(RULES)
    for rule in RULES:
        assert {bool(expected) for name, _, _, expected in FAULTS if name == rule} == {True, False}


def test_an_input_given_back_as_it_stands_is_an_echo_and_changed_it_is_none() -> None:
    assert reason(made("Correct it:", "he goes to school.", "he goes to school.")) == ECHO
    assert reason(made("Use capitals:", "He goes to School.", "he goes to school.")) == ""


def test_answers_of_annotated_rows_and_of_closed_sets_are_not_judged_by_their_form() -> None:
    for answer in ("...", "Write down a poem", "As an AI language model"):
        assert reason(made("Write down a poem", answer, via="template:t")) == ""
        assert reason(made("Write down a poem", answer, choices=(answer, "no"))) == ""
        assert reason(made("Write down a poem", answer))


def test_instructions_too_short_or_long_are_dropped_on_demand() -> None:
    """Self-Instruct rejects instructions of three words or fewer, and of more than 150."""
    for count, keep in ((3, False), (4, True), (150, True), (151, False)):
        instance = made("word " * count, "Yes, that is so.", "one two three four five six")
        assert (reason(instance, words=[4, 150]) == "") == keep
        assert reason(instance) == ""


def test_an_image_is_a_question_too() -> None:
    parts = (Part("cat.png", "input", "image"),)
    asked = (Message("user", parts), Message("assistant", (Part("A cat.", "answer"),)))
    assert reason(Instance.of(asked, Origin("rows", 1))) == ""


def test_an_answer_that_calls_a_tool_is_neither_empty_nor_the_same_as_another_call() -> None:
    def asked(place: str, called: bool = True, said: str = "") -> Instance:
        call = {"function": {"name": "weather", "arguments": {"place": place}}}
        extra = {"turns": {"1": {"rest": {"tool_calls": [call] if called else []}}}}
        return replace(made("What is it like there?", said), tags={"extra": json.dumps(extra)})

    rows = [asked("Ulm"), asked("Bonn"), asked("Ulm"), asked("Ulm", called=False), asked("Ulm", said="I look:")]
    verdicts = STRATEGIES["heuristics"][1](HeuristicsConfig(), rows, Context())
    assert [verdict.reason for verdict in verdicts] == ["", "", "exact duplicate", "the answer is empty", ""]
