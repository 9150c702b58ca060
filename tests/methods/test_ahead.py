"""What is trained ahead of a row hardly teaches a base to end its answers: said at the start, where it is so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_tune import EXACT, rendered

from didact.methods.lora import LoraConfig
from didact.methods.p_tuning import PTuningConfig
from didact.methods.prompt import PromptConfig
from didact.model import load
from didact.starter import base_folder
from didact.tune import tune


def notes(folder: Path, method: Any) -> list[str]:
    loaded, found = load(str(folder)), list[str]()
    config = EXACT.model_copy(update={"max_steps": 1})
    tune(loaded, method, rendered(loaded, 4), config, note=found.append)
    return [note for note in found if "does not end its answers" in note]


@pytest.mark.parametrize("method", [PromptConfig(length=4), PTuningConfig(length=4, hidden=8)])
def test_a_base_that_has_never_written_the_stop_is_told_of(method: Any) -> None:
    (note,) = notes(base_folder(), method)
    assert f"and {method.type} hardly teaches it to" in note


def test_nothing_is_said_of_a_base_whose_stop_is_as_likely_as_a_word(tiny_llama: Path) -> None:
    assert not notes(tiny_llama, PromptConfig(length=4))


def test_nothing_is_said_of_a_method_that_moves_the_layers() -> None:
    assert not notes(base_folder(), LoraConfig(rank=2))
