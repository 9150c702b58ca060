"""Keys are read from the environment, sent in one header, and shown nowhere."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from didact.errors import UsageError

HIDDEN = "[key]"
# What keys of well-known services look like, and whatever follows the words that announce one.
_SHAPES = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|hf|r8|nvapi|ghp|gho|github_pat|glpat|pplx|csk|fw|tgp|key)[-_][-_.A-Za-z0-9]{12,}"
    r"|\b(?:AIza|ya29\.|AKIA|eyJ)[-_.A-Za-z0-9]{12,}"
    r"|(?i:bearer|api[-_ ]?key|authorization|token|secret)[\"']?\s*[:= ]\s*[\"']?"
    r"(?=[^\s\"',}]*\d)[A-Za-z0-9._~+/=-]{12,}"
)


def secret_in(text: str) -> bool:
    """Whether a text holds something that looks like a key."""
    return bool(_SHAPES.search(text))


def read_key(variable: str, field: str = "key") -> str:
    """The key in an environment variable; UsageError if it is not set or cannot stand in a header."""
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UsageError(f"the environment variable {variable} is not set", f"export {variable}=...", field=field)
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(f"{variable} holds characters that no key has", "set it to the key alone", field=field)
    return key


def redactor(key: str) -> Callable[[str], str]:
    """A function that takes the key, and whatever looks like one, out of a text."""

    def redact(text: str) -> str:
        if key:
            text = text.replace(key, HIDDEN)
            for part in {key[:8], key[-8:]} if len(key) >= 24 else ():  # services quote a part of a wrong key
                text = text.replace(part, HIDDEN)
        return _SHAPES.sub(HIDDEN, text)

    return redact
