"""Methods with the rest of the system: bf16, activations computed again, ranking, the local teacher, certificates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_tune import EXACT, instances, rendered
from test_zoo import gradient

from didact import certify, forward
from didact.certify import Subject
from didact.infer import Answerer
from didact.llm import Request
from didact.methods import METHODS, attached
from didact.methods.virtual import begun
from didact.model import Loaded, load
from didact.prepare import activation_checkpointing
from didact.speak import speaker
from didact.tune import tune

SMALL: dict[str, dict[str, Any]] = {
    "lora": {"rank": 2, "dora": True},
    "qlora": {"rank": 2},
    "lomo": {},
    "adapter": {"size": 4},
    "ia3": {},
    "bitfit": {"add": True},
    "prompt": {"length": 3},
    "p_tuning": {"length": 3, "hidden": 8},
    "prefix": {"length": 3, "hidden": 8},
}


def with_method(folder: Path, name: str) -> Loaded:
    loaded = load(str(folder))
    torch.manual_seed(0)
    attached.attach(loaded, METHODS[name].config(**SMALL[name]))
    for weight in loaded.model.parameters():
        if weight.requires_grad and not bool(weight.any()):
            torch.nn.init.normal_(weight, std=0.05)
    return loaded


@pytest.mark.parametrize("name", SMALL)
def test_in_bf16_it_learns_like_in_fp32_and_leaves_fp32_weights(name: str, tiny_llama: Path) -> None:
    losses: dict[str, list[float]] = {}
    for precision in ("fp32", "bf16"):
        loaded, found = load(str(tiny_llama)), list[float]()
        config = EXACT.model_copy(update={"precision": precision, "epochs": 1.0, "learning_rate": 1e-2})
        tune(
            loaded,
            METHODS[name].config(**SMALL[name]),
            rendered(loaded),
            config,
            report=lambda step, found=found: found.append(step.loss),
        )
        losses[precision] = found
        assert all(weight.dtype == torch.float32 for weight in loaded.model.parameters())
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=2e-2)
    assert losses["bf16"] != losses["fp32"]


@pytest.mark.parametrize("name", SMALL)
def test_activations_computed_again_give_the_same_gradient(name: str, tiny_llama: Path) -> None:
    found = []
    for again in (False, True):
        loaded = with_method(tiny_llama, name)
        if again:
            activation_checkpointing(loaded.model, "enable", {"use_reentrant": False})
        loaded.model.train()
        data = begun(rendered(loaded), loaded.virtual)
        found.append(gradient(loaded, replace(forward.WAYS[1]), data))
    assert found[0].keys() == found[1].keys() != set()
    for name_, expected in found[0].items():
        assert torch.allclose(found[1][name_], expected, atol=1e-6 + 1e-4 * float(expected.abs().max())), name_


@pytest.mark.parametrize("name", ["prompt", "prefix", "adapter"])
def test_choices_are_ranked_and_teachers_speak_through_it(name: str, tiny_llama: Path) -> None:
    loaded = with_method(tiny_llama, name)
    asked = [replace(item, choices=("red", "blue and green", "a")) for item in instances(4)]
    answerer = Answerer(loaded, max_new_tokens=5)
    ranked = answerer.rank(asked)
    assert answerer._trees, "choices were not ranked together"
    alone = Answerer(loaded)
    alone._trees = False
    assert [value for row in alone.rank(asked) for value in row] == pytest.approx(
        [value for row in ranked for value in row], abs=1e-3
    )
    plain = Answerer(load(str(tiny_llama))).rank(asked)
    assert max(abs(a - b) for one, two in zip(ranked, plain, strict=True) for a, b in zip(one, two, strict=True)) > 1e-2
    requests = [Request((("user", message.text),), max_tokens=5) for item in asked for message in item.messages[:1]]
    spoken = [answer.text for answer in speaker(loaded)(requests)]
    assert spoken == [answer.text for answer in answerer.answer(asked)]


@pytest.mark.parametrize("name", ["prompt", "prefix", "qlora", "lomo"])
def test_its_training_is_certified(name: str, tiny_llama: Path) -> None:
    subject = Subject(lambda: load(str(tiny_llama)), METHODS[name].config(**SMALL[name]), EXACT, instances(12))
    failed = [f"{proof.name}: {proof.detail} ({proof.found})" for proof in certify.certify(subject) if not proof.holds]
    assert not failed
