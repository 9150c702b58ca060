from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from didact.recipe import load_recipe

COMMANDS = [
    "init",
    "show",
    "convert",
    "build",
    "generate",
    "curate",
    "card",
    "certify",
    "tune",
    "audit",
    "report",
    "run",
    "compare",
    "reproduce",
    "chat",
    "methods",
    "join",
    "doctor",
    "starter",
]
ALPACA = [{"instruction": f"Say {word}.", "input": "", "output": word} for word in ("one", "two", "three", "four")]


def didact(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, with nobody watching."""
    command = [sys.executable, "-m", "didact", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment})


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


@pytest.fixture
def home(tmp_path: Path, tiny_llama: Path) -> Path:
    """A folder with rows and a recipe for a tiny model."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ALPACA * 3))
    (tmp_path / "recipe.yaml").write_text(
        f"name: small\nmodel: {tiny_llama}\nsources:\n  - {{type: file, path: rows.jsonl}}\n"
    )
    return tmp_path


def test_help_is_quick_and_names_what_works() -> None:
    seconds = []  # of the processor: other programs may want the cores while tests run
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = didact("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.returncode == 0
    assert min(seconds) < 0.6  # 0.2 s here
    commands = re.findall(r"^│ (\w+) ", done.stdout, re.MULTILINE)
    assert commands == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str) -> None:
    done = didact(command, "--help")
    assert done.returncode == 0
    assert f"didact {command}" in done.stdout


def test_a_misspelt_key_is_one_line(home: Path) -> None:
    with (home / "recipe.yaml").open("a") as file:
        file.write("tune:\n  learning_rte: 1\n")
    line = refused(didact("run", "recipe.yaml", "--out", "out", cwd=home))
    assert line == 'recipe.yaml:6:tune.learning_rte: unknown key "learning_rte" - did you mean "learning_rate"?'
    assert not (home / "out").exists()


def test_a_wrong_option_is_one_line(home: Path) -> None:
    assert "--ouut" in refused(didact("run", "recipe.yaml", "--ouut", "x", cwd=home))
    assert "'target' - see didact run --help" in refused(didact("run", cwd=home))
    assert "frobnicate" in refused(didact("frobnicate", cwd=home))


def test_a_missing_recipe_is_one_line(home: Path) -> None:
    assert refused(didact("run", "none.yaml", cwd=home)).startswith("none.yaml: no such recipe")


def test_a_malformed_row_is_one_line_and_leaves_no_instances(home: Path) -> None:
    with (home / "rows.jsonl").open("a") as file:
        file.write('{"instruction": "Say\n')
    line = refused(didact("build", "recipe.yaml", "--out", "out", cwd=home))
    assert "rows.jsonl:13" in line
    assert not (home / "out" / "built.jsonl").exists()


def test_a_model_that_is_not_there_is_one_line(home: Path) -> None:
    line = refused(didact("tune", "recipe.yaml", "--out", "out", "--set", "model=./nowhere", cwd=home))
    assert "nowhere" in line


def test_build_writes_instances_and_says_how_many(home: Path) -> None:
    done = didact("build", "recipe.yaml", "--out", "out", cwd=home)
    assert done.returncode == 0, done.stderr
    assert (home / "out" / "built.jsonl").exists()
    assert not (home / "out" / "kept.jsonl").exists()
    assert "instances" in done.stdout
    assert "\x1b" not in done.stdout  # nobody is watching: no colour, no bars
    again = didact("build", "out", cwd=home)
    assert "reused" in again.stdout


def test_the_folder_is_named_after_the_run(home: Path) -> None:
    assert didact("build", "recipe.yaml", "--set", "name=other", cwd=home).returncode == 0
    assert (home / "runs" / "other" / "built.jsonl").exists()


def test_show_prints_row_instance_and_tokens(home: Path, tiny_llama: Path) -> None:
    done = didact("show", "recipe.yaml", "--row", "3", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "rows.jsonl:3" in done.stdout
    assert "assistant: three" in done.stdout
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(tiny_llama)("three")["input_ids"]
    learnt = [int(number) for number in re.findall(r"\+\S+·(\d+)", done.stdout)]
    assert learnt == ids
    assert len(re.findall(r"#<\|im_end\|>·\d+", done.stdout)) == 1
    assert f"{len(ids) + 1} of them learnt" in done.stdout


def test_show_colours_tokens_where_colours_are_wanted(home: Path) -> None:
    coloured = didact("show", "recipe.yaml", cwd=home, FORCE_COLOR="1", TERM="xterm-256color").stdout
    assert "\x1b[32m+" in coloured  # what is learnt is green
    plain = didact("show", "recipe.yaml", cwd=home, FORCE_COLOR="1", TERM="xterm-256color", NO_COLOR="1").stdout
    assert "\x1b[32m" not in plain


def test_show_of_a_row_that_is_not_there_is_one_line(home: Path) -> None:
    assert "there is no row 13" in refused(didact("show", "recipe.yaml", "--row", "13", cwd=home))
    assert "there is no row 0" in refused(didact("show", "recipe.yaml", "--row", "0", cwd=home))


def test_init_writes_a_recipe_that_is_valid(tmp_path: Path) -> None:
    assert didact("init", cwd=tmp_path).returncode == 0
    recipe, text = load_recipe(tmp_path / "recipe.yaml")
    assert recipe.model == "starter"
    assert "#" in text
    assert "@" not in text
    assert "already" in refused(didact("init", cwd=tmp_path))


def test_init_shows_how_it_reads_your_data(home: Path) -> None:
    done = didact("init", "mine.yaml", "--data", "rows.jsonl", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "alpaca" in done.stdout
    assert [word in done.stdout for word in ("one", "two", "three", "four")] == [True, True, True, False]
    recipe, _ = load_recipe(home / "mine.yaml")
    assert recipe.sources[0].model_dump()["path"] == "rows.jsonl"


def test_init_prints_the_schema(tmp_path: Path) -> None:
    schema = json.loads(didact("init", "--schema", cwd=tmp_path).stdout)
    assert schema["properties"]["tune"]
    assert schema["additionalProperties"] is False
    assert not list(tmp_path.iterdir())


def test_doctor_prints_versions() -> None:
    done = didact("doctor")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^ok +torch +\d", done.stdout, re.MULTILINE)


def test_the_end_of_a_run_says_what_was_learned(home: Path) -> None:
    more = ["--set", "audit=[{type: stop}]", "--set", "build.heldout_rows=0.5"]
    done = didact("run", "recipe.yaml", "--out", "out", "--set", "tune.max_steps=2", *more, cwd=home)
    assert done.returncode == 0, done.stderr
    finding = json.loads((home / "out" / "audit" / "findings.json").read_text())[0]
    assert finding["question"] in done.stdout
    assert finding["verdict"] in done.stdout
    assert str(home / "out" / "audit" / "report.html") in done.stdout
    assert done.stderr == ""
    done = didact("audit", "out", "--set", "audit=[{type: calibration}]", cwd=home)
    assert "Report  didact report out\n" in done.stdout, "the page that is there tells of the audit before"


def test_data_is_shown_and_converted(home: Path) -> None:
    done = didact("show", "rows.jsonl", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "rows.jsonl is read as alpaca: instruction -> instruction" in done.stdout
    assert "12 rows, 12 instances, 0 rows dropped" in done.stdout
    done = didact("convert", "rows.jsonl", "out.jsonl.gz", "--to", "messages", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "12 rows read, 12 written to out.jsonl.gz as messages" in done.stdout
    assert "there is a file already" in refused(
        didact("convert", "rows.jsonl", "out.jsonl.gz", "--to", "text", cwd=home)
    )
    assert "no such file or folder" in refused(didact("convert", "nothing.jsonl", "o.jsonl", "--to", "text", cwd=home))


def test_the_lineage_of_an_instance_of_a_run(home: Path) -> None:
    assert didact("build", "recipe.yaml", "--out", "out", cwd=home).returncode == 0
    record = json.loads((home / "out" / "built.jsonl").read_text("utf-8").split("\n")[0])
    done = didact("show", "out", "--id", record["id"][:10], cwd=home)
    assert done.returncode == 0, done.stderr
    assert f"instance {record['id']}\n  row rows.jsonl:{record['origin']['row']}, task rows" in done.stdout
    assert "  made by format:alpaca, train\n  in built.jsonl\n" in done.stdout
    assert 'no instance of this run is called "zz"' in refused(didact("show", "out", "--id", "zz", cwd=home))
