"""Every file of ready-made instructions in the shared material: what it becomes, or the one line that refuses it.

Rows read = rows that became instances + drops, for each file.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import need_material

from didact import formats
from didact.errors import UsageError
from didact.instance import Drop, Instance, Origin
from didact.sandbox import TemplateDrop
from didact.sources import FileSource, SuperNISource, Task, open_source

REVISED = {"Revised Instruction": "instruction", "Revised Input": "input", "Revised Response": "output"}
EMPTY, NONE, FAULTY = "the answer is empty", "the answer only says that there is none", "faulty row"
# file -> (settings, format, rows, instances, drops by reason)
BUILT: dict[str, tuple[dict[str, Any], str, int, int, dict[str, int]]] = {
    "instruct/belle_zh_seed_tasks.json": ({}, "self-instruct", 175, 175, {}),
    "instruct/dolly_3k_filtered.json.gz": ({}, "alpaca", 2996, 2996, {}),
    "instruct/dolly_hhrlhf_small.jsonl.gz": ({}, "prompt-completion", 1000, 1000, {}),
    "instruct/gpteacher_roleplay.json.gz": ({}, "alpaca", 1923, 1923, {}),
    "instruct/gpteacher_roleplay.yaml.gz": ({}, "alpaca", 1923, 1923, {}),
    "instruct/gpteacher_toolformer_dedupe_only.json.gz": ({}, "alpaca", 7673, 7673, {}),
    "instruct/gpteacher_toolformer_sim06.json.gz": ({}, "alpaca", 2396, 2396, {}),
    "instruct/huatuo_med_zh.jsonl.gz": ({}, "alpaca", 2500, 2500, {}),
    "instruct/instruction_induction_execute.jsonl.gz": (
        {"rename": {"task": "instruction"}, "on_error": "drop"}, "alpaca", 2156, 2115, {FAULTY: 41},
    ),
    "instruct/self_instruct_mixtral_100.jsonl.gz": ({}, "alpaca", 101, 99, {NONE: 2}),
    "instruct/self_instruct_seed_tasks.jsonl": ({}, "self-instruct", 175, 175, {}),
    "instruct/self_instruct_shikhr_300.json.gz": ({}, "alpaca", 301, 300, {EMPTY: 1}),
    "instruct/ultrafeedback_1k.jsonl.gz": ({}, "alpaca", 1000, 1000, {}),
    "instruct_nc/alpaca_data.json.gz": ({}, "alpaca", 51502, 51392, {EMPTY: 28, NONE: 82}),
    "instruct_nc/alpaca_zh_carbonz0_sample.json.gz": ({}, "alpaca", 2000, 1996, {EMPTY: 4}),
    "instruct_nc/alpagasus_claude_t45.json.gz": ({}, "alpaca", 5305, 5296, {EMPTY: 4, NONE: 5}),
    "instruct_nc/alpagasus_helpfulness_t45.json.gz": ({}, "alpaca", 2022, 2021, {EMPTY: 1}),
    "instruct_nc/cherry_alpaca_5pct.json.gz": ({}, "alpaca", 3111, 3099, {NONE: 12}),
    "instruct_nc/coachlm_expert_revisions.json.gz": (
        {"rename": REVISED, "on_error": "drop"}, "alpaca", 2001, 1999, {FAULTY: 1, EMPTY: 1},
    ),
    "instruct_nc/code_alpaca_2k.json.gz": ({}, "alpaca", 2017, 2015, {EMPTY: 2}),
    "instruct_nc/evol_code_2k.json.gz": ({}, "alpaca", 2017, 2015, {EMPTY: 2}),
    "instruct_nc/llamafactory_alpaca_en_demo.json.gz": ({}, "alpaca", 999, 999, {}),
    "instruct_nc/llamafactory_alpaca_zh_demo.json.gz": ({}, "alpaca", 1000, 1000, {}),
    "instruct_nc/vigogne_seed_tasks_fr.jsonl": ({}, "self-instruct", 175, 175, {}),
    "multiturn/firefly_dummy_zh.jsonl.gz": ({}, "pairs", 33, 33, {}),
    "multiturn/glaive_toolcall_en.json.gz": ({}, "sharegpt", 300, 300, {}),
    "multiturn/llamafactory_identity.json": ({"fill": {"name": "D", "author": "A"}}, "alpaca", 91, 91, {}),
    "multiturn/llamafactory_v1_sft_demo.jsonl.gz": ({"fill": {"name": "D", "author": "A"}}, "messages", 500, 500, {}),
    "multiturn/memochat_train_1k.json.gz": ({}, "sharegpt", 1000, 1000, {}),
    "multiturn/oasst_fr_threads.jsonl.gz": ({}, "messages", 256, 256, {}),
    "multiturn/oasst_trees.jsonl.gz": ({}, "tree", 70, 70, {}),
    "multiturn/vicuna_dummy_conversation.json.gz": ({}, "sharegpt", 500, 500, {}),
    "messy/alpaca_zh_12345_mostly_untranslated.json.gz": ({}, "alpaca", 2978, 2970, {EMPTY: 2, NONE: 6}),
    "messy/alpaca_zh_6382.json.gz": ({"on_error": "drop"}, "alpaca", 3022, 3015, {EMPTY: 2, NONE: 4, FAULTY: 1}),
    "messy/array_named_jsonl.jsonl": (
        {"layout": "json", "rename": {"text": "instruction"}}, "alpaca", 29, 28, {NONE: 1},
    ),
    "messy/blank_lines_multimodal.jsonl": ({"on_error": "drop"}, "messages", 24, 0, {FAULTY: 24}),
    "messy/instructwild_v2_user_2.jsonl": (
        {"on_error": "drop", "rename": {"instruction": "text"}, "format": "text"}, "text", 248, 246,
        {"malformed JSON": 2},
    ),
    "messy/ko_seed_crlf.jsonl": ({}, "self-instruct", 124, 124, {}),
    "messy/openai_messages_array_per_line.jsonl": ({}, "messages", 128, 128, {}),
    "messy/strings_per_line.jsonl": ({"layout": "lines", "format": "text"}, "text", 100, 100, {}),
    "messy/triviaqa_nel_char.jsonl": (
        {"rename": {"context": "prompt", "answer": "completion"}}, "prompt-completion", 60, 60, {},
    ),
}  # fmt: skip
UNANSWERED = "hold questions without answers, so there is nothing to learn from them - have them answered first"
NO_FORMAT = "are no format of ready-made instructions that is known - give the source `templates`, or rename columns"
FORM = (
    "rows looked at hold {{name}}, which nobody has filled in - say what it stands for: fill: {name: ..., author: ...}"
)
# file -> what refuses it as it stands
REFUSED = {
    "instruct/instruction_induction_execute.jsonl.gz": NO_FORMAT,
    "instruct/self_instruct_generated_gpt4omini.jsonl.gz": UNANSWERED,
    "instruct/self_instruct_ko_generated.jsonl.gz": UNANSWERED,
    "instruct_nc/coachlm_expert_revisions.json.gz": NO_FORMAT,
    "instruct_nc/instructwild_seed_prompts_ch.jsonl": UNANSWERED,
    "instruct_nc/instructwild_seed_prompts_en.jsonl": UNANSWERED,
    "instruct_nc/instructwild_v2_user_1.jsonl": UNANSWERED,
    "multiturn/llamafactory_identity.json": f"fill: 77 of 91 {FORM}",
    "multiturn/llamafactory_v1_sft_demo.jsonl.gz": f"fill: 46 of 100 {FORM}",
    "multiturn_nc/moss_self_chat.jsonl.gz": NO_FORMAT,
    "messy/alpaca_zh_6382.json.gz": '442:instruction: the field "instruction" is empty - fill it, or drop such rows',
    "messy/alpaca_zh_9407_unfinished.json.gz": "14007: malformed JSON: a comma before the closing bracket at column 1",
    "messy/array_named_jsonl.jsonl": "1: a JSON array, where each line should hold one object - rename the file",
    "messy/blank_lines_multimodal.jsonl": ':messages.0.content.0.image_url: there is no picture "data/mllm_demo_data/1',
    "messy/fewclue_bustm.json": NO_FORMAT,
    "messy/instructwild_v2_user_2.jsonl": UNANSWERED,
    "messy/mpe_garbled_premises.csv": NO_FORMAT,
    "messy/self_instruct_generated_with_duplicates.jsonl.gz": UNANSWERED,
    "messy/strings_per_line.jsonl": "1: holds a JSON string, not an object - write an object",
    "messy/triviaqa_nel_char.jsonl": NO_FORMAT,
}
FOLDERS = ("instruct", "instruct_nc", "multiturn", "multiturn_nc", "messy")


def opened(name: str, drops: list[Drop], **settings: Any) -> Task:
    path = str(need_material(*name.split("/")))
    return open_source(FileSource.model_validate({"path": path, **settings}), Path(), drops.append)[0]


def read(task: Task, drops: list[Drop]) -> list[Instance]:
    """The instances of a task as `build` makes them, without its planning."""
    found: list[Instance] = []
    assert task.mapping is not None
    for row in task.rows():
        try:
            found += formats.to_instances(task.mapping, row.data, Origin(row.source, row.number))
        except TemplateDrop as left_out:
            drops.append(Drop(left_out.reason, left_out.detail, Origin(row.source, row.number)))
        except UsageError as error:
            if task.on_error == "stop":
                raise error.at(file=row.source, line=row.number) from error
            drops.append(Drop(FAULTY, str(error), Origin(row.source, row.number)))
    return found


def test_the_tables_name_every_file() -> None:
    there = {
        f"{folder}/{file.name}" for folder in FOLDERS for file in need_material(folder).iterdir() if file.is_file()
    }
    assert there == set(BUILT) | set(REFUSED)


@pytest.mark.parametrize("name", BUILT)
def test_a_file_builds_and_no_row_is_lost(name: str) -> None:
    settings, form, rows, count, reasons = BUILT[name]
    drops: list[Drop] = []
    task = opened(name, drops, **settings)
    instances = read(task, drops)
    assert task.mapping is not None
    assert (task.mapping.name, len(instances)) == (form, count)
    assert Counter(drop.reason for drop in drops) == reasons
    assert len({instance.origin.row for instance in instances}) + len(drops) == rows
    assert not {instance.origin.row for instance in instances} & {drop.origin.row for drop in drops}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_is_refused_in_one_right_line(name: str) -> None:
    drops: list[Drop] = []
    with pytest.raises(UsageError) as raised:
        read(opened(name, drops), drops)
    assert REFUSED[name] in str(raised.value)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)
    assert drops == [] or name.startswith("messy/alpaca_zh_6382")


@pytest.mark.parametrize("name", [name for name, told in BUILT.items() if told[1] != "tree" and told[3]])
def test_a_file_is_written_back_as_it_was(name: str) -> None:
    settings = BUILT[name][0]
    drops: list[Drop] = []
    task = opened(name, drops, **settings)
    instances = read(task, drops)
    left_out = {drop.origin.row for drop in drops}
    rows = [row.data for row in task.rows() if row.number not in left_out]
    assert task.mapping is not None
    assert list(formats.from_instances(task.mapping.name, instances)) == rows


def test_the_words_around_prompts_are_taken_off() -> None:
    drops: list[Drop] = []
    found = read(opened("instruct/dolly_hhrlhf_small.jsonl.gz", drops), drops)
    assert not any("### " in instance.messages[0].text for instance in found)


def test_the_same_rows_from_yaml_and_json() -> None:
    yaml, json = (
        [row.data for row in opened(f"instruct/gpteacher_roleplay.{kind}.gz", []).rows()] for kind in ("yaml", "json")
    )
    assert yaml == json


def test_ways_to_say_no_input_in_alpaca() -> None:
    drops: list[Drop] = []
    task = opened("instruct_nc/alpaca_data.json.gz", drops)
    given = {row.number: row.data["input"] for row in task.rows()}
    found = read(task, drops)
    said = Counter(given[i.origin.row] for i in found if given[i.origin.row] and len(i.messages[0].parts) == 1)
    assert sum(said.values()) > 500
    assert all(len(text) < 25 and ("input" in text.lower() or "n/a" in text.lower()) for text in said)
    assert not any("".join(i.messages[0].parts[-1].value.lower().split()) == "noinput" for i in found)


@pytest.mark.parametrize("folder", ["ni_fi_bad_translation"])
def test_task_files_among_the_messy(folder: str) -> None:
    drops: list[Drop] = []
    path = str(need_material("messy", folder))
    tasks = open_source(SuperNISource(path=path), Path(), drops.append)
    assert (len(tasks), sum(len(read(task, drops)) for task in tasks), drops) == (5, 250, [])
    one = str(need_material("messy", folder, "fin-translated-task179_participant_extraction.json"))
    with pytest.raises(UsageError, match="not an array of rows - it is a task of Super-NaturalInstructions: read it"):
        open_source(FileSource(path=one), Path(), drops.append)
