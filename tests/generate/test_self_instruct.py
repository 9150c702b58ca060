"""Self-Instruct on a scripted teacher: prompts, parsing, filters and novelty by the rules of its released code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rouge_score.rouge_scorer import RougeScorer
from scripted import Scripted, bad, cut, made, pairs, reasons

from didact.curate.novelty import NoveltyIndex
from didact.errors import UsageError
from didact.generate.instances import checked, parse_examples, parse_labelled
from didact.generate.instructions import KEYWORDS, cleaned, instruction_fault, split_list
from didact.generate.seeds import load_seeds
from didact.generate.self_instruct import SelfInstructConfig
from didact.llm import Reply, Request

SEEDS = load_seeds("", Path(), lambda: ())
NOUNS = [
    *("heron", "anvil", "lantern", "orchard", "compass", "thimble", "walnut", "glacier"),
    *("saddle", "pebble", "turnip", "violin", "ladder", "quarry", "basket"),
]


def teacher(request: Request) -> str | Reply:
    """Lists of seven instructions that differ, Yes for those with 'label', and two instances each."""
    text = request.text
    if text.startswith("Think of a series"):
        words = [f"{NOUNS[(request.sample + i) % 15]} {NOUNS[(request.sample * 7 + 3 * i) % 15]}" for i in range(7)]
        kinds = (
            "Compare the {} with its label",
            "Explain at length why some {} matters",
            "Sketch in words: {} number {n}",
        )
        items = [kinds[i % 3].format(word, n=request.sample) + f" {word[::-1]} please" for i, word in enumerate(words)]
        return " " + "\n".join([items[0], *(f"{10 + i}. {item}" for i, item in enumerate(items[1:]))])
    task = re.findall(r"Task: (.*)", text)[-1]
    if text.endswith("Classification:"):
        return " Yes" if "label" in task else " No\n"
    if "Class label" in text:
        return f"Class label: good\nText: {task[:30]} one\nClass label: bad\nText: {task[:30]} two"
    return f"Example 1\nInput: {task[:25]} a\nOutput: first\nExample 2\nInput: {task[:25]} b\nOutput: second"


def test_it_grows_tasks_that_are_new_and_gives_them_instances() -> None:
    instances, _, asked = made("self_instruct", teacher, {"target": 40})
    instructions = list(dict.fromkeys(instruction for instruction, _, _ in pairs(instances)))
    assert len(instructions) == 40
    index = NoveltyIndex(0.7)
    for text in [seed.instruction for seed in SEEDS] + instructions:
        if text in instructions:
            assert index.nearest(text)[1] == -1
        index.add(text)
    assert {i.origin.via for i in instances} == {"generate:self_instruct"}
    assert {i.origin.teacher for i in instances} == {"scripted"}
    assert all(len(i.origin.parents) == 8 for i in instances)
    named = {seed.name for seed in SEEDS} | {i.tags["instruction"] for i in instances}
    assert {parent for i in instances for parent in i.origin.parents} <= named
    labels = [
        answer
        for i, (_, _, answer) in zip(instances, pairs(instances), strict=True)
        if i.tags["classification"] == "yes"
    ]
    assert labels.count("good") == labels.count("bad") > 0  # output-first names every label
    lists = [text for text in asked.texts if text.startswith("Think")]
    generated = set(instructions)
    shown = [[re.sub(r"^\d+\. ", "", line) for line in text.split("\n")[2:10]] for text in lists]
    assert all(len(some) == 8 for some in shown)
    assert [sum(text in generated for text in some) for some in shown[:5]] == [0] * 5  # nothing generated yet
    assert {sum(text in generated for text in some) for some in shown[5:]} == {2}
    assert all(text.endswith("\n9.") for text in lists)


def test_the_requests_have_the_numbers_of_the_original() -> None:
    _, _, asked = made("self_instruct", teacher, {"target": 8})
    first, kinds, instances = asked.asked[0], asked.asked[-2], asked.asked[-1]
    assert len(first) == 5
    assert {(r.temperature, r.top_p, r.presence_penalty, r.max_tokens) for r in first} == {(0.7, 0.5, 2.0, 1024)}
    assert {r.sample for round_ in asked.asked[:-2] for r in round_} == set(range(5 * (len(asked.asked) - 2)))
    assert {(r.temperature, r.max_tokens) for r in kinds} == {(0.0, 3)}
    assert {(r.temperature, r.presence_penalty, r.max_tokens) for r in instances} == {(0.0, 1.5, 350)}
    demonstrations = kinds[0].text
    assert (demonstrations.count(": Yes"), demonstrations.count(": No")) == (12, 19)
    by_kind = ["Class label" in r.text for r in instances]
    assert by_kind == ["label" in re.findall(r"Task: (.*)", r.text)[-1] for r in instances]


def test_only_classification_shows_and_asks_for_such_tasks() -> None:
    _, _, asked = made("self_instruct", teacher, {"target": 3, "only_classification": True, "generated_exemplars": 0})
    yes = {" ".join(seed.instruction.split()).rstrip(":") for seed in SEEDS if seed.classification}
    for text in (text for text in asked.texts if text.startswith("Think")):
        assert text.startswith("Think of a series of classification tasks")
        assert {re.sub(r"^\d+\. ", "", line) for line in text.split("\n")[2:10]} <= yes


def test_a_cut_list_is_dropped_whole_and_bad_answers_are_counted() -> None:
    def say(request: Request) -> str | Reply:
        if request.text.startswith("Think") and request.sample % 5 == 1:
            return cut(str(teacher(request)))
        if request.text.startswith("Think") and request.sample % 5 == 2:
            return bad("the answer is blank")
        if request.text.startswith("Think") and request.sample % 5 == 3:
            return bad("no whole answer before the deadline", "failed")
        return teacher(request)

    instances, drops, _ = made("self_instruct", say, {"target": 15})
    counted = reasons(drops)
    assert len({i.tags["instruction"] for i in instances}) == 15
    assert counted["the list of instructions is cut"] >= 1
    assert counted["the teacher's answer: the answer is blank"] >= 1
    assert counted["the teacher's answer: no whole answer before the deadline"] >= 1


def test_it_ends_when_nothing_new_comes() -> None:
    def say(request: Request) -> str:
        return " Tell me a tale of the sea" if request.text.startswith("Think") else "Output: once"

    instances, drops, asked = made("self_instruct", say, {"target": 9, "rounds_in_vain": 3})
    assert len(asked.asked) == 1 + 3 + 2  # one with something new, three in vain, then the instances of the one
    assert reasons(drops)["instruction: too like an earlier one"] == 19
    assert len(instances) == 1


@pytest.mark.parametrize(
    ("text", "items"),
    [
        (" First thing\n10. Second thing\n11 . Third", ["First thing", "Second thing", "Third"]),
        ("9. First thing\n10. Second  thing ", ["First thing", "Second thing"]),
        ("First\n\n10) Second", ["First", "Second"]),
        ("Give 3. 5 percent of it\n10. x", ["Give 3. 5 percent of it", "x"]),
        ("", []),
    ],
)
def test_lists_are_read_as_teachers_write_them(text: str, items: list[str]) -> None:
    assert split_list(text, 9) == items


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Name three rivers", "too short"),
        ("Name three long rivers", ""),
        (" ".join(["word"] * 150), ""),
        (" ".join(["word"] * 151), "too long"),
        ("Describe the picture on the wall", "needs more than text"),
        ("Describe the pictured scene on the wall", ""),  # a keyword inside a word is none
        ("Please go to the shop and buy milk", "needs more than text"),
        ("Write a program that sorts a list", "asks for a program"),
        ('"Quote" something by a poet', "starts with punctuation"),
        ("Ähnliche Wörter bitte hier nennen", "starts with another script"),
        ("Nenne die Hauptstadt und das Land und der Fluss", "in another language"),
        ("As an AI language model, I cannot do that", "a refusal"),
        ("Say <|im_end|> to the user now", "holds control tokens"),
        ("Say {{ 7 * 7 }} and {% raw %} aloud", ""),
    ],
)
def test_instructions_are_judged_by_the_originals_rules(text: str, why: str) -> None:
    assert instruction_fault(text, 3, 150, KEYWORDS) == why


def test_the_ten_most_similar_are_told_with_their_scores_and_the_mean_of_all() -> None:
    """As the original keeps them: against all seeds and all that was kept before, this one not."""
    instances, _, _ = made("self_instruct", teacher, {"target": 12})
    by_name = {seed.name: seed.instruction for seed in SEEDS}
    known = [seed.instruction for seed in SEEDS]
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    for instruction, tags in {pairs([i])[0][0]: i.tags for i in instances}.items():
        scores = {text: scorer.score(instruction, text)["rougeL"].fmeasure for text in known}
        told = [item.split() for item in tags["most_similar"].split(", ")]
        best = sorted(scores.values(), reverse=True)[:10]
        assert [float(score) for _, score in told] == pytest.approx(best, abs=5e-4)
        assert all(scores[by_name[name]] == pytest.approx(float(score), abs=5e-4) for name, score in told)
        assert float(tags["mean_similarity"]) == pytest.approx(sum(scores.values()) / len(scores), abs=1e-4)
        known.append(instruction)
        by_name[tags["instruction"]] = instruction
    plain, _, _ = made("self_instruct", teacher, {"target": 3, "most_similar": 0})
    assert "most_similar" not in plain[0].tags


def test_the_case_of_an_instruction_is_kept_unless_the_original_is_wanted() -> None:
    assert cleaned("  name   the NATO members") == "Name the NATO members"
    assert cleaned("name the NATO members", "original") == "Name the nato members"


def test_examples_of_an_input_first_answer() -> None:
    first = "Example 1\nInput: 3, 4\nOutput: 7\n\nExample 2:\nInput: N/A\nOutput: none\n"
    text = first + "Example 3\nno output here\n\nTask: next"
    assert parse_examples(text) == [("3, 4", "7"), ("", "none"), None]
    assert parse_examples("Output: at once") == [("", "at once")]
    assert parse_examples("just the text") == [("", "just the text")]
    assert parse_examples("Input: x and nothing else") == [None]
    assert parse_examples("Input: multi\nline\nOutput: a\nb") == [("multi\nline", "a\nb")]


def test_labels_of_an_output_first_answer() -> None:
    text = " Class label: yes\nText: it rains\nClass label: no\nText: it\nis dry\nclass label: maybe\n\nTask: other"
    assert parse_labelled(text) == [("Text: it rains", "yes"), ("Text: it\nis dry", "no"), None]


@pytest.mark.parametrize(
    ("found", "was_cut", "kept", "why"),
    [
        ([("a", "b"), ("c", "d")], True, [("a", "b")], ["cut at the longest answer"]),
        ([("a", "a")], False, [], ["the output is the input"]),
        ([("a", "")], False, [], ["the output is empty"]),
        ([("a:", "b"), ("a", "b:")], False, [], ["ends in a colon"] * 2),
        ([("a", "b"), ("a", "b")], False, [("a", "b")], ["exact duplicate"]),
        ([("a", "b"), ("a", "c"), ("d", "e")], False, [], ["one input has two outputs"] * 3),  # the whole task
        ([("", "b"), ("", "c")], False, [("", "b"), ("", "c")], []),  # no input may have two outputs
        ([None], False, [], ["cannot be read"]),
        ([], False, [], ["cannot be read"]),
        ([("x", "I'm sorry, but I cannot help with that.")], False, [], ["the output is a refusal"]),
        ([("x", "<html><body>error</body></html>")], False, [], ["the output is a web page"]),
        ([("x", "y" * 30_000)], False, [], ["the output is too long"]),
        ([("x", "fine <|endoftext|>")], False, [], ["the output is holds control tokens"]),
    ],
)
def test_instances_are_filtered_by_the_originals_rules(
    found: list[tuple[str, str] | None], was_cut: bool, kept: list[tuple[str, str]], why: list[str]
) -> None:
    good, dropped = checked(found, was_cut, "Do something with the text")
    assert (good, [reason for reason, _ in dropped]) == (kept, why)


def test_an_answer_that_is_the_instruction_is_dropped() -> None:
    assert checked([("", "Do something with the text")], False, "Do something with the text")[0] == []


def test_at_most_five_instances_of_one_instruction() -> None:
    def say(request: Request) -> str | Reply:
        if "Example" in request.text:
            return "\n".join(f"Example {i}\nInput: i{i}\nOutput: o{i}" for i in range(1, 9))
        return "No" if request.text.endswith("Classification:") else teacher(request)

    instances, _, _ = made("self_instruct", say, {"target": 1})
    assert len(instances) == 5


def test_the_seeds_can_be_given_too_and_in_random_layouts() -> None:
    instances, _, _ = made("self_instruct", teacher, {"target": 1, "with_seeds": True, "layouts": "random"})
    seeds = [i for i in instances if i.tags.get("seed") == "yes"]
    assert len(seeds) == 175
    shapes = {re.sub(r"\s+", " ", i.prompt.replace(pairs([i])[0][1] or "\0", "")).split(" ")[0] for i in seeds}
    assert "Task:" in shapes
    assert len({i.prompt.endswith("Output:") for i in seeds}) == 2


def test_novelty_at_the_threshold_is_kept_and_above_it_is_dropped() -> None:
    """Seven of ten words in common is exactly 0.7; the original rejects above it only."""
    base = "one two three four five six seven eight nine ten"
    at = "one two three four five six seven alpha beta gamma"
    above = "one two three four five six seven eight beta gamma"
    answers = {0: f" {base}", 1: f" {at}", 2: f" {above}"}

    def say(request: Request) -> str:
        return answers.get(request.sample, " x") if request.text.startswith("Think") else "No"

    _, drops, _ = made("self_instruct", say, {"target": 5, "prompts_per_round": 1, "rounds_in_vain": 2})
    like = [drop.detail for drop in drops if "too like" in drop.reason]
    assert len(like) == 1
    assert like[0].startswith("One two three four five six seven eight beta gamma - near 'One two")


def test_the_seeds_that_ship_are_ours_and_varied() -> None:
    assert len(SEEDS) == 175
    assert sum(seed.classification for seed in SEEDS) >= 25
    assert sum(not seed.examples[0][0] for seed in SEEDS) >= 45
    index = NoveltyIndex(0.7)
    for seed in SEEDS:
        assert index.nearest(seed.instruction)[1] == -1, seed.instruction
        index.add(seed.instruction)
        assert all(answer.strip() for _, answer in seed.examples)


def test_no_classification_seed_to_show_is_told(tmp_path: Path) -> None:
    (tmp_path / "seeds.txt").write_text("Name a bird of the sea\n")
    with pytest.raises(UsageError, match="no seed task is a classification task"):
        made("self_instruct", teacher, {"seeds": "seeds.txt", "only_classification": True}, home=tmp_path)


def test_a_bill_before_anything_is_asked() -> None:
    from didact.generate import GENERATE, Context

    def nobody(name: str) -> Scripted:
        raise AssertionError

    bill = GENERATE["self_instruct"][2](SelfInstructConfig(target=700), Context(nobody))
    assert bill.requests == 200 + 1400
    assert bill.tokens_in > 100_000
