"""Each proof holds for what is right, and fails when what it guards is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model

from didact import checkpoint
from didact import model as models
from didact.certify import PROOFS, Proof, Subject, certify, gradients, to_json
from didact.forward import Forward
from didact.instance import Instance, Message, Origin, Part
from didact.methods import METHODS
from didact.methods.full import FullConfig
from didact.methods.lora import LoraConfig
from didact.model import load
from didact.pack import Span
from didact.render import Renderer
from didact.tune import TuneConfig

CONFIG = TuneConfig(precision="fp32", max_length=128, batch_size=4, learning_rate=1e-3)


def rows(n: int = 16) -> list[Instance]:
    words = ["red", "blue and green", "a", "violet"]
    said = [words[i % 4] for i in range(n)]
    turns = [(f"Say {w} {'please ' * (i % 3)}", w, "Again?", f"{w} {i}") for i, w in enumerate(said)]
    roles: list[Any] = ["user", "assistant", "user", "assistant"]
    made = [tuple(Message(r, (Part(t),)) for r, t in zip(roles, turn, strict=True)) for turn in turns]
    return [Instance.of(messages, Origin("data.jsonl", i + 1)) for i, messages in enumerate(made)]


@pytest.fixture
def subject(tiny_llama: Path) -> Subject:
    return Subject(lambda: load(str(tiny_llama)), FullConfig(), CONFIG, rows())


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("method", [FullConfig(), LoraConfig(rank=4, dropout=0.1)], ids=["full", "lora"])
def test_everything_holds(kind: str, method: Any, tmp_path: Path) -> None:
    folder = make_model(tmp_path / kind, kind)
    told: list[Proof] = []
    proofs = certify(Subject(lambda: load(str(folder)), method, CONFIG, rows()), told.append)
    assert [(proof.name, proof.detail) for proof in proofs if not proof.holds] == []
    assert [proof.name for proof in told] == list(PROOFS)
    assert all(proof.found <= proof.tolerance and proof.claim and proof.detail for proof in proofs)
    by_name = {proof.name: proof for proof in proofs}
    assert by_name["packing"].tolerance == by_name["accumulation"].tolerance == 1e-10
    assert "16 rows" in by_name["masks"].detail
    assert "32 turns" in by_name["stops"].detail
    assert {entry["name"] for entry in to_json(proofs)} == set(PROOFS)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_everything_holds_for_every_method(name: str, tiny_llama: Path) -> None:
    proofs = certify(Subject(lambda: load(str(tiny_llama)), METHODS[name].config(), CONFIG, rows()))
    assert [(proof.name, proof.detail) for proof in proofs if not proof.holds] == []


def test_rows_that_are_computed_alone_are_proved_alone(tiny_llama: Path) -> None:
    """Phi-3 stretches the positions of a whole batch as soon as one row of it is long."""
    import transformers

    def stretched() -> models.Loaded:
        known = load(str(tiny_llama))
        rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0]}
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = transformers.Phi3Config(
            vocab_size=known.model.config.vocab_size,
            max_position_embeddings=512,
            original_max_position_embeddings=75,
            rope_parameters={**rope, "rope_theta": 1e4},
            pad_token_id=0,
            **sizes,
        )
        torch.manual_seed(0)
        return replace(known, model=transformers.AutoModelForCausalLM.from_config(config))

    one = Subject(stretched, FullConfig(), CONFIG, rows())
    for proof in (gradients.loss(one), gradients.packing(one), gradients.accumulation(one)):
        assert proof.holds, proof
    assert "each row computed alone" in gradients.packing(one).detail


def break_mask(subject: Subject, patch: pytest.MonkeyPatch) -> None:
    first = subject.fitted.tokens[0]
    subject.fitted.tokens[0] = replace(first, weights=[1.0, *first.weights[1:]])


def break_stop(subject: Subject, patch: pytest.MonkeyPatch) -> None:
    first = subject.fitted.tokens[0]
    (a, b), *others = first.turns
    subject.fitted.tokens[0] = replace(first, turns=((a, b - 1), *others))


def break_prompt(subject: Subject, patch: pytest.MonkeyPatch) -> None:
    right = Renderer.prompt_all
    assert subject.fitted
    patch.setattr(Renderer, "prompt_all", lambda self, some: [[*ids, 5] for ids in right(self, some)])


def break_length(subject: Subject, patch: pytest.MonkeyPatch) -> None:
    subject.fitted.tokens[0] = replace(subject.fitted.tokens[0], ids=[5] * 200, weights=[1.0] * 200)


def break_target(subject: Subject, patch: pytest.MonkeyPatch) -> None:
    first = subject.fitted.tokens[0]
    subject.fitted.tokens[0] = replace(first, weights=[0.0] * len(first.ids))


def break_loss(subject: Subject, patch: pytest.MonkeyPatch) -> None:
    right = Forward.loss
    patch.setattr(Forward, "loss", lambda *a: right(*a) * 1.001)


def break_accumulation(subject: Subject, patch: pytest.MonkeyPatch) -> None:
    right = Forward.loss
    patch.setattr(Forward, "loss", lambda self, loaded, one: right(self, loaded, one) / len(one.rows))


def break_resume(subject: Subject, patch: pytest.MonkeyPatch) -> None:
    right = checkpoint.restore

    def forgets(trained: Any, optimizer: Any, found: Any, *rest: Any) -> None:
        right(trained, optimizer, found, *rest)
        for state in optimizer.state.values():
            state["exp_avg"].zero_()

    patch.setattr(checkpoint, "restore", forgets)


def break_reload(subject: Subject, patch: pytest.MonkeyPatch) -> None:
    right = models._write
    patch.setattr(models, "_close", lambda *a: None)

    def other(loaded: Any, stage: Path) -> None:
        weight = loaded.model.get_input_embeddings().weight
        with torch.no_grad():
            weight += 0.1
        right(loaded, stage)
        with torch.no_grad():
            weight -= 0.1

    patch.setattr(models, "_write", other)


def break_saved_stop(subject: Subject, patch: pytest.MonkeyPatch) -> None:
    right = models._write

    def forgets(loaded: Any, stage: Path) -> None:
        right(loaded, stage)
        path = stage / "generation_config.json"
        path.write_text(path.read_text().replace('"eos_token_id": 2', '"eos_token_id": 0'))

    patch.setattr(models, "_write", forgets)


BREAKS: list[tuple[str, Callable[[Subject, pytest.MonkeyPatch], None]]] = [
    ("masks", break_mask),
    ("stops", break_stop),
    ("prompts", break_prompt),
    ("lengths", break_length),
    ("lengths", break_target),
    ("loss", break_loss),
    ("packing", break_accumulation),
    ("accumulation", break_accumulation),
    ("resume", break_resume),
    ("reload", break_reload),
    ("reload", break_saved_stop),
]


@pytest.mark.parametrize(("name", "harm"), BREAKS, ids=[f"{name}-{harm.__name__}" for name, harm in BREAKS])
def test_a_proof_fails_when_what_it_guards_is_broken(
    name: str, harm: Callable[..., None], subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PROOFS[name](subject).holds
    harm(subject, monkeypatch)
    proof = PROOFS[name](subject)
    assert not proof.holds
    assert proof.found > proof.tolerance


@pytest.mark.parametrize("name", ["packing", "isolation"])
def test_rows_that_see_each_other_are_found(name: str, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    from didact import attention

    assert PROOFS[name](subject).holds
    plan = attention.plan
    monkeypatch.setattr(gradients, "settle", lambda *a: Forward("reads", packed=True))
    monkeypatch.setattr(attention, "plan", lambda spans, *rest: plan((Span(0, spans[-1].end),), *rest))
    proof = PROOFS[name](subject)
    assert not proof.holds
    assert proof.found > 1e-6


def test_every_proof_is_broken_in_a_test() -> None:
    assert {name for name, _ in BREAKS} | {"packing", "isolation"} == set(PROOFS)


def test_rows_that_cannot_be_trained_fail_with_the_row(tiny_llama: Path) -> None:
    lost = Instance.of((Message("assistant", (Part("a"),)),), Origin("data.jsonl", 9))
    proofs = certify(Subject(lambda: load(str(tiny_llama)), FullConfig(), CONFIG, [*rows(4), lost]))
    assert not any(proof.holds for proof in proofs)
    assert proofs[0].detail.startswith("data.jsonl:9: ")
    assert to_json(proofs)[0]["found"] is None


def test_a_gradient_that_is_no_number_is_the_largest_difference() -> None:
    right = {"a": torch.ones(2), "b": torch.ones(2)}
    assert gradients._apart(right, right) == 0
    for name in right:
        assert gradients._apart({**right, name: torch.full((2,), torch.nan)}, right) == float("inf")
