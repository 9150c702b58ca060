"""The whole recipe, assembled from each stage's own Config; read from YAML with errors that name file, line and field.

Reading a recipe never imports torch: a typing mistake is told in a moment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from didact.audit import Audit, ForgettingConfig, GainConfig, StopConfig, seconds_of
from didact.build import BuildConfig
from didact.curate import Curate, DecontaminateConfig, HeuristicsConfig, LengthConfig
from didact.errors import UsageError, nearest
from didact.generate import Generate
from didact.llm import BudgetConfig, LocalConfig, TeacherConfig
from didact.methods import MethodConfig
from didact.methods.lora import LoraConfig
from didact.methods.presets import filled
from didact.programs.pet import PetConfig
from didact.programs.subspace import SubspaceConfig
from didact.sources import Source, StarterSource
from didact.tune import TuneConfig

M = TypeVar("M", bound=BaseModel)
Path_ = tuple[str | int, ...]
Tuning = Annotated[MethodConfig | PetConfig | SubspaceConfig, Field(discriminator="type")]


class Recipe(BaseModel):
    """One complete run: which rows, how they become instances, which model is tuned on them and what is asked of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("run", description="name of the run; letters, digits, dot, dash, underscore")
    model: str = Field("starter", description='base model: "starter", a folder, or a name on the hub')
    seed: int = Field(0, ge=0, lt=2**32, description="the one seed; build.seed and tune.seed follow it unless given")
    sources: list[Source] = Field([StarterSource()], min_length=1, description="where the rows come from")
    build: BuildConfig = Field(BuildConfig(), description="how rows become instances and what is held out")
    generate: list[Generate] = Field([], description="strategies by which a language model writes more instances")
    teachers: dict[str, TeacherConfig] = Field(
        {"starter": LocalConfig()}, min_length=1, description="name: a language model that strategies can ask"
    )
    budget: BudgetConfig = Field(BudgetConfig(), description="the most that teachers may be asked for")
    curate: list[Curate] = Field(
        [HeuristicsConfig(), DecontaminateConfig(), LengthConfig()], description="filters, in this order"
    )
    method: Tuning = Field(LoraConfig(), description="what of the model is trained")
    tune: TuneConfig = Field(TuneConfig(), description="the training loop")
    audit: list[Audit] = Field(
        [GainConfig(), StopConfig(), ForgettingConfig()], description="what is asked of the tuned model"
    )
    audit_budget: str | None = Field(
        None, description="time for the audit, such as 10m: probes and sizes that fit, and what was left out is told"
    )

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            raise ValueError("use up to 64 letters, digits, dots, dashes and underscores, a letter or digit first")
        return name

    @field_validator("audit_budget")
    @classmethod
    def _is_a_time(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                seconds_of(text)
            except UsageError as error:
                raise ValueError(f"{error.problem}: {error.fix}") from error
        return text

    @model_validator(mode="after")
    def _teachers_are_there(self) -> Recipe:
        for strategy in (*self.generate, *self.audit):
            given = (getattr(strategy, name, "") for name in ("teacher", "judge"))
            for name in (*given, *getattr(strategy, "teachers", ())):
                if name and name not in self.teachers:
                    raise ValueError(f'no teacher is called "{name}": teachers has {", ".join(self.teachers)}')
        return self

    @model_validator(mode="before")
    @classmethod
    def _one_seed(cls, data: Any) -> Any:
        """A tuning preset fills in what is left open; `seed` reaches the sections that do not set their own."""
        if isinstance(data, dict):
            data = filled(data)
        if not isinstance(data, dict) or not isinstance(data.get("seed"), int):
            return data
        data = dict(data)
        for section in ("build", "tune"):
            given = data.get(section, {})
            if isinstance(given, dict):
                data[section] = {"seed": data["seed"], **given}
        return data


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> tuple[Recipe, str]:
    """The recipe in a YAML file with `a.b=c` overrides applied, and the text of the file as it was written."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        problem = "no such recipe" if isinstance(error, FileNotFoundError) else (error.strerror or str(error)).lower()
        raise UsageError(problem, "didact init writes one", file=path) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError("not UTF-8 text", "save the file as UTF-8", file=path, line=line) from error
    return parse_recipe(text, path, overrides), text


def parse_recipe(text: str, file: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML text; raises UsageError at the first mistake, with its line."""
    return parse(Recipe, text, file, overrides)


def parse(model: type[M], text: str, file: Path | str, overrides: Sequence[str] = ()) -> M:
    """A pydantic model read from YAML; unknown and repeated keys are refused with their place."""
    root, data = _compose(text, file)
    changed = {_override(data, override) for override in overrides}
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = error.errors()
        schema = model.model_json_schema()
        place = _place(found[0]["loc"], root, data)
        problem, fix = _explain(found[0], place, schema, data)
        if len(found) > 1:
            problem += f" (and {len(found) - 1} more to mend)"
        if any(place[: len(path)] == path for path in changed):
            raise UsageError(problem, fix, file="--set", field=_dotted(place)) from error
        raise UsageError(problem, fix, file=file, line=_line(root, place), field=_dotted(place) or None) from error


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with some settings changed, each named as for `--set`; the same recipe where there are none."""
    if not changes:
        return recipe
    data = recipe.model_dump(mode="json")
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        here = data
        for name in path:
            here = here[name]
        here[last] = value
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        found = error.errors()[0]
        raise UsageError(f"no arm can be trained so: {found['msg']}", field=_dotted(found["loc"])) from error


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-4 as a number, as YAML 1.2 does; the yaml package follows 1.1, where it is text."""


_Loader.yaml_implicit_resolvers = {key: list(rules) for key, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+"), list("-+.0123456789")
)


def _compose(text: str, file: Path | str) -> tuple[yaml.MappingNode, dict[str, Any]]:
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            raise UsageError("the recipe is empty", "didact init writes one", file=file)
        if not isinstance(root, yaml.MappingNode):
            raise UsageError("the recipe is not a mapping of sections", "didact init writes one", file=file, line=1)
        _refuse_repeats(root, file, (), set())
        return root, loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "not YAML"
        fix = "check the indentation, colons and quotes of this line"
        raise UsageError(problem, fix, file=file, line=mark.line + 1 if mark else None) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageError(f"not YAML: {error}", "check the file in an editor", file=file) from error


def _refuse_repeats(node: yaml.Node, file: Path | str, path: Path_, seen: set[int]) -> None:
    if id(node) in seen:  # an alias: already looked at
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _refuse_repeats(item, file, (*path, index), seen)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line, name = key.start_mark.line + 1, str(key.value)
        if name in lines:
            fix = f"keep one of the two (the first is in line {lines[name]})"
            raise UsageError("key given twice", fix, file=file, line=line, field=_dotted((*path, name)))
        lines[name] = line
        _refuse_repeats(value, file, (*path, name), seen)


def _override(data: dict[str, Any], text: str) -> Path_:
    """Apply `a.b=c` to the raw data in place; numbers index lists. Returns the path that was set."""
    dotted, equals, value = text.partition("=")
    names = dotted.strip().split(".")
    if not equals or not all(names):
        raise UsageError(f'cannot read "{text}"', "write --set section.key=value", file="--set")
    try:
        loader = _Loader(value)
        node = loader.get_single_node()
        new = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise UsageError(f'the value "{value}" is not YAML', "quote it", file="--set", field=dotted) from error
    here: Any = data
    path: list[str | int] = []
    for depth, name in enumerate(names):
        last = depth == len(names) - 1
        if isinstance(here, list):
            if not name.isdigit() or int(name) >= len(here):
                problem = f'"{name}" is no item of a list of {len(here)}'
                raise UsageError(problem, "items are counted from 0", file="--set", field=dotted)
            key: str | int = int(name)
        elif isinstance(here, dict):
            key = name
            here.setdefault(name, None if last else {})
            if here[name] is None and not last:
                here[name] = {}
        else:
            raise UsageError(f"{'.'.join(names[:depth])} has no fields", "check the name", file="--set", field=dotted)
        path.append(key)
        if last:
            here[key] = new
        else:
            here = here[key]
    return tuple(path)


def _place(loc: Sequence[str | int], root: yaml.Node, data: Any) -> Path_:
    """pydantic's location without the tags of unions and other steps that are not in the file."""
    path: list[str | int] = []
    here = data
    for index, step in enumerate(loc):
        if isinstance(here, dict) and isinstance(step, str):
            if step in here:
                here = here[step]
            elif here.get("type") == step or index < len(loc) - 1:
                continue
            path.append(step)
        elif isinstance(here, list) and isinstance(step, int) and step < len(here):
            path.append(step)
            here = here[step]
    return tuple(path)


def _line(root: yaml.Node, place: Path_) -> int:
    """The line where the deepest part of the place that is in the file begins."""
    node, line = root, root.start_mark.line + 1
    for step in place:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(step)]
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
    return line


def _explain(error: Any, place: Path_, schema: Mapping[str, Any], data: Any) -> tuple[str, str]:
    """What is wrong and what to do, in words."""
    kind, context = error["type"], error.get("ctx", {})
    name = str(place[-1]) if place else "recipe"
    parent = _schema_at(schema, place[:-1], data)
    field = parent.get("properties", {}).get(name, {}) if place else {}
    if kind == "extra_forbidden":
        return f'unknown key "{name}"', nearest(name, parent.get("properties", {}))
    if kind == "union_tag_invalid":
        tags = re.findall(r"'([^']*)'", context["expected_tags"])
        return f'unknown type "{context["tag"]}"', nearest(str(context["tag"]), tags)
    if kind == "union_tag_not_found":
        tags = sorted(_schema_at(schema, place, data, resolve=False).get("discriminator", {}).get("mapping", {}))
        return '"type" is missing', f"add type: {' or '.join(tags)}" if tags else "add a type"
    if kind == "missing":
        return f'"{name}" is missing', field.get("description", "add it")
    if kind == "value_error":
        return str(context.get("error", error["msg"])).replace(" - ", ": "), field.get("description", "change it")
    found = error.get("input")
    shown = f", found {found!r}" if isinstance(found, (str, int, float, bool)) or found is None else ""
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{message.replace('input', 'this')}{shown}", field.get("description", "change it")


def _schema_at(schema: Mapping[str, Any], place: Path_, data: Any, resolve: bool = True) -> Mapping[str, Any]:
    """The JSON Schema at a place of the data, following references, list items and the `type` of unions."""
    here: Mapping[str, Any] = schema
    for step in place:
        here = _concrete(schema, here, data)
        if isinstance(step, int):
            here = here.get("items", {})
            data = data[step] if isinstance(data, list) and step < len(data) else None
        else:
            here = here.get("properties", {}).get(step, {})
            data = data.get(step) if isinstance(data, dict) else None
    return _concrete(schema, here, data) if resolve else here


def _concrete(schema: Mapping[str, Any], here: Mapping[str, Any], data: Any) -> Mapping[str, Any]:
    while True:
        if "$ref" in here:
            here = schema["$defs"][here["$ref"].rsplit("/", 1)[1]]
        elif "discriminator" in here and isinstance(data, dict):
            here = {"$ref": here["discriminator"]["mapping"].get(str(data.get("type")), "")}
            if not here["$ref"]:
                return {}
        elif "anyOf" in here and not here.get("properties"):
            options = [option for option in here["anyOf"] if option.get("type") != "null"]
            wanted = "array" if isinstance(data, list) else None
            here = next((option for option in options if option.get("type") == wanted), options[0])
        else:
            return here


def _dotted(place: Path_) -> str:
    return ".".join(map(str, place))
