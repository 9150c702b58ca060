"""Super-NaturalInstructions: the encodings, the split, what is drawn, and the original task files."""

from __future__ import annotations

import io
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import need_material

from didact.audit.measure import is_long
from didact.build import BuildConfig, build
from didact.build.plan import stripped
from didact.console import Console
from didact.errors import UsageError
from didact.formats import from_instances, to_instances
from didact.formats.super_ni import Shown, encode, head_of, metric, read_super_ni
from didact.instance import Drop, Instance, Origin
from didact.run import open_run
from didact.sources import FileSource, SuperNISource, Task, open_source
from didact.superni import open_tasks
from didact.token_count import counter, tokenizer_json


def task(name: str = "t", **changes: Any) -> dict[str, Any]:
    """A task file in the original's keys, in our own words."""
    made = {
        "Definition": ["Turn the number into a word"],
        "Categories": ["Word Semantics"],
        "Source": [name],
        "Input_language": ["English"],
        "Instance License": ["MIT"],
        "Positive Examples": [
            {"input": "1", "output": "one", "explanation": "Counting begins so!"},
            {"input": "2?", "output": "two", "explanation": ""},
            {"input": "3", "output": "three", "explanation": "never shown"},
        ],
        "Negative Examples": [{"input": "4", "output": "fork", "explanation": "a typing mistake"}],
        "Instances": [{"id": f"{name}-{n}", "input": f"{n}", "output": [f"word {n}", f"Word {n}"]} for n in range(20)],
    }
    return {**made, **changes}


def write(folder: Path, **tasks: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in tasks.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def opened(folder: Path, drops: list[Drop] | None = None, **settings: Any) -> list[Task]:
    config = SuperNISource.model_validate({"type": "super-ni", "path": str(folder), **settings})
    return open_source(config, folder, ([] if drops is None else drops).append)


def made(folder: Path, drops: list[Drop] | None = None, **settings: Any) -> list[Instance]:
    drops = [] if drops is None else drops
    return list(build(opened(folder, drops, **settings), BuildConfig(heldout_rows=0), drops.append))


DEFINITION = "Definition: Turn the number into a word.\n\n"
ONE = " Positive Example 1 -\nInput: 1.\n Output: one.\n\n"
TWO = " Positive Example 2 -\nInput: 2?\n Output: two.\n\n"
WRONG = " Negative Example 1 -\nInput: 4.\n Output: fork.\n\n"
ASKED = "Now complete the following example -\nInput: 5.\nOutput: "


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("definition", DEFINITION + ASKED),
        ("examples", ONE + TWO + ASKED),
        ("positive", DEFINITION + ONE + TWO + ASKED),
        ("negative", DEFINITION + ONE + TWO + WRONG + ASKED),
        (
            "explanations",
            DEFINITION + ONE.replace("one.\n\n", "one.\n Explanation: Counting begins so!\n\n") + TWO + ASKED,
        ),
    ],
)
def test_the_five_encodings(encoding: str, text: str) -> None:
    parts = encode(head_of(task(), "t"), " 5 ", encoding, Shown())
    assert "".join(part.value for part in parts) == text
    assert {part.slot: part.value for part in parts}["input"] == "5"
    demos = "".join(part.value for part in parts if part.slot == "demo")
    assert demos == text.removeprefix(DEFINITION).removesuffix(ASKED)
    assert all("number" not in part.value for part in parts if part.slot == "demo")


def test_examples_are_added_only_while_they_fit() -> None:
    head = head_of(task(), "t")
    whole = sum(len(part.value) for part in encode(head, "5", "negative", Shown())) / 4
    shown = [encode(head, "5", "negative", Shown(max_length=int(whole) + 1 - n)) for n in range(0, 40, 4)]
    demos = [[part.value for part in parts if part.slot == "demo"] for parts in shown]
    assert demos[0] == [ONE, TWO, WRONG]
    assert [ONE, TWO] in demos
    assert [ONE] in demos
    assert demos[-1] == []
    assert all("".join(part.value for part in parts).endswith(ASKED) for parts in shown)


def test_mixed_draws_every_encoding_and_the_seed_decides(tmp_path: Path) -> None:
    folder = write(tmp_path / "tasks", one=task("one"), two=task("two"))
    drawn = Counter(instance.tags["template"] for instance in made(folder, encoding="mixed"))
    assert set(drawn) == {"definition", "examples", "positive", "negative", "explanations"}
    again = {i.origin.row: i.tags["template"] for i in made(folder, encoding="mixed", use=["one"])}
    other = {i.origin.row: i.tags["template"] for i in made(folder, encoding="mixed", use=["one"], seed=1)}
    assert again == {i.origin.row: i.tags["template"] for i in made(folder, encoding="mixed", use=["one"])}
    assert again != other


def test_its_tasks_are_a_part_of_the_flan_collection(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"instruction": f"Say {n}", "output": f"it is {n}"}) + "\n" for n in range(20))
    (tmp_path / "talk.jsonl").write_text(rows)
    source = FileSource(path="talk.jsonl", task="dialog/talk")
    tasks = opened(write(tmp_path / "tasks", one=task("one"))) + open_source(source, tmp_path, [].append)
    config = BuildConfig.model_validate({"preset": "flan-collection", "heldout_rows": 0, "mixing": {"total": 20}})
    instances = list(build(tasks, config, [].append, tokenizer_json("starter")))
    assert Counter(i.origin.task for i in instances) == {"one": 17, "dialog/talk": 3}  # 0.20 to 0.03
    few = config.model_copy(update={"few_shot": config.few_shot.model_copy(update={"share": 1.0})})
    instances = list(build(tasks, few, [].append, tokenizer_json("starter")))
    assert {i.tags["zero-shot"] for i in instances if i.origin.task == "one"} == {"only those of its encoding"}


def test_outputs_are_answer_and_references_and_lineage_is_kept(tmp_path: Path) -> None:
    folder = write(tmp_path / "tasks", one=task("one"))
    instances = made(folder)
    assert len(instances) == 20
    for instance in instances:
        number = instance.origin.row - 1
        assert {instance.answer, *instance.references} == {f"word {number}", f"Word {number}"}
        assert (instance.origin.task, instance.origin.cluster, instance.origin.licence) == (
            "one",
            "Word Semantics",
            "MIT",
        )
        assert instance.origin.via == "super-ni:positive"
    assert {instance.answer[0] for instance in instances} == {"w", "W"}  # drawn, not always the first


def test_instances_per_task_are_drawn_by_the_seed_and_of_test_tasks_the_first(tmp_path: Path) -> None:
    tests = task("b", Categories=["Title Generation"])
    folder = write(tmp_path / "tasks", a=task("a"), b=tests)
    settings = {"instances_per_task": 5, "split": "official"}
    train, test = opened(folder, **settings)
    assert (train.level, test.level) == ("", "heldout_cluster")
    numbers = [row.number for row in train.rows()]
    assert len(numbers) == 5
    assert numbers == sorted(numbers) != [1, 2, 3, 4, 5]
    assert [row.number for row in test.rows()] == [1, 2, 3, 4, 5]
    assert numbers != [row.number for row in opened(folder, **settings, seed=3)[0].rows()]


def test_the_languages_of_a_task_are_told_as_codes(tmp_path: Path) -> None:
    spoken = {
        "Input_language": ["English"],
        "Output_language": ["German", "Old Elvish"],
        "Instruction_language": ["English"],
    }
    folder = write(tmp_path / "tasks", a=task("a", **spoken), b=task("b"))
    assert [t.languages for t in opened(folder)] == [("en", "de"), ("en",)]


def test_the_official_split_by_its_rule(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "tasks",
        tested=task("x", Categories=["Textual Entailment"], Source=["snli", "other"]),
        shared=task("x", Source=["snli"]),
        foreign=task("x", Source=["y"], Output_language=["French"]),
        foreign_test=task("x", Categories=["Title Generation"], Source=["z"], Input_language=["French"]),
        taught=task("x", Source=["z"]),
    )
    drops: list[Drop] = []
    instances = made(folder, drops, split="official")
    levels = {i.origin.task: (i.tags["split"], i.tags.get("level")) for i in instances}
    assert levels == {"tested": ("heldout", "heldout_cluster"), "taught": ("train", None)}
    assert {(drop.origin.task, drop.reason) for drop in drops} == {
        ("shared", "shares a source dataset with a test task"),
        ("foreign", "not an English task"),
        ("foreign_test", "not an English task"),
    }


def test_the_official_lists_are_followed_where_they_lie(tmp_path: Path) -> None:
    folder = write(tmp_path / "tasks", a=task("a"), b=task("b"), c=task("c"))
    lists = tmp_path / "splits" / "default"
    lists.mkdir(parents=True)
    (lists / "train_tasks.txt").write_text("a\nzzz\n")
    (lists / "test_tasks.txt").write_text("b\n")
    drops: list[Drop] = []
    assert [(t.name, t.level) for t in opened(folder, drops, split="official")] == [("a", ""), ("b", "heldout_cluster")]
    assert [(drop.origin.task, drop.reason) for drop in drops] == [
        ("c", "neither a training nor a test task of the official split")
    ]


def test_the_metric_follows_the_category(tmp_path: Path) -> None:
    assert (
        metric(["Textual Entailment"]) == metric(["Word Analogy"]) == metric(["Stance Classification"]) == "exact_match"
    )
    assert metric(["Title Generation"]) == metric(["Misc."]) == metric([]) == "rouge_l"
    folder = write(tmp_path / "tasks", a=task("a"), b=task("b", Categories=["Coreference Resolution"]))
    judged = {instance.origin.task: is_long(instance) for instance in made(folder)}
    assert judged == {"a": True, "b": False}
    long = Instance.from_json({**made(folder, use=["b"])[0].to_json(), "references": ["a b c d e f g h i j k"] * 2})
    assert not is_long(long.tagged(metric="exact_match"))


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"Definition": ""}, "one.json:Definition: the task has no definition - write what the task asks for"),
    ({"Instances": {}}, "one.json: not a task of Super-NaturalInstructions: it has no instances - a task file is"),
    ({"Source": [1]}, "one.json:Source: holds a list where a text or a list of texts should be"),
    ({"Positive Examples": [["a", "b"]]}, "one.json:Positive Examples.0: holds a list where an object of texts"),
    ({"Instances": [{"input": "x"}]}, 'one.json:1:output: the field "output" is missing - use one of: input'),
    ({"Instances": [{"input": 3, "output": "x"}]}, "one.json:1:input: holds a number where text should be"),
    ({"Instances": [{"input": "x", "output": [3]}]}, "one.json:1:output: holds a list where a text or a list of"),
]


@pytest.mark.parametrize(("changes", "line"), FAULTS)
def test_faults_are_one_line_or_counted(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    folder = write(tmp_path / "tasks", one=task("one", **changes), two=task("two"))
    with pytest.raises(UsageError) as raised:
        made(folder)
    assert line in str(raised.value)
    drops: list[Drop] = []
    assert len(made(folder, drops, on_error="drop")) == 20
    assert [drop.reason for drop in drops] == [
        "faulty row" if "Instances" in changes and ":1:" in line else "not a task file"
    ]


def test_empty_outputs_are_dropped_and_names_that_match_nothing_refused(tmp_path: Path) -> None:
    items = [{"input": "a", "output": ["", " "]}, {"input": "b", "output": "plain text"}]
    folder = write(tmp_path / "tasks", one=task("one", Instances=items))
    drops: list[Drop] = []
    (only,) = made(folder, drops)
    assert (only.answer, only.references) == ("plain text", ())
    assert [drop.reason for drop in drops] == ["the answer is empty"]
    with pytest.raises(UsageError, match='no task is called "two" - use one of: one'):
        opened(folder, use=["two"])
    with pytest.raises(UsageError, match="no task file"):
        opened(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        opened(tmp_path / "none")


def test_an_example_only_prompt_needs_an_example(tmp_path: Path) -> None:
    folder = write(tmp_path / "tasks", one=task("one", **{"Positive Examples": []}))
    drops: list[Drop] = []
    assert made(folder, drops, encoding="examples") == []
    assert Counter(drop.reason for drop in drops) == {"the task has no example to show": 20}
    assert {i.tags["template"] for i in made(folder, encoding="mixed")} == {
        "definition", "positive", "negative", "explanations"
    }  # fmt: skip


def test_a_task_file_is_written_back_as_it_was(tmp_path: Path) -> None:
    from didact.formats import Mapping
    from didact.instance import Origin

    before = task("one", Instances=[{"input": "a", "output": "x"}, {"id": 3, "input": "b", "output": ["y", "z", "y"]}])
    instances = to_instances(Mapping("super-ni", ""), before, Origin("one.json", 1, task="one"))
    assert list(from_instances("super-ni", [Instance.from_json(i.to_json()) for i in instances])) == [before]
    with pytest.raises(UsageError, match="no instance has kept the definition of its task"):
        list(from_instances("super-ni", instances[1:]))


def material(*parts: str, drops: list[Drop], **settings: Any) -> list[Instance]:
    config = SuperNISource.model_validate({"path": str(need_material("ni", *parts)), **settings})
    return list(build(open_tasks(config, Path(), drops.append), BuildConfig(heldout_rows=0), drops.append))


@pytest.mark.parametrize(
    ("folder", "tasks", "count"),
    [("tasks", 153, 12039), ("cl_variant", 12, 655), ("early_schema", 11, 880), ("finnish", 16, 800)],
)
def test_all_real_tasks_build(folder: str, tasks: int, count: int) -> None:
    drops: list[Drop] = []
    instances = material(folder, drops=drops)
    assert (len({i.origin.task for i in instances}), len(instances), drops) == (tasks, count, [])
    index = need_material("ni", "INDEX.tsv").read_text("utf-8").split("\n")
    kept = {line.split("\t")[0].removesuffix(".json"): int(line.split("\t")[3]) for line in index[1:] if line}
    if folder == "tasks":
        assert Counter(instance.origin.task for instance in instances) == kept


def test_the_split_of_the_real_tasks() -> None:
    drops: list[Drop] = []
    instances = material("tasks", drops=drops, split="official", instances_per_task=2)
    held = {i.origin.task for i in instances if i.tags["split"] == "heldout"}
    assert {i.origin.cluster for i in instances if i.origin.task in held} == {"Question Rewriting", "Title Generation"}
    assert len(held) == 12
    assert Counter(drop.reason for drop in drops) == {"shares a source dataset with a test task": 4}
    assert len({i.origin.task for i in instances}) == 153 - 4


def test_an_input_too_long_by_itself_is_cut_before_the_cue_and_says_so(tmp_path: Path) -> None:
    rows = [{"input": text, "output": ["x"]} for text in ("é" * 3000, "short", "ab " * 40)]
    (tmp_path / "t.json").write_text(json.dumps(task(Instances=rows)))
    config = SuperNISource(path="t.json", max_length=100)
    (opened,) = open_tasks(config, tmp_path, lambda drop: None)
    found = list(build([opened], BuildConfig(heldout_rows=0), lambda drop: None))
    prompts = {row.origin.row: row.messages[0].text for row in found}
    assert all(len(text.encode()) <= 400 and text.endswith("\nOutput: ") for text in prompts.values())
    assert len(prompts[1].encode()) >= 390
    assert {row.origin.row: row.tags.get("cut", "") for row in found} == {1: "input", 2: "", 3: ""}
    (whole,) = read_super_ni(task(Instances=rows[:1]), Origin("t", 1))
    assert "é" * 3000 in whole.messages[0].text, "converting a file loses nothing"


def test_tokens_are_counted_by_the_tokenizer_where_there_is_one(tmp_path: Path) -> None:
    tokenizer = tokenizer_json("starter")
    count = counter(tokenizer)
    long = task("one", Instances=[{"input": "1 " * n + "end", "output": "x"} for n in (1, 30, 90, 400)])
    folder = write(tmp_path / "tasks", one=long)
    config = SuperNISource(path=str(folder), encoding="negative", max_length=150)

    def prompts(tokenizer: str) -> dict[int, Instance]:
        tasks = open_source(config, tmp_path, [].append, tokenizer=tokenizer)
        handed = pickle.loads(pickle.dumps(stripped(tasks)))  # as other processes get them
        assert handed[0].mapping.read.args == tasks[0].mapping.read.args
        return {i.origin.row: i for i in build(tasks, BuildConfig(heldout_rows=0), [].append)}

    exact, rough = prompts(tokenizer), prompts("")
    sizes = {row: count(instance.prompt) for row, instance in exact.items()}
    shown = {row: [p.slot for p in i.messages[0].parts].count("demo") for row, i in exact.items()}
    assert shown[1] > shown[2] > shown[3] == 0
    assert all(size <= 150 for size in sizes.values())
    assert {row for row, instance in exact.items() if "cut" in instance.tags} == {4}
    assert sizes[4] > 140  # as much of the input as fits
    for row, instance in exact.items():  # one example more would be too much
        more = config.model_copy(update={"max_length": 10_000})
        wide = next(i for i in read_rows(more, tmp_path) if i.origin.row == row)
        demos = [p for p in wide.messages[0].parts if p.slot == "demo"][: shown[row] + 1]
        if len(demos) > shown[row] and "cut" not in instance.tags:
            parts = [p for p in wide.messages[0].parts if p.slot != "demo"]
            assert count("".join(p.value for p in [parts[0], *demos, *parts[1:]])) > 150
    assert any(rough[row].prompt != exact[row].prompt for row in exact)


def read_rows(config: SuperNISource, folder: Path) -> list[Instance]:
    return list(build(open_source(config, folder, [].append), BuildConfig(heldout_rows=0), [].append))


def test_a_run_says_what_counted_the_tokens_of_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "tasks", one=task("one"))
    (tmp_path / "recipe.yaml").write_text("sources: [{type: super-ni, path: tasks}]\n")

    def said(out: str) -> str:
        console = Console()
        console.rich.file = io.StringIO()
        with open_run(tmp_path / "recipe.yaml", tmp_path / out, [], console) as run:
            run.upto("build")
        return " ".join(console.rich.file.getvalue().split())

    assert "within max_length in tokens as starter counts them" in said("a")
    monkeypatch.setattr("didact.run.find_spec", lambda name: None)
    assert "within max_length at four bytes a token: no tokenizer is there" in said("b")
