"""Masked and encoder-decoder models: what is taught is what is asked, padding is unseen, and the loop does the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import make_model, make_other_model

from didact import kinds
from didact.errors import Interrupted, UsageError
from didact.fit import fit
from didact.forward import Forward, shown
from didact.infer import Answerer
from didact.instance import Instance, Message, Origin, Part
from didact.methods import METHODS, suits
from didact.methods.full import FullConfig
from didact.methods.lora import LoraConfig
from didact.model import Loaded, load, load_tuned
from didact.model_files import kind_in
from didact.tune import TuneConfig, save, tune

NAMES = ["bert", "roberta", "t5", "bart"]
WORDS = ["red", "blue", "deep green", "x"]
EXACT = TuneConfig(precision="fp32", batch_size=4, learning_rate=3e-3, epochs=4, checkpoint_minutes=0)


def ask(text: str, answer: str = "", choices: tuple[str, ...] = (), before: tuple[str, ...] = ()) -> Instance:
    turns = [Message("user" if i % 2 == 0 else "assistant", (Part(said),)) for i, said in enumerate(before)]
    messages = (*turns, Message("user", (Part(text, "instruction"),)), Message("assistant", (Part(answer, "answer"),)))
    return Instance.of(messages, Origin("data.jsonl", 4), choices=choices)


ROWS = [ask(f"{'Please ' * i}Say {word}", word) for i, word in enumerate(WORDS)]


@pytest.fixture(scope="module", params=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_other_model(tmp_path_factory.mktemp(request.param) / request.param, request.param)


@pytest.fixture(scope="module")
def tuned(folder: Path) -> Loaded:
    loaded = load(str(folder))
    tune(
        loaded,
        FullConfig(),
        loaded.renderer.render_all(ROWS),
        EXACT.model_copy(update={"epochs": 150.0, "learning_rate": 5e-3, "warmup": 0.2}),
    )
    return loaded


def test_a_folder_tells_its_kind_and_its_limits(folder: Path) -> None:
    loaded = load(str(folder))
    assert loaded.kind == ("masked" if folder.name in ("bert", "roberta") else "encoder-decoder")
    assert loaded.max_positions == (None if folder.name == "t5" else 256)
    end = loaded.tokenizer.convert_tokens_to_ids("[SEP]" if folder.name == "bert" else "</s>")
    assert loaded.renderer.stop_ids == (end,)
    tokens = loaded.renderer.render(ROWS[2])
    loaded.renderer.check(ROWS[2], tokens)
    assert tokens.ids[: tokens.turns[0][0]] == loaded.renderer.prompt(ROWS[2])
    whole = loaded.tokenizer(ROWS[2].prompt)["input_ids"]
    assert whole == loaded.renderer.prompt(ROWS[2])  # as the tokenizer itself writes a text for this model
    assert tokens.ids[-1] == end
    assert tokens.weights[-1] == 1.0


def test_a_masked_model_is_taught_each_token_behind_a_mask(tmp_path: Path) -> None:
    loaded = load(str(make_other_model(tmp_path / "bert", "bert")))
    tokens = loaded.renderer.render(ROWS[0])
    start, end = tokens.turns[0]
    sequences = list(kinds.taught(loaded, tokens.ids, start, end))
    assert [one.labels for one in sequences] == [[id_] for id_ in tokens.ids[start:]]
    assert [one.ids for one in sequences] == [[*tokens.ids[:k], loaded.mask_id] for k in range(start, end)]
    one = shown(loaded, [tokens], [0])
    assert one.labels_N.tolist() == tokens.ids[start:]
    assert {int(one.ids_BT.flatten()[place]) for place in one.reads_N} == {loaded.mask_id}
    assert one.inputs["attention_mask"].sum(1).tolist() == list(range(start + 1, end + 1))


@pytest.mark.parametrize(("name", "first"), [("t5", [0]), ("bart", [2, 0])])
def test_an_encoder_decoder_reads_the_prompt_and_is_taught_the_answer(
    tmp_path: Path, name: str, first: list[int]
) -> None:
    loaded = load(str(make_other_model(tmp_path / name, name)))
    tokens = loaded.renderer.render(ROWS[0])
    start, end = tokens.turns[0]
    one = shown(loaded, [tokens], [0])
    assert one.inputs["input_ids"].tolist() == [tokens.ids[:start]]
    assert one.inputs["decoder_input_ids"].tolist() == [[*first, *tokens.ids[start : end - 1]]]
    assert one.labels_N.tolist() == tokens.ids[start:end]
    labels = torch.full((1, len(first) + end - start - 1), -100)
    labels[0, len(first) - 1 :] = one.labels_N
    with torch.no_grad():
        theirs = loaded.model(**one.inputs, labels=labels).loss
        ours = Forward().loss(loaded, one) / len(one.labels_N)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_padding_is_never_in_the_loss_nor_seen(folder: Path) -> None:
    loaded = load(str(folder))
    data, plain = loaded.renderer.render_all(ROWS), Forward()
    together = plain.batch(loaded, data, list(range(len(data))))
    with torch.no_grad():
        losses = [float(plain.loss(loaded, plain.batch(loaded, data, [row]))) for row in range(len(data))]
        assert float(plain.loss(loaded, together)) == pytest.approx(sum(losses), rel=1e-5)
    assert len(together.labels_N) == sum(tokens.supervised for tokens in data)


@pytest.mark.parametrize("max_tokens", [1, 200])
def test_the_cut_into_micro_batches_changes_nothing(folder: Path, max_tokens: int) -> None:
    ends = []
    for limit in (100_000, max_tokens):
        loaded = load(str(folder))
        config = EXACT.model_copy(update={"max_tokens": limit, "epochs": 2, "learning_rate": 1e-3, "clip": 0.0})
        result = tune(loaded, FullConfig(), loaded.renderer.render_all(ROWS), config)
        ends.append(result.loss)
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)


def test_it_learns_answers_and_stops(tuned: Loaded) -> None:
    answers = Answerer(tuned, max_new_tokens=16).answer(ROWS)
    assert all(answer.stopped for answer in answers)
    alone = [Answerer(tuned, max_new_tokens=16).answer([row])[0] for row in ROWS]
    assert alone == answers
    assert [answer.text for answer in answers] == WORDS


def test_greedy_equals_transformers(tuned: Loaded) -> None:
    if tuned.kind == "masked":
        return  # transformers does not generate with these; the next test asks them by hand
    for row in ROWS:
        prompt = tuned.renderer.prompt(row)
        theirs = tuned.model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, num_beams=1)[0]
        ours = Answerer(tuned, max_new_tokens=12).generate([prompt])[0]
        first = kinds.decoder_start(tuned.model)
        theirs = theirs.tolist()[len(first) :]
        assert ours[: len(theirs)] == theirs[: len(ours)]


def test_what_is_asked_is_what_was_taught(tuned: Loaded) -> None:
    """Summed log-probabilities of choices are the loss of the same row in training, whatever they are asked with."""
    row, plain = ask("Say red", choices=tuple(WORDS)), Forward()
    scores = Answerer(tuned).rank([ROWS[1], row])[1]
    for word, score in zip(WORDS, scores, strict=True):
        tokens = tuned.renderer.render(tuned.renderer.complete(row, word))
        with torch.no_grad():
            loss = float(plain.loss(tuned, plain.batch(tuned, [tokens], [0])))
        assert -score == pytest.approx(loss, rel=1e-4)
    taught, asked = Answerer(tuned).answer_loss([ROWS[0]])[0], tuned.renderer.render(ROWS[0])
    with torch.no_grad():
        alone = float(plain.loss(tuned, plain.batch(tuned, [asked], [0])))
    assert taught * asked.supervised == pytest.approx(alone, rel=1e-4)


def test_a_plain_text_is_predicted_once_and_never_from_itself(tuned: Loaded) -> None:
    text = "Where were you all day, he asked."
    ids = tuned.renderer.plain(text)
    sequences = list(kinds.plain(tuned, ids))
    if tuned.kind == "masked":
        asked = sorted(place for one in sequences for place in one.reads)
        assert asked == list(range(int(tuned.renderer.bos is not None), len(ids)))
        assert all(one.ids[place] == tuned.mask_id for one in sequences for place in one.reads)
        assert all(one.labels == [ids[place] for place in one.reads] for one in sequences)
    else:
        (one,) = sequences
        assert [*(one.source or ())[:-1], *one.labels] == ids
    (nats, count), (again, _) = Answerer(tuned).text_loss([text, text * 30])
    assert count == sum(len(one.labels) for one in sequences)
    assert 0 < nats < again


def test_saved_and_read_back_it_says_the_same(tuned: Loaded, tmp_path: Path) -> None:
    save(tuned, FullConfig(), tmp_path / "tuned")
    again = load_tuned(tmp_path / "tuned")
    assert (again.kind, again.renderer.hash) == (tuned.kind, tuned.renderer.hash)
    assert Answerer(again).answer(ROWS) == Answerer(tuned).answer(ROWS)
    assert Answerer(again).rank([ask("Say x", choices=tuple(WORDS))]) == Answerer(tuned).rank(
        [ask("Say x", choices=tuple(WORDS))]
    )


@pytest.mark.parametrize("method", [FullConfig(), LoraConfig(rank=4)], ids=["full", "lora"])
def test_a_stopped_run_goes_on_exactly(folder: Path, tmp_path: Path, method: FullConfig | LoraConfig) -> None:
    whole, count = load(str(folder)), 0
    data = whole.renderer.render_all(ROWS)
    tune(whole, method, data, EXACT)

    def stop() -> bool:
        nonlocal count
        count += 1
        return count == 2

    with pytest.raises(Interrupted):
        tune(load(str(folder)), method, data, EXACT, folder=tmp_path, stop=stop)
    resumed = load(str(folder))
    assert tune(resumed, method, data, EXACT, folder=tmp_path).resumed_at == 2
    named = dict(resumed.model.named_parameters())
    assert all(torch.equal(weight, named[name]) for name, weight in whole.model.named_parameters())


def test_earlier_turns_are_read_and_each_answer_is_a_row(folder: Path) -> None:
    loaded = load(str(folder))
    talk = ask("Say x", "x", before=("Say red", "red"))
    fitted = fit([talk], loaded.renderer, 200, "drop")
    assert [len(row.turns) for row in fitted.tokens] == [1, 1]
    last = fitted.tokens[1]
    text = loaded.tokenizer.decode(last.ids[: last.turns[0][0]]).replace(" ", "").lower()
    assert "sayred" in text
    assert text.count("red") == 2


def test_small_letters_of_a_tokenizer_are_no_fault_and_other_words_are(tmp_path: Path) -> None:
    loaded = load(str(make_other_model(tmp_path / "bert", "bert")))
    row = ask("Say it", "Deep Green")
    tokens = loaded.renderer.render(row)
    loaded.renderer.check(row, tokens)
    with pytest.raises(UsageError, match="not the answer"):
        loaded.renderer.check(ask("Say it", "Deep Red"), tokens)


def test_a_method_that_is_not_for_a_kind_is_refused_before_weights_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    suits("full", kind_in(folder))
    monkeypatch.setitem(METHODS, "full", replace(METHODS["full"], models=("causal",)))
    with pytest.raises(UsageError, match=f"full is for causal models, and this one is {kind_in(folder)}"):
        suits("full", kind_in(folder))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "masked"),
        ({"model_type": "bert", "architectures": ["BertLMHeadModel"], "is_decoder": True}, "causal"),
        ({"model_type": "distilbert", "architectures": ["DistilBertForMaskedLM"]}, "masked"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "causal"),
        ({"model_type": "vit", "architectures": ["ViTModel"]}, None),
    ],
)
def test_the_kind_is_read_from_the_configuration(values: dict[str, object], kind: str | None) -> None:
    assert kinds.kind_of(values) == kind


def test_a_decoder_without_a_beginning_and_a_tokenizer_without_a_mask(tmp_path: Path) -> None:
    t5 = make_other_model(tmp_path / "t5", "t5")
    config = json.loads((t5 / "config.json").read_text())
    (t5 / "config.json").write_text(json.dumps({**config, "decoder_start_token_id": None}))
    with pytest.raises(UsageError, match="how its decoder starts"):
        load(str(t5))
    bert = make_other_model(tmp_path / "bert", "bert")
    tokenizer = json.loads((bert / "tokenizer_config.json").read_text())
    tokenizer.pop("mask_token")
    (bert / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UsageError, match="the tokenizer has no mask token"):
        load(str(bert))
    assert load(str(make_model(tmp_path / "llama"))).kind == "causal"


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_letters_that_the_vocabulary_lacks_are_the_same_in_row_and_prompt(tmp_path: Path, name: str) -> None:
    loaded = load(str(make_other_model(tmp_path / name, name)))
    row = ask("Is it\ngood, \u4e00?\nsay", "yes")
    tokens = loaded.renderer.render(row)
    loaded.renderer.check(row, tokens)
    assert tokens.ids[: tokens.turns[0][0]] == loaded.renderer.prompt(row)
    assert loaded.tokenizer.unk_token_id in tokens.ids
