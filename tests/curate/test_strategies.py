"""Filters: every verdict with its reason and the instance it resembles; template words are no contamination."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any, get_args

import pytest

from didact.curate import STRATEGIES, Context, Curate
from didact.errors import UsageError
from didact.instance import Instance, Message, Origin, Part, Verdict

LONG = "the quick brown fox jumps over the lazy dog near the old river bank at dawn"


def made(instruction: str, given: str = "", answer: str = "yes", via: str = "template:t", **more: Any) -> Instance:
    parts = (Part(instruction + "\n", "instruction"), *((Part(given, "input"),) if given else ()))
    messages = (Message("user", parts), Message("assistant", (Part(answer, "answer"),)))
    return Instance.of(messages, Origin("rows", 1, via), **more)


def judged(name: str, instances: list[Instance], context: Context = Context(), **settings: Any) -> list[Verdict]:  # noqa: B008
    config, function = STRATEGIES[name]
    return function(config(**settings), instances, context)


def test_the_table_names_each_config_by_its_type() -> None:
    assert {name: config().type for name, (config, _) in STRATEGIES.items()} == {name: name for name in STRATEGIES}  # type: ignore[attr-defined]
    assert {config for config, _ in STRATEGIES.values()} == set(get_args(get_args(Curate)[0]))


def test_heuristics_keep_the_first_of_equals_and_drop_what_teaches_nothing() -> None:
    first = made("Say", "a", "b")
    rows = [
        first,
        made("Say", "a", "c"),
        made("Say", "a", "b"),
        made("Say", "a", "  "),
        made("Say", "a", "<NoOutput>"),
        made(" ", "", "b"),
    ]
    verdicts = judged("heuristics", rows)
    assert [(verdict.keep, verdict.reason) for verdict in verdicts] == [
        (True, ""),
        (True, ""),
        (False, "exact duplicate"),
        (False, "the answer is empty"),
        (False, "the answer is a placeholder"),
        (False, "the question is empty"),
    ]
    assert verdicts[2].near == first.id
    assert all(verdict.keep for verdict in judged("heuristics", rows[:3], duplicates=False))


def test_thirteen_shared_words_are_contamination_and_twelve_are_not() -> None:
    words = LONG.split()
    heldout = [made("Is it?", "other " * 20), made("Is it?", LONG)]
    shares = made("Rate this:", " ".join(["So", *words[:13], "and"]).upper(), "no")
    spares = made("Rate this:", " ".join(["So", *words[:12], "and", *words[13:]]))
    verdicts = judged("decontaminate", [shares, spares], Context(heldout=heldout))
    assert [verdict.keep for verdict in verdicts] == [False, True]
    assert verdicts[0].reason == "shares 13 words in a row with a held-out instance"
    assert verdicts[0].near == heldout[1].id
    assert verdicts[0].score == pytest.approx(1 / 3)
    assert not judged("decontaminate", [spares], Context(heldout=heldout), n=12)[0].keep


def test_template_words_are_no_contamination_but_inputs_and_answers_are() -> None:
    heldout = [made(LONG, "cats purr", f"Because {LONG}")]
    assert judged("decontaminate", [made(LONG, "dogs bark", "no")], Context(heldout=heldout))[0].keep
    assert not judged("decontaminate", [made("Why?", "dogs bark", LONG)], Context(heldout=heldout))[0].keep
    # Where no template speaks, or without a part from a row, the whole question is what it asks about.
    assert not judged("decontaminate", [made(LONG, "dogs bark", "no", via="format:alpaca")], Context(heldout=heldout))[
        0
    ].keep
    assert not judged("decontaminate", [made(LONG)], Context(heldout=[made(LONG, answer="no")]))[0].keep


def test_n_grams_do_not_reach_across_parts() -> None:
    words = LONG.split()
    parts = (Part(" ".join(words[:7]), "input"), Part(" and ", "instruction"), Part(" ".join(words[7:]), "input"))
    apart = Instance.of((Message("user", parts), Message("assistant", (Part("x", "answer"),))), Origin("rows", 1))
    assert judged("decontaminate", [apart], Context(heldout=[made("Is it?", LONG)]))[0].keep


def test_short_equal_questions_and_answers_are_contamination() -> None:
    heldout = [made("Capital of?", "Peru", "Lima")]
    same, other_answer, other_question = (
        made("capital of", "Peru!", "lima."),
        made("Capital of?", "Peru", "Cuzco"),
        made("Say", "Peru", "Lima"),
    )
    verdicts = judged("decontaminate", [same, other_answer, other_question], Context(heldout=heldout))
    assert [verdict.keep for verdict in verdicts] == [False, True, True]
    assert (verdicts[0].reason, verdicts[0].near) == ("same as a held-out instance", heldout[0].id)


def test_scripts_without_blanks_are_counted_by_character() -> None:
    text = "北京是中华人民共和国的首都也是政治文化中心"
    assert not judged("decontaminate", [made("问", "今天" + text)], Context(heldout=[made("问", text)]))[0].keep


def test_what_is_nearly_a_held_out_text_is_contamination() -> None:
    """One word in every twelve is changed, so no thirteen in a row are shared."""
    words = [f"w{i}" for i in range(72)]
    copy = [f"x{i}" if i % 12 == 11 else word for i, word in enumerate(words)]
    heldout = [made("Is it?", "other " * 20), made("Is it?", " ".join(words))]
    near = made("Rate:", " ".join(copy), "no")
    similarity = (70 - 16) / (70 + 16)  # five changes take three 3-grams each, the one at the end one
    for least, kept in ((0.8, True), (0.6, False)):
        (verdict,) = judged("decontaminate", [near], Context(heldout=heldout), near=least)
        assert verdict.keep == kept
    assert verdict.reason == "nearly the same as a held-out instance"
    assert (verdict.near, verdict.score) == (heldout[1].id, pytest.approx(similarity))
    assert judged("decontaminate", [near], Context(heldout=heldout), near=0.6, shortest=73)[0].keep
    # Training instances that resemble one another are another filter's business.
    assert all(v.keep for v in judged("decontaminate", [near, near], Context(heldout=heldout[:1]), near=0.6))


def test_rows_of_benchmarks_are_kept_out_and_named() -> None:
    read: list[str] = []

    def benchmarks(file: str) -> list[tuple[int, tuple[str, ...]]]:
        read.append(file)
        return [(1, ("short", "other " * 20)), (7, ("A title", LONG))]

    rows = [made("Why?", LONG), made("Why?", "cats purr"), made(f"Say: {LONG}", via="format:alpaca")]
    verdicts = judged("decontaminate", rows, Context(benchmarks=benchmarks), benchmarks=["mt.jsonl"])
    assert [v.keep for v in verdicts] == [False, True, False]
    assert {(v.reason, v.near) for v in verdicts if not v.keep} == {
        ("shares 13 words in a row with mt.jsonl", "mt.jsonl:7")
    }
    assert read == ["mt.jsonl"]
    with pytest.raises(UsageError, match="take benchmarks out"):
        judged("decontaminate", rows, benchmarks=["mt.jsonl"])


def test_references_of_held_out_instances_count() -> None:
    heldout = [made("Describe", "a fox", "A fox.", references=(LONG,))]
    assert not judged("decontaminate", [made("Say", "it", LONG)], Context(heldout=heldout))[0].keep


def test_decontamination_takes_seconds_for_many() -> None:
    rng = random.Random(0)
    words = [f"w{i}" for i in range(5000)]
    rows = [made("Rate this review:", " ".join(rng.choices(words, k=40))) for _ in range(10_000)]
    start = time.process_time()
    verdicts = judged("decontaminate", rows[2000:], Context(heldout=rows[:2000]))
    assert all(verdict.keep for verdict in verdicts)
    assert time.process_time() - start < 10


@dataclass(frozen=True)
class FakeTokens:
    weights: list[float]


def test_length_drops_what_loses_its_end() -> None:
    rows = [made("a", answer="x" * n) for n in (1, 5, 6)]
    context = Context(tokens=lambda i: FakeTokens([0.0, 0.0] + [1.0] * len(i.answer)), max_length=7)
    verdicts = judged("length", rows, context)
    assert [(verdict.keep, verdict.score) for verdict in verdicts] == [(True, 3.0), (True, 7.0), (False, 8.0)]
    assert verdicts[2].reason == "the answer is cut at the longest sequence"
    with pytest.raises(UsageError, match=r"^length counts tokens, but there is no model to count with"):
        judged("length", rows)


def test_trailing_context_does_not_count_as_length() -> None:
    context = Context(tokens=lambda i: FakeTokens([0.0, 1.0, 1.0, 0.0, 0.0]), max_length=3)
    assert judged("length", [made("a")], context)[0].keep
