"""Bad models and bad runs on the command line: one line, exit code 2, no model half-written, and nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from didact import cli
from didact.folder import read_lines
from didact.tuning import Metrics

ROWS = [{"instruction": f"Say {n}.", "input": "", "output": f"{n} and {n * 7 % 13}"} for n in range(40)]
RECIPE = """\
model: base
sources: [{type: file, path: rows.jsonl}]
build: {heldout_rows: 4}
method: {type: full}
tune: {max_steps: 3, batch_size: 4, learning_rate: 1e-3, precision: fp32, checkpoint_minutes: 0, max_length: 128}
"""
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.fixture
def home(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(tiny_llama, tmp_path / "base")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def didact(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["didact", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def unknown(base: Path) -> None:
    edit(base / "config.json", model_type="nosuch")


def head(base: Path) -> None:
    edit(base / "config.json", tie_word_embeddings=False)


def larger(base: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<|more|>"])
    tokenizer.save_pretrained(base)


def template(text: str) -> Callable[[Path], None]:
    return lambda base: (base / "chat_template.jinja").write_text(text) and None


def bos(base: Path) -> None:
    edit(base / "tokenizer_config.json", bos_token="<|endoftext|>")
    (base / "chat_template.jinja").write_text("{{ bos_token }}{{ bos_token }}" + CHATML)


# what is wrong with the model: what makes it so, and what the line says
MODELS: dict[str, tuple[Callable[[Path], None], str]] = {
    "unknown architecture": (
        unknown,
        'base/config.json:model_type: transformers VERSION does not know the architecture "nosuch" - ',
    ),
    "untied head that is not there": (head, "base: 1 weights are missing, the first is lm_head.weight - "),
    "tokenizer larger than the embedding": (
        larger,
        "base: the tokenizer has 260 tokens, but the embedding of the model only 259 rows - ",
    ),
    "no generation prompt": (
        template(CHATML.partition("{% if add_generation_prompt")[0]),
        "base: the chat template has no generation prompt: the model itself would have to write "
        "'<|im_start|>assistant\\n' before each answer - ",
    ),
    "no stop": (template(CHATML.replace("<|im_end|>", "")), "base: the chat template ends an assistant turn with "),
    "doubled BOS": (bos, "base: the chat template writes BOS twice - "),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_bad_model_is_one_line_and_leaves_none(
    case: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    harm, line = MODELS[case]
    harm(home / "base")
    assert didact(monkeypatch, "tune", "recipe.yaml", "--out", "out") == 2
    told = capsys.readouterr().err.strip().replace(f"{home}/", "")
    assert told.startswith(line.replace("VERSION", transformers.__version__))
    assert "\n" not in told
    assert not list(home.glob("out/*tuned*"))
    assert not (home / "out" / "metrics.jsonl").exists()


def test_rows_longer_than_the_positions_of_the_model_are_one_line_or_dropped_and_counted(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"instruction": "Say " + "x" * 600, "input": "", "output": "x"}
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, long, long]))
    sets = ["--set", "tune.max_length=4000", "--set", "build.heldout_rows=0"]
    assert didact(monkeypatch, "tune", "recipe.yaml", "-o", "out", *sets, "--set", "tune.truncation=refuse") == 2
    told = capsys.readouterr().err.strip()
    assert "rows.jsonl:41: " in told
    assert "longer than 512 tokens" in told
    assert "\n" not in told
    assert not (home / "out" / "tuned").exists()
    assert didact(monkeypatch, "tune", "recipe.yaml", "-o", "out", *sets) == 0
    assert "rows are longer than 512 tokens: 1 dropped, 1 answers with them" in " ".join(
        capsys.readouterr().out.split()
    )
    assert [drop["stage"] for drop in read_lines(home / "out" / "dropped.jsonl")][-1] == "tune"


def stopped_after(step: int) -> Callable[..., None]:
    """As if Ctrl-C came after a step."""
    add = Metrics.add

    def added(self: Metrics, told: Any) -> None:
        add(self, told)
        if told["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)

    return added


def test_a_damaged_checkpoint_is_named_and_one_of_another_recipe_left_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tuned(out: str) -> tuple[bytes, list[int]]:
        steps = [line["step"] for line in read_lines(home / out / "metrics.jsonl")]
        return (home / out / "tuned" / "model.safetensors").read_bytes(), steps

    other = ["--set", "tune.learning_rate=2e-3"]
    assert didact(monkeypatch, "tune", "recipe.yaml", "-o", "clean") == 0
    assert didact(monkeypatch, "tune", "recipe.yaml", "-o", "other", *other) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "add", stopped_after(2))
        assert didact(monkeypatch, "tune", "recipe.yaml", "-o", "out") == 130
    capsys.readouterr()
    assert didact(monkeypatch, "tune", "recipe.yaml", "-o", "out", *other) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "with its settings back it goes on from there" in told
    assert "goes on after" not in told
    assert tuned("out") == tuned("other") != tuned("clean")
    finished = {place.parent for place in (home / "out" / "checkpoints").glob("*/step-00000003")}
    places = (home / "out" / "checkpoints").glob("*/step-00000002/tensors.safetensors")
    (file,) = [file for file in places if file.parent.parent not in finished]
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    assert didact(monkeypatch, "tune", "recipe.yaml", "-o", "out") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "passed over a checkpoint: " in told
    assert "goes on after step 1 of 3" in told
    assert tuned("out") == tuned("clean")
    assert didact(monkeypatch, "tune", "recipe.yaml", "-o", "out", *other) == 0
    assert tuned("out") == tuned("other")
