"""The audit as a whole: probes in order, failures named, stop and forgetting, findings to JSON and back."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from planted import LEVELS, Fake, Said, everywhere, heldout, subject, texts, trained, untuned
from pydantic import TypeAdapter, ValidationError

from didact.audit import (
    PROBES,
    Audit,
    Finding,
    ForgettingConfig,
    GainConfig,
    StopConfig,
    Subject,
    audit,
    findings_from_json,
    findings_to_json,
)
from didact.audit.calibration import CalibrationConfig
from didact.audit.subject import KEYS
from didact.errors import Interrupted, UsageError
from didact.instance import Instance

ALL = [GainConfig(examples=1), StopConfig(), ForgettingConfig()]


def tuned(nats: float = 1.0, form: float = 0.97) -> Fake:
    return Fake(everywhere(0.5), form, 2, nats_per_token=nats)


def test_every_probe_of_the_table_is_in_the_union_and_explained() -> None:
    adapter: TypeAdapter[Audit] = TypeAdapter(Audit)
    for name, (config, probe) in PROBES.items():
        assert type(adapter.validate_python({"type": name})) is config
        assert probe.__doc__
        assert all(field.description for key, field in config.model_fields.items() if key != "type")
    with pytest.raises(ValidationError):
        adapter.validate_python({"type": "gain", "item_per_level": 3})


def test_a_failing_probe_is_named_and_the_others_go_on() -> None:
    class Broken(Fake):
        def answer(self, instances: Sequence[Instance]) -> list[Said]:
            raise RuntimeError("out of\nmemory")

    told: list[str] = []
    found = audit(ALL, subject(untuned(), Broken(everywhere(0), 1, 2)), told.append)
    assert told == ["gain", "stop", "forgetting"]
    assert [f.category for f in found[:2]] == ["failed", "failed"]
    assert found[0].verdict == "Cannot be said. The probe failed: RuntimeError: out of memory"
    assert "in answer" in found[0].details["traceback"]
    assert found[2].category == "no forgetting seen"


def test_a_stop_that_was_asked_for_is_not_swallowed() -> None:
    class Stopped(Fake):
        def answer(self, instances: Sequence[Instance]) -> list[Said]:
            raise Interrupted("asked to stop")

    with pytest.raises(Interrupted):
        audit(ALL, subject(untuned(), Stopped(everywhere(0), 1, 2)))


def test_probes_share_their_generations() -> None:
    base, model = untuned(), tuned()
    items = heldout(40)
    audit([GainConfig(few_shot=0), *ALL[1:]], subject(base, model, heldout=[*items, *items]))
    assert base.asked == model.asked == len(items)


@pytest.mark.parametrize(
    ("form", "category"), [(0.99, "stops reliably"), (0.95, "stops mostly"), (0.5, "does not stop reliably")]
)
def test_stop(form: float, category: str) -> None:
    (found,) = audit([StopConfig()], subject(untuned(), tuned(form=form)))
    assert found.category == category
    assert found.value == pytest.approx(form - 0.02, abs=0.04)
    assert all(not x["tuned"]["stopped"] for x in found.examples)
    assert len(found.examples) == 3


def test_stop_without_heldout_data_says_so() -> None:
    (found,) = audit([StopConfig()], subject(untuned(), tuned(), heldout=[]))
    assert found.category == "cannot be said"
    assert "build.heldout_rows" in found.verdict


@pytest.mark.parametrize(
    ("nats", "category"), [(1.2, "forgetting"), (1.03, "slight forgetting"), (1.0, "no forgetting seen")]
)
def test_forgetting(nats: float, category: str) -> None:
    (found,) = audit([ForgettingConfig()], subject(untuned(), tuned(nats)))
    assert found.category == category
    assert found.value == pytest.approx((nats - 1) / math.log(2), abs=0.02)
    assert found.baseline == pytest.approx(1 / math.log(2), abs=0.02)
    assert found.details["unit"] == "bits per token"


def test_forgetting_needs_finite_losses_and_enough_texts() -> None:
    (broken,) = audit([ForgettingConfig()], subject(untuned(), tuned(math.nan)))
    assert "not finite on 60 of 60 texts" in broken.verdict
    (few,) = audit([ForgettingConfig()], subject(untuned(), tuned(), texts=texts(3)))
    assert "Only 3 held-out texts" in few.verdict
    (none,) = audit([ForgettingConfig()], subject(untuned(), tuned(), texts=[]))
    assert none.category == "cannot be said"


def test_findings_survive_json_with_exactly_the_promised_keys() -> None:
    found = audit(ALL, subject(untuned(), tuned()))
    text = findings_to_json(found)
    assert all(tuple(item) == KEYS for item in json.loads(text))
    back = findings_from_json(text)
    assert [(f.probe, f.verdict, f.value) for f in back] == [(f.probe, f.verdict, f.value) for f in found]
    assert findings_to_json(back) == text


def test_json_has_no_nan() -> None:
    text = findings_to_json([Finding("p", "q", "v", math.nan, -math.inf, details={"x": [math.inf, 1.0]})])
    item = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))[0]
    assert (item["value"], item["low"], item["details"]) == (None, None, {"x": [None, 1.0]})


@pytest.mark.parametrize("text", ["{", "{}", '[{"probe": "gain"}]', "[1]"])
def test_a_broken_findings_file_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        findings_from_json(text)
    assert refused.value.fix == "run `didact audit` again"


def test_a_model_that_gives_nan_and_never_stops_is_said_so_by_every_probe(tiny_llama: Path) -> None:
    from didact.infer import Answerer
    from didact.model import load

    base, broken = load(str(tiny_llama)), load(str(tiny_llama))
    broken.model.get_input_embeddings().weight.data.fill_(math.nan)
    asked = Subject(
        Answerer(base, max_new_tokens=8), Answerer(broken, max_new_tokens=8), heldout(12), trained(10), texts(12)
    )
    configs = [
        GainConfig(items_per_level=36, few_shot=0),
        StopConfig(),
        ForgettingConfig(texts=12),
        CalibrationConfig(),
    ]
    found = audit(configs, asked)
    told = {finding.details.get("level", finding.probe): finding for finding in found}
    assert [told[level].category for level in LEVELS] == ["worse"] * 4
    assert "24 rankings had no finite score and count as wrong." in told["heldout_task"].verdict
    assert told["stop"].category == "does not stop reliably"
    assert "loss is not finite on 12 of 12 texts" in told["forgetting"].verdict
    assert "96 of 96 rankings are not finite" in told["calibration"].verdict
