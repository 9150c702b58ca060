"""A space over several tasks: each task's rows begin with its own prompt, only the coder learns, parts are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import make_model

from didact.errors import UsageError
from didact.instance import Instance, Message, Origin, Part
from didact.methods import attached
from didact.methods.intrinsic import IntrinsicConfig
from didact.methods.space import Reconstruction, SpaceConfig
from didact.model import load
from didact.programmed import follow
from didact.programs.subspace import SubspaceConfig
from didact.recipe import Recipe
from didact.tune import TuneConfig, save

TUNE = TuneConfig(precision="fp32", epochs=2, batch_size=6, learning_rate=0.05, checkpoint_minutes=0)
CONFIG = SubspaceConfig(dimension=3, length=4, hidden=8, prompt_epochs=1, space_epochs=3, space_rate=1e-3)


def rows(tasks: int = 3, n: int = 8) -> list[Instance]:
    return [
        Instance.of(
            (
                Message("user", (Part(f"{'abc'[task]} {i}", "input"),)),
                Message("assistant", (Part("xyz"[task], "answer"),)),
            ),
            Origin("data.jsonl", i, task=f"task {task}"),
        )
        for task in range(tasks)
        for i in range(n)
    ]


def test_a_space_is_found_kept_and_tuned_in(tiny_llama: Path, tmp_path: Path) -> None:
    names: list[str] = []
    losses: list[float] = []

    def report(name: str, step: object) -> None:
        names.append(name)
        if name == "space":
            losses.append(step.loss)  # type: ignore[attr-defined]

    recipe = Recipe(method=CONFIG, tune=TUNE)
    loaded, method, result = follow(recipe, str(tiny_llama), rows(), folder=tmp_path / "work", report=report)
    assert list(dict.fromkeys(names)) == [*(f"prompt of task {n}" for n in range(3)), "space", ""]
    assert losses[-1] < losses[0]
    assert (result.trainable, method.type, loaded.virtual != []) == (3, "intrinsic", True)
    save(loaded, method, tmp_path / "tuned")
    other = load(str(tiny_llama))
    attached.attach(other, IntrinsicConfig(dimension=3, length=4, space=str(tmp_path / "tuned" / "adapter")))
    names.clear()
    again, _, _ = follow(recipe, str(tiny_llama), rows(), folder=tmp_path / "work", report=report)
    assert names == []  # all parts are there, and the last training was finished
    prompts = [one.model.get_input_embeddings().prompt() for one in (loaded, again)]
    assert torch.equal(*prompts)
    (tmp_path / "work" / "subspace").rename(tmp_path / "gone")
    follow(recipe, str(tiny_llama), rows(), folder=tmp_path / "work", report=report)
    assert "space" in names


def test_the_coder_alone_is_trained_and_every_task_has_its_own_tokens(tmp_path: Path) -> None:
    loaded = load(str(make_model(tmp_path / "llama")))
    torch.manual_seed(0)
    prompts = torch.randn(3, 4 * 32).tolist()
    virtual = attached.attach(loaded, SpaceConfig(dimension=2, length=4, hidden=8, prompts=prompts)).virtual
    assert virtual == ()
    trained = {name.rpartition("prompt.")[2] for name, w in loaded.model.named_parameters() if w.requires_grad}
    assert trained == {"encoder.weight", "encoder.bias", "inner.weight", "inner.bias", "outer.weight"}
    module = loaded.model.get_input_embeddings().prompt
    decoded = module().view(3, 4, 32)
    first = loaded.model.get_input_embeddings().weight.shape[0]
    for task in range(3):
        ids = torch.arange(first + 4 * task, first + 4 * task + 4)[None]
        assert torch.equal(loaded.model.get_input_embeddings()(ids)[0], decoded[task])


def test_the_objective_is_the_loss_and_the_weighted_reconstruction(tiny_llama: Path) -> None:
    from test_tune import rendered

    from didact.forward import Forward

    loaded = load(str(tiny_llama))
    attached.attach(loaded, SpaceConfig(dimension=2, length=4, hidden=8, prompts=torch.randn(2, 128).tolist()))
    data, way = rendered(loaded, 4), Forward()
    one = way.batch(loaded, data, [0, 1])
    module = loaded.model.get_input_embeddings().prompt
    error = float(((module.decoded() - module.prompts) ** 2).mean())
    whole = float(Reconstruction(5.0).loss(way, loaded, one))
    assert whole == pytest.approx(float(way.loss(loaded, one)) + 5.0 * error * float(one.weights_N.sum()), rel=1e-5)


def test_one_task_is_no_space_and_a_prompt_must_fit(tiny_llama: Path) -> None:
    with pytest.raises(UsageError, match="a space is found over many tasks, and there is one"):
        follow(Recipe(method=CONFIG, tune=TUNE), str(tiny_llama), rows(1))
    long = CONFIG.model_copy(update={"length": 511})
    with pytest.raises(UsageError, match="a prompt of 511 tokens fills the context"):
        follow(Recipe(method=long, tune=TUNE), str(tiny_llama), rows(2))
