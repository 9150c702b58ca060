"""The report: complete, self-contained, and unable to act on who reads it."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from planted import Fake, heldout, instance, near_only, subject, untuned

from didact.audit import Finding, ForgettingConfig, GainConfig, StopConfig, audit, findings_from_json, findings_to_json
from didact.audit.picture import axis, curve
from didact.audit.report import About, report_html, report_markdown, visible
from didact.audit.verdict import headline
from didact.instance import Instance, Message, Part

HOSTILE = "<script>alert(1)</script> \x1b[31mred\x1b[0m \u202eevil\u202c </pre></style>'\"&amp; {{ 7*7 }} `x` |a|\ud800"

VOID = {"meta", "line", "circle", "rect", "polyline", "br", "link", "img", "input"}


class Page(HTMLParser):
    """What a browser would make of the page: elements, attributes, text, and whether every element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, text: str) -> None:
        self.words.append(text)


@pytest.fixture(scope="module")
def findings() -> list[Finding]:
    """Three levels measured and one missing, read back from JSON as the report stage does."""
    items = [x for x in heldout(40) if x.tags["level"] != "heldout_task"]
    examined = subject(
        untuned(0.1, 0.1), Fake(near_only(0.6), 0.97, 2), heldout=items, retrain=lambda x: Fake(near_only(0), 0.9, 3)
    )
    found = audit([GainConfig(examples=1), StopConfig(), ForgettingConfig()], examined)
    return findings_from_json(findings_to_json(found))


def about(**changes: Any) -> About:
    metrics = [{"step": i, "loss": 3 / i + 0.5, "learning_rate": 1e-3} for i in range(1, 50)]
    given = {"facts": {"model": "tiny"}, "metrics": metrics, "kept": 90, "dropped": {"empty answer": 10}, **changes}
    return About("first-run", **given)


def test_the_page_holds_every_verdict_and_the_headline(findings: list[Finding]) -> None:
    text = " ".join(" ".join(Page(report_html(findings, about())).words).split())
    assert headline(findings) in text
    for finding in findings:
        assert finding.verdict.removeprefix(f"{finding.category.capitalize()}. ") in text
        assert finding.category in text
    assert "90 of 100 instances were kept" in text
    assert "empty answer" in text
    assert "What this page cannot tell" in text


def test_what_was_too_long_to_ask_is_said(findings: list[Finding]) -> None:
    told = [replace(f, details={**f.details, "left_out": 1234}) for f in findings]
    assert "1,234 held-out instances were longer than the model reads" in report_html(told, about())
    assert "longer than the model reads" not in report_html(findings, about())


def test_the_page_is_well_formed_and_needs_no_network(findings: list[Finding]) -> None:
    html = report_html(findings, about())
    page = Page(html)
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    linked = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("href", "src")]
    assert linked
    assert all(value is not None and value.startswith("#") for value in linked)
    assert not re.search(r"url\(|@import|https?:", html)


def test_every_point_of_a_picture_lies_inside_it(findings: list[Finding]) -> None:
    page = Page(report_html(findings, about()))
    places = [
        float(value[:-1])
        for tag, attributes in page.tags
        for name, value in attributes.items()
        if tag in ("line", "circle") and name in ("x1", "x2", "cx") and value and value.endswith("%")
    ]
    assert len(places) > 100
    assert all(0 <= place <= 100 for place in places)


def hostile_findings() -> list[Finding]:
    def spoil(x: Instance) -> Instance:
        messages = (Message("user", (Part(HOSTILE, "input"),)), Message("assistant", (Part(HOSTILE, "answer"),)))
        origin = type(x.origin)(HOSTILE, x.origin.row, task=HOSTILE, cluster=HOSTILE)
        row = Part(str(x.origin.row))
        return Instance.of((Message("system", (row,)), *messages), origin, tags={**x.tags, "template": HOSTILE})

    items = [spoil(instance("seen_template", "extract", "t", row)) for row in range(40)]
    found = audit([GainConfig()], subject(untuned(), Fake(near_only(0.6), 0.97, 2), heldout=items))
    return [*found, Finding("probe", HOSTILE, HOSTILE, details={"category": "failed"})]


def test_hostile_rows_are_shown_as_text() -> None:
    spoilt = about(facts={HOSTILE: HOSTILE}, dropped={HOSTILE: 3})
    html = report_html(findings_from_json(findings_to_json(hostile_findings())), spoilt)
    page = Page(html)
    assert page.open == []
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script>alert(1)</script>" in "".join(page.words)  # as text, entities undone
    assert "{{ 7*7 }}" in "".join(page.words)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", html)
    html.encode("utf-8")


def test_hostile_rows_cannot_break_the_markdown() -> None:
    text = report_markdown(hostile_findings(), about(facts={HOSTILE: HOSTILE}))
    assert "<script>" not in text.replace("\\<", "")
    assert "\x1b" not in text
    assert all(line.count("|") - line.count("\\|") in (0, 5, 8) for line in text.splitlines())


def test_markdown_has_the_verdicts_and_their_tables(findings: list[Finding]) -> None:
    text = report_markdown(findings, about())
    assert f"**{headline(findings)}**" in text
    assert "| new rows | task learning |" in text
    assert "| new tasks | cannot be said | – |" in text
    assert "| tuned on random labels |" in text
    assert "### Limits" in text


def test_scores_by_category_stand_beside_those_of_the_level(findings: list[Finding]) -> None:
    row = next(f for f in findings if f.details.get("level") == "seen_template").details["categories"][0]
    ends = f"[{100 * row['tuned']['low']:.1f}, {100 * row['tuned']['high']:.1f}]"
    markdown = report_markdown(findings, about())
    line = next(line for line in markdown.split("\n") if line.startswith("| extract | exact match | "))
    assert f" | {100 * row['tuned']['value']:.1f}% | {ends} | " in line
    assert line.endswith(" | 40 |")
    text = " ".join(" ".join(Page(report_html(findings, about())).words).split())
    assert "Score by category (3)" in text
    assert ends in text
    one = [replace(f, details={**f.details, "categories": []}) for f in findings]
    assert "category" not in report_markdown(one, about())
    assert "Score by category" not in report_html(one, about())


def test_nothing_at_all_still_makes_a_page() -> None:
    html = report_html([], About("empty"))
    assert Page(html).open == []
    assert "the gain probe was not run" in html
    assert report_markdown([], About("empty"))


def test_the_headline_names_every_level_once(findings: list[Finding]) -> None:
    assert headline(findings) == (
        "Task content was learnt, and it shows on new rows and new wordings; only the form of answers is shown to "
        "carry over to new clusters; nothing can be said of new tasks."
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc", "a\nb\tc"),
        ("\x1b[0m", "␛[0m"),
        ("\u202eabc", "<U+202E>abc"),
        ("\x9b", "<U+009B>"),
        ("\ud800", "\ufffd"),
        ("naïve 日本 👩‍🚀", "naïve 日本 👩‍🚀"),
        ("a\u00a0b", "a b"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_axis_has_round_ticks_around_the_values() -> None:
    scale = axis([-9.3, 64.0])
    assert scale.ticks == (-20, 0, 20, 40, 60, 80)
    assert (scale.at(-20), scale.at(80), scale.at(30), scale.at(500)) == (0, 100, 50, 100)
    assert [scale.label(tick) for tick in scale.ticks][:2] == ["−20", "0"]
    assert axis([0.055, 0.074]).label(0.02) == "0.02"
    assert len(axis([]).ticks) > 1
    assert 0 in axis([3.0]).ticks


def test_curve_skips_what_is_not_finite() -> None:
    steps: list[dict[str, Any]] = [{"step": i, "loss": 1.0} for i in range(10)]
    drawn = curve([*steps, {"step": 10, "loss": math.nan}, {"step": 11, "loss": None}, {"event": "saved"}])
    assert drawn is not None
    assert len(drawn.raw.split()) == 10
    assert drawn.first == drawn.last == pytest.approx(1.0)
    assert curve(steps[:1]) is None


def exhibit_finding() -> Finding:
    from didact.audit.exhibit import line, table, whiskers

    told = {"value": 0.5, "low": 0.3, "high": 0.7, "n": 9}
    pictures = [
        whiskers([(HOSTILE, HOSTILE, told), ("b", "", {**told, "value": None, "low": None})], "points", HOSTILE),
        whiskers([("c", "", told)], "percent"),
        whiskers([("d", "", told)], "bits per token"),
        line({"score": [(100, told), (200, {"value": 0.6})], "none": []}, "instances", "percent", "climbs"),
    ]
    tables = [table("Figures", ["", "a", HOSTILE], [[HOSTILE, 0.25, 1234], ["x", None, True]])]
    near = [
        {
            "id": "9",
            "prompt": HOSTILE,
            "answer": "a",
            "source": "f.jsonl",
            "row": 7,
            "task": "t",
            "via": "template:w",
            "teacher": "",
            "licence": "CC0",
            "parents": [],
        }
    ]
    side = {"text": "x", "stopped": True, "ranked_first": None, "score": 1.0, "right_form": True}
    example = {
        "rule": "r",
        "task": "t",
        "template": "",
        "source": "s",
        "row": 1,
        "prompt": [],
        "right": ["a"],
        "choices": [],
        "base": side,
        "tuned": side,
        "titles": {"base": "as it stood", "tuned": "blanked"},
        "near": near,
    }
    request = {"rule": "empty", "request": HOSTILE, "reply": "", "judged": ["breaks"]}
    details = {"category": "robust", "pictures": pictures, "tables": tables}
    return Finding("sensitivity", "Q?", "Robust. So it is.", 0.1, 0.0, 0.2, 0.3, 9, [example, request], details)


def test_pictures_tables_examples_and_lineage_of_any_probe_are_drawn() -> None:
    html = report_html(findings_from_json(findings_to_json([exhibit_finding()])), about())
    page = Page(html)
    text = " ".join(" ".join(page.words).split())
    assert page.open == []
    assert "script" not in {tag for tag, _ in page.tags}
    assert sum(attributes.get("class") == "whisker" for _, attributes in page.tags) == 3
    assert sum(tag == "polyline" for tag, _ in page.tags) == 2 + 2  # the training curve has two
    for told in (
        "climbs",
        "1,234",
        "0.250",
        "as it stood",
        "blanked",
        "f.jsonl:7",
        "licence CC0",
        "breaks",
        "(nothing)",
    ):
        assert told in text
    assert ("a", {"href": "#sensitivity-1"}) in page.tags
    assert any(attributes.get("id") == "sensitivity-1" for _, attributes in page.tags)
    markdown = report_markdown([exhibit_finding()], about())
    assert "| x | – | True |" in markdown
    assert "<script>" not in markdown.replace("\\<", "")


def test_examples_get_the_training_rows_nearest_to_them() -> None:
    from planted import trained

    from didact.audit.nearby import with_lineage

    rows = trained(30)
    found = audit([StopConfig()], subject(untuned(), untuned(form=0.3), trained=rows))
    own = rows[0]
    example = {"task": own.origin.task, "cluster": "c", "prompt": [{"role": "user", "slot": None, "text": own.prompt}]}
    one = Finding("p", "q", "v", examples=[example])
    with_lineage([one], rows)
    assert example["near"][0]["id"] == own.id
    assert found[0].examples
    assert all("near" in shown for shown in found[0].examples)


def test_a_ladder_is_drawn_within_its_picture() -> None:
    from didact.audit.exhibit import line
    from didact.audit.picture import ladder

    points = [(float(2**i), {"value": i / 10, "low": i / 10 - 0.05, "high": i / 10 + 0.05}) for i in range(1, 9)]
    drawn = ladder(line({"a": points, "b": []}, "n", "percent"))
    (_, path, dots), (_, empty, none) = drawn.series
    assert len(dots) == 8
    assert all(0 <= dot[key] <= 100 for dot in dots for key in ("x", "y", "low", "high"))
    assert [dot["y"] for dot in dots] == sorted((dot["y"] for dot in dots), reverse=True)
    assert (path.count(","), empty, none) == (8, "", ())
    assert ladder(line({}, "n", "nats")).series == ()
