"""An audit by a given time: what fits runs, smaller if it must, and what is left out is told."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from planted import Fake, Said, everywhere, heldout, subject, untuned

from didact.audit import PROBES, GainConfig, MemorisedConfig, StopConfig, SurfaceConfig, audit, seconds_of
from didact.audit.budget import planned, scaled, work_of
from didact.errors import UsageError
from didact.instance import Instance

TABLE = {name: config for name, (config, _) in PROBES.items()}


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), (" 2 m ", 120)])
def test_times(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "ten minutes", "0m", "-1m", "10d"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no time"):
        seconds_of(text)


def test_every_probe_has_its_work_and_less_at_a_quarter() -> None:
    for name, config in TABLE.items():
        whole = work_of(config())
        assert whole.answers > 0 or name == "external", name
        small = work_of(scaled(config(), 0.25))
        assert (small.answers, small.trained) <= (whole.answers, whole.trained), name
        type(config()).model_validate(scaled(config(), 0.25).model_dump())


def test_own_probes_come_first_then_the_cheap_and_all_that_is_left_out_is_told() -> None:
    own = [GainConfig(), SurfaceConfig()]
    plenty = planned(own, TABLE, 1e9, (0.01, 0.01))
    assert [config.type for config, _ in plenty.probes][:2] == ["gain", "surface"]
    assert {config.type for config, _ in plenty.probes} == set(TABLE) - {"external"}
    assert (plenty.left_out, plenty.notes) == ({}, ())
    some = planned(own, TABLE, 60, (0.01, 0.01))
    assert sum(cost for _, cost in some.probes) <= 60
    assert set(some.left_out) | {config.type for config, _ in some.probes} == set(TABLE) - {"external"}
    assert any("at half of its size" in note or "a quarter" in note for note in some.notes)
    assert all(why.startswith("needs about") for why in some.left_out.values())
    blind = planned([], TABLE, 1e9, (0.01, 0.0))
    assert blind.left_out["size"] == "how long training takes is not known"
    assert "gain" in blind.left_out


def test_no_more_is_reckoned_than_there_is_to_ask() -> None:
    assert work_of(GainConfig(), 100, 50).answers == 500
    assert work_of(GainConfig(), 100, 50).trained == 50
    assert [config.type for config, _ in planned([GainConfig()], {}, 6, (0.01, 0.01), (100, 50)).probes] == ["gain"]
    assert planned([GainConfig()], {}, 6, (0.01, 0.01)).left_out


def test_smaller_is_not_too_small() -> None:
    small = scaled(GainConfig(), 0.05)
    assert (small.items_per_level, small.min_items) == (30, 30)
    assert scaled(MemorisedConfig(), 0.25).arm_size == 250
    assert scaled(StopConfig(), 1.0) == StopConfig()


@dataclass
class Slow(Fake):
    wait: float = 0.004

    def answer(self, instances: Sequence[Instance]) -> list[Said]:
        time.sleep(self.wait * len(instances))
        return super().answer(instances)


@dataclass
class Tiring(Fake):
    """Quick while it is measured, slow afterwards."""

    def answer(self, instances: Sequence[Instance]) -> list[Said]:
        time.sleep(0.01 * len(instances) if self.asked else 0)
        return super().answer(instances)


def test_when_the_clock_says_otherwise_the_rest_is_left_out() -> None:
    examined = subject(untuned(), Tiring(everywhere(0.5), 1, 2), heldout=heldout(60))
    found = audit([StopConfig(items_per_level=60), StopConfig(items_per_level=60)], examined, seconds=2.0)
    assert [f.probe for f in found].count("stop") == 1
    assert found[-1].details["left out"]["stop"] == "the time was up"


def test_a_budget_is_kept_and_what_was_left_out_is_a_finding() -> None:
    examined = subject(untuned(), Slow(everywhere(0.5), 1, 2), heldout=heldout(60))
    start = time.monotonic()
    found = audit([StopConfig(items_per_level=60)], examined, seconds=4.0)
    assert time.monotonic() - start < 15
    assert found[0].probe == "stop"
    assert (found[-1].probe, found[-1].category) == ("budget", "cut short")
    assert "gain (" in found[-1].verdict
    assert "Of 4 s the audit took" in found[-1].verdict
    assert {f.probe for f in found[:-1]} & set(found[-1].details["left out"]) == set()


def test_time_that_is_left_goes_to_what_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answers are slow: a model was loaded, or another program had the machine. By a clock of our own."""
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("didact.audit.time", clock)
    monkeypatch.setattr("didact.audit.budget.time", clock)

    @dataclass
    class Waking(Fake):
        def answer(self, instances: Sequence[Instance]) -> list[Said]:
            now[0] += 0.001 * len(instances) if self.asked else 0.8
            return super().answer(instances)

    examined = subject(untuned(), Waking(everywhere(0.5), 1, 2), heldout=heldout(30))
    found = audit([StopConfig(items_per_level=60)], examined, seconds=3.0)
    assert "calibration" in {f.probe for f in found}
    assert "calibration" not in found[-1].details["left out"]
