from __future__ import annotations

from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest

from didact import doctor


def test_what_is_installed_is_well() -> None:
    found = {check.name: check for check in doctor.checks(Path.cwd())}
    assert found["torch"].found == metadata.version("torch")
    assert not found["torch"].fix
    assert {"python", "pydantic", "transformers", "processor", "memory", "accelerator", "disk"} <= set(found)


def test_a_missing_package_has_the_command_that_mends_it() -> None:
    check = doctor.package_check("no-such-package", "1.0", "hub")
    assert check.found == "not installed"
    assert check.fix == "pip install 'didact[hub]'"
    assert not check.needed
    assert doctor.package_check("no-such-package", "1.0", "tune").needed


def test_an_old_package_has_the_command_that_mends_it() -> None:
    check = doctor.package_check("pydantic", "999.0", "")
    assert check.fix == "pip install 'pydantic>=999.0'"
    assert not doctor.package_check("pydantic", "2.7", "").fix


def test_the_requirements_are_those_of_the_project() -> None:
    found = {name: extra for name, _, extra in doctor.requirements()}
    assert found["pydantic"] == ""
    assert found["torch"] == "tune"
    assert "pytest" not in found


def test_little_room_on_the_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(2**40, 2**40, 2**20))
    assert "free some space" in next(check for check in doctor.checks(Path.cwd()) if check.name == "disk").fix
