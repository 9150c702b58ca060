"""Prompts are Jinja files in `prompts/`; what fills them is data and is never taken for a template."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment


def prompt(name: str, **values: Any) -> str:
    """The text of a prompt file with its values filled in, without blank space at its ends."""
    return _template(name).render(values).strip()


@cache
def _template(name: str) -> jinja2.Template:
    text = (files(__package__) / "prompts" / f"{name}.jinja").read_text("utf-8")
    return _ENVIRONMENT.from_string(text)


_ENVIRONMENT = ImmutableSandboxedEnvironment(
    loader=jinja2.PackageLoader("didact.generate", "prompts"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=False,
)
_ENVIRONMENT.filters["line"] = lambda text: " ".join(str(text).split())
