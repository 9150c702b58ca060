"""Loading refuses what is unsafe or incomplete in one line; saving is all or nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import make_model

from didact import disk, model
from didact.errors import UsageError
from didact.model import load, load_tuned, save


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "base"))


def refused(folder: Path, match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_folder_loads_in_fp32(folder: Path) -> None:
    loaded = load(str(folder))
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.float32}
    assert loaded.max_positions == 512
    assert loaded.renderer.stop_ids == (loaded.tokenizer.eos_token_id,)


def test_a_pickle_is_never_opened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    canary = folder / "canary"
    (folder / "pytorch_model.bin").write_bytes(b"cbuiltins\nopen\n(V" + str(canary).encode() + b"\nVw\ntR.")
    refused(folder, r"pickle \(pytorch_model.bin\)")
    assert not canary.exists()


@pytest.mark.parametrize(
    ("name", "problem"),
    [("config.json", "no config.json"), ("model.safetensors", "no weights"), ("tokenizer.json", "tokenizer")],
)
def test_an_incomplete_folder(folder: Path, name: str, problem: str) -> None:
    (folder / name).unlink()
    if name == "tokenizer.json":
        (folder / "tokenizer_config.json").unlink()
    refused(folder, problem)


def test_tokenizer_config_alone_is_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    refused(folder, "tokenizer")


@pytest.mark.parametrize(
    ("file", "values", "key"),
    [
        ("config.json", {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "auto_map"),
        ("config.json", {"text_config": {"trust_remote_code": True}}, "trust_remote_code"),
        ("config.json", {"_attn_implementation_internal": "evil/kernel"}, "_attn_implementation_internal"),
        ("config.json", {"attn_implementation": "evil/kernel"}, "attn_implementation"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", None]}}, "auto_map"),
    ],
)
def test_code_in_a_model_folder_is_refused(folder: Path, file: str, values: dict[str, object], key: str) -> None:
    edit(folder / file, **values)
    refused(folder, f'{file}:{key}: the model asks for code of its own to be run \\("{key}"\\)')


def test_a_number_with_an_odd_name_is_no_code(folder: Path) -> None:
    """As Gemma 3 writes it."""
    edit(folder / "config.json", _sliding_window_pattern=6)
    assert model.load(str(folder)).kind == "causal"


def test_cut_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    refused(folder, "weights cannot be loaded")


def test_weights_of_another_shape(folder: Path) -> None:
    edit(folder / "config.json", num_hidden_layers=3)
    refused(folder, "weights are missing, the first is model.layers.2")


def test_tokenizer_larger_than_the_embedding(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|more|>"])
    tokenizer.save_pretrained(folder)
    refused(folder, "tokenizer has 260 tokens, but the embedding of the model only 259 rows")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"model_type": "nosuch"}, 'does not know the architecture "nosuch" - pip install -U transformers'),
        ({"model_type": None}, 'does not know the architecture "None"'),
        ({"model_type": "vit", "architectures": ["ViTModel"]}, '"ViTModel" is no language model'),
    ],
)
def test_an_architecture_that_cannot_be_tuned(folder: Path, values: dict[str, object], problem: str) -> None:
    edit(folder / "config.json", **values)
    refused(folder, rf"config\.json:\w+: .*{problem}")


def test_a_head_of_its_own_that_the_file_lacks(folder: Path) -> None:
    edit(folder / "config.json", tie_word_embeddings=False)
    refused(folder, "1 weights are missing, the first is lm_head.weight")


@pytest.mark.parametrize("kind", ["llama", "qwen3"])  # one head tied to the embedding, one of its own
def test_tokens_that_were_added_are_tuned_saved_and_read_back(tmp_path: Path, kind: str) -> None:
    folder, more = make_model(tmp_path / kind, kind), ["<|more|>", "<|less|>"]
    base = load(str(folder))
    base.tokenizer.add_tokens(more)
    base.model.resize_token_embeddings(len(base.tokenizer))
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    loaded = load(str(folder))
    embedding, head = loaded.model.get_input_embeddings().weight, loaded.model.get_output_embeddings().weight
    assert (embedding is head) is (kind == "llama")
    with torch.no_grad():
        embedding[-2:] += 1.0
        head[-2:] *= 2.0
    ids = torch.tensor([[5, 9, *loaded.tokenizer.convert_tokens_to_ids(more), 7]])
    assert ids.max() == len(embedding) - 1 == 260
    expected = loaded.model(ids).logits
    save(loaded, tmp_path / "tuned")
    again = load_tuned(tmp_path / "tuned")
    assert torch.equal(again.model(ids).logits, expected)
    assert again.tokenizer("<|more|>", add_special_tokens=False)["input_ids"] == [259]
    assert (again.model.get_input_embeddings().weight is again.model.get_output_embeddings().weight) is (
        embedding is head
    )


def test_no_chat_template_is_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "raw", chat_template=None)
    refused(folder, "no chat template.*chat_template: plain")
    loaded = load(str(folder), chat_template="plain")
    assert loaded.renderer.stop == "<|endoftext|>"


def test_broken_names(tmp_path: Path) -> None:
    refused(Path("no-such-model"), 'there is no model "no-such-model"')
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "a file, not a model folder")


def test_broken_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    refused(folder, "config.json: not valid JSON")


def test_save_is_a_model_folder_with_template_and_stops(folder: Path, tmp_path: Path) -> None:
    loaded = load(str(folder))
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight.mul_(1.5)
    save(loaded, tmp_path / "tuned")
    again = load_tuned(tmp_path / "tuned")
    ids = torch.arange(40)[None]
    assert torch.equal(loaded.model(ids).logits, again.model(ids).logits)
    assert again.renderer.hash == loaded.renderer.hash
    names = {path.name for path in (tmp_path / "tuned").iterdir()}
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja", "generation_config.json"} <= names
    generation = json.loads((tmp_path / "tuned" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == loaded.renderer.stop_ids[0]
    save(loaded, tmp_path / "tuned")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


@pytest.mark.parametrize("why", ["reads back differently", "not finite", "disk is full"])
def test_a_bad_save_leaves_the_old_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    loaded = load(str(folder))
    save(loaded, tmp_path / "tuned")
    before = (tmp_path / "tuned" / "model.safetensors").read_bytes()
    weight = loaded.model.get_input_embeddings().weight
    if why == "not finite":
        weight.data[:] = float("nan")
    elif why == "disk is full":
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda place: usage._replace(free=10))
    else:
        write = model._write

        def lossy(loaded: model.Loaded, stage: Path) -> None:
            kept = weight.data.clone()
            weight.data[:] = kept.roll(1, 0)
            write(loaded, stage)
            weight.data[:] = kept

        monkeypatch.setattr(model, "_write", lossy)
    with pytest.raises(UsageError, match=why):
        save(loaded, tmp_path / "tuned")
    assert (tmp_path / "tuned" / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


def test_a_replacement_cut_between_its_renames_is_completed(folder: Path, tmp_path: Path) -> None:
    loaded = load(str(folder))
    save(loaded, tmp_path / "tuned")
    (tmp_path / "tuned").rename(tmp_path / ".tuned.old")
    assert load_tuned(tmp_path / "tuned").name == str(tmp_path / "tuned")
