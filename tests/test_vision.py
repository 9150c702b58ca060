"""Models that see: rows as the processor has them, batches that change nothing, answers as without a cache."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from toys import SHAPES, make_picture, make_seeing

from didact.errors import UsageError
from didact.fit import fit
from didact.infer import Answerer
from didact.instance import Instance, Message, Origin, Part
from didact.methods.full import FullConfig
from didact.model import Loaded, load, load_tuned
from didact.prepare import _fingerprint
from didact.processor import FILES
from didact.render import pictures
from didact.settle import settle
from didact.tune import Step, TuneConfig, save, tune

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeing")
    for kind in SHAPES:
        make_seeing(folder / kind, kind)
    for number, size in enumerate([(40, 32), (32, 32), (64, 40)]):
        make_picture(folder / f"{number}.png", number, size)
    return folder


@cache
def opened(folder: Path) -> Loaded:
    return load(str(folder), device="cpu")


def row(place: Path, question: str, answer: str, *numbers: int, line: int = 1) -> Instance:
    shown = [Part(str(place / f"{number}.png"), "input", "image") for number in numbers]
    user = Message("user", (*shown, Part(question, "instruction")))
    return Instance.of((user, Message("assistant", (Part(answer, "answer"),))), Origin("rows.jsonl", line))


def three(place: Path) -> list[Instance]:
    texts = [("what is it?", "red"), ("how many cats are there", "two"), ("where", "left side")]
    return [row(place, *text, number) for number, text in enumerate(texts)]


@pytest.mark.parametrize("kind", SHAPES)
def test_a_row_has_the_ids_that_the_processor_gives(place: Path, kind: str) -> None:
    from PIL import Image

    loaded = opened(place / kind)
    for instance in three(place):
        tokens = loaded.renderer.render(instance)
        turns = [{"role": m.role, "content": [
            {"type": "image"} if part.kind == "image" else {"type": "text", "text": part.value} for part in m.parts
        ]} for m in instance.messages]  # fmt: skip
        text = loaded.tokenizer.apply_chat_template(turns, tokenize=False)
        if kind == "paligemma":  # its processor puts BOS and the end of the prompt itself, and has no conversations
            text = "<image>" + instance.messages[0].text
        images = [Image.open(path).convert("RGB") for path in pictures(instance.messages)]
        given = {"text": [text.replace("<image>", "") if kind == "instructblip" else text], "images": images}
        theirs = loaded.vision.processor(**given, return_tensors="pt", add_special_tokens=False)["input_ids"][0]
        ours = tokens.ids[: tokens.turns[0][0]] if kind == "paligemma" else tokens.ids
        assert ours == theirs.tolist()
        ((a, b),) = tokens.media
        assert not any(tokens.weights[a:b])
        assert loaded.vision.image_id not in tokens.ids[b:]


@pytest.mark.parametrize("kind", SHAPES)
def test_many_rows_give_the_logits_of_each_alone_and_what_is_seen_counts(place: Path, kind: str) -> None:
    loaded = opened(place / kind)
    data, said = loaded.renderer.render_all(three(place)), list[str]()
    way = settle(loaded, data, "auto", said.append)
    assert way.packed == (kind in ("llava", "llava_onevision", "idefics3", "smolvlm")), said
    with torch.no_grad(), way.on(loaded):
        together = way.logits(loaded, way.batch(loaded, data, [2, 0, 1]))
        alone = [way.logits(loaded, way.batch(loaded, data, [i])) for i in (2, 0, 1)]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)
        other = row(place, "what is it?", "red", 1)
        swapped = way.logits(loaded, way.batch(loaded, loaded.renderer.render_all([other]), [0]))
    if swapped.shape == alone[1].shape:
        assert float((swapped - alone[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", SHAPES)
def test_answers_are_those_without_a_cache(place: Path, kind: str) -> None:
    loaded = opened(place / kind)
    asked, answerer = three(place), Answerer(loaded, max_new_tokens=6)
    prompts, seen = loaded.renderer.prompt_all(asked), [pictures(one.context) for one in asked]
    found = answerer.generate(prompts, seen)
    for prompt, images, ids in zip(prompts, seen, found, strict=True):
        done: list[int] = []
        while len(done) < len(ids):
            ids_BT = torch.tensor([prompt + done])
            given = loaded.vision.inputs(images, ids_BT, [(0, len(prompt))])
            with torch.no_grad():
                done.append(int(loaded.model(input_ids=ids_BT, use_cache=False, **given).logits[0, -1].argmax()))
        assert done == ids


@pytest.mark.parametrize("kind", SHAPES)
def test_tuning_lowers_the_loss_and_what_is_saved_reads_back(place: Path, kind: str, tmp_path: Path) -> None:
    loaded = load(str(place / kind), device="cpu")
    data = loaded.renderer.render_all(three(place))
    steps = list[Step]()
    config = TuneConfig(epochs=24, batch_size=3, learning_rate=3e-3, precision="fp32")
    tune(loaded, FullConfig(), data, config, report=steps.append)
    assert steps[-1].loss < 0.6 * steps[0].loss
    save(loaded, FullConfig(), tmp_path / "tuned")
    again = load_tuned(tmp_path / "tuned", device="cpu")
    asked = [row(place, "what is it?", "red", 0)]
    assert Answerer(again).answer_loss(asked) == pytest.approx(Answerer(loaded).answer_loss(asked), abs=1e-4)
    assert again.renderer.hash == loaded.renderer.hash


def test_rows_with_and_without_pictures_train_together(place: Path) -> None:
    loaded = load(str(place / "llava"), device="cpu")
    rows = [*three(place), row(place, "say yes", "yes"), row(place, "both?", "no", 0, 1)]
    data = loaded.renderer.render_all(rows)
    loaded.renderer.check_all(rows, data)
    assert [len(tokens.media) for tokens in data] == [1, 1, 1, 0, 2]
    way = settle(loaded, data, "auto", lambda text: None)
    assert way.packed
    with torch.no_grad(), way.on(loaded):
        one = way.batch(loaded, data, [3, 4, 0])
        assert sorted(one.images) == sorted([*data[4].images, *data[0].images])
        alone = [way.logits(loaded, way.batch(loaded, data, [i])) for i in (3, 4, 0)]
        torch.testing.assert_close(way.logits(loaded, one), torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_a_checkpoint_belongs_to_its_pictures(place: Path) -> None:
    loaded = opened(place / "llava")
    told = [loaded.renderer.render_all([row(place, "what is it?", "red", number)]) for number in (0, 1)]
    assert told[0][0].ids == told[1][0].ids
    names = {_fingerprint(loaded, FullConfig(), data, TuneConfig(), 1e-3, None) for data in told}
    assert len(names) == 2


def test_a_picture_that_several_rows_of_a_batch_ask_about_is_looked_at_once(place: Path) -> None:
    loaded = opened(place / "llava_onevision")
    rows = [row(place, question, "yes", number) for question in ("red?", "blue?") for number in (0, 1, 0)]
    data = loaded.renderer.render_all(rows)
    way = settle(loaded, data, "auto", lambda text: None)
    assert way.share
    one = way.batch(loaded, data, range(6))
    assert len(one.images) == 2
    with torch.no_grad(), way.on(loaded):
        alone = [way.logits(loaded, way.batch(loaded, data, [i])) for i in range(6)]
        torch.testing.assert_close(way.logits(loaded, one), torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_what_looks_like_a_picture_in_a_text_stays_text(place: Path) -> None:
    loaded = opened(place / "llava_onevision")
    told = row(place, "is <image> a mark?", "it is <image>", 0)
    tokens = loaded.renderer.render(told)
    loaded.renderer.check(told, tokens)
    ((a, b),) = tokens.media
    assert tokens.ids.count(loaded.vision.image_id) == b - a
    assert "<image> a mark" in loaded.tokenizer.decode(tokens.ids)
    assert tokens.slots[b : b + 3] == ["instruction"] * 3


def test_rows_are_shortened_around_their_pictures(place: Path) -> None:
    loaded = opened(place / "llava")
    long = row(place, "word " * 60, "red", 0)
    fitted = fit([long, row(place, "?", "red", 0, 1, 2)], loaded.renderer, 70, "keep_answer")
    (tokens,) = fitted.tokens
    assert len(tokens.ids) <= 70
    assert tokens.ids.count(loaded.vision.image_id) == 16
    assert len(fitted.drops) == 1


def test_a_processor_of_another_model_is_refused_and_the_row_named(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "llava", tmp_path / "m")
    told = tmp_path / "m" / "processor_config.json"
    told.write_text(told.read_text().replace('"patch_size": 8', '"patch_size": 16'))
    loaded = load(str(tmp_path / "m"), device="cpu")
    with pytest.raises(UsageError, match=r"rows.jsonl:7: the row has 4 places for the picture, but .* 16 features"):
        loaded.renderer.render(row(place, "what?", "red", 0, line=7))


def test_a_model_without_its_processor_is_refused_in_a_line(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "llava", tmp_path / "m")
    for name in FILES:
        (tmp_path / "m" / name).unlink(missing_ok=True)
    with pytest.raises(UsageError, match=r"has no processor.*add the preprocessor_config.json"):
        load(str(tmp_path / "m"), device="cpu")


def test_a_template_that_loses_pictures_is_refused(place: Path, tmp_path: Path) -> None:
    blind = tmp_path / "blind.jinja"
    blind.write_text(
        "{% for m in messages %}{{ m['role'] }}: {% for p in m['content'] %}{{ p['text'] }}{% endfor %}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    with pytest.raises(UsageError, match="no place for pictures"):
        load(str(place / "llava"), device="cpu", chat_template=str(blind))


def test_the_plain_template_has_a_place_for_pictures(place: Path) -> None:
    loaded = load(str(place / "qwen2_5_vl"), device="cpu", chat_template="plain")
    rows = three(place)
    loaded.renderer.check_all(rows, loaded.renderer.render_all(rows))


def test_choices_are_ranked_by_what_is_seen(place: Path) -> None:
    for kind in ("llava", "qwen2_5_vl", "paligemma", "instructblip"):
        loaded = opened(place / kind)
        asked = [replace(row(place, "which?", "red", number), choices=("red", "blue", "no")) for number in (0, 1)]
        found = Answerer(loaded).rank(asked)
        for instance, scores in zip(asked, found, strict=True):
            for choice, score in zip(instance.choices, scores, strict=True):
                tokens = loaded.renderer.render(loaded.renderer.complete(instance, choice))
                start, end = tokens.turns[-1]
                ids_BT = torch.tensor([tokens.ids[:end]])
                given = loaded.vision.inputs(tokens.images, ids_BT, [(0, start)])
                with torch.no_grad():
                    logits = loaded.model(input_ids=ids_BT, **given).logits[0, start - 1 : end - 1].log_softmax(-1)
                picked = logits.gather(1, ids_BT[0, start:end, None]).sum()
                assert float(picked) == pytest.approx(score, abs=2e-3), kind
        assert found[0] != pytest.approx(found[1], abs=1e-3), kind


@pytest.mark.parametrize("kind", SHAPES)
def test_plain_text_is_read_without_a_picture(place: Path, kind: str) -> None:
    loaded = opened(place / kind)
    texts = ["a red house by the sea", "two"]
    sums = Answerer(loaded).text_loss(texts)
    for text, (nats, tokens) in zip(texts, sums, strict=True):
        ids = torch.tensor([loaded.renderer.plain(text)])
        model = loaded.model.language_model if kind == "instructblip" else loaded.model
        given = {"token_type_ids": (torch.arange(ids.shape[1])[None] > 0).long()} if kind == "paligemma" else {}
        with torch.no_grad():
            logits = model(input_ids=ids, **given).logits[0, :-1].log_softmax(-1)
        assert tokens == ids.shape[1] - 1
        assert nats == pytest.approx(-float(logits.gather(1, ids[0, 1:, None]).sum()), abs=1e-2)


def test_a_picture_in_an_answer_and_one_for_a_blind_model_are_refused(place: Path, tiny_llama: Path) -> None:
    shown = row(place, "what?", "red", 0, line=3)
    with pytest.raises(UsageError, match=r"rows.jsonl:3: .*reads only text"):
        load(str(tiny_llama), device="cpu").renderer.render(shown)
    answer = Message("assistant", (Part("a", "answer"), shown.messages[0].parts[0]))
    drawn = Instance.of((shown.messages[0], answer), Origin("rows.jsonl", 4))
    with pytest.raises(UsageError, match=r"rows.jsonl:4: the row has an image in an answer"):
        opened(place / "llava").renderer.render(drawn)


@pytest.mark.parametrize("kind", SHAPES)
def test_an_example_keeps_its_picture_or_is_refused(place: Path, kind: str) -> None:
    loaded = opened(place / kind)
    demo = (Part(str(place / "0.png"), "demo", "image"), Part("what?\nred\n\n", "demo"))
    asked = row(place, "what now?", "blue", 1, line=9)
    told = Instance.of((Message("user", (*demo, *asked.messages[0].parts)), asked.messages[1]), asked.origin)
    if kind in ("llava", "paligemma", "instructblip"):
        words = "exactly one in each row" if kind == "instructblip" else "so examples would lose theirs"
        assert words in loaded.renderer.unshown(told)
        with pytest.raises(UsageError, match=rf"rows.jsonl:9: .*{words} - leave out such rows, and examples"):
            loaded.renderer.render(told)
        return
    assert not loaded.renderer.unshown(told)
    tokens = loaded.renderer.render(told)
    loaded.renderer.check(told, tokens)
    (_, first), (second, _) = tokens.media
    assert "what?\nred\n\n" in loaded.tokenizer.decode(tokens.ids[first:second])


def test_a_prompt_read_both_ways_has_one_answer_in_each_row(place: Path) -> None:
    loaded = opened(place / "paligemma")
    one = row(place, "what?", "red", 0)
    talk = Instance.of((*one.messages, *row(place, "and now?", "blue").messages), Origin("rows.jsonl", 1))
    assert [len(tokens.turns) for tokens in fit([talk], loaded.renderer, 500, "drop").tokens] == [1, 1]
