"""Methods that are not for causal models alone, on masked and encoder-decoder models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_other_model
from test_kinds import EXACT, ROWS
from test_zoo import hashes

from didact.infer import Answerer
from didact.methods import METHODS, attached, places
from didact.model import load, load_tuned
from didact.tune import save, tune

SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 2, "dora": True},
    "qlora": {"rank": 2},
    "lomo": {},
    "adapter": {"size": 4},
    "ia3": {},
    "bitfit": {"add": True},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = make_other_model(tmp_path_factory.mktemp(kind) / kind, kind)
        return made[kind]

    return make


CASES = [
    pytest.param(name, kind, marks=() if (number + other) % 4 == 0 else (pytest.mark.slow,))
    for number, name in enumerate(SETTINGS)
    for other, kind in enumerate(["bert", "t5", "roberta", "bart"])
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_it_trains_what_it_says_and_survives_saving(
    name: str, kind: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    loaded, method, losses = load(str(folders(kind))), METHODS[name].config(**SETTINGS[name]), list[float]()
    fresh = load(str(folders(kind)))
    attached.attach(fresh, method)
    start, outline = hashes(fresh), attached.try_on(folders(kind), method)
    config = EXACT.model_copy(update={"learning_rate": 3e-1 if name == "lomo" else 1e-2, "epochs": 8.0})
    data = loaded.renderer.render_all(ROWS)
    result = tune(loaded, method, data, config, report=lambda step: losses.append(step.loss))
    end = hashes(loaded)
    trained = {places.base_name(n) for n, w in loaded.model.named_parameters() if w.requires_grad}
    assert result.trainable == outline[0]
    moved = {n for n in start if start[n] != end[n] and "lora_A" not in n}
    assert moved
    tied = {
        n for n in start if n.endswith(("embeddings.weight", "embed_tokens.weight", "decoder.weight", "decoder.bias"))
    }
    assert moved <= trained | (tied | {"lm_head.weight"} if name in ("lomo", "bitfit") else set())
    assert losses[-1] < losses[0]
    told = Answerer(loaded, max_new_tokens=4).answer(ROWS)
    losses_before = Answerer(loaded).answer_loss(ROWS)
    save(loaded, method, tmp_path / "tuned")
    again = load_tuned(tmp_path / "tuned")
    assert Answerer(again, max_new_tokens=4).answer(ROWS) == told
    assert Answerer(again).answer_loss(ROWS) == pytest.approx(losses_before, abs=1e-4)


@pytest.mark.parametrize("kind", ["bert", "t5", "bart"])
def test_bottlenecks_stand_behind_every_attention_and_feed_forward(kind: str, folders: Callable[[str], Path]) -> None:
    model = load(str(folders(kind))).model
    found, layers = [which for _, _, which in places.writers(model)], places.layers(model)
    inside = [[name for name, _ in layer.named_modules()] for _, layer in layers]
    crossed = sum(any(name.endswith(("EncDecAttention", "encoder_attn")) for name in names) for names in inside)
    assert (crossed > 0) == (kind != "bert")
    assert found.count("feed-forward") == len(layers) > 1
    assert found.count("attention") == len(layers) + crossed
    assert torch.is_tensor(next(iter(places.norms(model).values())))
