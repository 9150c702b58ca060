"""The tower of the picture world: what it is shown, what it is asked, and that it learns to tell it."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random

import pytest
import torch

from didact.assemble import join, tower_of
from didact.errors import UsageError
from didact.model import load
from didact.starter import eyes
from didact.starter.scenes import Thing, draw, lay

pytestmark = pytest.mark.filterwarnings("ignore")


def test_it_is_shown_what_pillow_reads_and_its_processor_gives(tmp_path: Path) -> None:
    from PIL import Image

    held = draw(lay(Random(1), [Thing("box", "red"), Thing("7", "blue")]), Random(2))
    eyes.make(tmp_path / "eyes", steps=1, report=lambda text: None)
    given = tower_of(str(tmp_path / "eyes")).processor(images=[Image.open(io.BytesIO(held))], return_tensors="pt")
    torch.testing.assert_close(torch.from_numpy(eyes._pixels(held))[None], given["pixel_values"], atol=1e-5, rtol=0)


def test_each_patch_is_asked_for_its_own_place() -> None:
    assert eyes._places(16).tolist() == [0, 1, 2, 3]
    assert eyes._places(8).tolist() == [0, 0, 1, 1] * 2 + [2, 2, 3, 3] * 2
    pixels = torch.arange(3 * 32 * 32.0).view(1, 3, 32, 32)
    corner = torch.nn.functional.avg_pool2d(pixels[..., :8, 24:], 2)
    torch.testing.assert_close(eyes._looks(pixels, 8)[0, 3], corner.flatten())


def test_it_learns_colours_and_goes_before_a_language_model(tmp_path: Path) -> None:
    said = list[str]()
    right = eyes.make(tmp_path / "eyes", steps=60, report=said.append)
    assert right["colours"] > 0.5  # one in six by chance
    assert not said  # it reports every hundred steps
    loaded = load(str(join(tower_of(str(tmp_path / "eyes")), "starter", tmp_path / "joined")), device="cpu")
    assert loaded.vision is not None
    assert len(loaded.vision.sample.ids) == 4
    with pytest.raises(UsageError, match="not empty"):
        eyes.make(tmp_path / "eyes", steps=1)


def test_a_tower_goes_before_the_queries_of_a_q_former(tmp_path: Path) -> None:
    right = eyes.make(tmp_path / "eyes", steps=60, report=lambda text: None, queries=True)
    assert right["colours"] > 0.5
    tower = tower_of(str(tmp_path / "eyes"))
    folder = join(tower, "starter", tmp_path / "joined", queries=1)
    loaded = load(str(folder), device="cpu")
    assert tower.state is not None
    for name, weight in tower.state.items():
        torch.testing.assert_close(loaded.model.get_parameter(f"vision_model.{name}"), weight)
    with pytest.raises(UsageError, match="goes before a Q-Former"):
        join(tower, "starter", tmp_path / "other")
    eyes.make(tmp_path / "plain", steps=1, report=lambda text: None)
    with pytest.raises(UsageError, match="tower of its own shape"):
        join(tower_of(str(tmp_path / "plain")), "starter", tmp_path / "other", queries=1)
