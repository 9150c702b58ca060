"""Templates over the columns of a row: didact's own, and promptsource's as they are.

didact's write a template as `instruction` and `input`, or as one `prompt`, with an `answer`; promptsource's write one
Jinja text whose halves are apart by `|||`. How they lie in files, `template_set` knows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from didact.errors import UsageError, nearest
from didact.formats.pictured import MARK, MARKED, absolute
from didact.instance import Part, digest
from didact.sandbox import APART, BAR, CLOSE, OPEN, Choices, Code, TemplateDrop, compiled, pieces, plain, protected

__all__ = ["Rendered", "Template", "TemplateDrop", "choose", "expand", "matches", "template_file"]


@dataclass(frozen=True)
class Rendered:
    """A row in words: the parts of the prompt with their slots, the answer, and the closed set of answers, if any."""

    parts: tuple[Part, ...]
    answer: str
    choices: tuple[str, ...] = ()

    def at(self, home: Path | None) -> Rendered:
        """The same with the paths of its pictures, which lie in the folder `home`."""
        if home is None or all(part.kind == "text" for part in self.parts):
            return self
        parts = (p if p.kind == "text" else replace(p, value=absolute(p.value, home)) for p in self.parts)
        return replace(self, parts=tuple(parts))


@dataclass(frozen=True)
class Template:
    """A way to ask about a row and to answer, in Jinja over the row's columns.

    prompt: the question; in promptsource's templates the answer too, after `|||`. instruction and input: instead of
    prompt, when what is asked and what it is asked about are apart. answer_choices: a Jinja text of choices apart by
    `|||`, callable inside the template. labels: column -> name of the label in the row -> what the template sees in
    its place (a word, or the position of its choice). inverted: it is turned around, asks for what the dataset gives,
    such as a review from its label. images: the columns of its pictures; they stand before the question, or where the
    template's own words say `<image>`. Columns whose name is no identifier: `{{ row["my-column"] }}`.
    """

    name: str
    prompt: str = ""
    answer: str = ""
    answer_choices: str | None = None
    instruction: str = ""
    input: str = ""
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    source: Literal["didact", "promptsource"] = "didact"
    inverted: bool = False
    file: str = ""
    images: tuple[str, ...] = ()

    def render(self, row: Mapping[str, Any]) -> Rendered:
        """The row in the words of this template.

        Raises TemplateDrop for a row that gives no example, UsageError with `field` set for a row that lacks a column
        or whose label is outside the choices, and UsageError without `field` for a broken template.
        """
        try:
            return self._render(row)
        except UsageError as error:
            file = self.file or None if error.field is None else None  # a broken template, not a faulty row
            raise UsageError(
                f'{error.problem} (template "{self.name}")', error.fix, file=file, field=error.field
            ) from error

    def _render(self, row: Mapping[str, Any]) -> Rendered:
        if "answer_choices" in row:
            raise UsageError(
                'a column is called "answer_choices", which has a meaning in templates',
                "call it otherwise: rename: {answer_choices: options}",
                field="answer_choices",
            )
        safe = protected(row)
        for column, meanings in self.labels.items():
            if column in safe:
                safe[column] = self._meaning(column, meanings, safe[column])
        seed = digest([self.name, {key: str(value) for key, value in safe.items()}]) if self._draws else ""
        offered = self._offered(safe, seed)
        if offered is not None:
            safe["answer_choices"] = Choices(offered)
        text = self._code.render(safe, seed)
        if self.source == "promptsource":
            halves = text.split(BAR)
            if len(halves) != 2:
                raise TemplateDrop("the template gives no question and answer for the row", f"{len(halves)} parts")
            parts, answer = pieces(halves[0]), plain(halves[1]).strip()
        else:
            *asked, last = text.split(APART)
            parts, answer = _asked(asked), plain(last).strip()
        if not parts and not self.images:
            raise TemplateDrop("the prompt is empty")
        if not answer:
            raise TemplateDrop("the answer is empty")
        if self.images:
            parts = _with_pictures(parts, [each for column in self.images for each in _pictures(row, column)])
        if not offered:
            return Rendered(parts, answer)
        choices = offered if offered is self.fixed_choices else tuple(map(plain, offered))
        # Choices may be there for the prompt's sake, as in "write a {{answer_choices[label]}} review".
        return Rendered(parts, answer, choices if answer in choices or self._closed else ())

    def _meaning(self, column: str, meanings: Mapping[str, Any], value: Any) -> Any:
        if str(value) not in meanings:
            shown = ", ".join(meanings)
            raise UsageError(
                f"the label {value!r} is outside the choices ({shown})",
                "declare what the values mean in the source's `labels`, or drop such rows: on_error: drop",
                field=column,
            )
        return meanings[str(value)]

    def _offered(self, row: Mapping[str, Any], seed: str) -> tuple[str, ...] | None:
        """The answer choices, protected as columns are; None if the template has none."""
        if self.answer_choices is None:
            return None
        if self.fixed_choices:
            return self.fixed_choices
        text = self._choices_code.render(row, seed).replace(OPEN, "").replace(CLOSE, "")
        return tuple(choice.strip() for choice in text.split(BAR))

    @cached_property
    def fixed_choices(self) -> tuple[str, ...]:
        """The answer choices if they are the same for every row, else empty."""
        if self.answer_choices is None or "{" in self.answer_choices:
            return ()
        return tuple(choice.strip() for choice in self.answer_choices.split(BAR))

    @cached_property
    def _draws(self) -> bool:
        return self._code.draws or self._choices_code.draws

    @cached_property
    def _closed(self) -> bool:
        return "accuracy" in self.metadata.get("metrics", "").lower()

    @cached_property
    def _code(self) -> Code:
        own_choices = self.answer_choices is not None and not self.fixed_choices
        if self.source == "promptsource":
            return compiled((self.prompt,), True, own_choices)
        asked = (self.prompt,) if self.prompt else (self.instruction, self.input)
        return compiled((*asked, self.answer), False, own_choices)

    @cached_property
    def _choices_code(self) -> Code:
        text = "" if self.fixed_choices else self.answer_choices or ""
        return compiled((text,), self.source == "promptsource", bool(text))

    def codes(self) -> tuple[Code, ...]:
        """Its compiled texts; raises UsageError naming the template if one is not valid Jinja."""
        try:
            return self._code, self._choices_code
        except UsageError as error:
            raise UsageError(f'template "{self.name}": {error.problem}', error.fix, file=self.file or None) from error

    def with_labels(self, labels: Mapping[str, Mapping[str, Any]]) -> Template:
        """The same template with meanings for label columns added."""
        return replace(self, labels={**self.labels, **labels})


def _asked(texts: Sequence[str]) -> tuple[Part, ...]:
    """The parts of a prompt, or of an instruction and its input, which begins a line of its own."""
    parts = pieces(texts[0])
    given = plain(texts[1]).strip() if len(texts) > 1 else ""
    if not given:
        return parts
    if not parts:
        return (Part(given, "input"),)
    gap = Part(parts[-1].value + "\n", parts[-1].slot)
    return (*parts[:-1], gap, Part(given, "input"))


def _pictures(row: Mapping[str, Any], column: str) -> list[str]:
    """The pictures in a column of a row."""
    if column not in row:
        raise UsageError(f'the row lacks the column "{column}" of its picture', nearest(column, row), field=column)
    value = row[column]
    found = [str(each) for each in (value if isinstance(value, list) else [value]) if each]
    if not found:
        raise TemplateDrop("the row has no picture", f"{column} is empty")
    return found


def _with_pictures(parts: Sequence[Part], names: Sequence[str]) -> tuple[Part, ...]:
    """The question with its pictures: where the template's own words have marks, else before them."""
    images = [Part(name, "input", "image") for name in names]
    marks = sum(len(MARKED.findall(part.value)) for part in parts if part.slot == "instruction")
    if not marks:
        return (*images, *parts)
    if marks != len(images):
        problem = f"{marks} {MARK} marks in the template, but {len(images)} pictures in the row"
        raise UsageError(problem, "mend one of them", field="image")
    found: list[Part] = []
    for part in parts:
        pieces = MARKED.split(part.value) if part.slot == "instruction" else [part.value]
        for i, piece in enumerate(pieces):
            found += [images.pop(0)] if i else []
            found += [replace(part, value=piece)] if piece else []
    return tuple(found)


def choose(templates: Sequence[Template], use: Sequence[str], file: str) -> list[Template]:
    """The templates whose names match the globs ("!glob" leaves out); UsageError if a glob, or all, match none."""
    wanted = [glob for glob in use if not glob.startswith("!")] or ["*"]
    unwanted = [glob[1:] for glob in use if glob.startswith("!")]
    names = [template.name for template in templates]
    for glob in [*wanted, *unwanted]:
        if not any(matches(name, [glob]) for name in names):
            raise UsageError(f'no template of {file} is called "{glob}"', nearest(glob, names), field="use")
    found = [t for t in templates if matches(t.name, wanted) and not matches(t.name, unwanted)]
    if not found:
        raise UsageError(f"`use` leaves none of the templates of {file}", "name at least one", field="use")
    return found


def matches(name: str, globs: Sequence[str]) -> bool:
    """Whether a name is one of the globs, or fits one."""
    return any(name == glob or fnmatchcase(name, glob) for glob in globs)


def template_file(name: str, folder: Path) -> Path:
    """Where the templates that a source names lie: a path (relative to `folder`), or a set that comes with didact."""
    place = files("didact").joinpath("templates")
    own = {file.name.removesuffix(".yaml"): file for file in place.iterdir() if file.name.endswith(".yaml")}
    own |= {f"pictures/{f.name.removesuffix('.yaml')}": f for f in place.joinpath("pictures").iterdir()}
    if name in own:
        return Path(str(own[name]))
    path = folder / expand(name)
    if path.exists():
        return path
    raise UsageError(f'no template file "{name}"', f"give a path, or {nearest(name, own)}", field="templates")


def expand(text: str) -> str:
    """The text with `${NAME}` and `${NAME:-default}` replaced from the environment; UsageError if NAME is not set."""

    def value(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        found = os.environ.get(name) or default
        if found is None:
            raise UsageError(f"the environment variable {name} is not set", f"set it, or write ${{{name}:-default}}")
        return found

    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", value, text)
