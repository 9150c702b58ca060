"""promptsource's templates render as they did for T0: every dataset whose raw rows are there, and why rows differ."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from conftest import need_material

from didact.errors import UsageError
from didact.template import Template, TemplateDrop
from didact.template_set import load_set

OLD_TREC = "Description ||| Entity ||| Abbreviation ||| Person ||| Quantity ||| Location"


@cache
def rows_of(*parts: str) -> list[dict[str, Any]]:
    with gzip.open(need_material(*parts), "rt", encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


def published(prefix: str) -> dict[str, list[dict[str, Any]]]:
    found = defaultdict(list)
    for row in rows_of("p3", "t0_rendered.jsonl.gz"):
        if row["template"].startswith(f"{prefix}_"):
            found[row["template"]].append(row)
    return found


def templates_of(folder: str, prefix: str) -> dict[str, Template]:
    file = need_material("p3", "promptsource_templates", *folder.split("/"))
    return {re.sub(r"\W", "_", f"{prefix}_{template.name}"): template for template in load_set(file).templates}


def exact(text: str) -> str:
    return text


def without_spaces(text: str) -> str:
    """T0's rows are tokenised, with `` and '' for quotes."""
    return re.sub(r"\s+", "", text).replace("``", '"').replace("''", '"')


def compared(
    prefix: str, folder: str, data: list[dict[str, Any]], same: Callable[[str], str], choices: str | None = None
) -> Counter[str]:
    """How many of T0's rows are among the renderings of our rows: equal, only the prompt, or not at all."""
    counts: Counter[str] = Counter()
    templates = templates_of(folder, prefix)
    for name, wanted in published(prefix).items():
        template = templates[name]
        if choices and "fine" not in name:
            template = replace(template, answer_choices=choices)
        made: dict[str, set[str]] = defaultdict(set)
        for row in data:
            try:
                rendered = template.render(row)
            except (TemplateDrop, UsageError):
                continue
            made[same("".join(part.value for part in rendered.parts))].add(same(rendered.answer))
        for row in wanted:
            prompt, answer = (
                same(text.strip()) for text in (row["prompt"], row["completion"].removesuffix("<|endoftext|>"))
            )
            counts["equal" if answer in made[prompt] else "prompt" if made[prompt] else "none"] += 1
    return counts


@pytest.mark.parametrize(("dataset", "count"), [("rotten_tomatoes", 400), ("commonsense_qa", 200)])
def test_rows_that_are_the_same_render_the_same(dataset: str, count: int) -> None:
    """Row by row, as T0's rows are the first of the train split and so are ours."""
    data, templates = rows_of("annotated", f"{dataset}.jsonl.gz"), templates_of(dataset, dataset)
    seen = 0
    for name, wanted in published(dataset).items():
        for row in wanted:
            rendered = templates[name].render(data[row["row"]])
            answer = row["completion"].removesuffix("<|endoftext|>").strip()
            assert ("".join(part.value for part in rendered.parts), rendered.answer) == (row["prompt"].strip(), answer)
            seen += 1
    assert seen == count


def test_mrpc_is_equal_but_for_the_spaces_of_its_tokens() -> None:
    assert compared("glue_mrpc", "glue/mrpc", rows_of("annotated_nc", "mrpc.jsonl.gz"), without_spaces) == {
        "equal": 280
    }


def test_trec_asks_alike_in_the_order_of_its_older_choices_and_t0_has_no_answers() -> None:
    data = [
        {**row, "coarse_label": row["label-coarse"], "fine_label": 0} for row in rows_of("annotated", "trec.jsonl.gz")
    ]
    assert compared("trec", "trec", data, without_spaces, OLD_TREC) == {"prompt": 280}
    answers = {row["completion"] for wanted in published("trec").values() for row in wanted}
    assert {answer.removesuffix("<|endoftext|>").strip() for answer in answers} == {""}


def test_qqp_shares_one_row() -> None:
    assert compared("glue_qqp", "glue/qqp", rows_of("annotated_nc", "qqp.jsonl.gz"), exact) == {"equal": 6, "none": 234}


@pytest.mark.parametrize(
    ("prefix", "parts", "column", "count"),
    [
        ("ag_news", ("annotated_nc", "ag_news.jsonl.gz"), "text", 280),
        ("dbpedia_14", ("annotated", "dbpedia_14.jsonl.gz"), "content", 160),
        ("imdb", ("annotated", "imdb.jsonl.gz"), "text", 440),
        ("social_i_qa", ("annotated", "social_i_qa.jsonl.gz"), "context", 240),
    ],
)
def test_other_splits_have_no_row_in_common(prefix: str, parts: tuple[str, str], column: str, count: int) -> None:
    """Ours are of the test or validation split, or a sample; T0's are the first of train."""
    wanted = published(prefix)
    assert sum(map(len, wanted.values())) == count
    texts = {str(row[column]).strip()[:200] for row in rows_of(*parts)}
    one = next(rows for rows in wanted.values() if len(rows) > 1)
    assert not [text for row in one for text in texts if len(text) > 30 and text in row["prompt"]]
