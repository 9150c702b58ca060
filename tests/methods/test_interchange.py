"""Adapters to peft and back, refused on another base, exchanged and taken off without a trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model
from test_tune import EXACT, rendered
from test_zoo import hashes, logits

from didact.errors import UsageError
from didact.methods import METHODS, attached
from didact.model import Loaded, load, load_tuned
from didact.tune import save, tune

QUICK = EXACT.model_copy(update={"learning_rate": 1e-2, "epochs": 1.0})
IDS = list(range(3, 60))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    made: dict[tuple[str, int], Path] = {}

    def make(kind: str, seed: int = 0) -> Path:
        if (kind, seed) not in made:
            made[kind, seed] = make_model(tmp_path_factory.mktemp(f"{kind}-{seed}"), kind, seed=seed)
        return made[kind, seed]

    return make


def tuned(folder: Path, place: Path, name: str, **settings: Any) -> tuple[torch.Tensor, Path]:
    """Logits of the live model, and where it was saved."""
    loaded, method = load(str(folder)), METHODS[name].config(**settings)
    tune(loaded, method, rendered(loaded), QUICK)
    live = logits(loaded, IDS)
    save(loaded, method, place)
    return live[len(loaded.virtual) :], place


CASES = [
    ("lora", {"rank": 4, "layers": 1}, "llama"),
    ("lora", {"rank": 4, "rslora": True}, "llama"),
    ("lora", {"rank": 4, "dora": True}, "gpt2"),
    ("lora", {"rank": 4, "start": "pissa"}, "gpt2"),
    ("lora", {"rank": 4, "start": "pissa", "rslora": True}, "qwen3"),
    ("ia3", {}, "gpt2"),
    ("ia3", {}, "opt"),
    ("prompt", {"length": 5}, "llama"),
    ("p_tuning", {"length": 5, "hidden": 8}, "opt"),
    ("prefix", {"length": 5, "hidden": 8}, "llama"),
    ("prefix", {"length": 5, "hidden": 0}, "qwen3"),
    ("prefix", {"length": 5, "hidden": 0}, "gpt2"),
    ("prefix", {"length": 5, "hidden": 0}, "gpt_neox"),
]


@pytest.mark.parametrize(("name", "settings", "kind"), CASES)
def test_peft_loads_what_was_saved(
    name: str, settings: dict[str, Any], kind: str, base: Callable[..., Path], tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    live, place = tuned(base(kind), tmp_path / "tuned", name, **settings)
    model = AutoModelForCausalLM.from_pretrained(base(kind))
    with torch.no_grad():
        plain = model(torch.tensor([IDS])).logits[0]
        theirs = PeftModel.from_pretrained(model, place / "adapter").eval()(torch.tensor([IDS])).logits[0, -len(IDS) :]
    assert float((live - plain).abs().max()) > 1e-3
    assert float((theirs - live).abs().max()) <= 2e-5


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lora", "llama"), ("lora", "gpt2"), ("ia3", "opt"), ("prompt", "gpt2"), ("p_tuning", "llama"),
        ("prefix", "llama"), ("prefix", "opt"), ("prefix", "gpt_neox"),
    ],
)  # fmt: skip
def test_what_peft_saved_is_read(name: str, kind: str, base: Callable[..., Path], tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    task: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    config = {
        "lora": lambda: peft.LoraConfig(r=3, lora_alpha=5, use_rslora=True, target_modules="all-linear", **task),
        "ia3": lambda: peft.IA3Config(**task),
        "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=4, **task),
        "p_tuning": lambda: peft.PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=8, **task),
        "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=4, **task),
    }[name]()
    torch.manual_seed(0)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base(kind)), config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
        theirs = model(torch.tensor([IDS])).logits[0, -len(IDS) :]
    model.save_pretrained(tmp_path / "theirs")
    loaded = load(str(base(kind)))
    before = hashes(loaded)
    attached.read(loaded, tmp_path / "theirs")
    assert float((logits(loaded, IDS)[len(loaded.virtual) :] - theirs).abs().max()) <= 2e-5
    attached.detach(loaded)
    assert hashes(loaded) == before


def test_a_prefix_behind_normed_keys_is_refused(base: Callable[..., Path], tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    config = peft.PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base("qwen3")), config)
    model.save_pretrained(tmp_path / "theirs")
    with pytest.raises(UsageError, match="norms its keys"):
        attached.read(load(str(base("qwen3"))), tmp_path / "theirs")


@pytest.mark.parametrize(("name", "settings"), [("lora", {"rank": 2}), ("prompt", {"length": 3}), ("adapter", {})])
def test_an_adapter_of_another_base_is_refused(
    name: str, settings: dict[str, Any], base: Callable[..., Path], tmp_path: Path
) -> None:
    _, place = tuned(base("llama"), tmp_path / "tuned", name, **settings)
    other = load(str(base("llama", 1)))
    with pytest.raises(UsageError, match="trained on another base"):
        attached.read(other, place / "adapter")
    assert other.attached is None


def test_a_base_exchanged_under_its_adapter_is_refused(base: Callable[..., Path], tmp_path: Path) -> None:
    _, place = tuned(base("llama"), tmp_path / "tuned", "adapter")
    (place / "model.safetensors").write_bytes((base("llama", 1) / "model.safetensors").read_bytes())
    with pytest.raises(UsageError, match="trained on another base"):
        load_tuned(place)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_adapters_are_exchanged_and_the_base_is_left_bit_for_bit(
    kind: str, base: Callable[..., Path], tmp_path: Path
) -> None:
    several = [
        ("lora", {"rank": 2}), ("lora", {"rank": 3, "dora": True}), ("lora", {"rank": 2, "start": "pissa"}),
        ("ia3", {}), ("adapter", {"size": 4}), ("prompt", {"length": 3}), ("prefix", {"length": 3, "hidden": 0}),
    ]  # fmt: skip
    saved = [tuned(base(kind), tmp_path / str(i), name, **settings) for i, (name, settings) in enumerate(several)]
    loaded = load(str(base(kind)))
    before, plain = hashes(loaded), logits(loaded, IDS)
    for live, place in [*saved, saved[0]]:
        attached.use(loaded, place / "adapter")
        assert float((logits(loaded, IDS)[len(loaded.virtual) :] - live).abs().max()) <= 2e-5
    attached.use(loaded, None)
    assert hashes(loaded) == before
    assert torch.equal(logits(loaded, IDS), plain)
    assert not any(getattr(module, "_forward_hooks", None) for module in loaded.model.modules())


@pytest.mark.parametrize(("name", "settings"), [("bitfit", {"add": True}), ("adapter", {}), ("prompt", {"length": 3})])
def test_taken_off_after_training_the_base_is_as_it_was(
    name: str, settings: dict[str, Any], base: Callable[..., Path]
) -> None:
    loaded = load(str(base("llama")))
    before = hashes(loaded)
    tune(loaded, METHODS[name].config(**settings), rendered(loaded), QUICK)
    attached.detach(loaded)
    assert hashes(loaded) == before


def test_a_second_method_on_top_is_refused(base: Callable[..., Path], tmp_path: Path) -> None:
    _, place = tuned(base("llama"), tmp_path / "tuned", "adapter")
    loaded = load_tuned(place)
    with pytest.raises(UsageError, match="already carries adapter"):
        tune(loaded, METHODS["lora"].config(), rendered(loaded), QUICK)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda place: (place / "tensors.safetensors").write_bytes(b"\0" * 20), "cannot be read"),
        (lambda place: (place / "didact.json").write_text("{"), "description cannot be read"),
        (lambda place: _edit(place, {"type": "adaptor"}), "method is not known"),
        (lambda place: _edit(place, {"type": "adapter", "size": 3}), "does not fit the model"),
    ],
)
def test_broken_adapters_are_named(
    change: Callable[[Path], object], problem: str, base: Callable[..., Path], tmp_path: Path
) -> None:
    _, place = tuned(base("llama"), tmp_path / "tuned", "adapter")
    change(place / "adapter")
    with pytest.raises(UsageError, match=problem):
        load_tuned(place)


def _edit(place: Path, method: dict[str, Any]) -> None:
    path = place / "didact.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "method": method}))


def test_a_prompt_that_fills_the_context_is_refused_before_weights_are_read(base: Callable[..., Path]) -> None:
    for name in ("prompt", "p_tuning", "prefix"):
        with pytest.raises(UsageError, match="fills the context of 512"):
            attached.try_on(base("llama"), METHODS[name].config(length=511))


def test_a_text_to_begin_as_gives_its_embeddings(base: Callable[..., Path]) -> None:
    loaded: Loaded = load(str(base("llama")))
    attached.attach(loaded, METHODS["prompt"].config(length=5, text="Say"))
    ids = loaded.renderer.plain("Say")
    embedding = loaded.model.get_input_embeddings()
    assert torch.equal(embedding.prompt.table, embedding.weight[torch.tensor([*ids, *ids])[:5]])
    words = load(str(base("llama")))
    prompted = logits(loaded, IDS)
    assert torch.allclose(prompted, logits(words, [*([*ids, *ids][:5]), *IDS]), atol=1e-5)


def test_a_prefix_begins_as_the_words_it_is_made_of(base: Callable[..., Path]) -> None:
    for kind in ("llama", "gpt2", "gpt_neox"):
        loaded = load(str(base(kind)))
        attached.attach(loaded, METHODS["prefix"].config(length=4, start=[7, 8, 9, 10]))
        found = logits(loaded, IDS)[4:]
        assert torch.allclose(found, logits(load(str(base(kind))), [7, 8, 9, 10, *IDS])[4:], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "kind"),
    [
        ("adapter", {"size": 4}, "llama"),
        ("adapter", {"places": "pfeiffer"}, "gpt2"),
        ("bitfit", {"add": True}, "qwen3"),
    ],
)
def test_the_loader_of_the_docs_gives_the_same_logits(
    name: str, settings: dict[str, Any], kind: str, base: Callable[..., Path], tmp_path: Path
) -> None:
    live, place = tuned(base(kind), tmp_path / "tuned", name, **settings)
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text("utf-8")
    code = page.split("```python\n")[1].split("```")[0].replace('"tuned', f'"{place}')
    found: dict[str, Any] = {}
    exec(code, found)
    with torch.no_grad():
        logits_LV = found["model"].eval()(torch.tensor([IDS])).logits[0]
    assert float((logits_LV - live).abs().max()) <= 1e-5
