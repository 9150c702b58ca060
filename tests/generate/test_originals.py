"""The numbers and rules of the originals, field by field: what a strategy does unless a recipe says otherwise."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from scripted import fluent, made, pairs

from didact.generate import GENERATE
from didact.generate.instructions import ALPACA_KEYWORDS, KEYWORDS
from didact.generate.seeds import load_seeds
from didact.llm import Reply, Request

WORDS_OF_2022 = {"image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw"}
WORDS_OF_2022 |= {"plot", "go to"}
NUMBERS: dict[str, dict[str, Any]] = {
    "self_instruct": {
        "exemplars": 8,
        "generated_exemplars": 2,
        "prompts_per_round": 5,
        "temperature": 0.7,
        "top_p": 0.5,
        "presence_penalty": 2.0,
        "max_tokens": 1024,
        "stop": ["\n\n", "\n16", "16."],
        "min_words": 3,
        "max_words": 150,
        "novelty": 0.7,
        "most_similar": 10,
        "demonstrations": (12, 19),
        "instance_tokens": 350,
        "instance_presence_penalty": 1.5,
        "max_instances": 5,
        "keywords": KEYWORDS,
    },
    "alpaca": {
        "exemplars": 3,
        "total": 20,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 3072,
        "min_words": 3,
        "max_words": 150,
        "novelty": 0.7,
        "keywords": ALPACA_KEYWORDS,
    },
    "instruct_wild": {"exemplars": 5},
    "unnatural": {"seeds_used": 15, "exemplars": 3},
    "evol_instruct": {
        "rounds": 4,
        "added_words": (10, 20),
        "sorry_words": 80,
        "eliminate": True,
        "operators": ["constraints", "deepen", "concretise", "reasoning", "complicate_input", "breadth"],
    },
    "backtranslate": {"shortest": 600, "longest": 3000, "temperature": 0.7, "top_p": 0.9, "rounds": 2, "keep": 5},
    "llava": {"kinds": ["conversation", "description", "reasoning"]},
    "self_chat": {"way": "transcript"},
    "distill": {"samples": 1, "temperature": 0.0},
}


@pytest.mark.parametrize("name", GENERATE)
def test_defaults_are_the_originals_numbers(name: str) -> None:
    config = GENERATE[name][0](**{"backtranslate": {"texts": "x"}, "llava": {"rows": "x"}}.get(name, {}))
    assert {field: getattr(config, field) for field in NUMBERS[name]} == NUMBERS[name]


def test_words_that_need_more_than_text() -> None:
    assert set(KEYWORDS) == WORDS_OF_2022
    assert set(ALPACA_KEYWORDS) - WORDS_OF_2022 == {"video", "audio", "music", "flowchart", "diagram"}


def test_exemplars_lose_their_blank_space_and_last_colon(tmp_path: Path) -> None:
    rows = [{"instruction": f"Name  a\nbird of the\tsea {n}:", "input": "", "output": "owl"} for n in range(8)]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, _, teacher = made("self_instruct", fluent, {"target": 1, "seeds": "seeds.jsonl"}, home=tmp_path)
    shown = re.findall(r"^\d\. (.+)$", teacher.texts[0], re.M)
    assert sorted(shown) == [f"Name a bird of the sea {n}" for n in range(8)]
    assert teacher.asked[0][0].stop == ("\n\n", "\n16", "16.")


@pytest.mark.parametrize(("said", "kind"), [("Yes", "yes"), ("yes", "yes"), ("YES", "yes"), (" Yes.", "yes"),
                                            ("No", "no"), ("Maybe", "no"), ("Yes and no", "no")])  # fmt: skip
def test_only_a_plain_yes_makes_a_classification_task(said: str, kind: str) -> None:
    def say(request: Request) -> str | Reply:
        if request.text.rstrip().endswith("Classification:"):
            return said
        return "Class label: a\nit rains" if "Class label: now" in request.text else fluent(request)

    instances, _, teacher = made("self_instruct", say, {"target": 1})
    assert {i.tags["classification"] for i in instances} == {kind}
    assert ("Class label: now" in teacher.texts[-1]) == (kind == "yes")


def test_an_evolved_instruction_is_answered_alone() -> None:
    """Neither the prompt that made it nor its parent is shown to who answers."""
    instances, _, teacher = made("evol_instruct", fluent, {"limit": 2, "rounds": 2, "difficulty": False})
    asked = {request.messages for round_ in teacher.asked for request in round_}
    assert instances
    for instruction, _, _ in pairs(instances):
        assert (("user", instruction),) in asked


def test_a_rewriting_is_told_its_words_and_a_breadth_prompt_to_stay_in_the_field() -> None:
    _, _, deep = made("evol_instruct", fluent, {"limit": 1, "rounds": 1, "operators": ["reasoning"]})
    _, _, wide = made("evol_instruct", fluent, {"limit": 1, "rounds": 1, "operators": ["breadth"]})
    assert "add 10 to 20 words at most" in deep.texts[0]
    assert "several" in deep.texts[0]
    assert "CREATED PROMPT:" in wide.texts[0]
    assert "much rarer" in wide.texts[0]
    assert "words at most" not in wide.texts[0]


def test_alpaca_asks_for_what_the_original_lists() -> None:
    _, _, teacher = made("alpaca", fluent, {"target": 1})
    text = teacher.texts[0]
    for wish in ("different verb", "questions with commands", "classification", "without eyes", "English", "<noinput>"):
        assert wish in text
    assert "List of 20 tasks" in text
    assert "at most 100 words" in text


def test_requests_have_no_input_and_answers_are_asked_apart_in_instruct_wild() -> None:
    instances, _, teacher = made("instruct_wild", fluent, {"target": 3, "with_collected": False})
    assert {given for _, given, _ in pairs(instances)} == {""}
    assert [request.messages for request in teacher.asked[-1]] == [(("user", i.prompt),) for i in instances]
    lists = [text for text in teacher.texts if "more that other people might ask" in text]
    assert all(len(re.findall(r"^\d\. ", text, re.M)) == 5 for text in lists)


def test_pairs_are_marked_from_one_to_five_and_replies_from_one_to_a_hundred(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("The mill was built of oak and stone by people of the valley.\n")
    _, _, teacher = made("backtranslate", fluent, {"texts": "texts.txt", "shortest": 9}, home=tmp_path)
    (rubric,) = [text for text in teacher.texts if "Score: N" in text]
    assert "with N from 1 to 5" in rubric
    assert all(f"\n{mark}: " in rubric for mark in range(1, 6))
    _, _, teacher = made("self_chat", fluent, {"limit": 1, "feedback": 4})
    marked = [text for text in teacher.texts if "Score: N" in text]
    assert len(marked) == 2 * 4
    assert all("with N from 1 to 100" in text for text in marked)


def test_the_chat_prompt_names_both_sides_and_opens_with_a_greeting() -> None:
    _, _, teacher = made("self_chat", fluent, {"limit": 1})
    text = teacher.texts[0]
    assert text.startswith("Forget what you were told before.")
    assert text.endswith("[Human] Hello!\n[AI] Hello! What would you like to know?")
    assert "does not ask" in text
    assert "stops when nothing is left to ask" in text


def test_the_seeds_have_the_shape_of_the_originals_file() -> None:
    """175 tasks of one instance each, 26 of them classification, 50 without an input."""
    seeds = load_seeds("", Path(), lambda: ())
    assert (len(seeds), {len(seed.examples) for seed in seeds}) == (175, {1})
    assert sum(seed.classification for seed in seeds) >= 26
    assert sum(not seed.examples[0][0] for seed in seeds) >= 50
