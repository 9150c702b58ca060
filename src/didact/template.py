"""Templates over the columns of a row: didact's own YAML, and promptsource's as it is.

Own YAML (`dataset`, `templates`: a list) writes a template as `instruction` and `input`, or as one `prompt`, with an
`answer`; promptsource's (`templates`: a mapping of ids) writes one Jinja text whose halves are apart by `|||`.
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

import yaml

from didact.errors import UsageError, nearest
from didact.instance import Part, digest
from didact.sandbox import BAR, Choices, Code, TemplateDrop, compiled, pieces, plain, protect

__all__ = ["Rendered", "Template", "TemplateDrop", "choose", "expand", "load_templates", "matches", "template_file"]

KEYS = {"name", "prompt", "instruction", "input", "answer", "answer_choices", "labels", "metadata"}


@dataclass(frozen=True)
class Rendered:
    """A row in words: the parts of the prompt with their slots, the answer, and the closed set of answers, if any."""

    parts: tuple[Part, ...]
    answer: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Template:
    """A way to ask about a row and to answer, in Jinja over the row's columns.

    prompt: the question; in promptsource's templates the answer too, after `|||`. instruction and input: instead of
    prompt, when what is asked and what it is asked about are apart. answer_choices: a Jinja text of choices apart by
    `|||`, callable inside the template. labels: column -> name of the label in the row -> what the template sees in
    its place (a word, or the position of its choice). Columns whose name is no identifier: `{{ row["my-column"] }}`.
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
    file: str = ""

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
        safe = {str(key): protect(value) for key, value in row.items()}
        for column, meanings in self.labels.items():
            if column in safe:
                safe[column] = self._meaning(column, meanings, safe[column])
        seed = digest([self.name, {key: str(value) for key, value in safe.items()}]) if self._draws else ""
        choices = self._choices(safe, seed)
        if choices is not None:
            safe["answer_choices"] = choices
        if self.source == "promptsource":
            halves = self._code("prompt").render(safe, seed).split(BAR)
            if len(halves) != 2:
                raise TemplateDrop("the template gives no question and answer for the row", f"{len(halves)} parts")
            parts, answer = pieces(halves[0]), plain(halves[1]).strip()
        else:
            parts, answer = self._own_parts(safe, seed), plain(self._code("answer").render(safe, seed)).strip()
        if not parts:
            raise TemplateDrop("the prompt is empty")
        if not answer:
            raise TemplateDrop("the answer is empty")
        offered = tuple(map(plain, choices or ()))
        # Choices may be there for the prompt's sake, as in "write a {{answer_choices[label]}} review".
        closed = answer in offered or "accuracy" in self.metadata.get("metrics", "").lower()
        return Rendered(parts, answer, offered if closed else ())

    def _own_parts(self, row: Mapping[str, Any], seed: str) -> tuple[Part, ...]:
        if self.prompt:
            return pieces(self._code("prompt").render(row, seed))
        asked = pieces(self._code("instruction").render(row, seed))
        given = plain(self._code("input").render(row, seed)).strip()
        if not asked or not given:
            return asked or ((Part(given, "input"),) if given else ())
        gap = Part(asked[-1].value + "\n", asked[-1].slot)
        return (*asked[:-1], gap, Part(given, "input"))

    def _meaning(self, column: str, meanings: Mapping[str, Any], value: Any) -> Any:
        if str(value) not in meanings:
            shown = ", ".join(meanings)
            raise UsageError(
                f"the label {value!r} is outside the choices ({shown})",
                "declare what the values mean in the source's `labels`, or drop such rows: on_error: drop",
                field=column,
            )
        return meanings[str(value)]

    def _choices(self, row: Mapping[str, Any], seed: str) -> Choices | None:
        if self.answer_choices is None:
            return None
        if self.fixed_choices:
            return Choices(self.fixed_choices)
        text = self._code("answer_choices").render(row, seed).replace("\udc02", "").replace("\udc03", "")
        return Choices(choice.strip() for choice in text.split(BAR))

    @cached_property
    def fixed_choices(self) -> tuple[str, ...]:
        """The answer choices if they are the same for every row, else empty."""
        if self.answer_choices is None or "{" in self.answer_choices:
            return ()
        return tuple(choice.strip() for choice in self.answer_choices.split(BAR))

    @cached_property
    def _draws(self) -> bool:
        return any(re.search(r"\|\s*(choice|random)\b", text or "") for text in self._texts().values())

    def _texts(self) -> dict[str, str | None]:
        names = ("prompt", "answer", "instruction", "input", "answer_choices")
        return {name: getattr(self, name) for name in names}

    def _code(self, part: str) -> Code:
        own_choices = self.answer_choices is not None and not self.fixed_choices
        return compiled(getattr(self, part) or "", self.source == "promptsource", own_choices)

    def codes(self) -> tuple[Code, ...]:
        """Its compiled texts; raises UsageError naming the template if one is not valid Jinja."""
        try:
            return tuple(self._code(part) for part, text in self._texts().items() if text)
        except UsageError as error:
            raise UsageError(f'template "{self.name}": {error.problem}', error.fix, file=self.file or None) from error

    def with_labels(self, labels: Mapping[str, Mapping[str, Any]]) -> Template:
        """The same template with meanings for label columns added."""
        return replace(self, labels={**self.labels, **labels})


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """SafeLoader that knows promptsource's two tags, as plain mappings."""


for _tag in ("!Template", "!TemplateMetadata"):
    _Loader.add_constructor(_tag, lambda loader, node: loader.construct_mapping(node, deep=True))


def load_templates(path: Path) -> list[Template]:
    """The templates in a YAML file, or in `templates.yaml` of a folder; which of the two kinds, the content says.

    Raises UsageError naming file, template and field.
    """
    path = path / "templates.yaml" if path.is_dir() else path
    try:
        data = _Loader(path.read_bytes()).get_single_data()
    except FileNotFoundError as error:
        raise UsageError("no such template file", "check the path in `templates`", file=path) from error
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", "check the path in `templates`", file=path) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise UsageError(f"not YAML: {error.problem}", "mend this line", file=path, line=line) from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UsageError(f"not YAML: {str(error).splitlines()[0]}", "mend the file", file=path) from error
    templates = data.get("templates") if isinstance(data, dict) else None
    if not isinstance(templates, (dict, list)) or not templates:
        raise UsageError('no "templates" in it', "a template file lists its templates under that key", file=path)
    read = _promptsource if isinstance(templates, dict) else _own
    items = templates.values() if isinstance(templates, dict) else templates
    found = [read(item, number, path) for number, item in enumerate(items, 1)]
    names = [template.name for template in found]
    for name in names:
        if names.count(name) > 1 and read is _own:
            raise UsageError(f'two templates are called "{name}"', "rename one", file=path, field="name")
    return found


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
    own = {file.name.removesuffix(".yaml"): file for file in files("didact").joinpath("templates").iterdir()}
    if name in own and name + ".yaml" == own[name].name:
        return Path(str(own[name]))
    path = folder / expand(name)
    if path.exists():
        return path
    known = [key for key, file in own.items() if file.name.endswith(".yaml")]
    raise UsageError(f'no template file "{name}"', f"give a path, or {nearest(name, known)}", field="templates")


def expand(text: str) -> str:
    """The text with `${NAME}` and `${NAME:-default}` replaced from the environment; UsageError if NAME is not set."""

    def value(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        found = os.environ.get(name) or default
        if found is None:
            raise UsageError(f"the environment variable {name} is not set", f"set it, or write ${{{name}:-default}}")
        return found

    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", value, text)


def _promptsource(item: Any, number: int, path: Path) -> Template:
    where = str(item.get("name", number)) if isinstance(item, dict) else str(number)
    if not isinstance(item, dict) or not isinstance(item.get("jinja"), str):
        raise UsageError(f'template {where} has no "jinja"', "it is not a promptsource template", file=path)
    choices = item.get("answer_choices")
    if choices is not None and not isinstance(choices, str):
        raise UsageError(f"template {where}: answer_choices is no text", "write choices apart by |||", file=path)
    metadata = item.get("metadata") or {}
    told = {
        key: ", ".join(map(str, v)) if isinstance(v, list) else str(v) for key, v in metadata.items() if v is not None
    }
    return Template(where, item["jinja"], "", choices or None, metadata=told, source="promptsource", file=str(path))


def _own(item: Any, number: int, path: Path) -> Template:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise UsageError(f'template {number} has no "name"', "give each template a name", file=path, field="name")
    name = item["name"]
    for key in item:
        if key not in KEYS:
            raise UsageError(
                f'template "{name}" has an unknown key "{key}"', nearest(str(key), KEYS), file=path, field=str(key)
            )
    texts = {key: item.get(key, "") for key in ("prompt", "instruction", "input", "answer")}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise UsageError(f'template "{name}": {key} is no text', "quote it", file=path, field=key)
    if not texts["answer"] or bool(texts["prompt"]) == bool(texts["instruction"] or texts["input"]):
        problem = f'template "{name}" needs an answer, and either a prompt or an instruction with an input'
        raise UsageError(problem, "write instruction, input and answer", file=path)
    choices = item.get("answer_choices")
    if isinstance(choices, list) and all(isinstance(choice, str) for choice in choices):
        choices = f" {BAR} ".join(choices)
    labels = item.get("labels") or {}
    words = [word for names in labels.values() if isinstance(names, dict) for pair in names.items() for word in pair]
    if (choices is not None and not isinstance(choices, str)) or not all(isinstance(word, str) for word in words):
        problem = f'template "{name}": answer_choices and labels must be texts'
        raise UsageError(problem, 'YAML reads yes and no as true and false: quote them, "yes"', file=path)
    if choices is None and len(labels) == 1:
        choices = f" {BAR} ".join(next(iter(labels.values())).values())
    metadata = {str(key): str(value) for key, value in (item.get("metadata") or {}).items()}
    return Template(name, **texts, answer_choices=choices, labels=labels, metadata=metadata, file=str(path))
