"""Large builds: the same bytes for any number of processes and after any kill, within bounded memory."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from didact.build import BuildConfig, build, shards
from didact.build.report import mixture_of, told
from didact.build.shards import Built, build_in
from didact.errors import UsageError
from didact.instance import Drop
from didact.sources import FileSource, Task, open_source
from didact.token_count import tokenizer_json

TOKENIZER = tokenizer_json("starter")
TEMPLATES = """templates:
  - {name: ask, instruction: "Is it good or bad?", input: "{{ text }}", answer: "{{ label }}",
     answer_choices: "bad ||| good"}
  - {name: tell, prompt: "{{ text }} Good or bad?", answer: "{{ label }}", answer_choices: "bad ||| good"}
  - {name: write, prompt: "Write something {{ label }}.", answer: "{{ text }}", inverted: true}
  - {name: only, prompt: "{{ text }}", answer: "{{ '' }}"}
"""


def rows(folder: Path, n: int) -> None:
    rng, words = random.Random(0), [f"word{i}" for i in range(500)]
    with gzip.open(folder / "rows.jsonl.gz", "wt", compresslevel=1) as file:
        for i in range(n):
            row = {"text": " ".join(rng.choices(words, k=30)), "label": ("bad", "good", "odd")[min(i % 41, 2)]}
            file.write(json.dumps(row if i % 37 else {**row, "label": ""}) + "\n")
    (folder / "templates.yaml").write_text(TEMPLATES)


def config(**more: Any) -> BuildConfig:
    few = {"share": 0.3, "shots": [1, 2], "max_tokens": 300}
    given = {"heldout_rows": 0.1, "options": {"share": 0.5}, "few_shot": few, "templates_per_row": 2}
    return BuildConfig(**{**given, **more})


def opener(folder: Path) -> Callable[[Callable[[Drop], None]], list[Task]]:
    source = FileSource(path="rows.jsonl.gz", templates="templates.yaml", use=["!only"], on_error="drop")
    return lambda drop: open_source(source, folder, drop)


def built(folder: Path, work: str, key: str = "k", tell: Any = lambda done, of, note: None, **more: Any) -> Built:
    return build_in(folder / work, key, opener(folder), config(**more), tell, TOKENIZER)


def content(made: Built) -> dict[str, bytes]:
    return {kind: b"".join(made.blocks(kind)) for kind in ("heldout", "train", "drops")}


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MANY", 0)
    monkeypatch.setattr(shards, "ITEMS", 60)


@pytest.mark.usefixtures("small_shards")
def test_any_number_of_processes_gives_the_same_bytes_as_none(tmp_path: Path) -> None:
    rows(tmp_path, 600)
    drops: list[Drop] = []
    plain = [i.to_json() for i in build(opener(tmp_path)(drops.append), config(), drops.append, TOKENIZER)]
    one, two, three = (built(tmp_path, str(n), workers=n) for n in (1, 2, 3))
    assert content(one) == content(two) == content(three)
    assert mixture_of(one) == mixture_of(two) == mixture_of(three)
    assert mixture_of(one)["examples"]["train"]["pruned"] > 10
    lines = content(one)["heldout"] + content(one)["train"]
    assert [json.loads(line) for line in lines.split(b"\n")[:-1]] == plain
    assert sum(mixture_of(one)["dropped"].values()) == len(drops) == content(one)["drops"].count(b"\n") > 0
    assert one.tallies["train"].lines == content(one)["train"].count(b"\n")


class Stop(Exception):
    pass


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_build_that_was_stopped_goes_on_with_its_finished_shards(tmp_path: Path, workers: int) -> None:
    rows(tmp_path, 600)
    whole = content(built(tmp_path, "whole", workers=1))

    def stop(done: int, of: int, note: str) -> None:
        if of and done > 300:
            raise Stop

    with pytest.raises(Stop):
        built(tmp_path, "cut", tell=stop, workers=workers)
    finished = {file.name: file.stat().st_ino for file in (tmp_path / "cut").glob("*-00*")}
    assert len(finished) >= 4
    first, *others = sorted(finished)
    (tmp_path / "cut" / first).write_bytes((tmp_path / "cut" / first).read_bytes()[:-1])  # as after a power cut
    again = built(tmp_path, "cut", workers=3 - workers)
    assert content(again) == whole
    now = {file.name: file.stat().st_ino for file in (tmp_path / "cut").glob("*-00*")}
    assert all(now[name] == finished[name] for name in others)
    assert len(now) > len(finished)
    other = built(tmp_path, "cut", key="other", workers=1, seed=5)
    assert content(other) != whole


@pytest.mark.usefixtures("small_shards")
def test_a_fault_in_another_process_is_told_as_here(tmp_path: Path) -> None:
    rows(tmp_path, 300)
    source = FileSource(path="rows.jsonl.gz", templates="templates.yaml", use=["ask"])

    def open_tasks(drop: Callable[[Drop], None]) -> list[Task]:
        (task,) = open_source(source, tmp_path, drop)
        broken = task.templates[0].with_labels({"label": {"good": "good", "bad": "bad"}})
        return [type(task)(**{**vars(task), "templates": (broken,)})]

    for workers in (1, 2):
        with pytest.raises(UsageError, match=r"^rows.jsonl.gz:\d+:label: the label '(odd)?' is outside the choices"):
            build_in(tmp_path / "work", str(workers), open_tasks, config(workers=workers), lambda *_: None, TOKENIZER)


def recipe(folder: Path, n: int) -> Path:
    rows(folder, n)
    path = folder / "recipe.yaml"
    path.write_text(
        "sources:\n  - {type: file, path: rows.jsonl.gz, templates: templates.yaml, use: ['!only'], on_error: drop}\n"
        "build: {heldout_rows: 0.1, options: {share: 0.5}, few_shot: {share: 0.2, shots: [2]}}\n"
    )
    return path


SMALL = "import sys; from didact.build import shards; shards.MANY, shards.ITEMS = 0, 40; "


def command(path: Path, out: str, workers: int, head: str = "import sys; ") -> list[str]:
    code = head + "from didact.cli import main; main()"
    return [sys.executable, "-c", code, "build", str(path), "--out", str(path.parent / out),
            "--set", f"build.workers={workers}"]  # fmt: skip


def outputs(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("built.jsonl", "heldout.jsonl", "dropped.jsonl", "mixture.json")]


def killed_again_and_again(folder: Path, rows: int, times: int) -> None:
    path, rng = recipe(folder, rows), random.Random(times)
    subprocess.run(command(path, "clean", 1, SMALL), check=True, capture_output=True)
    work, shard = folder / "killed" / "building", 0
    for turn in range(times):
        process = subprocess.Popen(command(path, "killed", 1 + turn % 2, SMALL), stdout=subprocess.DEVNULL)
        until, wanted = time.monotonic() + 120, rng.randrange(rows // 40 * 9 // 10)
        while time.monotonic() < until and process.poll() is None:
            shard = len(list(work.glob("*-00????")))
            if shard >= wanted and work.exists():
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert shard or times < 3, "no kill came while shards were made"
    subprocess.run(command(path, "killed", 2, SMALL), check=True, capture_output=True)
    assert outputs(folder / "killed") == outputs(folder / "clean")
    assert not work.exists()


def test_a_killed_build_ends_with_the_same_bytes(tmp_path: Path) -> None:
    killed_again_and_again(tmp_path, 800, 2)


@pytest.mark.slow
def test_a_build_killed_at_ten_moments_ends_with_the_same_bytes(tmp_path: Path) -> None:
    killed_again_and_again(tmp_path, 4000, 10)


def test_processes_import_no_tensor_library_and_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    path, poison = recipe(tmp_path, 4000), tmp_path / "poison"
    poison.mkdir()
    (poison / "torch.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w'); raise ImportError('torch')\n")
    environment = {**os.environ, "PYTHONPATH": f"{poison}:{os.environ.get('PYTHONPATH', '')}"}
    process = subprocess.Popen(command(path, "out", 2, SMALL), env=environment, stdout=subprocess.DEVNULL)
    children: set[int] = set()
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None and len(children) < 3:  # two, and Python's own tracker
        found = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        children |= set(map(int, found.read_text().split())) if found.exists() else set()
        time.sleep(0.01)
    if not Path("/proc").exists():
        pytest.skip("needs /proc to see the processes")
    process.kill()
    process.wait()
    assert len(children) >= 2
    while time.monotonic() < until and any(alive(child) for child in children):
        time.sleep(0.05)
    assert not any(alive(child) for child in children)
    assert not (tmp_path / "imported").exists()


def alive(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def peak(path: Path, workers: int) -> float:
    """MiB of the largest process of a build, measured in a process of its own."""
    run = ["-c", "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
           "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, *run, *command(path, f"out{workers}", workers)], check=True, capture_output=True, text=True
    )
    return int(done.stdout.split()[-1]) / (1024 if sys.platform != "darwin" else 2**20)


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """Rows of 230 characters: 60,000 of them held in memory as instances would be 300 MiB."""
    small, large = tmp_path / "small", tmp_path / "large"
    small.mkdir()
    large.mkdir()
    assert peak(recipe(large, 60_000), 2) - peak(recipe(small, 1000), 1) < 90
    assert (large / "out2" / "built.jsonl").read_bytes().count(b"\n") > 50_000


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_million_rows_are_built_within_500_mb(tmp_path: Path) -> None:
    assert peak(recipe(tmp_path, 1_000_000), 2) < 500
    assert (tmp_path / "out2" / "built.jsonl").read_bytes().count(b"\n") > 850_000


def test_what_a_build_tells(tmp_path: Path) -> None:
    rows(tmp_path, 300)
    source = FileSource(path="rows.jsonl.gz", templates="templates.yaml", on_error="drop", use=["ask", "only"])
    settings = BuildConfig(heldout_rows=0, heldout_templates=0)
    work = tmp_path / "work"
    made = build_in(work, "k", lambda drop: open_source(source, tmp_path, drop), settings, lambda *_: None)
    mixture = mixture_of(made)
    assert list(mixture["barren templates"]) == ["rows: only"]
    assert mixture["barren templates"]["rows: only"] > 100
    lines = list(told(mixture, cleaned=True))
    assert any(line.startswith("no instance from template rows: only (") for line in lines)
    assert mixture["tasks"]["rows"]["instances"] == made.tallies["train"].lines
    assert mixture["tasks"]["rows"]["rows"] == 300


def test_rows_whose_faults_show_while_they_are_read_are_dropped_once(tmp_path: Path) -> None:
    lines = [json.dumps({"q": f"What is {n}?", "a": str(n)}) for n in range(9)]
    (tmp_path / "r.jsonl").write_text("\n".join([*lines, '{"q": "\\escape"}']) + "\n")
    (tmp_path / "t.yaml").write_text("templates:\n  - {name: t, prompt: '{{ q }}', answer: '{{ a }}'}\n")
    source = FileSource(path="r.jsonl", templates="t.yaml", on_error="drop")
    made = build_in(
        tmp_path / "w", "k", lambda drop: open_source(source, tmp_path, drop), BuildConfig(heldout_rows=0),
        lambda *_: None,
    )  # fmt: skip
    drops = [json.loads(line) for line in b"".join(made.blocks("drops")).splitlines()]
    assert [(drop["origin"]["row"], drop["reason"]) for drop in drops] == [(10, "malformed JSON")]
    assert made.tallies["drops"].dropped == {"malformed JSON": 1}
    assert made.tallies["train"].lines == 9


def test_pruned_examples_and_questions_left_with_none_are_told(tmp_path: Path) -> None:
    rows(tmp_path, 300)
    wide, narrow = (
        mixture_of(built(tmp_path, str(n), few_shot={"share": 1, "shots": [2], "max_tokens": n}), "starter")
        for n in (100_000, 10)
    )
    assert wide["examples"]["train"]["pruned"] == 0 < wide["examples"]["train"]["shown"]
    n = narrow["examples"]["train"]["pruned"]
    assert n == wide["examples"]["train"]["shown"]
    none = narrow["examples"]["train"]["left with none"]  # those that ask for one and the same text have no example
    assert list(none) == ["no example fits into the token budget", "no other training row gives an example"]
    assert sum(none.values()) == narrow["tasks"]["rows"]["instances"]
    lines = list(told(narrow, cleaned=True))
    assert f"examples: 0 shown, {n:,} pruned to 10 tokens as starter counts them" in lines
    why = ", ".join(f"{n:,} ({reason})" for reason, n in none.items())
    assert f"questions drawn for examples and left without: {why}" in lines
    assert mixture_of(built(tmp_path, "none", few_shot={"share": 0}))["examples"] == {}


def test_leaks_are_counted(tmp_path: Path) -> None:
    text = "one two three four five six seven eight nine ten eleven twelve thirteen"
    with (tmp_path / "rows.jsonl").open("w") as file:
        for i in range(40):
            row = {
                "text": f"row {i} {text if i < 10 else i}",
                "label": "good",
                "_split": "heldout" if i < 4 else "train",
            }
            file.write(json.dumps(row) + "\n")
    (tmp_path / "dev.jsonl").write_text((tmp_path / "rows.jsonl").read_text().replace("heldout", "train"))
    (tmp_path / "templates.yaml").write_text(TEMPLATES)

    def open_tasks(drop: Callable[[Drop], None]) -> list[Task]:
        sources = [
            FileSource(path=name, templates="templates.yaml", use=["tell"]) for name in ("rows.jsonl", "dev.jsonl")
        ]
        return [task for source in sources for task in open_source(source, tmp_path, drop)]

    settings = BuildConfig(heldout_rows=0, heldout_templates=0)
    mixture = mixture_of(build_in(tmp_path / "work", "k", open_tasks, settings, lambda *_: None))
    assert mixture["leaks"] == {"same": {"dev": 4}, "shares 13 words": {"rows": 6, "dev": 10}}
    line = [line for line in told(mixture, cleaned=False) if line.startswith("leaks: 4 the same")]
    assert line
    assert line[0].endswith("nothing drops them: add {type: decontaminate} to curate")
    off = BuildConfig(heldout_rows=0, heldout_templates=0, leak_check=False)
    none = mixture_of(build_in(tmp_path / "off", "k", open_tasks, off, lambda *_: None))
    assert none["leaks"] == {"same": {}, "shares 13 words": {}}


@pytest.mark.usefixtures("small_shards")
def test_a_killed_process_is_told_and_costs_only_its_own_shard(tmp_path: Path) -> None:
    rows(tmp_path, 600)
    whole = content(built(tmp_path, "whole", workers=1))

    def kill(done: int, of: int, note: str) -> None:
        if of and done > 300:
            for process in multiprocessing.active_children():
                process.kill()

    with pytest.raises(UsageError, match=r"^build.workers: a process of the build was killed"):
        built(tmp_path, "cut", tell=kill, workers=2)
    assert not multiprocessing.active_children()
    assert len(list((tmp_path / "cut").glob("*-00????"))) >= 4
    assert content(built(tmp_path, "cut", workers=2)) == whole
