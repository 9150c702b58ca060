"""The certificate on the command line: made, asked for, and refused when it is of anything else."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from didact import certify, cli
from didact.certify import PROOFS, Proof

RECIPE = """\
name: small
model: {model}
sources: [{{type: file, path: rows.jsonl}}]
build: {{heldout_rows: 4}}
method: {{type: lora, rank: 4}}
tune: {{max_steps: 2, batch_size: 4, learning_rate: 1e-3, precision: fp32, max_length: 128}}
"""


@pytest.fixture
def home(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [{"instruction": f"Say {n}.", "output": f"{n} and {n * 3}"} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(model=tiny_llama))
    monkeypatch.chdir(tmp_path)
    for name in set(PROOFS) - {"masks", "isolation"}:  # all of them are proved in tests/certify
        monkeypatch.delitem(PROOFS, name)
    return tmp_path


def didact(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["didact", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_what_is_certified_is_tuned_and_nothing_else(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert didact(monkeypatch, "tune", "recipe.yaml", "--out", "out", "--certified") == 2
    assert "certificate.json: there is no certificate of this run - make one" in capsys.readouterr().err
    assert not (home / "out" / "tuned").exists()

    assert didact(monkeypatch, "certify", "recipe.yaml", "--out", "out") == 0
    told = capsys.readouterr().out
    assert "proved  masks" in told
    certificate = json.loads((home / "out" / "certificate.json").read_text())
    assert certificate["holds"] is True
    assert [proof["name"] for proof in certificate["proofs"]] == ["masks", "isolation"]
    assert {"model", "code", "code of the proofs", "kept.jsonl"} <= set(certificate["bound_to"])
    assert "| masks | proved | 0 | 0 |" in (home / "out" / "certificate.md").read_text()

    change = ["--set", "tune.clip=0.5"]
    assert didact(monkeypatch, "tune", "recipe.yaml", "--out", "out", "--certified", *change) == 2
    assert "the certificate is of another run: tune.clip has changed" in capsys.readouterr().err
    assert not (home / "out" / "tuned").exists()
    assert didact(monkeypatch, "tune", "recipe.yaml", "--out", "out", "--certified") == 0
    assert (home / "out" / "tuned" / "model.safetensors").exists()


def test_a_failed_proof_ends_with_2_and_stops_the_training(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(certify.PROOFS, "isolation", lambda subject: Proof(0.5, 0.0, False, "rows see each other"))
    assert didact(monkeypatch, "certify", "recipe.yaml", "--out", "out") == 2
    assert "1 of 2 proofs failed: isolation: rows see each other" in capsys.readouterr().err
    assert json.loads((home / "out" / "certificate.json").read_text())["holds"] is False
    assert didact(monkeypatch, "tune", "recipe.yaml", "--out", "out", "--certified") == 2
    assert "the certificate does not hold: isolation failed" in capsys.readouterr().err
    assert not (home / "out" / "tuned").exists()


def test_a_damaged_certificate_is_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert didact(monkeypatch, "certify", "recipe.yaml", "--out", "out") == 0
    path = home / "out" / "certificate.json"
    for damaged in (path.read_text()[:-9], "[]", "{}", '{"bound_to": {}, "proofs": [1]}'):
        path.write_text(damaged)
        assert didact(monkeypatch, "run", "recipe.yaml", "--out", "out", "--certified") == 2
