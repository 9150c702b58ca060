"""Models put together of a tower, a projector and a language model: ordinary folders that read as the parts did."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import make_model
from toys import make_picture

from didact.assemble import join, new_tower, put_together, tower_of
from didact.errors import UsageError
from didact.instance import Instance, Message, Origin, Part
from didact.model import load

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return join(new_tower(), "starter", tmp_path_factory.mktemp("join") / "eyes")


def asked(folder: Path, *parts: Part) -> Instance:
    return Instance.of((Message("user", parts), Message("assistant", (Part("red", "answer"),))), Origin("x", 1))


def test_text_is_read_as_the_language_model_reads_it(eyes: Path) -> None:
    joined, alone = load(str(eyes), device="cpu"), load("starter", device="cpu")
    told = asked(eyes, Part("What colour is the sun?", "instruction"))
    ids = alone.renderer.render(told).ids
    assert joined.renderer.render(told).ids == ids
    with torch.no_grad():
        a, b = (model.model(input_ids=torch.tensor([ids])).logits[..., :2400] for model in (joined, alone))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert joined.max_positions == alone.max_positions


def test_transformers_loads_it_and_its_processor_agrees(eyes: Path, tmp_path: Path) -> None:
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    picture = make_picture(tmp_path / "a.png", 1, (60, 50))
    shown = asked(eyes, Part(str(picture), "input", "image"), Part("What is it?", "instruction"))
    loaded = load(str(eyes), device="cpu")
    tokens, prompt = loaded.renderer.render(shown), loaded.renderer.prompt(shown)
    processor = AutoProcessor.from_pretrained(eyes, backend="pil")
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
    text = processor.apply_chat_template([turn], add_generation_prompt=True)
    theirs = processor(images=Image.open(picture), text=text, return_tensors="pt", add_special_tokens=False)
    assert theirs["input_ids"][0].tolist() == prompt == tokens.ids[: len(prompt)]
    assert len(tokens.media) == 1
    assert tokens.media[0][1] - tokens.media[0][0] == 36
    model = AutoModelForImageTextToText.from_pretrained(eyes).eval()
    with torch.no_grad():
        given = loaded.vision.inputs(tokens.images, torch.tensor([prompt]))
        ours = loaded.model(input_ids=torch.tensor([prompt]), **given).logits
        torch.testing.assert_close(model(**theirs).logits, ours, atol=1e-4, rtol=1e-4)


def test_a_tower_is_taken_out_of_one_model_and_put_before_another(eyes: Path, tmp_path: Path) -> None:
    again = join(tower_of(str(eyes)), "fresh", tmp_path / "again", seed=3)
    first, second = load(str(eyes), device="cpu").model, load(str(again), device="cpu").model
    for name, tensor in first.base_model.vision_tower.state_dict().items():
        assert torch.equal(tensor, second.base_model.vision_tower.state_dict()[name])
    assert first.config.text_config.hidden_size != second.config.text_config.hidden_size


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_towers_of_published_kinds(kind: str, tmp_path: Path) -> None:
    from transformers import (
        AutoModel,
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        SiglipImageProcessorPil,
        SiglipVisionConfig,
    )

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    made, image = {
        "clip": (CLIPVisionConfig, CLIPImageProcessorPil(crop_size=32, size={"shortest_edge": 32})),
        "siglip": (SiglipVisionConfig, SiglipImageProcessorPil(size={"height": 32, "width": 32})),
    }[kind]
    AutoModel.from_config(made(**sizes, image_size=32, patch_size=8)).save_pretrained(tmp_path / "tower")
    image.save_pretrained(tmp_path / "tower")
    language = make_model(tmp_path / "language", "qwen3")
    folder = join(tower_of(str(tmp_path / "tower")), str(language), tmp_path / "joined")
    shown = asked(folder, Part(str(make_picture(tmp_path / "a.png")), "input", "image"), Part("?", "instruction"))
    loaded = load(str(folder), device="cpu")
    tokens = loaded.renderer.render(shown)
    loaded.renderer.check(shown, tokens)
    assert tokens.media[0][1] - tokens.media[0][0] == 16


def test_queries_that_read_the_question_look_at_the_picture(tmp_path: Path) -> None:
    folder = join(new_tower(), "starter", tmp_path / "former", queries=4)
    loaded = load(str(folder), device="cpu")
    picture = Part(str(make_picture(tmp_path / "a.png")), "input", "image")
    seen = []
    for question in ("What colour?", "How many?"):
        tokens = loaded.renderer.render(asked(folder, picture, Part(question, "instruction")))
        assert tokens.media[0][1] - tokens.media[0][0] == 4
        given = loaded.vision.inputs(tokens.images, torch.tensor([tokens.ids]), [(0, tokens.turns[0][0])])
        with torch.no_grad():
            seen.append(loaded.model.get_image_features(**given).pooler_output)
    assert float((seen[0] - seen[1]).abs().max()) > 1e-4


@pytest.mark.parametrize("kind", ["instructblip", "blip-2", "blip"])
def test_a_published_tower_goes_before_a_q_former_as_it_is(kind: str, tmp_path: Path) -> None:
    from PIL import Image
    from transformers import AutoConfig, AutoModelForImageTextToText, BlipImageProcessorPil

    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(kind)
    tower = type(config.vision_config)(**sizes, image_size=32, patch_size=8)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    parts = {"qformer_config": {**small, "encoder_hidden_size": 32, "vocab_size": 40}, "num_query_tokens": 2}
    words = {"model_type": "llama", **small, "vocab_size": 40}
    if kind == "blip":
        words, parts = {**small, "vocab_size": 40, "encoder_hidden_size": 32, "bos_token_id": 1, "sep_token_id": 2}, {}
    made = type(config)(vision_config=tower.to_dict(), text_config=words, **parts)
    published = AutoModelForImageTextToText.from_config(made).eval()
    torch.nn.init.normal_(published.vision_model.embeddings.position_embedding)
    published.save_pretrained(tmp_path / "published")
    means = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    processor = BlipImageProcessorPil(size={"height": 32, "width": 32}, **means)
    processor.save_pretrained(tmp_path / "published")
    folder = join(tower_of(str(tmp_path / "published")), "starter", tmp_path / "joined", queries=3)
    loaded = load(str(folder), device="cpu")
    picture = make_picture(tmp_path / "a.png", 1, (40, 32))
    ours = loaded.vision.picture(str(picture)).tensors["pixel_values"]
    theirs = processor(Image.open(picture).convert("RGB"), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        seen, expected = (m.vision_model(theirs).last_hidden_state for m in (loaded.model, published))
    assert torch.equal(seen, expected)
    shown = asked(folder, Part(str(picture), "input", "image"), Part("What?", "instruction"))
    assert len(loaded.renderer.render(shown).media) == 1
    with pytest.raises(UsageError, match="goes before a Q-Former"):
        join(tower_of(str(tmp_path / "published")), "starter", tmp_path / "other")


def test_what_does_not_go_is_refused_and_nothing_is_left(eyes: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="48 pixels are not cut into patches of 7"):
        new_tower(48, 7)
    with pytest.raises(UsageError, match="no language model that writes"):
        put_together(tmp_path / "a", str(eyes), "new", (48, 8, 96, 3), 0, 0)
    with pytest.raises(UsageError, match="not empty"):
        put_together(eyes, "starter", "new", (48, 8, 96, 3), 0, 0)
    with pytest.raises(UsageError, match="no image processor"):
        put_together(tmp_path / "a", "starter", str(make_model(tmp_path / "m")), (48, 8, 96, 3), 0, 0)
    assert not (tmp_path / "a").exists()
