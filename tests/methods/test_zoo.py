"""Every method of the table on every architecture: what it trains, learns, saves, and how it is asked.

`make test` runs a slice in which each method and each architecture occurs; `-m slow` adds the rest of the grid.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model
from test_tune import EXACT, instances, rendered

from didact import forward
from didact.errors import Interrupted
from didact.infer import Answerer
from didact.methods import METHODS, attached, places
from didact.methods.virtual import begun
from didact.model import Loaded, load, load_tuned
from didact.render import Tokens
from didact.settle import settle
from didact.tune import Step, save, tune

SETTINGS: dict[str, list[dict[str, Any]]] = {  # what differs from the defaults, so that toys can be tuned
    "full": [{}],
    "lora": [
        {"rank": 4},
        {"rank": 4, "rslora": True},
        {"rank": 4, "dora": True},
        {"rank": 4, "start": "pissa"},
        {"rank": 4, "start": "pissa", "rslora": True},
    ],
    "qlora": [{"rank": 4}],
    "lomo": [{}],
    "bitfit": [{"add": True}],
    "ia3": [{}],
    "adapter": [{"size": 4}, {"size": 4, "places": "pfeiffer"}],
    "prompt": [{"length": 5}],
    "p_tuning": [{"length": 5, "hidden": 16}],
    "prefix": [{"length": 5, "hidden": 16}, {"length": 5, "hidden": 0}],
    "intrinsic": [{"length": 5, "dimension": 6}],
    "projection": [{"dimension": 40}],
}
RATES = {"full": 2e-3, "projection": 5e-3, "lomo": 3e-1, "lora": 1e-2, "prompt": 3e-1, "prefix": 5e-2, "p_tuning": 3e-3}
Folders = Callable[[tuple[str, bool]], Path]
KINDS = ["llama", "qwen3", "gpt2", "opt", "gpt_neox"]
MODELS = [(kind, tied) for kind in KINDS for tied in (True, False)]
VARIANTS = [(name, settings) for name in METHODS for settings in SETTINGS.get(name, [])]


def cases() -> list[Any]:
    """Each variant on two models in `make test`, moving through the kinds; on all others when there is time."""
    found = []
    for number, (name, settings) in enumerate(VARIANTS):
        quick = {MODELS[(3 * number) % len(MODELS)], MODELS[(3 * number + 5) % len(MODELS)]}
        for model in MODELS:
            text = "-".join([name, *map(str, settings.values()), model[0], "tied" if model[1] else "own"])
            marks = () if model in quick else (pytest.mark.slow,)
            found.append(pytest.param(name, settings, model, id=text, marks=marks))
    return found


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    made: dict[tuple[str, bool], Path] = {}

    def make(model: tuple[str, bool]) -> Path:
        if model not in made:
            made[model] = make_model(tmp_path_factory.mktemp(f"{model[0]}-{model[1]}"), model[0], tied=model[1])
        return made[model]

    return make


def hashes(loaded: Loaded) -> dict[str, str]:
    """Of every tensor of the model, by the names of the plain model."""
    state = loaded.model.state_dict()
    return {
        places.base_name(name): hashlib.sha256(t.detach().contiguous().flatten().view(torch.uint8).numpy()).hexdigest()
        for name, t in state.items()
    }


def logits(loaded: Loaded, ids: list[int]) -> torch.Tensor:
    loaded.model.eval()
    with torch.no_grad():
        return loaded.model(input_ids=torch.tensor([loaded.virtual + ids]), use_cache=False).logits[0]


def without_cache(loaded: Loaded, prompt: list[int], n: int) -> list[int]:
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(logits(loaded, ids)[-1].argmax()))
        if ids[-1] in loaded.renderer.stop_ids:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize(("name", "settings", "model"), cases())
def test_it_trains_what_it_says_learns_and_survives_saving(
    name: str, settings: dict[str, Any], model: tuple[str, bool], folders: Folders, tmp_path: Path
) -> None:
    row = METHODS[name]
    method = row.config(**settings)
    loaded = load(str(folders(model)))
    plain = attached.try_on(folders(model), method)
    config = EXACT.model_copy(update={"epochs": 4.0, "learning_rate": RATES.get(name, 1e-2)})
    fresh = load(str(folders(model)))
    torch.manual_seed(config.seed)
    attached.attach(fresh, method)
    start = hashes(fresh)
    result = tune(loaded, method, rendered(loaded), config)
    end = hashes(loaded)

    trained = {places.base_name(n) for n, w in loaded.model.named_parameters() if w.requires_grad}
    assert result.trainable == plain[0] == sum(w.numel() for w in loaded.model.parameters() if w.requires_grad)
    assert plain[1] == result.parameters
    tied = {"lm_head.weight", "embed_out.weight"} if name in ("full", "lomo") else set()
    assert {n for n in start if start[n] != end[n]} <= trained | tied
    assert start.keys() == end.keys()
    assert any(start[n] != end[n] for n in trained)
    began, ended = (sum(Answerer(one).answer_loss(instances())) for one in (fresh, loaded))  # without dropout, if any
    assert ended < began

    ids = rendered(loaded, 1)[0].ids
    before, base = logits(loaded, ids), logits(load(str(folders(model))), ids)
    live = before[len(loaded.virtual) :]
    assert live.shape == base.shape
    assert float((live - base).abs().max()) > 1e-3
    answers = Answerer(loaded, max_new_tokens=6).generate(loaded.renderer.prompt_all(instances(3)))
    for prompt, answer in zip(loaded.renderer.prompt_all(instances(3)), answers, strict=True):
        assert answer == without_cache(loaded, prompt, 6)
    ranked = Answerer(loaded).answer_loss(instances(3))
    save(loaded, method, tmp_path / "tuned")
    again = load_tuned(tmp_path / "tuned")
    assert float((logits(again, ids) - before).abs().max()) <= 1e-5 * max(1.0, float(before.abs().max()))
    assert Answerer(again).answer_loss(instances(3)) == pytest.approx(ranked, abs=1e-4)


@pytest.mark.parametrize(("name", "settings", "model"), cases())
def test_it_resumes_exactly(
    name: str, settings: dict[str, Any], model: tuple[str, bool], folders: Folders, tmp_path: Path
) -> None:
    method = METHODS[name].config(**settings)
    config = EXACT.model_copy(update={"learning_rate": 1e-3, "epochs": 1.0})

    def run(folder: Path | None, stop_after: int = 0) -> dict[str, torch.Tensor]:
        loaded, done = load(str(folders(model))), list[Step]()
        try:
            tune(
                loaded,
                method,
                rendered(loaded),
                config,
                folder=folder,
                report=done.append,
                stop=lambda: bool(stop_after) and len(done) >= stop_after,
            )
        except Interrupted:
            return run(folder)
        return {n: w.detach().clone() for n, w in loaded.model.named_parameters() if w.requires_grad}

    whole, resumed = run(None), run(tmp_path / "checkpoints", stop_after=2)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[n], resumed[n]) for n in whole)


@pytest.mark.parametrize(("name", "settings", "model"), cases())
def test_packed_it_has_the_gradient_of_one_row_at_a_time(
    name: str, settings: dict[str, Any], model: tuple[str, bool], folders: Folders
) -> None:
    loaded, method = load(str(folders(model))), METHODS[name].config(**settings)
    virtual, said = attached.attach(loaded, method).virtual, list[str]()
    data = begun(rendered(loaded), virtual)
    for weight in loaded.model.parameters():  # gradients through the zeros of a beginning would prove nothing
        if weight.requires_grad and not bool(weight.any()):
            torch.nn.init.normal_(weight, std=0.05)
    loaded.model.eval()
    way = settle(loaded, data, "auto", said.append)
    assert way.packed
    assert not any("head" in text for text in said), said
    packed, alone = (gradient(loaded, one, data) for one in (way, forward.Forward()))
    assert packed.keys() == alone.keys() != set()
    largest = max(float(g.norm()) for g in alone.values())
    for n in alone:
        assert float((packed[n] - alone[n]).norm()) <= 1e-4 * float(alone[n].norm()) + 1e-6 * largest, n


def gradient(loaded: Loaded, way: forward.Forward, data: Sequence[Tokens]) -> dict[str, torch.Tensor]:
    loaded.model.zero_grad(set_to_none=True)
    with way.on(loaded):
        way.loss(loaded, way.batch(loaded, data, range(8))).backward()
    return {n: w.grad.clone() for n, w in loaded.model.named_parameters() if w.grad is not None}


def test_the_grid_leaves_nothing_out() -> None:
    quick = [case for case in cases() if not case.marks]
    assert {case.values[0] for case in quick} == set(METHODS)
    assert {case.values[2] for case in quick} == set(itertools.product(KINDS, (True, False)))
