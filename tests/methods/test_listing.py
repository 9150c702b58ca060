"""The table of methods: every one is there, with what it really trains."""

from __future__ import annotations

from pathlib import Path

from conftest import make_model
from typer.testing import CliRunner

from didact.cli import app
from didact.methods import METHODS, attached
from didact.methods.listing import listing
from didact.model import load


def test_every_method_has_its_line_with_what_it_trains(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "qwen3", "qwen3")
    lines = {line.name: line for line in listing(folder)}
    assert lines.keys() == METHODS.keys()
    for name, line in lines.items():
        if line.why:
            continue
        loaded = load(str(folder))
        config = METHODS[name].config(**({"add": True} if name == "bitfit" else {}))
        attached.attach(loaded, config)
        assert line.trained == sum(w.numel() for w in loaded.model.parameters() if w.requires_grad)
        assert METHODS[name].purpose in str(line)
        assert f"({METHODS[name].paper})" in str(line) or METHODS[name].paper == "-"
        assert METHODS[name].slower in str(line)
        assert ("merges" in str(line)) == (METHODS[name].merge is not None)
    assert lines["lomo"].gib < lines["full"].gib
    assert lines["qlora"].gib < lines["lora"].gib
    assert lines["full"].trained == lines["full"].parameters


def test_the_command_prints_it(tiny_llama: Path) -> None:
    told = CliRunner().invoke(app, ["methods", "--model", str(tiny_llama)])
    assert told.exit_code == 0, told.output
    names = [line.split()[0] for line in told.output.splitlines()[1:] if line.strip()]
    assert set(METHODS) <= set(names)
