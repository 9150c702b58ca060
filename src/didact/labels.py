"""What the values of a label column mean, and what each template calls them: matched by name, never by position.

A file says 0, a template lists "Abbreviation ||| Entity ||| Description": nothing says that they count alike. So a
source declares the names behind its file's values, and the words that templates use for each name. From these the
position of every name among a template's choices follows; choices that do not match are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from didact.errors import UsageError, nearest
from didact.tables import DROP
from didact.template import Template

QUOTE = 'YAML reads yes, no, true and false as truth values: quote them, "yes"'


class LabelConfig(BaseModel):
    """One label column. `[negative, positive]` alone means `{names: [negative, positive]}`.

    TREC's file counts DESC, ENTY, ABBR, HUM, NUM, LOC, while its templates list Abbreviation, Entity, Description ...:
    `{names: [DESC, ENTY, ABBR, HUM, NUM, LOC], choices: {DESC: Description, ENTY: Entity, ABBR: Abbreviation, ...}}`
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: list[str] | dict[str, str] = Field(
        [], description="names of the values 0, 1, 2 ... of the file, or value: name; leave out if the file holds names"
    )
    choices: dict[str, list[str]] = Field(
        {},
        description="name: the word or words that templates use for it, if not the name itself; order does not matter",
    )
    order: list[str] = Field(
        [], description="the names as templates count them; only for templates that compare the number itself"
    )

    @model_validator(mode="before")
    @classmethod
    def _names_alone(cls, data: Any) -> Any:
        return {"names": data} if isinstance(data, list) else data

    @field_validator("names", "choices", "order", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        """Numbers become text; truth values are refused, as YAML makes them of yes and no."""

        def text(item: Any) -> Any:
            if isinstance(item, bool):
                raise ValueError(QUOTE)
            return str(item) if isinstance(item, (int, float)) else item

        if isinstance(value, dict):
            return {
                text(key): [text(word) for word in item] if isinstance(item, list) else text(item)
                for key, item in value.items()
            }
        return [text(item) for item in value] if isinstance(value, list) else value

    @field_validator("choices", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: [words] if isinstance(words, str) else words for name, words in value.items()}

    @model_validator(mode="after")
    def _known_names(self) -> LabelConfig:
        names = self.all_names()
        if len(set(names)) < len(names) and isinstance(self.names, list):
            raise ValueError("a name is given twice")
        for name in [*self.choices, *self.order]:
            if self.names and name not in names:
                raise ValueError(f'"{name}" is not one of the names: {nearest(name, names)}')
        if self.order and self.names and sorted(self.order) != sorted(set(names)):
            raise ValueError("order must hold each of the names once")
        return self

    def all_names(self) -> list[str]:
        """The names of the labels; those of `choices` if the file itself holds names."""
        names = self.names.values() if isinstance(self.names, dict) else self.names
        return list(dict.fromkeys(names)) if isinstance(self.names, dict) else list(names) or list(self.choices)

    def name_of(self, value: Any, column: str) -> str:
        """The name behind a value of the file; UsageError with the field set if it has none."""
        known = self.all_names()
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(self.names, dict):
            if str(value) in self.names and value is not None:
                return self.names[str(value)]
        elif isinstance(value, str) and (value in known or not known):
            return value
        elif self.names and (isinstance(value, int) or (isinstance(value, str) and value.isdecimal())):
            position = int(value)  # also of a truth value
            if 0 <= position < len(self.names):
                return self.names[position]
        shown = ", ".join(known)
        problem = "the row has no label" if value is None else f"the label {value!r} is outside the choices ({shown})"
        raise UsageError(problem, "mend `labels` or the row, or drop such rows: on_error: drop", field=column)


def bind(template: Template, labels: Mapping[str, LabelConfig]) -> Template:
    """The template with what it sees for each label name; `labels` by the column names that templates use.

    Raises UsageError naming the template if its choices do not match the declared names, or if it counts labels that
    nobody has declared.
    """
    meanings: dict[str, dict[str, Any]] = {}
    for column, words in template.labels.items():
        if column in labels and labels[column].names and set(labels[column].all_names()) != set(words):
            told = f"its labels are {', '.join(words)}; the source declares {', '.join(labels[column].all_names())}"
            raise _refused(template, f"{told} for {column}")
    codes = template.codes()
    picks = {column for code in codes for column in code.picks} - set(template.labels)
    counts = {column for code in codes for column in code.counts} - set(template.labels)
    for column in sorted(picks - set(labels)):
        choices = ", ".join(template.fixed_choices)
        problem = f'template "{template.name}" picks among {choices} by the number in column "{column}"'
        fix = f"say what the numbers of the file mean: labels: {{{column}: [name of 0, name of 1, ...]}}"
        raise UsageError(problem, fix, field="labels")
    for column, config in labels.items():
        if column in picks:
            meanings[column] = _positions(template, column, config)
            if config.order and [*meanings[column]] != sorted(meanings[column], key=config.order.index):
                raise _refused(template, f"its choices are not in the declared order of {column}")
        elif column in counts and config.order:
            meanings[column] = {name: position for position, name in enumerate(config.order)}
        elif column in counts and config.names and template.source == "promptsource":
            problem = f'template "{template.name}" uses the number in column "{column}", and may count otherwise'
            fix = f'declare how: labels.{column}.order, or leave it out: use: ["*", "!{template.name}"]'
            raise UsageError(problem, fix, field="labels")
    return template.with_labels(meanings) if meanings else template


def _positions(template: Template, column: str, config: LabelConfig) -> dict[str, int]:
    """name -> position of its word among the template's choices, in the order of the choices."""
    found: dict[str, int] = {}
    for position, choice in enumerate(template.fixed_choices):
        names = [name for name in config.all_names() if _plain(choice) in _words(name, config)]
        if len(names) != 1 or names[0] in found:
            why = "none of" if not names else "not exactly one of"
            raise _refused(template, f'its choice "{choice}" is {why} the names declared for {column}', column, choice)
        found[names[0]] = position
    for name in config.all_names():
        if name not in found:
            raise _refused(
                template, f'none of its choices ({", ".join(template.fixed_choices)}) is "{name}" of {column}'
            )
    return found


def _words(name: str, config: LabelConfig) -> set[str]:
    return {_plain(word) for word in [name, *config.choices.get(name, ())]}


def _plain(word: str) -> str:
    return " ".join(word.replace("_", " ").casefold().split())


def _refused(template: Template, problem: str, column: str = "", choice: str = "") -> UsageError:
    leave = f'leave the template out: use: ["*", "!{template.name}"]'
    fix = f'add the word: labels.{column}.choices: {{NAME: ["{choice}"]}}, or {leave}' if column else leave
    return UsageError(f'template "{template.name}": {problem}', fix, field="labels")


def columns_after(labels: Mapping[str, LabelConfig], rename: Mapping[str, str]) -> dict[str, LabelConfig]:
    """The same declarations under the names that the columns have after renaming."""
    return {rename.get(column, column): config for column, config in labels.items()}


def check_columns(wanted: Sequence[str], row: Mapping[str, Any], where: str) -> None:
    """UsageError if a column that a setting names is not in a row."""
    for column in wanted:
        if column not in row:
            fix = f"{nearest(column, row)} {DROP}" if where == "labels" else nearest(column, row)
            raise UsageError(f'{where} names the column "{column}", which the row lacks', fix, field=column)
