"""What a recipe may say under `build`, and the presets: published settings that a recipe can begin from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from didact.errors import nearest

Share = Annotated[float, Field(ge=0, le=1)]
Layouts = Annotated[list[str], Field(min_length=1)]
Preset = Literal["", "flan2021", "flan-collection", "t0", "super-ni", "instructblip"]


class OptionsConfig(BaseModel):
    """Whether and how the allowed answers are listed below the question, where a template does not do so itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: Share = Field(0.0, description="share of the instances with a closed set of answers that list them")
    layouts: Layouts = Field(["*"], description="globs of layouts to draw from: see docs/presets.md")
    shuffle: bool = Field(True, description="list them in an order drawn for each instance")
    answer: Literal["text", "mark"] = Field(
        "text", description="what is to be answered: the text of the choice, or its letter or number where it has one"
    )


class FewShotConfig(BaseModel):
    """Worked examples before the question: other training rows in the words of the same template."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: Share = Field(0.0, description="share of the instances that get examples; the others are zero-shot")
    shots: list[Annotated[int, Field(ge=1, le=64)]] = Field(
        [1, 2, 3, 4, 5], min_length=1, description="numbers of examples to draw from"
    )
    layouts: Layouts = Field(["*"], description="globs of layouts to draw from: see docs/presets.md")
    max_tokens: int = Field(
        1920, ge=1, description="tokens that examples and question have together at most; examples beyond are pruned"
    )
    tokenizer: str = Field(
        "", description='whose tokens are counted: "starter", a folder, a hub id; those of `model` unless given'
    )
    picture_tokens: int | None = Field(
        None, ge=0, description="tokens that a picture takes of them; what that model says unless given, 0 if it varies"
    )


class RationaleConfig(BaseModel):
    """Chain of thought: the answer begins with the reasoning that a column of the row holds. Only in training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: Share = Field(0.0, description="share of the training instances with reasoning that are asked for it")
    columns: list[str] = Field(
        ["rationale", "explanation", "reasoning"], description="columns that may hold the reasoning; the first counts"
    )
    layouts: Layouts = Field(["*"], description="globs of layouts to draw from: see docs/presets.md")


class MixingConfig(BaseModel):
    """How much of each task goes into training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Literal["size", "equal", "capped", "temperature", "weights"] = Field(
        "size",
        description="rate of a task: by its size, all equal, by min(size, maximum), by that to the power of "
        "1/temperature, or as given",
    )
    maximum: int = Field(3000, ge=1, description="size that counts at most (capped, temperature, within weights)")
    per_template: bool = Field(False, description="a task below the maximum counts once for each template, as in T0")
    temperature: float = Field(2.0, gt=0, description="1 is by capped size; the higher, the more equal")
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="glob of tasks or clusters: weight that they share by capped size; others get none"
    )
    total: int | None = Field(
        None, ge=1, description="training instances in all; fewer if the rates cannot be kept without repeating rows"
    )
    repeat: bool = Field(False, description="reach the total by using rows again, in the words of other templates")

    @model_validator(mode="after")
    def _consistent(self) -> MixingConfig:
        if self.by == "weights" and not sum(self.weights.values()):
            raise ValueError("mixing by weights needs weights: {glob of tasks or clusters: weight}")
        if self.weights and self.by != "weights":
            raise ValueError(f"weights count only with by: weights, and this is by: {self.by}")
        if self.repeat and self.total is None:
            raise ValueError("repeat needs a total")
        return self


class BuildConfig(BaseModel):
    """How rows become instances, and what is held out of training to be judged on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Preset = Field("", description="published settings to begin from; what the recipe says comes before them")
    heldout_clusters: list[str] = Field([], description="globs of clusters whose tasks are only tested on")
    heldout_tasks: list[str] = Field([], description="globs of tasks that are only tested on")
    leave_out: dict[str, list[str]] | None = Field(
        None, description="cluster: clusters that leave training when it is held out; Flan's rule unless given"
    )
    heldout_templates: int = Field(
        1, ge=0, description="templates of each task that are only tested on; one always stays"
    )
    heldout_rows: int | float = Field(
        0.1, ge=0, description="rows of each task that are only tested on: a share below 1, or a number of row groups"
    )
    heldout_per_task: int | None = Field(
        100, ge=1, description="at most this many held-out instances of each task and level; null for all"
    )
    find_groups: bool = Field(
        True, description="keep rows that share a long text on one side, where a source names no group"
    )
    max_per_task: Annotated[int, Field(ge=1)] | dict[str, Annotated[int, Field(ge=1)]] | None = Field(
        None, description="at most this many training instances of each task, or glob of tasks or clusters: number"
    )
    templates_per_row: int = Field(1, ge=1, description="with how many templates each row is put into words")
    inverted: Share | None = Field(
        None, description="share of training instances that ask for the input instead; null: as other templates"
    )
    options: OptionsConfig = Field(OptionsConfig(), description="the allowed answers below the question")
    few_shot: FewShotConfig = Field(FewShotConfig(), description="examples before the question")
    rationale: RationaleConfig = Field(RationaleConfig(), description="reasoning before the answer")
    mixing: MixingConfig = Field(MixingConfig(), description="how much of each task")
    leak_check: bool = Field(True, description="count training instances that share a text with held-out ones")
    workers: int | None = Field(None, ge=1, description="processes for large builds; as many as cores unless given")
    seed: int = Field(0, ge=0, description="decides split, choice of templates and order")

    @field_validator("heldout_rows")
    @classmethod
    def _finite(cls, rows: int | float) -> int | float:
        if not math.isfinite(rows):
            raise ValueError("a share below 1 or a number is needed")
        return rows

    @model_validator(mode="before")
    @classmethod
    def _begin_from_preset(cls, data: Any) -> Any:
        """The preset's settings below those of the recipe."""
        name = data.get("preset") if isinstance(data, dict) else None
        if not isinstance(name, str) or not name:
            return data
        below, own = presets().get(name, {}).get("build", {}), data.get("mixing")
        if isinstance(own, dict) and own.get("by", "weights") != "weights":  # the preset's weights speak of its own way
            below = {**below, "mixing": {k: v for k, v in below.get("mixing", {}).items() if k != "weights"}}
        return over(below, data)

    @model_validator(mode="after")
    def _known_layouts(self) -> BuildConfig:
        from fnmatch import fnmatchcase

        for kind, globs in (
            ("options", self.options.layouts),
            ("few_shot", self.few_shot.layouts),
            ("rationale", self.rationale.layouts),
        ):
            names = layouts(kind)
            for glob in globs:
                if not any(fnmatchcase(name, glob) for name in names):
                    raise ValueError(f'no layout of {kind} is called "{glob}": {nearest(glob, names)}')
        return self


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two mappings as one; where both have a key, the second counts, and mappings are merged in turn."""
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        # Weights and caps by glob are one statement each; only sections are merged.
        if isinstance(below[key], dict) and isinstance(above[key], dict) and key not in ("weights", "max_per_task"):
            merged[key] = over(below[key], above[key])
    return merged


@cache
def presets() -> dict[str, dict[str, Any]]:
    """name -> {build: settings, source: where they are published, notes: what the recipe must say itself}."""
    found: dict[str, dict[str, Any]] = _data("presets.yaml")
    return found


@cache
def layouts(kind: str) -> dict[str, dict[str, str]]:
    """Ways to write answer options, examples or reasoning, by name."""
    found: list[dict[str, str]] = _data("layouts.yaml")[kind]
    return {layout["name"]: layout for layout in found}


@cache
def _data(name: str) -> Any:
    return yaml.safe_load(files("didact.build").joinpath(name).read_text("utf-8"))
