"""The card: figures that can be counted by hand, and pages that data cannot act in."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from rouge_score.rouge_scorer import RougeScorer

from didact.card import Made, card_html, card_json, card_markdown, facts
from didact.card.facts import licence_kind
from didact.card.grammar import root
from didact.card.page import header, sunburst
from didact.console import Console
from didact.folder import json_line
from didact.instance import Drop, Instance, Message, Origin, Part
from didact.run import Run, open_run


def made(question: str, answer: str, tags: dict[str, str] | None = None, choices: Any = (), **origin: Any) -> Instance:
    messages = (Message("user", (Part(question, "instruction"),)), Message("assistant", (Part(answer, "answer"),)))
    given = Origin(**{"source": "rows.jsonl", "row": 1, "via": "format:alpaca", **origin})
    return Instance.of(messages, given, choices=tuple(choices), tags=tags)


def dropped(instance: Instance, reason: str, stage: str = "curate", **more: Any) -> dict[str, Any]:
    return {"stage": stage, **more, **Drop(reason, "", instance.origin, instance).to_json()}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("MIT", "open"),
        ("CC BY-SA 3.0", "open"),
        ("CC BY-NC 4.0", "non-commercial"),
        ("cc-by-nc-4.0", "non-commercial"),
        ("Non-Commercial research licence", "non-commercial"),
        ("no explicit licence (research)", "non-commercial"),
        ("no explicit licence", "unknown"),
        ("", "unknown"),
        ("mirror unlicensed", "unknown"),
    ],
)
def test_licences_that_need_care_are_told(text: str, kind: str) -> None:
    assert licence_kind(text) == kind


def test_figures_are_those_of_a_count_by_hand() -> None:
    kept = [
        made("Write a poem about the sea", "one two three", licence="MIT", task="a", cluster="x"),
        made("Write a story about a fox", "four", licence="MIT", task="a", cluster="x"),
        made(
            "Is it good?",
            "yes",
            choices=("yes", "no"),
            task="b",
            cluster="y",
            source="other.csv",
            licence="CC BY-NC 4.0",
        ),
        made(
            "Is it bad?", "no", choices=("yes", "no"), task="b", cluster="y", source="other.csv", licence="CC BY-NC 4.0"
        ),
        made(
            "Is it old?", "no", choices=("yes", "no"), task="b", cluster="y", source="other.csv", licence="CC BY-NC 4.0"
        ),
    ]
    lost = dropped(
        made("Write a poem on the sea", "x"), "near duplicate", strategy="near_duplicates", near=kept[0].id, score=0.9
    )
    leak = dropped(made("Is it new?", "y", source="other.csv"), "same as a held-out instance", strategy="decontaminate")
    found = facts(Made("tiny", kept, built=7, heldout=kept[:2], dropped=[lost, leak]))
    assert found["counts"] | {"dropped": None} == {
        "kept": 5, "built": 7, "generated": 0, "held out": 2, "tasks": 2, "clusters": 2, "turns": 5, "dropped": None,
    }  # fmt: skip
    assert [(s["source"], s["kept"], s["dropped"], s["licence_kind"]) for s in found["sources"]] == [
        ("other.csv", 3, 1, "non-commercial"),
        ("rows.jsonl", 2, 1, "open"),
    ]
    assert found["clusters"] == [{"cluster": "y", "kept": 3, "tasks": 1}, {"cluster": "x", "kept": 2, "tasks": 1}]
    (labels,) = found["labels"]
    assert (labels["task"], labels["labels"], labels["top"]) == ("b", 2, [["no", 2], ["yes", 1]])
    assert labels["balance"] == pytest.approx(-(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3)), abs=1e-3)
    assert found["lengths"]["answer"] == {"p5": 1, "median": 1, "p95": 1, "longest": 3, "bins": [0, 4, 1]}
    assert found["variety"]["answer"]["distinct_1"] == pytest.approx(6 / 7, abs=1e-4)
    assert found["verbs"]["top"][0] == {"verb": "is?", "count": 3, "objects": []}
    assert {"verb": "write", "count": 2, "objects": [["poem", 1], ["story", 1]]} in found["verbs"]["top"]
    (same,) = [row for row in found["drops"] if row["strategy"] == "near_duplicates"]
    assert (same["count"], same["examples"][0]["near_prompt"]) == (1, "Write a poem about the sea")
    (overlap,) = found["overlap"]
    assert (overlap["source"], overlap["overlapping"], overlap["share"]) == ("other.csv", 1, 0.25)
    assert found["generated"] == []
    assert json.loads(card_json(found)) == json.loads(json.dumps(found))


def test_nearest_neighbours_are_those_of_rouge_score() -> None:
    texts = ["write a poem about the sea", "write a poem about a fox", "name three fruits", "name four fruits", "北京"]
    found = facts(Made("x", [made(text, "y") for text in texts]))["neighbours"]
    scorer = RougeScorer(["rougeL"])
    best = [max(scorer.score(a, b)["rougeL"].fmeasure for b in texts[:4] if b != a) for a in texts[:4]]
    assert found["mean"] == pytest.approx(sum(best) / 4, abs=1e-4)
    assert found["bins"] == [sum(k <= 10 * score < k + 1 for score in best) for k in range(10)]
    assert (found["of"], found["among"], found["without"]) == (4, 4, 1)


def test_large_sets_are_sampled_and_the_card_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    facts_, variety = sys.modules["didact.card.facts"], sys.modules["didact.card.variety"]
    kept = [made(f"Write text {i}", f"answer {i}") for i in range(50)]
    whole = card_html(facts(Made("x", kept)))
    for module, name, most in ((facts_, "COUNTED", 10), (variety, "NEIGHBOURS", 12), (variety, "QUERIES", 5)):
        monkeypatch.setattr(module, name, most)
    found = facts(Made("x", kept))
    assert (found["counted_in"], found["neighbours"]["of"], found["neighbours"]["among"]) == (10, 4, 12)
    assert "spread evenly over all" in card_html(found)
    assert "spread evenly over all" in card_markdown(found)
    assert "spread evenly over all" not in whole


@pytest.mark.parametrize(
    ("text", "verb", "thing"),
    [
        ("Write a short poem about the ocean.", "write", "poem"),
        ("Please generate a list of 10 fruits", "generate", "list"),
        ("Your task is to classify the sentiment of this review", "classify", "sentiment"),
        ("Given the text below, summarize the main ideas.", "summarize", "idea"),
        ("Can you explain the theory of relativity?", "explain", "theory"),
        ("What is the capital of Peru?", "what?", ""),
        ("Can penguins fly?", "can?", ""),
        ("Translate: hello", "translate", ""),
        ("The quick brown fox", "", ""),
        ("写一首诗", "", ""),
        ("", "", ""),
    ],
)
def test_the_verb_an_instruction_turns_on(text: str, verb: str, thing: str) -> None:
    assert root(text) == (verb, thing)


def test_words_of_a_template_count_once_per_task() -> None:
    rows = [made("Sort the list", str(i), via="template:t", task="a") for i in range(9)]
    found = facts(Made("x", [*rows, made("Draw a map", "y")]))["verbs"]
    assert {(row["verb"], row["count"]) for row in found["top"]} == {("sort", 1), ("draw", 1)}


def test_arcs_go_once_round_and_objects_stay_within_their_verb() -> None:
    top = [{"verb": "write", "count": 3, "objects": [["poem", 2]]}, {"verb": "list", "count": 1, "objects": []}]
    arcs = sunburst(top, 300, 100, 200)
    assert [(arc["name"], arc["outer"]) for arc in arcs] == [("write", False), ("poem", True), ("list", False)]
    ends = [[float(n) for n in re.findall(r"-?\d+\.?\d*", arc["path"])] for arc in arcs]
    assert ends[0][:2] == pytest.approx([0, -200], abs=0.1)
    assert ends[1][:2] == pytest.approx([0, -300], abs=0.1)
    assert ends[1][7:9] == pytest.approx([0, 300], abs=0.1)  # two of four: half the circle
    assert arcs[0]["path"].count("A200 200 0 1 1") == 1  # three of four: the large arc
    (alone,) = sunburst([{"verb": "go", "count": 1, "objects": []}])
    assert "A" in alone["path"]


def test_acceptance_cost_and_rejection_over_time_of_what_was_generated() -> None:
    given = [n for n in range(1, 61) if n <= 30 or n % 3 == 0]
    away = [n for n in range(1, 61) if n not in given]
    via = "generate:alpaca"
    kept = [made(f"ask {n}", "a", source="g", row=n, via="generate:alpaca", teacher="t") for n in given[:20]]
    lost = [dropped(made("q", "a", row=n, source=via, via=via), "not new", "generate") for n in away]
    account = {"strategy": "alpaca", "prompts": 9, "calls": 9, "tokens": 800, "money": 0.5, "failed": 0, "rejected": 1}
    (row,) = facts(Made("x", kept, 0, (), lost, [account], generated={"alpaca": given}))["generated"]
    assert (row["written"], row["accepted"], row["kept"]) == (60, 40, 20)
    assert row["acceptance"] == pytest.approx(40 / 60, abs=1e-4)
    assert (row["cost_per_kept"], row["tokens_per_kept"]) == (0.025, 40.0)
    assert row["over_time"][:6] == [0.0] * 6
    assert all(0.4 <= share <= 0.8 for share in row["over_time"][6:])
    page = card_html(facts(Made("x", kept, 0, (), lost, [account], generated={"alpaca": given})))
    assert "rejected as it went on" in page
    rows = [dropped(made("q", "a", row=n, via=via), "not new", "generate") for n in away]  # numbers of rows, no order
    assert (
        facts(Made("x", kept, 0, (), rows, [account], generated={"alpaca": given}))["generated"][0]["over_time"] == []
    )
    (bare,) = facts(Made("x", kept, generated={"alpaca": given}))["generated"]  # without any account
    assert (bare["cost_per_kept"], bare["tokens_per_kept"], bare["over_time"]) == (0.0, None, [])


def test_what_is_more_than_wanted_is_no_rejection_and_a_judges_cost_is_in_the_sum() -> None:
    via = "generate:distill"
    kept = [made(f"ask {n}", "a", via=via) for n in range(8)]
    lost = [dropped(made("q", "a", via=via), "spare: not picked", "generate") for _ in range(40)]
    lost += [dropped(made("q", "a", via=via), "the answer is blank", "generate") for _ in range(2)]
    account = {"strategy": "distill", "calls": 50, "tokens": 800, "money": 0.5}
    judge = {"strategy": "judge", "calls": 10, "tokens": 200, "money": 0.3}
    found = facts(Made("x", kept, 0, (), lost, [account], [judge], {"distill": [0] * 8}))
    (row,) = found["generated"]
    assert (row["written"], row["accepted"], row["spare"], row["acceptance"]) == (50, 8, 40, 0.8)
    assert (found["cost"]["calls"], found["cost"]["tokens"], found["cost"]["money"]) == (60, 1000, 0.8)
    assert found["cost"]["per_kept"] == 0.1
    html, text = card_html(found), card_markdown(found)
    assert "| curate: judge | | | | | 200 | 0.30 | |" in text
    assert "| together | | | | 8 | 1,000 | 0.80 | 0.10000 |" in text
    assert "curate: judge" in html
    assert "<td>0.80</td><td>0.10000</td>" in html
    alone = facts(Made("x", [made("q", "a")], asked=[judge]))  # nothing generated, and yet paid for
    assert "What a language model was asked" in card_markdown(alone)
    assert alone["cost"]["per_kept"] is None


EVIL = "<script>alert(1)</script>|`x`\u202e\x1b[31m {{ 7*7 }} [a](b)"


def test_data_has_no_power_over_the_pages() -> None:
    kept = [made(EVIL, EVIL, source=EVIL, task=EVIL, cluster=EVIL, licence=EVIL, choices=(EVIL, "n"))]
    lost = [dropped(made(EVIL, EVIL), EVIL, strategy="novelty", near=EVIL, score=0.5)]
    found = facts(Made("x", kept, 1, (), lost))
    html, text = card_html(found), card_markdown(found)
    for page in (html, text):
        assert not re.search(r"(?<!\\)<script", page)
        assert "\u202e" not in page
        assert "\x1b" not in page
        assert "7*7" in page.replace("\\", "")
    (row,) = [line for line in text.split("\n") if "| 1 | 0 | 1 |" in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 7


def test_the_header_is_what_hubs_read() -> None:
    def of(*licences: str) -> dict[str, Any]:
        kept = [made(f"q{i}", "a", licence=licence) for i, licence in enumerate(licences)]
        return header(facts(Made("x", kept)))

    assert of("Apache-2.0")["license"] == "apache-2.0"
    assert of("CC BY-SA 4.0", "CC BY-SA 4.0")["license"] == "cc-by-sa-4.0"
    assert of("MIT", "CC BY 4.0")["license"] == ["cc-by-4.0", "mit"]
    assert of("MIT", "ask me") | {"tags": 0, "configs": 0, "dataset_info": 0} == {
        "pretty_name": "x", "license": "other", "license_name": "mixed", "size_categories": ["n<1K"],
        "task_categories": ["text-generation"], "tags": 0, "configs": 0, "dataset_info": 0,
    }  # fmt: skip
    assert of("None: (research) only")["license_name"] == "none-research-only"
    assert of("")["license"] == "unknown"
    assert of("MIT", "")["license_name"] == of("问")["license_name"] == "mixed"
    found = facts(Made("x", [made("q", "a")]))
    for size, category in (
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (52_002, "10K<n<100K"),
        (10**7, "10M<n<100M"),
        (10**9, "100M<n<1B"),
    ):
        found["counts"]["kept"] = size
        assert header(found)["size_categories"] == [category]
    (data,) = header(found)["configs"][0]["data_files"]
    assert data == {"split": "train", "path": "kept.jsonl"}, "a hub reads no file outside of the folder"
    hostile = card_markdown(facts(Made("--- [a]: {b", [made("q", "a", licence="x\n---\ny: [")])))
    _, head, body = hostile.split("---\n", 2)
    assert yaml.safe_load(head)["pretty_name"] == "--- [a]: {b"
    assert yaml.safe_load(head)["license_name"] == "x-y"
    assert body.startswith("\n# ")
    warned = card_markdown(facts(Made("x", [made("q", "a", licence="CC BY-NC 4.0")])))
    assert "1 instances: non-commercial (CC BY-NC 4.0)." in warned


def test_languages_are_those_that_sources_tell() -> None:
    kept = [made(f"q{i}", "a", task=task) for i, task in enumerate(("a", "a", "b", "c", "d"))]
    found = facts(Made("x", kept, languages={"a": ["de", "en"], "b": ["en"], "c": [], "d": ["---\nno: code"]}))
    assert [(row["language"], row["kept"]) for row in found["languages"]] == [
        ("en", 3), ("de", 2), ("", 1), ("---\nno: code", 1),
    ]  # fmt: skip
    assert header(found)["language"] == ["de", "en"]
    assert "language" not in header(facts(Made("x", kept)))
    assert "no: code" not in card_markdown(found).split("---\n", 2)[1]


def test_the_datasets_library_reads_the_folder_of_the_card(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", "4.7", reason="needs didact[hub]")
    plain = [made(f"{'long ' * 400}{i}", "a") for i in range(6000)]  # more than the library looks at for the types
    asked = Message("user", (Part("pictures/x.png", "input", "image"), Part("q", "input")))
    origin = Origin("rows.jsonl", 2, parents=("rows.jsonl:1",))
    odd = Instance.of((asked, Message("assistant", (Part("a"),))), origin, ("another",), ("a", "b"), {"shots": "1"})
    kept = [*plain, odd]
    (tmp_path / "kept.jsonl").write_text("".join(json_line(i.to_json()) for i in kept), "utf-8")
    (tmp_path / "README.md").write_text(card_markdown(facts(Made("x", kept[-3:]))), "utf-8")
    read = datasets.load_dataset(str(tmp_path), cache_dir=str(tmp_path / "cache"), split="train")
    assert [Instance.from_json(row) for row in read] == kept


def test_lineage_shows_what_was_done_to_a_row() -> None:
    tags = {"options": "letters", "shots": "2", "cot": "yes", "split": "train"}
    row = made("q", "a", tags, via="template:t", parents=("r:1", "r:2"), task="nli")
    (example,) = facts(Made("x", [row]))["examples"]
    assert example["lineage"] == {
        "source": "rows.jsonl:1", "task": "nli", "made by": "template:t", "grew from": "r:1, r:2",
        "options": "letters", "examples": "2", "reasoning": "yes",
    }  # fmt: skip


def test_whole_paths_of_sources_are_not_published(tmp_path: Path, tiny_llama: Path) -> None:
    home, away = tmp_path / "home", tmp_path / "private"
    for folder in (home / "data", away / "one", away / "two"):
        folder.mkdir(parents=True)
        rows = [{"instruction": f"Write about {folder.name} {n}", "output": "yes"} for n in (1, 2, 2, 3)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (home / "ask.yaml").write_text(
        "templates:\n  - {name: t, prompt: '{{ instruction }}!', answer: '{{ output }} {{ instruction }}'}\n"
    )
    files = [home / "data" / "rows.jsonl", away / "one" / "rows.jsonl", away / "two" / "rows.jsonl"]
    sources = [{"type": "file", "path": str(file), "task": file.parent.name} for file in files]
    recipe = {"name": "x", "model": str(tiny_llama), "sources": [*sources, {**sources[1], "templates": "ask.yaml"}]}
    recipe["sources"][-1]["task"] = "shown"
    few = {"share": 1, "shots": [1], "max_tokens": 9999}
    recipe |= {"build": {"heldout_rows": 0, "few_shot": few}, "curate": [{"type": "heuristics"}]}
    (home / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with open_run(home / "recipe.yaml", tmp_path / "run", (), Console(quiet=True)) as run:
        run.upto("card")
    folder = tmp_path / "run" / "card"
    for name in ("card.json", "README.md", "card.html", "kept.jsonl"):
        assert str(tmp_path) not in (folder / name).read_text("utf-8"), name
    found = {row["source"]: row["dropped"] for row in json.loads((folder / "card.json").read_text("utf-8"))["sources"]}
    assert set(found) == {"data/rows.jsonl", "one/rows.jsonl", "two/rows.jsonl"}
    assert found["data/rows.jsonl"] == found["two/rows.jsonl"] == 1
    shown = [json.loads(line) for line in (folder / "kept.jsonl").read_text("utf-8").splitlines()]
    assert any(parent.startswith("one/rows.jsonl:") for row in shown for parent in row["origin"].get("parents", []))
    whole = [json.loads(line) for line in (tmp_path / "run" / "kept.jsonl").read_text("utf-8").splitlines()]
    assert {row["origin"]["source"] for row in whole} == set(map(str, files)), "the run itself finds its rows again"
    assert [row["id"] for row in shown] == [row["id"] for row in whole]


def carded(folder: Path, tiny_llama: Path, *overrides: str) -> Run:
    rows = [
        {"instruction": f"Write about {text}", "input": "", "output": "yes"} for text in ("cats", "dogs", "dogs", "")
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"name: x\nmodel: {tiny_llama}\nsources: [{{type: file, path: rows.jsonl, licence: MIT}}]\n"
        "build: {heldout_rows: 0}\ncurate: [{type: heuristics}]\n"
    )
    run = open_run(recipe, folder / "run", overrides, Console(quiet=True))
    with run:
        run.upto("card")
    return run


def test_a_run_has_a_card_and_makes_it_again_only_when_something_changed(tmp_path: Path, tiny_llama: Path) -> None:
    run = carded(tmp_path, tiny_llama)
    folder = run.path / "card"
    found = json.loads((folder / "card.json").read_text("utf-8"))
    assert (found["counts"]["kept"], found["drops"][0]["reason"]) == (3, "exact duplicate")
    assert yaml.safe_load((folder / "README.md").read_text("utf-8").split("---\n")[1])["license"] == "mit"
    assert "Where it comes from" in (folder / "card.html").read_text("utf-8")
    assert (folder / "kept.jsonl").read_bytes() == (run.path / "kept.jsonl").read_bytes()
    assert (folder / "kept.jsonl").stat().st_ino == (run.path / "kept.jsonl").stat().st_ino, "no second copy"
    before = (folder / "card.html").stat().st_mtime_ns
    carded(tmp_path, tiny_llama)
    assert (folder / "card.html").stat().st_mtime_ns == before
    (folder / "README.md").unlink()
    carded(tmp_path, tiny_llama)
    assert (folder / "README.md").exists()
    carded(tmp_path, tiny_llama, "name=other")
    assert json.loads((folder / "card.json").read_text("utf-8"))["name"] == "other"
