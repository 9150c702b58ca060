"""Whole runs of models that see, at toy size: from rows with and without pictures to a model that is asked again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from faulty_server import Say, Server, ok
from toys import SHAPES, make_seeing

from didact.console import Console
from didact.infer import Answerer
from didact.model import load, load_tuned
from didact.run import open_run
from didact.starter.picture_tasks import rows as scenes

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
PACKED = ("llava", "llava_onevision", "idefics3", "smolvlm")
AUDIT = "[{type: gain, few_shot: 1}, {type: sensitivity, items: 30}, {type: blind}, {type: forgetting, texts: 20}]"


def recipe(folder: Path, kind: str, only: str, build: str, audit: str = "[]", texts: bool = True) -> Path:
    make_seeing(folder / "model", kind)
    rows = [{"instruction": f"Say {n}.", "output": str(n)} for n in range(8)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mixed = "  - {type: file, path: texts.jsonl}\n" if texts else ""
    (folder / "recipe.yaml").write_text(
        f"name: seen\nmodel: model\nsources:\n  - {{type: picture_world, rows_per_task: 60, only: {only}}}\n{mixed}"
        f"build: {build}\ncurate: [{{type: heuristics}}]\n"
        "method: {type: lora, rank: 4, parts: [language, projector]}\n"
        f"tune: {{max_steps: 2, batch_size: 4, precision: fp32}}\naudit: {audit}\n"
    )
    return folder / "recipe.yaml"


def ran(file: Path, upto: str, *sets: str) -> list[dict[str, Any]]:
    with open_run(file, file.parent / "run", list(sets), Console()) as run:
        run.upto(upto)
    findings = file.parent / "run" / "audit" / "findings.json"
    return json.loads(findings.read_text()) if findings.exists() else []


@pytest.mark.parametrize("kind", SHAPES)
def test_a_run_of_each_shape(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = kind == "instructblip"  # one picture in each row
    tasks = "[colour]" if alone else "[colour, pictures]"
    file = recipe(tmp_path, kind, tasks, "{max_per_task: 10, heldout_rows: 4}", texts=not alone)
    ran(file, "tune")
    said = capsys.readouterr().out
    assert ("one sequence per row" in said) == (kind not in PACKED)
    with open_run(tmp_path / "run", None, [], Console()) as run:
        kept, asked = list(run.instances("kept.jsonl")), list(run.instances("heldout.jsonl"))
    assert {len(one.images) for one in kept} == ({1} if alone else {0, 1, 2})
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    base, tuned = (read(path, device="cpu") for read, path in (
        (load, str(tmp_path / "model")), (load_tuned, tmp_path / "run" / "tuned"),
    ))  # fmt: skip
    tower = [name for name in base.model.state_dict() if "vision" in name or "visual" in name]
    moved = [n for n, w in tuned.model.state_dict().items() if not torch.equal(w, base.model.state_dict()[n])]
    assert moved
    assert not set(moved) & {name for name in tower if "project" not in name and "merger" not in name}
    assert len(Answerer(tuned, max_new_tokens=4).answer(asked)) == len(asked)
    before, after = (Answerer(loaded).answer_loss(kept) for loaded in (base, tuned))
    assert all(math.isfinite(loss) for loss in after)
    assert before != after
    ran(file, "tune", "tune.learning_rate=1e-3")
    assert "tokens: from the cache" in capsys.readouterr().out


def test_the_audit_asks_about_pictures(tmp_path: Path) -> None:
    build = "{max_per_task: 12, heldout_rows: 0.7, heldout_templates: 2, heldout_tasks: ['*/kind']}"
    findings = ran(recipe(tmp_path, "llava", "[colour, there, kind]", build, AUDIT), "audit")
    assert not any("probe failed" in finding["verdict"] for finding in findings)
    levels = {f["details"]["level"]: f["n"] for f in findings if f["probe"] == "gain" and "level" in f["details"]}
    assert {"seen_template", "heldout_template", "heldout_task"} <= set(levels)
    ways = {f["details"]["way"]: f for f in findings if f["probe"] == "sensitivity" and "way" in f["details"]}
    assert set(ways) >= {"wordings", "layouts"}
    for finding in ways.values():
        assert finding["n"] >= 20
        assert set(finding["details"]["sensitivity"]) == {"base", "tuned"}
    looks, invents = (f for f in findings if f["probe"] == "blind")
    assert looks["n"] >= 60
    assert {"seen", "other", "none"} <= set(looks["details"])
    assert invents["details"]["category"] != "cannot be said"
    (lost,) = (f for f in findings if f["probe"] == "forgetting")
    assert lost["n"] == 20
    shown = [
        part for f in findings for example in f["examples"] for part in example.get("prompt", []) if "image" in part
    ]
    assert shown


def told(data: dict[str, Any], before: int) -> Say:
    """A teacher that is busy the first time it is asked."""
    asked = data["messages"][-1]["content"]
    if not before:
        return Say(429, headers=(("Retry-After", "0"),))
    if "one hard question" in asked:
        return ok("Question: Why does it stand there?\nAnswer: Nothing else was laid there.")
    if asked.endswith("Description:"):
        return ok("It is a small picture with a few things on white.")
    return ok("Question: What is in it?\nAnswer: A thing or two.\n\nQuestion: Is it large?\nAnswer: No, it is small.")


def test_what_a_teacher_writes_of_captions_is_trained_on_with_the_pictures(tmp_path: Path) -> None:
    file = recipe(tmp_path, "llava", "[colour]", "{max_per_task: 4, heldout_rows: 4}")
    rows = []
    for number, row in enumerate(scenes("caption", 6, 0)):
        (tmp_path / f"{number}.png").write_bytes(row.data["image"])
        rows.append({"image": f"{number}.png", "captions": [row.data["caption"]]})
    (tmp_path / "seen.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Server(told) as server:
        file.write_text(
            file.read_text()
            + "teachers: {writer: {type: endpoint, base_url: \"" + server.url + "\", model: m, backoff: 0.01}}\n"
            + "generate: [{type: llava, rows: seen.jsonl, turns: 2}]\n"
        )  # fmt: skip
        ran(file, "tune")
        calls = server.calls
        ran(file, "tune", "tune.learning_rate=1e-3")
        assert server.calls == calls  # nothing is paid again
    assert not any("data:image" in json.dumps(body) for body in server.bodies)  # it is told, and shown nothing
    with open_run(tmp_path / "run", None, [], Console()) as run:
        made = [one for one in run.instances("kept.jsonl") if "kind" in one.tags]
    assert {one.tags["kind"] for one in made} == {"conversation", "description", "reasoning"}
    assert {len(one.images) for one in made} == {1}
    talks = [one for one in made if one.tags["kind"] == "conversation"]
    assert len(talks) == 6
    tuned = load_tuned(tmp_path / "run" / "tuned", device="cpu")
    tokens = tuned.renderer.render_all(talks)
    assert [(len(row.turns), len(row.media)) for row in tokens] == [(2, 1)] * 6
    assert all(math.isfinite(loss) for loss in Answerer(tuned).answer_loss(talks))
