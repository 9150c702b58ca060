from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model

from didact import run as run_module
from didact.console import Console
from didact.errors import Interrupted, UsageError
from didact.folder import read_journal, read_lines, sha256
from didact.run import STAGES as ALL_STAGES
from didact.run import Run, open_run
from didact.stages import FAILED, WORK
from didact.tuning import Metrics

# Rows of a language that a two-layer model can begin to learn; duplicates are there to be dropped.
WORDS = ["one", "two", "three", "four", "five"]
ROWS = [
    *[{"instruction": f"Say {word}.", "input": "", "output": word} for word in WORDS * 2],
    *[{"instruction": f"Count to {n}.", "input": "", "output": " ".join(WORDS[: n % 5 + 1])} for n in range(60)],
]

# Runs the command with the power cut in the middle of one stage.
KILLED = """
import os, signal, sys
from didact import cli, run, tuning

def cut(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

where, sys.argv = sys.argv[1], sys.argv[1:]
write_lines, add = run.Folder.write_lines, tuning.Metrics.add

def write_then_cut(self, name, lines, keep=0):
    def some():
        for number, line in enumerate(lines):
            yield line
            if number == 1 or isinstance(line, bytes) or name.endswith((".html", ".json")):
                cut()
    return write_lines(self, name, some() if name == where else lines, keep)

def add_then_cut(self, step):
    add(self, step)
    if where == "step" and step["step"] == 5:
        cut()

run.Folder.write_lines, tuning.Metrics.add = write_then_cut, add_then_cut
if where == "tuned":
    run.Folder.move = cut
cli.main()
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """A run of a few seconds on rows of our own."""
    home = tmp_path_factory.mktemp("recipe")
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (home / "recipe.yaml").write_text(f"""\
name: small
model: {tiny_llama}
sources:
  - type: file
    path: rows.jsonl
method: {{type: lora, rank: 4}}
tune: {{epochs: 1, batch_size: 4, learning_rate: 1e-3, precision: fp32, checkpoint_minutes: 0, max_length: 128}}
audit: [{{type: stop}}]
""")
    return home / "recipe.yaml"


STAGES = tuple(stage for stage in ALL_STAGES if stage != "generate")  # the recipe asks for no generation
MADE = {
    "build": ("built.jsonl", "heldout.jsonl", "dropped.jsonl"),
    "curate": ("kept.jsonl",),
    "card": ("card/README.md", "card/card.html", "card/card.json", "card/kept.jsonl"),
    "tune": ("tuned/w", "metrics.jsonl"),
    "audit": ("audit/findings.json",),
    "report": ("audit/report.html",),
}


def quiet() -> Console:
    return Console(quiet=True)


def complete(recipe: Path, folder: Path, *overrides: str, last: str = "report") -> Run:
    with open_run(recipe, folder, overrides, quiet()) as run:
        run.upto(last)
    return run


@pytest.fixture(scope="module")
def done(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that went through; tests only look at it."""
    return complete(recipe, tmp_path_factory.mktemp("runs") / "done").path


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which stages really work, in order; the work of all is replaced by next to nothing."""
    worked: list[str] = []
    for stage in STAGES:

        def work(self: Run, stage: str = stage) -> tuple[dict[str, int], tuple[str, ...]]:
            worked.append(stage)
            names = MADE[stage]
            for name in names:
                (self.path / name).parent.mkdir(exist_ok=True)
                (self.path / name).write_text(f"{name} {self.recipe.name}\n")
            return {}, names

        monkeypatch.setitem(WORK, stage, work)
    return worked


def test_a_run_leaves_the_files_of_the_contract(done: Path) -> None:
    files = {str(file.relative_to(done)) for file in done.rglob("*") if file.is_file()}
    expected = {
        "recipe.yaml",
        "recipe.json",
        "built.jsonl",
        "heldout.jsonl",
        "kept.jsonl",
        "dropped.jsonl",
        "metrics.jsonl",
        "tuned/model.safetensors",
        "tuned/tokenizer.json",
        "tuned/chat_template.jinja",
        "tuned/generation_config.json",
        "audit/findings.json",
        "audit/report.html",
        "audit/report.md",
        "run.json",
        "lock",
    }
    assert expected <= files
    assert not any(file.startswith(".") for file in files)


def test_the_journal_says_what_made_what(done: Path, recipe: Path) -> None:
    journal = read_journal(done)
    assert set(journal) >= {"didact", "seed", "home", "versions", "stages"}
    assert list(journal["stages"]) == list(STAGES)
    for entry in journal["stages"].values():
        assert entry["state"] == "done"
        assert entry["seconds"] >= 0
        for name, made in entry["outputs"].items():
            if name != "dropped.jsonl" or entry is not journal["stages"]["build"]:
                assert made["sha256"] == sha256(done / name)
    assert (done / "recipe.yaml").read_text() == recipe.read_text()


def test_every_row_is_kept_held_out_or_dropped_with_a_reason(done: Path) -> None:
    kept, heldout = list(read_lines(done / "kept.jsonl")), list(read_lines(done / "heldout.jsonl"))
    dropped = list(read_lines(done / "dropped.jsonl"))
    assert {(i["origin"]["row"]) for i in kept + heldout + dropped} == set(range(1, len(ROWS) + 1))
    assert all(record["reason"] and record["stage"] in ("build", "curate") for record in dropped)
    assert any("duplicate" in record["reason"] for record in dropped)


def test_metrics_hold_each_step_once(done: Path) -> None:
    steps = [record["step"] for record in read_lines(done / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 5


def test_the_same_command_does_nothing_again(recipe: Path, ran: list[str], tmp_path: Path) -> None:
    complete(recipe, tmp_path / "a")
    assert ran == list(STAGES)
    complete(recipe, tmp_path / "a")
    assert ran == list(STAGES)


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("build.heldout_rows=7", "build"),
        ("curate=[{type: heuristics}]", "curate"),
        ("tune.learning_rate=0.5", "tune"),
        ("method.rank=3", "tune"),
        ("audit.0.items_per_level=77", "audit"),
    ],
)
def test_a_change_runs_its_stage_again_and_says_so(
    recipe: Path, ran: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, first: str
) -> None:
    change = override if not override.startswith("audit") else "audit=[{type: gain, items_per_level: 77}]"
    complete(recipe, tmp_path / "a")
    ran.clear()
    with open_run(recipe, tmp_path / "a", [change], Console()) as run:
        run.upto("report")
    assert ran == [first]  # what comes after is made of equal files, so it is reused
    told = capsys.readouterr().out
    assert f"{first:<9}runs again: " in told
    assert override.partition("=")[0].partition(".0")[0] in told


def test_changed_results_run_what_is_made_of_them_again(recipe: Path, ran: list[str], tmp_path: Path) -> None:
    complete(recipe, tmp_path / "a")
    ran.clear()
    complete(recipe, tmp_path / "a", "name=other", "tune.learning_rate=0.5")
    assert ran == ["card", "tune", "audit", "report"]


@pytest.mark.parametrize(
    ("name", "stages"),
    [("built.jsonl", ["build"]), ("kept.jsonl", ["curate"]), ("tuned/w", ["tune"]), ("audit/findings.json", ["audit"])],
)
def test_a_damaged_or_missing_output_is_made_again(
    recipe: Path, ran: list[str], tmp_path: Path, name: str, stages: list[str]
) -> None:
    for damage in (lambda path: path.write_text("x"), lambda path: path.unlink()):
        complete(recipe, tmp_path / "a")
        ran.clear()
        damage(tmp_path / "a" / name)
        complete(recipe, tmp_path / "a")
        assert ran[:1] == stages


def test_an_audit_with_a_failed_probe_is_asked_again(
    recipe: Path, ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = WORK["audit"]
    monkeypatch.setitem(WORK, "audit", lambda run: ({FAILED: 1}, audit(run)[1]))
    complete(recipe, tmp_path / "a")
    ran.clear()
    monkeypatch.setitem(WORK, "audit", audit)
    complete(recipe, tmp_path / "a")
    assert ran == ["audit"]
    ran.clear()
    complete(recipe, tmp_path / "a")
    assert ran == []


def test_a_chat_with_another_base_than_the_tuned_one_is_refused(done: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    shutil.copytree(done, folder)
    other = make_model(tmp_path / "other", seed=1)
    recipe = json.loads((folder / "recipe.json").read_text())
    (folder / "recipe.json").write_text(json.dumps(recipe | {"model": str(other)}))
    with pytest.raises(UsageError, match="does not come from"):
        open_run(folder, None, (), quiet()).voices()
    assert set(open_run(done, None, (), quiet()).voices()) == {"base", "tuned"}


def test_changed_rows_are_seen(ran: list[str], recipe: Path, tmp_path: Path) -> None:
    own = tmp_path / "home"
    own.mkdir()
    (own / "rows.jsonl").write_text((recipe.parent / "rows.jsonl").read_text())
    (own / "recipe.yaml").write_text(recipe.read_text())
    complete(own / "recipe.yaml", tmp_path / "a")
    ran.clear()
    with (own / "rows.jsonl").open("a") as file:
        file.write(json.dumps(ROWS[0]) + "\n")
    complete(own / "recipe.yaml", tmp_path / "a")
    assert ran == ["build"]


def test_changed_code_is_seen(ran: list[str], recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete(recipe, tmp_path / "a")
    ran.clear()
    code = run_module.fingerprint.code
    monkeypatch.setattr(run_module.fingerprint, "code", lambda stage: code(stage) + ("x" if stage == "curate" else ""))
    complete(recipe, tmp_path / "a")
    assert ran == ["curate"]


def test_examples_are_counted_by_the_model_of_the_recipe_or_by_a_tokenizer_it_names(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"q": f"What is {i}?", "a": WORDS[i % 5]}) + "\n" for i in range(40))
    (tmp_path / "rows.jsonl").write_text(rows)
    (tmp_path / "templates.yaml").write_text('templates:\n  - {name: ask, prompt: "{{ q }}", answer: "{{ a }}"}\n')
    few = "few_shot: {share: 1.0, shots: [2], layouts: [plain], max_tokens: 40}"
    text = f"name: few\nsources: [{{type: file, path: rows.jsonl, templates: templates.yaml}}]\nbuild: {{{few}}}\n"
    (tmp_path / "few.yaml").write_text(text)
    make_model(tmp_path / "bytes")

    def built(*overrides: str) -> dict[str, Any]:
        complete(tmp_path / "few.yaml", tmp_path / "few", *overrides, last="build")
        found: dict[str, Any] = json.loads((tmp_path / "few" / "mixture.json").read_text())["examples"]
        return found

    by_starter, by_model = built(), built("model=bytes")
    assert (by_starter["tokenizer"], by_model["tokenizer"]) == ("starter", "bytes")
    assert by_starter["train"]["pruned"] < by_model["train"]["pruned"]
    assert built("build.few_shot.tokenizer=bytes") == by_model
    (tmp_path / "bytes" / "tokenizer.json").write_text(json.dumps({"no": "tokenizer"}))
    with pytest.raises(UsageError, match="not a tokenizer"):
        built("build.few_shot.tokenizer=bytes")
    assert json.loads((tmp_path / "few" / "mixture.json").read_text())["examples"] == by_model
    built("build.few_shot.share=0")  # nothing is counted, so nothing is looked for


def test_a_stage_runs_those_before_it_and_no_other(ran: list[str], recipe: Path, tmp_path: Path) -> None:
    complete(recipe, tmp_path / "a", last="curate")
    assert ran == ["build", "curate"]


def test_a_run_goes_on_from_its_folder_alone(ran: list[str], recipe: Path, tmp_path: Path) -> None:
    complete(recipe, tmp_path / "a", "name=given", last="tune")
    run = complete(tmp_path / "a", None)  # type: ignore[arg-type]
    assert ran == list(STAGES)
    assert run.recipe.name == "given"
    assert (tmp_path / "a" / "recipe.yaml").read_text() == recipe.read_text()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not the folder of a run"):
        open_run(tmp_path, None, [], quiet())


def test_overrides_of_a_run_reach_what_they_name_or_are_refused(recipe: Path, tmp_path: Path) -> None:
    complete(recipe, tmp_path / "a", "build.preset=flan2021", "tune.seed=4", last="build")
    changed = open_run(tmp_path / "a", None, ["seed=9", "build.options.share=0.25"], quiet()).recipe
    assert (changed.seed, changed.build.seed, changed.tune.seed) == (9, 9, 4)
    assert (changed.build.options.share, changed.build.max_per_task) == (0.25, 30000)
    assert open_run(tmp_path / "a", None, ["seed=9", "build.seed=3"], quiet()).recipe.build.seed == 3
    with pytest.raises(UsageError, match=r"^--set:build.preset: .* leaves nothing open - give the recipe"):
        open_run(tmp_path / "a", None, ["build.preset=t0"], quiet())


def killed_at(where: str, recipe: Path, folder: Path) -> None:
    # sums are grouped by thread: as many of them as here
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", KILLED, where, "run", str(recipe), "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_killed_at_every_stage_the_same_command_completes_the_same_run(
    recipe: Path, tmp_path: Path, done: Path
) -> None:
    folder = tmp_path / "killed"
    places = ["built.jsonl", "kept.jsonl", "step", "tuned", "audit/findings.json", "audit/report.html"]
    for number, where in enumerate(places):
        killed_at(where, recipe, folder)
        stages = read_journal(folder)["stages"]
        assert [entry["state"] for entry in stages.values()][-1] == "started", f"kill {number} came too late"
        if "/" not in where and where.endswith(".jsonl"):
            assert not (folder / where).exists()
    complete(recipe, folder)
    for name in ("built.jsonl", "heldout.jsonl", "kept.jsonl", "dropped.jsonl", "tuned/model.safetensors"):
        assert sha256(folder / name) == sha256(done / name), name
    same = [[(record["step"], record["loss"]) for record in read_lines(f / "metrics.jsonl")] for f in (folder, done)]
    assert same[0] == same[1]
    assert not (folder / ".staging").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(
    recipe: Path, tmp_path: Path, number: signal.Signals, code: int, done: Path
) -> None:
    folder = tmp_path / "stopped"
    longer = ["--set", "tune.epochs=200"]
    command = [sys.executable, "-m", "didact", "run", str(recipe), "--out", str(folder), *longer]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (folder / "metrics.jsonl").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code, told
    assert told.count("\n") == 1
    assert "repeat the command to go on" in told
    last = [record["step"] for record in read_lines(folder / "metrics.jsonl")][-1]
    assert list((folder / "checkpoints").glob(f"*/step-{last:08d}/manifest.json"))


def test_a_signal_outside_the_loop_ends_the_stage(recipe: Path, tmp_path: Path, ran: list[str]) -> None:
    def work(self: Run) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        raise AssertionError("the signal did not end the work")

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(WORK, "curate", work)
        with pytest.raises(Interrupted) as caught:
            complete(recipe, tmp_path / "a")
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    complete(recipe, tmp_path / "a")
    assert ran == list(STAGES)


def test_a_full_disk_is_one_line(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever file it is that no longer fits, and the same command goes on when there is room again."""
    sync = os.fsync
    for allowed in (3, 6, 9):
        left = allowed

        def full(handle: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(28, os.strerror(28))
            sync(handle)

        folder = tmp_path / f"after-{allowed}"
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(UsageError, match="the disk is full"):
                complete(recipe, folder, last="curate")
        complete(recipe, folder, last="build")
        assert len(list(read_lines(folder / "built.jsonl"))) > 10


def test_a_full_disk_told_by_a_library_is_one_line(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(self: Run) -> Any:
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    monkeypatch.setitem(WORK, "build", work)
    with pytest.raises(UsageError, match="the disk is full"):
        complete(recipe, tmp_path / "a")


def test_rows_without_answers_leave_nothing_to_learn_from(tmp_path: Path, tiny_llama: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"instruction": "Say it.", "output": ""}\n' * 3)
    text = f"model: {tiny_llama}\nsources: [{{type: file, path: rows.jsonl}}]\n"
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        complete(tmp_path / "recipe.yaml", tmp_path / "a")
    assert not (tmp_path / "a" / "built.jsonl").exists()
    assert "empty" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a" / "kept.jsonl").exists()


def test_filters_that_leave_nothing_are_told_with_the_commonest_reason(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"curate: all \d+ instances were dropped - most often \(\d+\): the answer is cut"
    ):
        complete(recipe, tmp_path / "a", "tune.max_length=2", last="curate")
    assert not (tmp_path / "a" / "kept.jsonl").exists()


def test_metrics_take_a_step_once_however_often_it_is_told(tmp_path: Path) -> None:
    with run_module.Folder(tmp_path) as folder:
        for steps in ([1, 2, 3], [3, 4], [2]):
            metrics = Metrics(folder)
            for step in steps:
                metrics.add({"step": step, "from": steps[0]})
            metrics.close()
            with (tmp_path / "metrics.jsonl").open("a") as file:
                file.write('{"step": 9, "fr')  # a line cut off by a kill
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [(record["step"], record["from"]) for record in map(json.loads, lines[:-1])] == [(1, 1), (2, 2)]


@pytest.fixture(autouse=True)
def signals_are_as_before() -> Iterator[None]:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_end_that_nobody_asked_for_says_what_it_is(recipe: Path, tmp_path: Path) -> None:
    run = open_run(recipe, tmp_path / "a", [], quiet())
    with pytest.raises(Interrupted, match="the rows are prepared") as caught, run.patience():
        raise Interrupted("the rows are prepared", 0)
    assert caught.value.code == 0
    run.stop = 15
    with pytest.raises(Interrupted, match="repeat the command to go on") as caught, run.patience():
        raise Interrupted("stopped after step 3")
    assert caught.value.code == 143
