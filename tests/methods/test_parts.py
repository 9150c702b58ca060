"""Methods on the parts of a model that sees: what is named moves, the rest stays as it is, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import SHAPES, make_picture, make_seeing

from didact.errors import UsageError
from didact.infer import Answerer
from didact.instance import Instance, Message, Origin, Part
from didact.methods import METHODS, places
from didact.methods.attached import try_on
from didact.model import Loaded, load, load_tuned
from didact.tune import TuneConfig, save, tune

pytestmark = pytest.mark.filterwarnings("ignore")
SMALL: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4},
    "qlora": {"rank": 4},
    "adapter": {"size": 4},
    "bitfit": {"add": True},
    "prompt": {"length": 4},
    "p_tuning": {"length": 4, "hidden": 8},
    "prefix": {"length": 4, "hidden": 8},
    "intrinsic": {"length": 4, "dimension": 6},
    "projection": {"dimension": 40},
}
PLACED = ("full", "bitfit", "lora", "qlora", "lomo", "adapter", "ia3", "projection")
NOWHERE = {"adapter": ("projector",), "ia3": ("projector",)}  # they need layers, and a projector has none


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made, place = dict[str, Path](), tmp_path_factory.mktemp("parts")

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = make_seeing(place / kind, kind)
            make_picture(place / "0.png", 1)
        return made[kind]

    return of


def rows(folder: Path) -> list[Instance]:
    picture = Part(str(folder.parent / "0.png"), "input", "image")
    texts = [("what is it?", "red"), ("how many", "two cats")]
    asked = [
        (Message("user", (picture, Part(q, "instruction"))), Message("assistant", (Part(a, "answer"),)))
        for q, a in texts
    ]
    return [Instance.of(messages, Origin("rows", 1)) for messages in asked]


def trained(folder: Path, name: str, **settings: Any) -> tuple[Loaded, dict[str, torch.Tensor], Any]:
    loaded = load(str(folder), device="cpu")
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    method = METHODS[name].config(**SMALL.get(name, {}), **settings)
    config = TuneConfig(epochs=3, batch_size=2, precision="fp32", learning_rate=2e-2)
    tune(loaded, method, loaded.renderer.render_all(rows(folder)), config)
    return loaded, before, method


def moved(loaded: Loaded, before: dict[str, torch.Tensor]) -> set[str]:
    """The parts in which anything trains or has changed."""
    part = places.parts(loaded.model)
    now = {places.base_name(name): tensor for name, tensor in loaded.model.state_dict().items()}
    found = {part(n) for n, tensor in before.items() if n in now and not torch.equal(tensor, now[n])}
    return found | {part(places.base_name(n)) for n, w in loaded.model.named_parameters() if w.requires_grad}


@pytest.mark.parametrize("name", PLACED)
@pytest.mark.parametrize("part", ["language", "projector", "tower"])
def test_a_method_is_placed_where_it_is_told(folder: Callable[[str], Path], name: str, part: str) -> None:
    place = folder("llava")
    if part in NOWHERE.get(name, ()):
        with pytest.raises(UsageError, match=r"method|nothing to train|no layers"):
            trained(place, name, parts=[part])
        return
    if name == "qlora":  # it rounds what it is placed on
        loaded, _, _ = trained(place, name, parts=[part])
        added = [n for n, w in loaded.model.named_parameters() if w.requires_grad]
        assert added
        assert {places.parts(loaded.model)(places.base_name(n)) for n in added} == {part}
        return
    loaded, before, _ = trained(place, name, parts=[part])
    assert moved(loaded, before) == {part}


@pytest.mark.parametrize("kind", SHAPES)
def test_the_tower_stays_as_it_is_unless_it_is_named(folder: Callable[[str], Path], kind: str) -> None:
    loaded, before, _ = trained(folder(kind), "full")
    assert moved(loaded, before) == {"language", "projector"}
    part = places.parts(loaded.model)
    assert {part(name) for name in before} == {"language", "projector", "tower"}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_saved_and_answers_the_same(folder: Callable[[str], Path], name: str, tmp_path: Path) -> None:
    place = folder("llava")
    if name == "ia3":
        loaded, _, method = trained(place, name, parts=["language"])
    else:
        loaded, _, method = trained(place, name)
    expected = Answerer(loaded).answer_loss(rows(place))
    save(loaded, method, tmp_path / "tuned")
    again = load_tuned(tmp_path / "tuned", device="cpu")
    assert Answerer(again).answer_loss(rows(place)) == pytest.approx(expected, abs=2e-3)


def test_a_blind_model_has_no_tower(tiny_llama: Path) -> None:
    with pytest.raises(UsageError, match="the model has no tower"):
        try_on(tiny_llama, METHODS["full"].config(parts=["tower"]))


def test_the_outline_counts_what_is_trained(folder: Callable[[str], Path]) -> None:
    place = folder("llava")
    counted, _ = try_on(place, METHODS["full"].config(parts=["projector"]))
    loaded, _, _ = trained(place, "full", parts=["projector"])
    assert counted == sum(w.numel() for w in loaded.model.parameters() if w.requires_grad) == 2 * 32 * 32 + 2 * 32
