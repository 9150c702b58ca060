"""Vectors of texts: the mean of a model's last hidden states, whatever stands beside a text in its batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_model
from transformers import AutoModel, AutoTokenizer

from didact import embed as module
from didact.console import Console
from didact.embed import embed
from didact.errors import UsageError
from didact.run import Run, open_run

TEXTS = ["a longer text about boats on a river", "", "owls", "x" * 2000, "boats"]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_each_row_is_the_mean_of_its_own_tokens(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_model(tmp_path / kind, kind)
    monkeypatch.setattr(module, "BATCH", 3)
    vectors = embed(TEXTS, str(folder))
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = tokenizer(text)["input_ids"][:512]
        with torch.no_grad():
            alone = model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0) if ids else torch.zeros(32)
        assert np.allclose(vector, alone.numpy(), atol=1e-5)


def curated(home: Path, base: Path, embedding: str) -> Run:
    rows = [{"instruction": f"Count to {n}.", "input": "", "output": str(n)} for n in range(8)]
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (home / "recipe.yaml").write_text(
        f"name: x\nmodel: {base}\nsources: [{{type: file, path: rows.jsonl}}]\nbuild: {{heldout_rows: 0}}\n"
        f"curate: [{{type: diversity, keep: 3, embedding: {embedding}}}]\n"
    )
    with open_run(home / "recipe.yaml", home / "run", (), Console(quiet=True)) as run:
        run.upto("curate")
    return run


def test_a_recipe_names_the_model_and_another_one_chooses_anew(tmp_path: Path, tiny_llama: Path) -> None:
    make_model(tmp_path / "eye", seed=1)
    first = curated(tmp_path, tiny_llama, "eye").journal["stages"]["curate"]
    assert first["counts"] == {"kept": 3, "dropped": 5}
    make_model(tmp_path / "eye", seed=2)
    again = curated(tmp_path, tiny_llama, "eye").journal["stages"]["curate"]
    assert {k for k, v in first["inputs"].items() if again["inputs"][k] != v} == {"curate.0.embedding: content"}


def test_a_model_that_is_not_there_is_told_by_its_field(tmp_path: Path, tiny_llama: Path) -> None:
    with pytest.raises(UsageError, match="no model") as caught:
        curated(tmp_path, tiny_llama, "nowhere")
    assert caught.value.field == "curate.embedding"
    assert not (tmp_path / "run" / "kept.jsonl").exists()
