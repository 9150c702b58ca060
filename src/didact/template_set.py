"""Template files: didact's own YAML, a set of templates for one dataset, and promptsource's YAML as it is.

Own sets say beside their templates what the dataset is like on the Hugging Face hub, so that `templates: NAME` is
enough for a source whose columns are called as there. Everything but `templates` may be left out:

    dataset: stanfordnlp/sst2                  # on the hub
    cluster: sentiment
    languages: [en]
    fields: [sentence, label]                  # columns that templates may use
    rename: {text: sentence}                   # what a column may be called instead; inside a column: answer.text
    labels: {label: [negative, positive]}      # names of 0, 1, ... there
    group: [sentence]                          # columns whose equal values belong on one side of a split
    defaults: {metadata: {metrics: Accuracy}}  # keys of every template that is not turned around
    templates: [...]

A template has a name, an `instruction` and an `input`, or one `prompt`, and an `answer`; `answer_choices`, `labels`
(column -> name of the label -> the word for it), `metadata`, `image` (the column of its picture, or several; also for
a whole set), which stands before the words unless they say `<image>`, and `inverted: true` if it is turned around,
that is if it asks for what the dataset gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from didact.errors import UsageError, nearest
from didact.sandbox import BAR
from didact.template import Template

KEYS = {"name", "prompt", "instruction", "input", "answer", "answer_choices", "labels", "metadata", "inverted", "image"}
DEFAULTS = {"answer", "answer_choices", "labels", "metadata"}
SET_KEYS: dict[str, Any] = {
    "dataset": str, "cluster": str, "languages": list, "fields": list, "rename": dict, "labels": dict, "group": list,
    "references": bool, "defaults": dict, "templates": list, "image": (str, list),
}  # fmt: skip


@dataclass(frozen=True)
class TemplateSet:
    """Templates, and what they suggest for a source that does not say it itself.

    rename: what a column may be called -> its name in the templates. labels: column -> names of its values, as a
    source declares them. group, references: as in a source, under the templates' names.
    """

    templates: tuple[Template, ...]
    dataset: str = ""
    cluster: str = ""
    fields: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    group: tuple[str, ...] = ()
    references: bool = False


def load_set(path: Path) -> TemplateSet:
    """The templates in a YAML file, or in `templates.yaml` of a folder; which of the two kinds, the content says.

    Raises UsageError naming file, template and field.
    """
    path = path / "templates.yaml" if path.is_dir() else path
    data = _read(path)
    items = data.get("templates") if isinstance(data, dict) else None
    if not isinstance(items, (dict, list)) or not items:
        raise UsageError('no "templates" in it', "a template file lists its templates under that key", file=path)
    if isinstance(items, dict):
        found = [_promptsource(item, number, path) for number, item in enumerate(items.values(), 1)]
        return TemplateSet(tuple(found), "/".join(str(data[key]) for key in ("dataset", "subset") if data.get(key)))
    _check_set(data, path)
    found = [_own(item, number, path, data) for number, item in enumerate(items, 1)]
    names = [template.name for template in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f'two templates are called "{name}"', "rename one", file=path, field="name")
    fields = tuple(data.get("fields", ()))
    for template in found:
        used = set(template.images).union(*(code.columns for code in template.codes()))
        for column in sorted(used - set(fields)) if fields else ():
            problem = f'template "{template.name}" uses the column "{column}", which is none of the `fields`'
            raise UsageError(problem, nearest(column, fields), file=path, field="fields")
    told = {key: data[key] for key in ("dataset", "cluster", "rename", "labels", "references") if key in data}
    return TemplateSet(tuple(found), fields=fields, group=tuple(data.get("group", ())), **told)


def load_templates(path: Path) -> list[Template]:
    """The templates of `load_set` alone."""
    return list(load_set(path).templates)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """SafeLoader that knows promptsource's two tags, as plain mappings."""


for _tag in ("!Template", "!TemplateMetadata"):
    _Loader.add_constructor(_tag, lambda loader, node: loader.construct_mapping(node, deep=True))


def _read(path: Path) -> Any:
    try:
        return _Loader(path.read_bytes()).get_single_data()
    except FileNotFoundError as error:
        raise UsageError("no such template file", "check the path in `templates`", file=path) from error
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", "check the path in `templates`", file=path) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise UsageError(f"not YAML: {error.problem}", "mend this line", file=path, line=line) from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UsageError(f"not YAML: {str(error).splitlines()[0]}", "mend the file", file=path) from error


def _promptsource(item: Any, number: int, path: Path) -> Template:
    where = str(item.get("name", number)) if isinstance(item, dict) else str(number)
    if not isinstance(item, dict) or not isinstance(item.get("jinja"), str):
        raise UsageError(f'template {where} has no "jinja"', "it is not a promptsource template", file=path)
    choices = item.get("answer_choices")
    if choices is not None and not isinstance(choices, str):
        raise UsageError(f"template {where}: answer_choices is no text", "write choices apart by |||", file=path)
    metadata = _told(item.get("metadata"))
    return Template(where, item["jinja"], "", choices or None, metadata=metadata, source="promptsource", file=str(path))


def _told(metadata: Mapping[str, Any] | None) -> dict[str, str]:
    """Metadata as texts: lists apart by commas, what is null left out."""
    return {
        str(key): ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for key, value in (metadata or {}).items()
        if value is not None
    }


def _check_set(data: Mapping[str, Any], path: Path) -> None:
    for key, value in data.items():
        if key not in SET_KEYS:
            raise UsageError(f'unknown key "{key}"', nearest(str(key), SET_KEYS), file=path, field=str(key))
        if not isinstance(value, SET_KEYS[key]):
            kind = getattr(SET_KEYS[key], "__name__", "column or list of columns")
            raise UsageError(f"{key} is no {kind}", "see the other sets", file=path, field=key)
    for key in ("languages", "fields", "group", "rename"):
        if not all(isinstance(word, str) for word in (*data.get(key, ()), *_values(data.get(key)))):
            raise UsageError(f"{key} holds what is no text", 'quote it: "no"', file=path, field=key)
    for key in data.get("defaults", {}):
        if key not in DEFAULTS:
            raise UsageError(f'unknown key "{key}"', nearest(str(key), DEFAULTS), file=path, field=f"defaults.{key}")


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else []


def _own(item: Any, number: int, path: Path, data: Mapping[str, Any]) -> Template:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise UsageError(f'template {number} has no "name"', "give each template a name", file=path, field="name")
    name = item["name"]
    for key in item:
        if key not in KEYS:
            raise UsageError(
                f'template "{name}" has an unknown key "{key}"', nearest(str(key), KEYS), file=path, field=str(key)
            )
    inverted = item.get("inverted", False)
    if not isinstance(inverted, bool):
        raise UsageError(f'template "{name}": inverted is true or false', "write true", file=path, field="inverted")
    item = item if inverted else {**data.get("defaults", {}), **item}
    texts = {key: item.get(key, "") for key in ("prompt", "instruction", "input", "answer")}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise UsageError(f'template "{name}": {key} is no text', "quote it", file=path, field=key)
    images = item.get("image", data.get("image", []))
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not all(isinstance(column, str) and column for column in images):
        raise UsageError(f'template "{name}": image names no column', "name one, or a list", file=path, field="image")
    asked = (bool(texts["prompt"]), bool(texts["instruction"] or texts["input"]))
    if not texts["answer"] or all(asked) or not (any(asked) or images):
        problem = f'template "{name}" needs an answer, and either a prompt or an instruction with an input'
        raise UsageError(problem, "write instruction, input and answer", file=path)
    choices, labels = _choices(item, name, path)
    usual = {"metrics": "ROUGE"} if inverted else {}
    languages = {"languages": ", ".join(data["languages"])} if "languages" in data else {}
    metadata = {**usual, **languages, **_told(item.get("metadata"))}
    return Template(
        name,
        **texts,
        answer_choices=choices,
        labels=labels,
        metadata=metadata,
        inverted=inverted,
        file=str(path),
        images=tuple(images),
    )


def _choices(item: Mapping[str, Any], name: str, path: Path) -> tuple[str | None, dict[str, dict[str, str]]]:
    """The answer choices of an own template, and its words for labels, which are the choices if nothing else is."""
    choices = item.get("answer_choices")
    if isinstance(choices, list) and all(isinstance(choice, str) for choice in choices):
        choices = f" {BAR} ".join(choices)
    labels = item.get("labels") or {}
    words = [word for names in labels.values() if isinstance(names, dict) for pair in names.items() for word in pair]
    if (choices is not None and not isinstance(choices, str)) or not all(isinstance(word, str) for word in words):
        problem = f'template "{name}": answer_choices and labels must be texts'
        raise UsageError(problem, 'YAML reads yes and no as true and false: quote them, "yes"', file=path)
    if choices == "":  # none, in spite of the defaults
        return None, labels
    if choices is None and len(labels) == 1 and not item.get("inverted"):
        choices = f" {BAR} ".join(dict.fromkeys(next(iter(labels.values())).values()))
    return choices, labels
