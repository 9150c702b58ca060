"""Every proof holds for rows with pictures too."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys import make_picture, make_seeing

from didact.certify import Subject, certify
from didact.instance import Instance, Message, Origin, Part
from didact.methods.full import FullConfig
from didact.model import load
from didact.tune import TuneConfig

pytestmark = pytest.mark.filterwarnings("ignore")


# InstructBLIP's Q-Former computes in part in fp32, so that its gradients in fp64 agree to 1.4e-10, not to 1e-10
@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl", "paligemma"])
def test_every_proof_holds_with_pictures(kind: str, tmp_path: Path) -> None:
    folder = make_seeing(tmp_path / kind, kind)
    rows = []
    for n in range(8):
        picture = Part(str(make_picture(tmp_path / f"{n % 3}.png", n % 3)), "input", "image")
        asked = Message("user", (picture, Part(f"what is it {'now ' * (n % 3)}?", "instruction")))
        rows.append(Instance.of((asked, Message("assistant", (Part(f"red {n}"),))), Origin("rows.jsonl", n + 1)))
    config = TuneConfig(precision="fp32", max_length=128, batch_size=4, learning_rate=1e-3)
    proofs = certify(Subject(lambda: load(str(folder), device="cpu"), FullConfig(), config, rows), lambda proof: None)
    assert [(proof.name, proof.found, proof.detail) for proof in proofs if not proof.holds] == []
