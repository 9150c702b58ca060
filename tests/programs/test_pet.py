"""PET: only labels compete, soft labels teach at a temperature, no unused label is looked at, nothing is made twice."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model, make_other_model

from didact import fingerprint
from didact.closed import Closed, Fork, gapped, scores, soft_loss
from didact.errors import UsageError
from didact.infer import Answerer
from didact.instance import Instance, Message, Origin, Part
from didact.model import load
from didact.programmed import follow
from didact.programs import Job
from didact.programs.distil import student_row
from didact.programs.patterns import view
from didact.programs.pet import PetConfig, _labelled_by_others, averaged, run, softmax
from didact.programs.pool import unlabelled
from didact.recipe import Recipe
from didact.tune import TuneConfig, tune

WORDS = {"yes": ["y"], "no": ["n"]}
CONFIG = PetConfig(patterns=["{input} {mask}.", "a {input}: {mask}"], verbalizer=WORDS, seeds=1, steps=60, batch_size=8)
TUNE = TuneConfig(precision="fp32", epochs=30, batch_size=8, learning_rate=8e-3, checkpoint_minutes=0)


def row(n: int, word: str, answer: str, choices: tuple[str, ...] = ("yes", "no")) -> Instance:
    parts = (Part("Is it a? ", "instruction"), Part(word, "input"))
    messages = (Message("user", parts), Message("assistant", (Part(answer, "answer"),)))
    return Instance.of(messages, Origin("data.jsonl", n), choices=choices)


def rows(n: int = 32) -> list[Instance]:
    rng = random.Random(0)
    return [row(i, "ab"[i % 2] * rng.randint(1, 4), ("yes", "no")[i % 2]) for i in range(n)]


@pytest.fixture(scope="module", params=["bert", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make: Callable[..., Path] = make_model if request.param == "llama" else make_other_model
    return make(tmp_path_factory.mktemp(request.param) / request.param, request.param)


# ---- the loss


def test_only_the_labels_compete_and_their_words_are_averaged() -> None:
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(0))
    fork = Fork(0, 1, ((3, 7), (5,)), (0.0, 1.0))
    found = scores(logits, [fork])
    by_hand = torch.stack([(logits[0, 3] + logits[0, 7]) / 2, logits[0, 5]])
    assert torch.allclose(found[0], by_hand)
    loss = float(soft_loss(found, torch.tensor([[0.0, 1.0]]), 1.0))
    assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(by_hand[None], torch.tensor([1]))))
    logits[0, 9] += 50  # no label's token: nothing changes
    assert torch.equal(scores(logits, [fork]), found)


def test_distillation_is_kl_times_the_squared_temperature() -> None:
    generator = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(4, 3, generator=generator), torch.randn(4, 3, generator=generator)
    target = torch.softmax(teacher / 2, -1)
    expected = torch.nn.functional.kl_div(torch.log_softmax(student / 2, -1), target, reduction="none").sum(-1) * 4
    assert torch.allclose(soft_loss(student, target, 2.0), expected)
    assert torch.allclose(torch.tensor(softmax(teacher[0].tolist(), 2.0)), target[0], atol=1e-6)


def test_models_count_by_their_accuracy_before_training() -> None:
    said = averaged([[[0.0, 1.0]], [[4.0, 0.0]]], [0.75, 0.25])
    assert said == [[1.0, 0.75]]


def test_rows_with_fewer_labels_compete_among_themselves() -> None:
    logits = torch.zeros(2, 6)
    forks = [Fork(0, 1, ((1,), (2,), (3,)), (1, 0, 0)), Fork(0, 1, ((4,), (5,)), (0.5, 0.5))]
    found = scores(logits, forks)
    assert found[1, 2] == -math.inf
    assert torch.allclose(
        soft_loss(found, torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0]]), 1.0), torch.tensor([math.log(3), 0.0])
    )


# ---- patterns


def test_a_masked_model_sees_both_sides_of_the_gap_and_a_causal_one_what_stands_before(folder: Path) -> None:
    base = load(str(folder))
    (seen,) = view(base, "{input} {mask}. So", WORDS, 0.25, [row(1, "aab", "yes")], 64)
    place = seen.tokens.turns[0][0]
    text = base.tokenizer.decode(seen.tokens.ids).replace(" ", "")
    yes, no = (base.tokenizer.convert_tokens_to_ids(word) for word in "yn")
    assert seen.labels == ((yes,), (no,))
    assert seen.tokens.ids[place] == yes
    if base.kind == "masked":
        assert text == "[CLS]aaby.so[SEP]"
        one = gapped(base, [seen.tokens], [0], 0.25)
        assert one.ids_BT[0, place] == base.mask_id
        assert one.ids_BT[0].tolist()[:place] == seen.tokens.ids[:place]
        assert one.ids_BT[0].tolist()[place + 1 :] == seen.tokens.ids[place + 1 :]
        assert one.labels_N[0] == yes
        assert one.ids_BT[1, place] == yes  # the loss on plain text hides other tokens than the gap
        assert float(one.weights_N[1:].sum()) == pytest.approx(0.25)
    else:
        assert text == "aaby"
        assert place == len(seen.tokens.ids) - 1
        assert sum(seen.tokens.weights) == pytest.approx(1.25)


def test_a_long_text_is_cut_and_the_pattern_is_not(folder: Path) -> None:
    base = load(str(folder))
    (seen,) = view(base, "{input} It was {mask}", WORDS, 1e-4, [row(1, "ab " * 200, "yes")], 40)
    assert 25 < len(seen.tokens.ids) <= 40
    assert "Itwas" in base.tokenizer.decode(seen.tokens.ids).replace(" ", "").replace("i", "I")
    with pytest.raises(UsageError, match="pattern alone is longer than 12 tokens"):
        view(base, "{input} It was so very {mask}", WORDS, 1e-4, [row(1, "ab", "yes")], 12)


@pytest.mark.parametrize(
    ("changes", "rows_", "problem"),
    [
        ({"verbalizer": {"yes": ["oui"], "no": ["n"]}}, rows(4), '"oui" is 3 tokens'),
        (
            {"patterns": ["{input2} {mask}"]},
            rows(4),
            r"data.jsonl:1:method.patterns: the row has nothing for \{input2\}",
        ),
        ({}, [row(3, "a", "yes", choices=())], "data.jsonl:3: pet needs a closed set of answers"),
        ({}, [row(3, "a", "yes", ("yes", "perhaps"))], 'no word for the answer "perhaps"'),
        ({"labels": 1}, rows(8), "none of the 1 labelled rows has the answer"),
    ],
)
def test_what_does_not_go_together_is_refused_before_training(
    folder: Path, changes: dict[str, Any], rows_: list[Instance], problem: str
) -> None:
    def train(*args: object, **more: object) -> Any:
        raise AssertionError("nothing may be trained")

    job = Job(
        lambda: load(str(folder)),
        train,
        [replace(r, origin=replace(r.origin, row=r.origin.row or 1)) for r in rows_],
        TUNE,
    )
    with pytest.raises(UsageError, match=problem):
        run(job, CONFIG.model_copy(update=changes))


def test_a_gap_with_nothing_before_it_is_for_masked_models(tmp_path: Path) -> None:
    base = load(str(make_model(tmp_path / "llama")))
    with pytest.raises(UsageError, match="sees nothing before the gap"):
        view(base, "{mask}: {input}", WORDS, 1e-4, rows(2), 64)
    assert view(load(str(make_other_model(tmp_path / "bert"))), "{mask}: {input}", WORDS, 1e-4, rows(2), 64)


# ---- the program


def learnt(folder: Path, config: PetConfig, given: list[Instance], place: Path | None = None) -> tuple[Any, list[str]]:
    recipe, names = Recipe(method=config, tune=TUNE), list[str]()
    loaded, method, result = follow(
        recipe, str(folder), given, folder=place, report=lambda name, step: names.append(name)
    )
    assert method.type == "full"
    assert result.steps == 30 * len(given if config.labels is None else given[config.labels :]) // 8
    return loaded, list(dict.fromkeys(names))


def test_the_kept_model_answers_rows_without_labels_and_never_sees_theirs(folder: Path, tmp_path: Path) -> None:
    given, config = rows(40), CONFIG.model_copy(update={"labels": 16})
    loaded, names = learnt(folder, config, given, tmp_path)
    assert names == ["pattern-1-seed-0", "pattern-2-seed-0", ""]
    asked = [replace(one, messages=(*one.context, Message("assistant", ()))) for one in given]
    best = [
        one.choices[max(range(2), key=values.__getitem__)]
        for one, values in zip(asked, Answerer(loaded).rank(asked), strict=True)
    ]
    assert sum(a == one.answer for a, one in zip(best, given, strict=True)) >= 36
    answers = Answerer(loaded, max_new_tokens=6).answer(asked)
    assert sum(answer.stopped and answer.text == one.answer for answer, one in zip(answers, given, strict=True)) >= 36
    # Other answers of the rows whose labels are not used: the same weights
    order = list(given)
    random.Random("labels/0").shuffle(order)
    hidden = {one.origin.row for one in order[16:]}
    turned = [
        replace(one, messages=(*one.context, Message("assistant", (Part("yes", "answer"),))))
        if one.origin.row in hidden
        else one
        for one in given
    ]
    again, _ = learnt(folder, config, turned)
    named = dict(again.model.named_parameters())
    assert all(torch.equal(weight, named[name]) for name, weight in loaded.model.named_parameters())


def test_finished_parts_are_not_made_again_and_the_end_is_the_same(folder: Path, tmp_path: Path) -> None:
    given, config = rows(24), CONFIG.model_copy(update={"labels": 8, "steps": 10})
    first, _ = learnt(folder, config, given, tmp_path)
    (kept,) = tmp_path.glob("pet/pattern-2-*.json")
    kept.write_text(kept.read_text()[:-30])  # cut off: made again
    second, names = learnt(folder, config, given, tmp_path)
    assert names == ["pattern-2-seed-0"]  # and the last training was finished too
    named = dict(second.model.named_parameters())
    assert all(torch.equal(weight, named[name]) for name, weight in first.model.named_parameters())
    _, names = learnt(folder, config.model_copy(update={"steps": 11}), given, tmp_path)
    assert names[:2] == ["pattern-1-seed-0", "pattern-2-seed-0"]


def test_the_student_learns_at_the_token_where_choices_part(folder: Path) -> None:
    base = load(str(folder))
    one = row(1, "a", "yes", ("yes", "yet", "no"))
    tokens, fork = student_row(base.renderer, one, [0.5, 0.2, 0.3])
    start, end = tokens.turns[0]
    assert fork.read == 0
    assert fork.reads == end - start == tokens.supervised
    assert [round(share, 6) for share in fork.target] == [0.7, 0.3]  # two of the choices begin alike
    assert fork.labels[0] == (tokens.ids[start],)
    tokens, fork = student_row(base.renderer, row(1, "a", "yes", ("yes", "yet")), [0.6, 0.4])
    assert fork.read == 2
    assert fork.labels[0] == (tokens.ids[tokens.turns[0][0] + 2],)
    objective = Closed([fork], 2.0, plain=True)
    from didact.forward import Forward

    way = Forward(objective=objective)
    whole = float(way.loss(base, way.batch(base, [tokens], [0])).detach())
    text = float(Forward().loss(base, Forward().batch(base, [tokens], [0])).detach())
    logits = Forward().logits(base, Forward().batch(base, [tokens], [0]))[2:3]
    kl = float(soft_loss(scores(logits, [fork]), torch.tensor([fork.target]), 2.0).detach())
    assert whole == pytest.approx(text + kl, rel=1e-5)


def test_a_generation_takes_as_many_of_each_answer_as_the_labels_have_grown_and_asks_others() -> None:
    everyone = rows(200)
    labelled = [one for one in everyone if one.answer == "yes"][:6] + [one for one in everyone if one.answer == "no"][
        :2
    ]
    order = labelled + [one for one in everyone if one not in labelled]
    right = [[5.0, 0.0] if one.answer == "yes" else [0.0, 5.0] for one in order]
    wrong = [list(reversed(values)) for values in right]
    found = [{"scores": wrong, "before": 1.0}, *[{"scores": right, "before": 1.0}] * 3]
    config = CONFIG.model_copy(update={"growth": 5.0})
    given = _labelled_by_others(found, 0, 1, labelled, order, config, 0)
    kinds = [order[i].choices[label] for i, label in given.items()]
    assert (kinds.count("yes"), kinds.count("no")) == (30, 10)
    assert all(order[i].choices[label] == order[i].answer for i, label in given.items())  # never by itself
    from_others = [_labelled_by_others(found, n, 1, labelled, order, config, 0) for n in (1, 2, 3)]
    assert any(order[i].choices[label] != order[i].answer for some in from_others for i, label in some.items())
    start = _labelled_by_others(found, 0, 1, [], order, config.model_copy(update={"labels": 0, "first": 20}), 0)
    assert len(start) == 40


def test_ipet_begins_without_any_label(folder: Path) -> None:
    config = CONFIG.model_copy(update={"labels": 0, "generations": 1, "steps": 5, "first": 4, "seeds": 2})
    recipe, said = Recipe(method=config, tune=TUNE.model_copy(update={"max_steps": 2})), list[str]()
    follow(recipe, str(folder), rows(24), say=said.append)
    assert [text for text in said if "generation-1" in text and "labels" in text]
    assert "distils 4 models into one over 24 rows" in said


def test_texts_of_a_file_without_labels_are_asked_like_the_rows(folder: Path, tmp_path: Path) -> None:
    texts, moulds = ["aaa", "b", "", "ab"], [row(0, "a", "yes"), row(1, "b", "no", ("no", "yes"))]
    file = tmp_path / "pool.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    cast = unlabelled(file, "text", moulds)
    assert [one.prompt for one in cast] == ["Is it a? aaa", "Is it a? b", "Is it a? ab"]
    assert [(one.answer, one.choices, one.origin.row) for one in cast] == [
        ("", ("yes", "no"), 1), ("", ("no", "yes"), 2), ("", ("yes", "no"), 4),
    ]  # fmt: skip
    config = CONFIG.model_copy(update={"unlabelled": file.name, "column": "text", "steps": 5})
    recipe, said = Recipe(method=config, tune=TUNE.model_copy(update={"max_steps": 2})), list[str]()
    follow(recipe, str(folder), rows(8), home=tmp_path, say=said.append)
    assert "distils 2 models into one over 3 rows" in said  # all rows have their labels: the texts teach alone
    said.clear()
    recipe = recipe.model_copy(update={"method": config.model_copy(update={"labels": 4})})
    follow(recipe, str(folder), rows(8), home=tmp_path, say=said.append)
    assert "distils 2 models into one over 7 rows" in said


def test_a_file_that_gives_no_texts_is_refused(folder: Path, tmp_path: Path) -> None:
    file, empty = tmp_path / "pool.jsonl", tmp_path / "empty.jsonl"
    file.write_text('{"text": "a"}\n{"text": 3}\n')
    empty.write_text('{"text": " "}\n')
    with pytest.raises(UsageError, match=r"pool.jsonl:1:method.column: no text in the column \"input\""):
        unlabelled(file, "input", rows(2))
    with pytest.raises(UsageError, match=r"pool.jsonl:2:method.column"):
        unlabelled(file, "text", rows(2))
    with pytest.raises(UsageError, match=r"method\.unlabelled: there is no text in it"):
        unlabelled(empty, "text", rows(2))
    with pytest.raises(UsageError, match=r"method\.unlabelled: there is no such file"):
        unlabelled(tmp_path / "none.jsonl", "text", rows(2))
    bare = Instance.of((Message("user", (Part("What?", "instruction"),)), Message("assistant", ())), Origin("d", 3))
    with pytest.raises(UsageError, match=r"d:3: .* this row has 0"):
        unlabelled(file, "text", [bare])


def test_another_file_is_another_tuning(tmp_path: Path) -> None:
    file, config = tmp_path / "pool.jsonl", CONFIG.model_copy(update={"unlabelled": "pool.jsonl"})
    assert fingerprint.method(CONFIG, tmp_path) == fingerprint.method(config, tmp_path) == {}
    file.write_text('{"input": "a"}\n')
    (before,) = fingerprint.method(config, tmp_path).items()
    file.write_text('{"input": "b"}\n')
    (after,) = fingerprint.method(config, tmp_path).items()
    assert before[0] == after[0] == "method.unlabelled: content"
    assert before[1] != after[1]


def test_no_loop_of_its_own() -> None:
    assert tune is not None
    for file in (Path(__file__).parents[2] / "src/didact/programs").glob("*.py"):
        assert "backward" not in file.read_text()
        assert "optimizer" not in file.read_text()
