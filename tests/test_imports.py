"""Rules that hold for the whole package: imports go one way, start-up is light, and nothing dangerous is called."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "src").rglob("*.py")) + sorted((ROOT / "tools").rglob("*.py"))
HEAVY = ("torch", "transformers", "peft", "pyarrow", "datasets")
FORBIDDEN_CALLS = {"eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "torch.load", "torch.save"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "shelve", "marshal", "joblib"}


def faults(source: str) -> Iterator[str]:
    """What must not be in a file of the package: unpickling, evaluating, shells, network trust."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in FORBIDDEN_CALLS:
                yield f"line {node.lineno}: {name}"
            if name.endswith(".extractall") and not any(keyword.arg == "filter" for keyword in node.keywords):
                yield f"line {node.lineno}: extractall without filter"
            for keyword in node.keywords:
                value = getattr(keyword.value, "value", None)
                if keyword.arg in ("shell", "trust_remote_code", "allow_pickle") and value is not False:
                    yield f"line {node.lineno}: {keyword.arg}={value}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for name in names:
                if name.split(".")[0] in FORBIDDEN_MODULES:
                    yield f"line {node.lineno}: import {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_dangerous_is_called(path: Path) -> None:
    assert list(faults(path.read_text("utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        "eval('1')",
        "import pickle",
        "from pickle import loads",
        "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
        "torch.load('x', weights_only=True)",
        "subprocess.run('ls', shell=True)",
        "subprocess.run('ls', shell=flag)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "tar.extractall('here')",
    ],
)
def test_the_gate_sees_what_it_is_for(line: str) -> None:
    assert list(faults(line))


def test_imports_go_one_way() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def loaded_by(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after running `code`."""
    code += f"\nimport sys; print([name for name in {(*HEAVY, 'pydantic')!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ast.literal_eval(done.stdout.splitlines()[-1]))


def test_a_recipe_is_read_without_heavy_packages() -> None:
    recipe = ROOT / "recipes" / "demo.yaml"
    code = f"from pathlib import Path; from didact.recipe import load_recipe; load_recipe(Path({str(recipe)!r}))"
    assert loaded_by(code) == {"pydantic"}


def test_the_command_line_starts_without_heavy_packages() -> None:
    assert loaded_by("import didact.cli") == set()


def test_a_run_that_does_nothing_imports_no_torch() -> None:
    assert loaded_by("import didact.run, didact.fingerprint, didact.show, didact.init") <= {"pydantic"}


def test_extras_that_are_named_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    inner = {name for wants in extras.values() for want in wants for name in re.findall(r"didact\[(.*?)\]", want)}
    named = {name for group in inner for name in group.split(",")}
    for path in (ROOT / "src").rglob("*.py"):
        named |= set(re.findall(r'missing_extra\([^()]*(?:\([^()]*\))?[^()]*, "(\w+)"\)', path.read_text()))
    assert {"tune", "images", "digits", "hub"} <= named <= set(extras)
