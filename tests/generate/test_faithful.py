"""What each strategy does that the others do not, on a scripted teacher."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from scripted import Scripted, bad, cut, fluent, made, pairs, reasons

from didact.errors import UsageError
from didact.generate.alpaca import parse_tasks
from didact.generate.faults import fault
from didact.generate.instruct_wild import read_tags
from didact.generate.marks import read_mark
from didact.generate.self_chat import parse_chat
from didact.generate.unnatural import parse_task
from didact.instance import Instance, Message, Origin, Part
from didact.llm import Reply, Request


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "texts.txt").write_text(
        "".join(f"The {i}th mill was built of oak and stone by people.\n" for i in range(6))
    )
    return tmp_path


# ---- alpaca


def test_alpaca_shows_three_seeds_and_never_what_was_generated() -> None:
    instances, _, teacher = made("alpaca", fluent, {"target": 30, "bias": {50256: -100}})
    own = {instruction for instruction, _, _ in pairs(instances)}
    for text in teacher.texts:
        assert text.count("###") == 4
        assert text.endswith("4. Instruction:")
        assert not any(instruction in text for instruction in own)
    request = teacher.asked[0][0]
    assert (request.temperature, request.top_p, request.max_tokens) == (1.0, 1.0, 3072)
    assert request.stop == ("\n20", "20.", "20.")
    assert request.bias == ((50256, -100.0),)


def test_alpaca_tasks_are_parsed() -> None:
    text = (
        " Name a bird\n4. Input:\n<noinput>\n4. Output:\nowl\n###\n5. Instruction: Add\n5. Input: 1 2\n5. Output: 3\n\n"
        "###\n6. Instruction: Half\n6. Input:\nx\n"
    )
    assert parse_tasks(text, 4) == [("Name a bird", "", "owl"), ("Add", "1 2", "3"), None]
    assert parse_tasks("4. Instruction:" + text, 4)[0] == ("Name a bird", "", "owl")
    assert parse_tasks("### ### ###", 4) == [None]  # never nothing: what was answered is counted


# ---- instruct_wild


def test_instruct_wild_collects_tags_and_answers_apart() -> None:
    def say(request: Request) -> str:
        if request.text.startswith("Say of the request"):
            return (
                "Kind: brainstorming\nSensitive: illegal" if "snow" in request.text else "Kind: chat\nSensitive: none"
            )
        return fluent(request)

    instances, drops, _ = made("instruct_wild", say, {"target": 8})
    assert reasons(drops)["the request is sensitive"] >= 1
    assert not any("snow" in i.prompt for i in instances)
    assert all(i.tags["kind"] == "chat" for i in instances)
    assert all(given == "" for _, given, _ in pairs(instances))  # there is no input field
    kept, _, _ = made("instruct_wild", say, {"target": 8, "keep_special": True, "with_collected": False})
    assert {i.tags["sensitive"] for i in kept} == {"illegal", "none"}
    only, _, _ = made("instruct_wild", say, {"target": 0, "tag": False})
    assert len(only) > 150


def test_tags_are_read_as_teachers_write_them() -> None:
    assert read_tags("**Kind:** Chat.\n**Sensitive:** None", ["chat", "other"], ["racial"]) == {
        "kind": "chat",
        "sensitive": "none",
    }
    assert read_tags("no idea", ["chat", "other"], ["racial"]) == {"kind": "other", "sensitive": "unknown"}
    assert read_tags("Kind: x\nSensitive: it is racial", ["chat"], ["racial"])["sensitive"] == "racial"


def test_a_request_that_the_tagger_refuses_does_not_pass_as_harmless() -> None:
    def say(request: Request) -> str | Reply:
        if request.text.startswith("Say of the request") and "snow" in request.text:
            return bad("the teacher refuses")
        return fluent(request)

    instances, drops, _ = made("instruct_wild", say, {"target": 8})
    assert reasons(drops)["the request got no tags"] >= 1
    assert instances
    assert not any("snow" in i.prompt for i in instances)


# ---- evol_instruct


def test_answers_to_the_seeds_themselves_are_checked_too() -> None:
    answers = iter(["Cut in the mid", "I'm sorry, but I can't help with that.", "A fine answer."])

    def say(request: Request) -> str | Reply:
        if "GIVEN PROMPT:" in request.text:
            return bad("no whole answer before the deadline", "failed")
        if "Score: N" in request.text:
            return "Score: 3"
        text = next(answers)
        return cut(text) if text.startswith("Cut") else text

    instances, drops, _ = made("evol_instruct", say, {"limit": 3, "rounds": 1, "with_seeds": True})
    assert [i.answer for i in instances] == ["A fine answer."]
    assert reasons(drops)["answer: cut at the longest answer"] == reasons(drops)["answer: the teacher is sorry"] == 1


def test_evolving_goes_on_from_what_was_kept_and_failures_return_unevolved() -> None:
    """The one seed evolves in rounds 1 and 3; what it becomes in round 2 is eliminated."""

    def say(request: Request) -> str:
        text = request.text
        if "GIVEN PROMPT:" in text:
            old = re.findall(r"GIVEN PROMPT:\n(.*)\n", text)[0]
            return f"REWRITTEN PROMPT: {old} and more{request.sample}"
        if "one word, Equal" in text:
            return "Equal." if "more2" in text else "Different"
        return "Score: 7" if "Score: N" in text else "It is so because of this."

    instances, drops, teacher = made("evol_instruct", say, {"limit": 1, "rounds": 3, "operators": ["deepen"]})
    found = [instruction for instruction, _, _ in pairs(instances)]
    assert [text.count("more") for text in found] == [1, 2]
    assert found[1].endswith("more1 and more3")
    assert [(i.tags["round"], i.tags["operator"], i.tags["difficulty"]) for i in instances] == [
        ("1", "deepen", "7"),
        ("3", "deepen", "7"),
    ]
    assert instances[1].origin.parents == (instances[0].tags["instruction"],)
    assert reasons(drops) == {"evolving: gains nothing": 1}
    assert "add 10 to 20 words at most" in teacher.texts[0]


@pytest.mark.parametrize(
    ("evolved", "answer", "why"),
    [
        ("Tell more of the given prompt please", "Fine answer here", "evolving: shows words of the prompt"),
        ("Tell more of that please", "I am sorry to hear it", "answer: the teacher is sorry"),
        ("Tell more of that please", "of the and to . ,", "answer: only stop words"),
        ("Tell more of that please", "???", "answer: only stop words"),
        ("<html>oops", "x", "evolving: a web page"),
    ],
)
def test_what_failed_is_eliminated(evolved: str, answer: str, why: str) -> None:
    def say(request: Request) -> str:
        if "GIVEN PROMPT:" in request.text:
            return evolved
        return "Different" if "one word, Equal" in request.text else answer

    settings = {"limit": 1, "rounds": 1, "difficulty": False}
    instances, drops, _ = made("evol_instruct", say, settings)
    assert instances == []
    assert reasons(drops) == {why: 1}
    if "web page" not in why:
        assert len(made("evol_instruct", say, {**settings, "eliminate": False})[0]) == 1  # as the released code


def test_operators_are_picked_evenly_in_depth_and_breadth() -> None:
    _, _, teacher = made("evol_instruct", fluent, {"rounds": 2})
    asked = [text for text in teacher.texts if "GIVEN PROMPT:" in text]
    breadth = sum("CREATED PROMPT:" in text for text in asked)
    assert len(asked) == 350
    assert 35 < breadth < 85  # a sixth


# ---- self_chat


CHAT = "[Human] Hello!\n[AI] Hi!\n[Human] What is it?\n[AI] A thing.\nWith lines.\n[human]: And why?\n[ai] Because."


@pytest.mark.parametrize(
    ("text", "why", "turns"),
    [
        (CHAT, "", ["What is it?", "A thing.\nWith lines.", "And why?", "Because."]),
        (CHAT + "\n[Human]", "", ["What is it?", "A thing.\nWith lines.", "And why?", "Because."]),  # it stops
        (CHAT, "cut at the longest answer", ["What is it?", "A thing.\nWith lines."]),
        (
            CHAT + "\n[Human] Last without answer",
            "malformed",
            ["What is it?", "A thing.\nWith lines.", "And why?", "Because."],
        ),
        ("[Human] A?\n[AI] B.\n[AI] C.\n[Human] D?\n[AI] E.", "malformed", []),  # from the first
        ("[Human] A?\n[AI] B.\n[Human] C? D\n[Human] E?\n[AI] F.", "malformed", ["A?", "B."]),
        ("[Human] A?\n[AI] B.\n[Human] \n[AI] F.", "malformed", ["A?", "B."]),
        ("[AI] talks first\n[Human] A?\n[AI] B.", "malformed", ["A?", "B."]),
        ("no tags at all", "malformed", []),
        ("", "malformed", []),
    ],
)
def test_written_chats_are_kept_up_to_the_first_malformed_place(text: str, why: str, turns: list[str]) -> None:
    found, told = parse_chat(text, why.startswith("cut"))
    assert told == why
    assert [turn for _, turn in found] == turns
    assert [role for role, _ in found] == ["user", "assistant"] * (len(turns) // 2)


def test_a_chat_in_turns_asks_side_by_side_and_stops_when_the_human_does() -> None:
    def say(request: Request) -> str:
        if request.messages:
            return f"Reply {len(request.messages)}"
        turns = request.prompt.count("[Human]") - 2  # of the prompt's own
        return "" if turns >= 4 else f" Question {turns}? [AI] never read"

    def reply(request: Request) -> str | Reply:
        text = say(request)
        return text if text else Reply("rejected", why="the answer is blank")

    instances, _, teacher = made("self_chat", reply, {"limit": 3, "way": "turns", "max_rounds": 4})
    assert [[m.role for m in i.messages] for i in instances] == [["user", "assistant"] * 3] * 3
    assert instances[0].messages[4].text == "Question 3?"
    assert instances[0].answer == "Reply 5"
    assert [len(round_) for round_ in teacher.asked] == [3, 3] * 3 + [3, 0]
    assert teacher.asked[0][0].stop == ("[AI]",)


@pytest.mark.parametrize("way", ["transcript", "turns"])
def test_a_chat_without_an_answer_is_counted_once(way: str) -> None:
    instances, drops, _ = made("self_chat", lambda r: bad("the teacher refuses"), {"limit": 3, "way": way})
    assert instances == []
    assert reasons(drops) == {"the teacher's answer: the teacher refuses": 3}


def test_rounds_are_limited_and_short_or_repeated_chats_dropped() -> None:
    again = "[Human] A?\n[AI] B.\n[Human] A?\n[AI] C."
    instances, drops, _ = made("self_chat", lambda r: CHAT, {"limit": 1, "max_rounds": 1})
    assert len(instances[0].messages) == 2
    instances, drops, _ = made("self_chat", lambda r: again, {"limit": 1, "min_rounds": 2})
    assert instances == []
    assert reasons(drops) == {"the chat is a repetition": 1}


def best_by_mark(request: Request) -> str:
    if "Score: N" in request.text:
        return "Score: " + re.findall(r"sample (\d+)", request.text)[-1] + "0"
    return CHAT if "Below is a chat" in request.text else f"sample {request.sample}"


def test_feedback_keeps_the_reply_that_is_marked_best() -> None:
    instances, _, teacher = made("self_chat", best_by_mark, {"limit": 1, "feedback": 4})
    assert [m.text for m in instances[0].messages] == ["What is it?", "sample 4", "And why?", "sample 4"]
    assert sum("Score: N" in text for text in teacher.texts) == 8


def test_self_distillation_samples_from_the_model_tuned_on_the_dialogues() -> None:
    own, trained = Scripted(best_by_mark, "tuned"), list[Instance]()

    def retrain(instances: Sequence[Instance]) -> Scripted:
        trained.extend(instances)
        return own

    instances, _, _ = made("self_chat", best_by_mark, {"limit": 2, "feedback": 3, "distil": True}, retrain=retrain)
    assert [i.answer for i in trained] == ["Because.", "Because."]
    assert [i.answer for i in instances] == ["sample 3", "sample 3"]
    assert len(own.texts) == 2 * 2 * 3
    with pytest.raises(UsageError, match="a model that can be tuned"):
        made("self_chat", best_by_mark, {"limit": 1, "feedback": 3, "distil": True})


# ---- unnatural


def test_unnatural_shows_three_of_fifteen_and_rewords() -> None:
    instances, _, teacher = made("unnatural", fluent, {"target": 10, "prompts_per_round": 20})
    tasks = [text for text in teacher.texts if text.rstrip().endswith("Instruction:")]
    shown = {line for text in tasks for line in re.findall(r"^Instruction: (.+)$", text, re.M)}
    assert len(shown) <= 15
    assert all(text.count("\nInput:") == 3 for text in tasks)
    first, inside, beside = pairs(instances[:3])
    assert first[1].startswith("b a")
    assert inside == (f"Put in order: {first[1]}", "", first[2])
    assert beside == ("Please arrange them", first[1], first[2])
    assert instances[1].origin.parents == (instances[0].tags["instruction"],)
    assert [i.tags["wording"] for i in instances[:3]] == ["0", "1", "2"]


def test_rewordings_that_are_no_use_are_counted() -> None:
    def say(request: Request) -> str | Reply:
        if "Reword the instruction" not in request.text:
            return fluent(request)
        bare = "line 1" in request.text
        return bad("the answer is blank") if bare else "1. As an AI language model\n2. Put the words in order"

    instances, drops, _ = made("unnatural", say, {"target": 3, "prompts_per_round": 3})
    assert [i.tags["wording"] for i in instances] == ["0", "1", "0", "0", "1"]
    assert reasons(drops) == {"the teacher's answer: the answer is blank": 1, "rewording: a refusal": 2}


def test_unnatural_examples_are_parsed() -> None:
    assert parse_task(" Sort it\nInput: b a\nConstraints: none\n\nExample 5\nInstruction: x") == ("Sort it", "b a", "")
    assert parse_task("Instruction: Sort\nInput: none\nConstraints: One word.") == ("Sort", "", "One word.")
    assert parse_task("Sort it\nInput: x") is None
    assert parse_task("\nInput: x\nConstraints: y") is None


# ---- backtranslate


def rated(request: Request) -> str:
    if "Score: N" in request.text:
        return "Score: 5" if re.search(r"The [024]th", request.text) else "Score: 3"
    return "How was mill " + re.findall(r"The (\d)th", request.text)[0] + " built?"


def test_texts_get_instructions_and_only_well_marked_pairs_stay(texts: Path) -> None:
    instances, drops, teacher = made("backtranslate", rated, {"texts": "texts.txt", "shortest": 10}, home=texts)
    kept = [i for i in instances if i.tags.get("seed") != "yes"]
    assert [i.messages[1].text for i in kept] == [f"How was mill {n} built?" for n in (0, 2, 4)]
    assert kept[0].answer == "The 0th mill was built of oak and stone by people."
    assert kept[0].messages[0].text == "Answer with knowledge from web search."
    assert instances[0].messages[0].text == "Answer in the style of an AI assistant."
    assert reasons(drops) == {"pair: marked too low": 3}
    assert len(teacher.texts) == 12  # one teacher would rate the same again: one round
    more, _, _ = made(
        "backtranslate", rated, {"texts": "texts.txt", "shortest": 10, "keep": 3, "with_seeds": False}, home=texts
    )
    assert len(more) == 6


def test_both_models_are_tuned_and_the_rater_again_on_what_was_kept(texts: Path) -> None:
    trained: list[list[Instance]] = []

    def retrain(instances: Sequence[Instance]) -> Scripted:
        trained.append(list(instances))
        return Scripted(rated, f"tuned {len(trained)}")

    settings = {"texts": "texts.txt", "shortest": 10, "models": "tuned", "with_seeds": False}
    instances, _, teacher = made("backtranslate", rated, settings, home=texts, retrain=retrain)
    assert teacher.texts == []
    assert [len(rows) for rows in trained] == [175, 175, 178]
    backward, forward, second = trained
    assert backward[0].answer == forward[0].messages[1].text  # the other way round
    assert forward[0].answer in backward[0].messages[0].text
    assert second[175:] == instances
    assert instances[0].origin.teacher == "tuned 1"


def test_texts_that_are_no_use_are_left_out_with_their_line(tmp_path: Path) -> None:
    rows = ["short", "x" * 5000, "<html><body>" + "y" * 700, "The same line again. " * 60, "word " * 700]
    good = " ".join(f"Sentence {i} says that the mill has wheel {i}." for i in range(20))
    (tmp_path / "texts.txt").write_text("\n".join([*rows, good, good]) + "\n")
    _, drops, _ = made("backtranslate", lambda r: "Score: 5", {"texts": "texts.txt"}, home=tmp_path)
    found = [(drop.origin.row, drop.reason) for drop in drops if drop.reason.startswith("text")]
    assert found == [
        (1, "text: too short"), (2, "text: too long"), (3, "text: a web page"), (4, "text: repetitive"),
        (5, "text: too long"), (7, "text: exact duplicate"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="no such file of texts"):
        made("backtranslate", rated, {"texts": "none.txt"}, home=tmp_path)
    (tmp_path / "few.txt").write_text("short\n")
    with pytest.raises(UsageError, match="no text is of the wanted length"):
        made("backtranslate", rated, {"texts": "few.txt"}, home=tmp_path)


# ---- distill


def question(text: str, answer: str, choices: tuple[str, ...] = ()) -> Instance:
    messages = (Message("user", (Part(text, "instruction"),)), Message("assistant", (Part(answer, "answer"),)))
    return Instance.of(messages, Origin("rows.jsonl", 3, task="t", cluster="c", licence="MIT"), choices=choices)


ASKED = [
    question("Colour?", "red", ("red", "blue")),
    question("Number?", "two", ("one", "two")),
    question("Open?", "free"),
]


def test_answers_are_checked_by_the_rows_own_rules() -> None:
    answers = {"Colour?": "Red.", "Number?": "seven", "Open?": "bound"}
    source = {"sources": [{"type": "starter"}]}
    instances, drops, _ = made("distill", lambda r: answers[r.text], source, questions=lambda sources: ASKED)
    assert [(i.answer, i.tags.get("valid"), i.tags["right"]) for i in instances] == [
        ("red", "yes", "yes"),
        ("bound", None, "no"),
    ]
    assert reasons(drops) == {"the answer is none of the choices": 1}
    assert instances[0].origin == Origin(
        "rows.jsonl", 3, "generate:distill", "scripted", (ASKED[0].id,), "t", "c", "MIT"
    )
    all_, _, _ = made(
        "distill", lambda r: answers[r.text], {**source, "only_valid": False}, questions=lambda sources: ASKED
    )
    assert all_[1].tags["valid"] == "no"


def test_the_most_frequent_answer_is_kept_if_it_is_frequent_enough() -> None:
    said = {"Colour?": ["red", "blue", "Red ", "red."], "Number?": ["one", "two", "three", "four"], "Open?": ["a"] * 4}
    settings = {"sources": [{"type": "starter"}], "samples": 4, "temperature": 0.7, "pick": "agreed", "agreed": 0.75}
    instances, drops, teacher = made(
        "distill", lambda r: said[r.text][r.sample], settings, questions=lambda sources: ASKED
    )
    assert [i.answer for i in instances] == ["red", "a"]
    assert reasons(drops) == {"no answer to keep": 1, "spare: not picked": 3 + 4 + 3}  # 12 answers, 2 kept
    assert len(teacher.texts) == 12


def test_samples_without_a_usable_answer_do_not_agree() -> None:
    def say(request: Request) -> str | Reply:
        return "red" if request.sample == 0 else cut("red and so on")

    settings = {"limit": 2, "samples": 4, "temperature": 0.7, "pick": "agreed", "agreed": 0.5}
    instances, drops, _ = made("distill", say, settings)
    assert instances == []
    assert reasons(drops) == {"cut at the longest answer": 6, "no answer to keep": 2, "spare: not picked": 2}


def test_several_teachers_and_the_judges_best() -> None:
    def say(name: str) -> Scripted:
        def answer(request: Request) -> str:
            if "Score: N" in request.text:
                return "Score: 9" if "from big" in request.text else "It says 3 things. Score: 4"
            return f"from {name}"

        return Scripted(answer, name)

    teachers = {name: say(name) for name in ("big", "small", "judge")}
    settings = {"teachers": ["small", "big"], "pick": "judged", "judge": "judge", "limit": 3}
    instances, _, _ = made("distill", teachers["judge"], settings, llm=teachers.__getitem__)
    assert {(i.answer, i.origin.teacher) for i in instances} == {("from big", "big")}
    both, _, _ = made("distill", teachers["judge"], {**settings, "pick": "all"}, llm=teachers.__getitem__)
    assert [i.answer for i in both[:2]] == ["from small", "from big"]


def test_a_cut_answer_is_dropped() -> None:
    instances, drops, _ = made("distill", lambda r: cut("it ends in the mid"), {"limit": 2})
    assert instances == []
    assert reasons(drops)["cut at the longest answer"] == 2


# ---- shared


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("Good.\nScore: 8", 8), ("**Score:** 8.5", 8.5), ("Score: 8/10", 8), ("Rating - 3", 3), ("7", 7),
        ("7. Fine", None), ("It lists 3 points.\nScore: 9", 9), ("Score: 99", None), ("no number", None),
        ("I give it 6.", 6), ("Score: ten", None),
    ],
)  # fmt: skip
def test_marks_are_read_as_judges_write_them(text: str, mark: float | None) -> None:
    assert read_mark(text, 1, 10) == mark


@pytest.mark.parametrize(
    ("text", "asked", "why"),
    [
        ("The sea is deep.", "Say something", ""),
        ("  ", "x", "blank"),
        ("<!DOCTYPE html><p>x", "x", "a web page"),
        ("The tag <html> opens a page.", "What is it?", ""),
        ("I'm sorry, but I can't do that", "x", "a refusal"),
        ("As an AI language model I have no body", "x", "a refusal"),
        ("Sorry seems to be the hardest word is a song", "x", ""),
        ("Say something", "Say   SOMETHING", "repeats the prompt"),
        ("fine <|endoftext|>", "x", "holds control tokens"),
        ("[INST] do [/INST]", "x", "holds control tokens"),
        ("if a < b and b > c: pass", "x", ""),
        ("bell \x07", "x", "holds control characters"),
        ("Das ist nicht die Antwort, die ich mit der Frage wollte", "Tell me of the sea", "in another language"),
        ("Das ist die Bibliothek, die der Mann und die Frau mit dem Hund", "Translate the sentence to German", ""),
        ("море глубокое", "Tell me of the sea", "in another language"),
        ("море", "Translate sea into Russian", ""),
        ("море", "Что такое море", ""),
        ("{{ 7 * 7 }}", "x", ""),
    ],
)  # fmt: skip
def test_texts_that_are_no_use(text: str, asked: str, why: str) -> None:
    assert fault(text, asked) == why
