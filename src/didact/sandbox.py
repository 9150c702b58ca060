"""Jinja in a sandbox that remembers where each character came from: the template, or a column of the row.

A template is compiled once. What it prints from columns is wrapped in marks, which `pieces` turns into slots. The marks
are halves of surrogate pairs, which no text that can be written to a file contains; readers refuse them.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.filters import do_truncate
from jinja2.runtime import Context, StrictUndefined
from jinja2.utils import missing

from didact.bounds import MOST_STEPS, STEPS, Bounded, Endless, count_steps
from didact.entities import entities
from didact.errors import UsageError, nearest
from didact.instance import Part, Slot
from didact.languages import language
from didact.reach import label_uses, mark, tainted
from didact.tables import DROP

LONGEST = 2048  # characters of a printed value that promptsource keeps
OPEN, CLOSE = "\udc02", "\udc03"
APART = "\udc01"  # between the texts of one template
BAR, BAR_IN_DATA = "|||", "\udc7c\udc7c\udc7c"  # equal in length: lengths stay true, and parts of it can be told
SURROGATE = re.compile("[\ud800-\udfff]")
MARKS = re.compile(f"([{OPEN}{CLOSE}])")


class TemplateDrop(Exception):
    """A row that a template says nothing about. `reason` is a fixed phrase to be counted, `detail` tells more."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


class _Missing(Exception):
    def __init__(self, holder: Any, name: Any, message: str) -> None:
        super().__init__(message)
        self.holder, self.name = holder, name


class _Undefined(StrictUndefined):
    """Any use of what is not there is an error that says what was looked for and where."""

    def __init__(self, hint: str | None = None, obj: Any = missing, name: Any = None, exc: Any = None) -> None:
        raised: Any = exc if exc is SecurityError else lambda message: _Missing(obj, name, message)
        super().__init__(hint, obj, name, raised)


class Choices(list[str]):
    """The answer choices inside a template. A number that is none of their positions is an error, also -1."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return super().__getitem__(index)
        if isinstance(index, float) and index.is_integer():
            index = int(index)
        if not isinstance(index, int) or not 0 <= index < len(self):
            shown = ", ".join(self) or "none"
            raise LabelError(f"the label {index!r} is none of the positions of the choices ({shown})")
        return super().__getitem__(index)


class LabelError(Exception):
    """A label that is outside the choices."""


@dataclass(frozen=True)
class Code:
    """Compiled Jinja texts, rendered one after the other; what one of them sets, the next ones see.

    columns: the names it may look up in a row. picks: columns that are used as `answer_choices[column]`. counts:
    columns whose number is used in another way than that, than printing it, or than comparing it with -1 (no label).
    draws: whether it picks at random. loops: whether it can take many steps.
    """

    template: jinja2.Template
    columns: frozenset[str]
    picks: frozenset[str]
    counts: frozenset[str]
    draws: bool
    loops: bool

    def render(self, row: Mapping[str, Any], seed: str) -> str:
        """The texts for a row, with marks, and with APART between them. `seed` decides what the filters `choice` and
        `random` pick.

        Raises TemplateDrop if the row has nothing at a place that may be empty, UsageError (its `field` set) if it
        lacks a column, UsageError without field if the template itself is at fault.
        """
        names: dict[str, Any] = {**_ENVIRONMENT.globals, "row": row, **row}
        if self.draws:
            names["_random"] = random.Random(seed)
        if self.loops:
            names[STEPS] = [MOST_STEPS]
        try:
            return Bounded.concat(self.template.root_render_func(Context(_ENVIRONMENT, names, None, {})))
        except (TemplateDrop, UsageError):
            raise
        except LabelError as error:
            label = next(iter(sorted(self.picks)), "answer_choices")
            raise UsageError(str(error), "mend the label, or drop such rows: on_error: drop", field=label) from error
        except SecurityError as error:
            fix = "leave it out of the source's `use`, or write it without that"
            raise UsageError(f"the template tries to leave the sandbox: {error}", fix) from error
        except _Missing as error:
            raise _explain(error, row) from error
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise TemplateDrop("the template fails on the row", f"{type(error).__name__}: {error}") from error
        except (Endless, RecursionError, MemoryError) as error:
            problem = str(error) if isinstance(error, Endless) else type(error).__name__
            raise UsageError(f"the template never ends: {problem}", "mend the template") from error


def protect(value: Any) -> Any:
    """The value with every `|||` in its texts made unlike the separator; raises TemplateDrop at half a character."""
    if isinstance(value, str):
        if SURROGATE.search(value):
            raise TemplateDrop("half of a surrogate pair in the text", repr(value[:60]))
        return value.replace(BAR, BAR_IN_DATA) if BAR in value else value
    if isinstance(value, dict):
        return {protect(key): protect(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [protect(item) for item in value]
    return value


def protected(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose values are protected; texts that need nothing are passed on as they are."""
    safe: dict[str, Any] = {}
    for key, value in row.items():
        if value.__class__ is str and value.isascii() and BAR not in value:
            safe[key] = value
        else:
            safe[str(key)] = protect(value)
    return safe


def plain(text: str) -> str:
    """A rendered text without marks."""
    if text.isascii():
        return text
    return text.replace(OPEN, "").replace(CLOSE, "").replace(BAR_IN_DATA[0], BAR[0])


def pieces(text: str) -> tuple[Part, ...]:
    """A rendered text, stripped, as parts: slot `input` for what came from columns, else `instruction`."""
    found: list[tuple[str, Slot]] = []
    depth = 0
    for piece in MARKS.split(text):
        if piece in (OPEN, CLOSE):
            depth = max(0, depth + (1 if piece == OPEN else -1))
        elif piece:
            slot: Slot = "input" if depth else "instruction"
            if not found:
                piece = piece.lstrip()
                if piece:
                    found.append((piece, slot))
            elif found[-1][1] == slot or piece.isspace():
                found[-1] = (found[-1][0] + piece, found[-1][1])
            else:
                found.append((piece, slot))
    if not found:
        return ()
    found[-1] = (found[-1][0].rstrip(), found[-1][1])
    if BAR_IN_DATA[0] in text:
        found = [(piece.replace(BAR_IN_DATA[0], BAR[0]), slot) for piece, slot in found]
    return tuple([Part(piece, slot) for piece, slot in found])


@lru_cache(maxsize=8192)
def compiled(texts: tuple[str, ...], cut: bool, own_choices: bool) -> Code:
    """Compile Jinja texts. cut: printed values end at 2,048 characters, as in promptsource. own_choices: the
    answer choices are the row's own, so printing them prints a column. Raises UsageError for a syntax error."""
    body: list[nodes.Node] = []
    for place, text in enumerate(texts):
        if place:
            body.append(nodes.Output([nodes.TemplateData(APART)], lineno=1))
        try:
            body += _ENVIRONMENT.parse(text).body
        except jinja2.TemplateSyntaxError as error:
            problem = f"not valid Jinja (line {error.lineno}): {error.message}"
            raise UsageError(problem, "mend the template, or leave it out of the source's `use`") from error
    tree = nodes.Template(body, lineno=1)
    tree.set_environment(_ENVIRONMENT)
    columns = meta.find_undeclared_variables(tree) - {"answer_choices"}
    through = tainted(tree, columns | ({"answer_choices"} if own_choices else set()))
    picks, counts = label_uses(tree, columns, own_choices)
    draws = any(use.name in ("choice", "random") for use in tree.find_all(nodes.Filter))
    mark(tree, through, cut)
    loops = count_steps(tree)
    tree.set_environment(_ENVIRONMENT)
    template = jinja2.Template.from_code(_ENVIRONMENT, _ENVIRONMENT.compile(tree), _ENVIRONMENT.globals)
    return Code(template, frozenset(columns - {"row"}), frozenset(picks), frozenset(counts), draws, loops)


def _explain(error: _Missing, row: Mapping[str, Any]) -> Exception:
    if error.holder is missing:
        problem = f'the template needs the column "{error.name}", which the row lacks'
        known = [column for column in row if column not in ("answer_choices", "_split")]
        fix = f"{nearest(str(error.name), known)} (rename: {{COLUMN: {error.name}}} gives it that name), {DROP}"
        return UsageError(problem, fix, field=str(error.name))
    if isinstance(error.holder, Mapping):
        problem = f'the template needs "{error.name}" inside a column, which the row lacks'
        return UsageError(problem, nearest(str(error.name), map(str, error.holder)), field=str(error.name))
    return TemplateDrop("a value that the template needs is not in the row", str(error))


def _cut(value: Any) -> str:
    if value.__class__ is str and len(value) <= LONGEST:
        return str(value)
    return do_truncate(_ENVIRONMENT, str(value), LONGEST)


def _column(value: Any) -> str:
    return f"{OPEN}{value}{CLOSE}"


@jinja2.pass_context
def _choice(context: Context, items: Sequence[Any]) -> Any:
    """promptsource's `choice`, and Jinja's `random`: here the same row always gets the same pick."""
    return context["_random"].choice(list(items))


def _most_frequent(items: Sequence[Any]) -> list[Any] | None:
    """promptsource's helper: all items that appear most often, in order of appearance."""
    counts = Counter(items).most_common()
    return [item for item, count in counts if count == counts[0][1]] if counts else None


def _environment() -> Bounded:
    environment = Bounded(undefined=_Undefined)
    for name in ("lipsum", "cycler", "joiner"):
        environment.globals.pop(name)
    environment.globals["zip"] = zip
    environment.filters |= {
        "choice": _choice,
        "random": _choice,
        "most_frequent": _most_frequent,
        "entities": entities,
        "language": language,
    }
    environment.filters |= {"_cut": _cut, "_column": _column}
    return environment


_ENVIRONMENT = _environment()
