from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pytest
from pydantic import BaseModel, ConfigDict, Field

from didact.errors import UsageError
from didact.methods.presets import tuning_presets
from didact.recipe import Recipe, json_schema, load_recipe, parse, parse_recipe

ROOT = Path(__file__).parents[1]
RECIPE = """\
name: small
sources:
  - type: starter
    rows_per_task: 20
method: {type: lora, rank: 4}
tune:
  learning_rate: 1e-3
  epochs: 1
"""


class Cat(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["cat"] = "cat"
    lives: int = Field(9, ge=1, description="how many lives")


class Dog(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["dog"] = "dog"
    bones: float | None = None
    home: Cat | None = None


class Zoo(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    animals: list[Annotated[Cat | Dog, Field(discriminator="type")]] = []
    best: Cat = Cat()


def refusal(text: str, *overrides: str, model: type[BaseModel] = Zoo) -> str:
    with pytest.raises(UsageError) as caught:
        parse(model, text, "zoo.yaml", overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_key_is_refused_with_its_line_and_the_nearest_name() -> None:
    assert refusal("name: a\nbest:\n  livs: 3\n") == 'zoo.yaml:3:best.livs: unknown key "livs" - did you mean "lives"?'


def test_an_unknown_key_inside_a_list_of_alternatives_is_refused_with_its_line() -> None:
    text = "name: a\nanimals:\n  - {type: cat}\n  - type: dog\n    bonse: 3\n"
    assert refusal(text) == 'zoo.yaml:5:animals.1.bonse: unknown key "bonse" - did you mean "bones"?'


def test_an_unknown_key_in_an_optional_section_has_the_names_of_that_section() -> None:
    text = "name: a\nanimals:\n  - type: dog\n    home: {livs: 1}\n"
    assert refusal(text) == 'zoo.yaml:4:animals.0.home.livs: unknown key "livs" - did you mean "lives"?'


def test_unknown_and_missing_types_name_the_known_ones() -> None:
    assert refusal("name: a\nanimals:\n- {type: bird}\n").startswith('zoo.yaml:3:animals.0: unknown type "bird" - use')
    assert refusal("name: a\nanimals:\n- {lives: 1}\n").endswith('"type" is missing - add type: cat or dog')


def test_a_missing_key_is_told_at_the_section() -> None:
    assert refusal("best: {lives: 1}\n").startswith('zoo.yaml:1:name: "name" is missing')


def test_a_value_out_of_range_says_what_it_is_for() -> None:
    line = refusal("name: a\n\nbest:\n  lives: 0\n")
    assert line == "zoo.yaml:4:best.lives: this should be greater than or equal to 1, found 0 - how many lives"


def test_several_mistakes_are_counted() -> None:
    assert "(and 1 more to mend)" in refusal("name: a\nnmae: b\nbset: c\n")


def test_a_key_given_twice_is_refused() -> None:
    line = refusal("name: a\nbest:\n  lives: 1\n  lives: 2\n")
    assert line == "zoo.yaml:4:best.lives: key given twice - keep one of the two (the first is in line 3)"


def test_what_is_not_yaml_is_refused_with_its_line() -> None:
    assert refusal("name: a\nbest: [1\n").startswith("zoo.yaml:3: ")
    assert refusal("name: a\n\tbest: 1\n").startswith("zoo.yaml:2: ")


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "words\n"])
def test_what_is_no_recipe_is_refused(text: str) -> None:
    assert refusal(text).startswith("zoo.yaml")


def test_python_objects_are_not_made(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    line = refusal(f"name: !!python/object/apply:os.mkdir ['{canary}']\n")
    assert "zoo.yaml:1" in line
    assert not canary.exists()


def test_a_bomb_of_aliases_is_refused_at_once() -> None:
    rows = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    assert 'unknown key "a0"' in refusal("\n".join(["name: a", *rows]) + "\n")


def test_overrides_are_typed_and_reach_into_lists() -> None:
    text = "name: a\nanimals: [{type: cat}, {type: dog}]\n"
    zoo = parse(Zoo, text, "zoo.yaml", ["animals.1.bones=1e-4", "best.lives=2", "animals.0.lives=3"])
    assert zoo.animals == [Cat(lives=3), Dog(bones=1e-4)]
    assert zoo.best.lives == 2


def test_numbers_with_exponents_are_numbers() -> None:
    class Any_(BaseModel):
        a: int | float | str

    assert parse(Any_, "a: 1e-4\n", "x").a == 1e-4


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("best.livs=3", '--set:best.livs: unknown key "livs" - did you mean "lives"?'),
        ("best.lives=0", "--set:best.lives: this should be greater"),
        ("animals.5.lives=1", '--set:animals.5.lives: "5" is no item of a list of 1'),
        ("name.first=b", "--set:name.first: name has no fields"),
        ("name", '--set: cannot read "name"'),
        ("name=[", '--set:name: the value "[" is not YAML'),
    ],
)
def test_a_wrong_override_is_told_as_such(override: str, told: str) -> None:
    assert refusal("name: a\nanimals: [{type: cat}]\n", override).startswith(told)


def test_a_recipe_keeps_its_text_and_takes_overrides(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    recipe, text = load_recipe(path, ["tune.learning_rate=5e-4", "sources.0.rows_per_task=7"])
    assert text == RECIPE
    assert recipe.tune.learning_rate == 5e-4
    assert recipe.sources[0].model_dump()["rows_per_task"] == 7


def test_the_seed_reaches_the_sections_that_do_not_set_it() -> None:
    recipe = parse(Recipe, "name: a\nseed: 7\nbuild: {seed: 3}\n", "r.yaml")
    assert (recipe.seed, recipe.build.seed, recipe.tune.seed) == (7, 3, 7)


def test_a_misspelt_setting_of_the_training_loop_is_found() -> None:
    line = refusal(RECIPE.replace("learning_rate", "learning_rte"), model=Recipe)
    assert line == 'zoo.yaml:7:tune.learning_rte: unknown key "learning_rte" - did you mean "learning_rate"?'


@pytest.mark.parametrize(
    "override",
    [
        "tune.batch_size=0",
        "tune.max_length=1",
        "tune.epochs=0",
        "tune.learning_rate=0",
        "tune.learning_rate=-1",
        "tune.max_tokens=0",
        "method.rank=0",
        "method.rank=-4",
        "sources.0.rows_per_task=0",
        "sources=[]",
        "audit.0.items_per_level=0",
        "build.templates_per_row=0",
        "build.max_per_task=0",
        "name=../elsewhere",
        "name=a/b",
        "seed=-1",
        "generate=[{type: distill, samples: 3}]",
    ],
)
def test_impossible_settings_are_refused(override: str) -> None:
    line = refusal(RECIPE + "audit: [{type: gain}]\n", override, model=Recipe)
    assert line.startswith(f"--set:{override.partition('=')[0]}")
    assert "unknown" not in line


def test_a_recipe_that_cannot_be_read_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such recipe"):
        load_recipe(tmp_path / "none.yaml")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"name: a\n# caf\xe9\n")
    with pytest.raises(UsageError, match=r"latin\.yaml:2: not UTF-8"):
        load_recipe(latin)


def test_the_schema_describes_every_field() -> None:
    schema = json_schema()
    missing = [
        f"{name}.{field}"
        for name, section in [("recipe", schema), *schema["$defs"].items()]
        for field, about in section.get("properties", {}).items()
        if field != "type" and "description" not in about
    ]
    assert missing == []


def names_read(tree: ast.AST) -> Iterator[str]:
    """Attributes that code looks at; what a validator looks at is checked, but not yet read by anyone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and any("validator" in ast.dump(d) for d in node.decorator_list):
            continue
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr
        yield from names_read(node)


def unread(kind: Any, read: set[str]) -> set[str]:
    """The settings in a section and below it that no code looks at."""
    found: set[str] = set()
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        found = {f"{kind.__name__}.{name}" for name in kind.model_fields if name not in read}
        found = found.union(*(unread(field.annotation, read) for field in kind.model_fields.values()))
    return found.union(*(unread(part, read) for part in get_args(kind)))


def test_every_setting_is_read_by_some_code() -> None:
    code = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "src" / "didact").rglob("*.py")]
    read = {name for tree in code for name in names_read(tree)}
    assert unread(Recipe, read) == set()
    assert unread(Recipe, read - {"warmup"}) == {"TuneConfig.warmup"}
    validator = "class A(BaseModel):\n    @field_validator('b')\n    def c(self):\n        return self.b"
    assert set(names_read(ast.parse(validator))) == set()


def test_a_resolved_recipe_reads_back_equal() -> None:
    recipe = parse(Recipe, RECIPE, "r.yaml")
    assert parse(Recipe, recipe.model_dump_json(), "recipe.json") == recipe


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_the_recipes_that_come_with_the_project_are_valid(path: Path) -> None:
    load_recipe(path)


def test_the_page_about_recipes_says_what_there_is_to_set() -> None:
    reference = runpy.run_path(str(ROOT / "tools" / "recipe_reference.py"))["reference"]
    assert (ROOT / "docs" / "recipe.md").read_text("utf-8") == reference(), "run: python tools/recipe_reference.py"


def test_the_recipe_of_the_readme_is_valid() -> None:
    text = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert text is not None
    assert parse(Recipe, text[1], "README.md").sources[0].type == "file"


def test_a_teacher_that_is_not_there_is_told() -> None:
    for strategy in ("{type: distill, teachers: [nobody]}", "{type: self_instruct, teacher: nobody}"):
        line = refusal(RECIPE + "audit: [{type: gain}]\n", f"generate=[{strategy}]", model=Recipe)
        assert 'no teacher is called "nobody": teachers has starter' in line


def test_a_key_in_the_recipe_is_refused_and_not_shown() -> None:
    teacher = "{type: endpoint, base_url: 'http://x/v1', model: m, key: sk-abcdefghijklmnop1234}"
    line = refusal(RECIPE + f"teachers: {{big: {teacher}}}\naudit: [{{type: gain}}]\n", model=Recipe)
    assert "teachers.big.key: give the name of an environment variable" in line
    assert "sk-abc" not in line


def test_a_tuning_preset_fills_in_what_is_left_open() -> None:
    recipe = parse_recipe("name: x\nmethod: {dropout: 0.2}\ntune: {preset: baize, epochs: 2}\n", "x.yaml")
    assert recipe.method.model_dump() | {"rank": 8, "alpha": 16.0, "dropout": 0.2} == recipe.method.model_dump()
    assert (recipe.tune.learning_rate, recipe.tune.epochs, recipe.tune.batch_size) == (2e-4, 2.0, 64)
    own = parse_recipe("name: x\nmethod: {type: full}\ntune: {preset: baize}\n", "x.yaml")
    assert own.method.type == "full"
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    with pytest.raises(UsageError, match=r'x.yaml:2:tune.preset: unknown preset "alpacca".*did you mean "alpaca"'):
        parse_recipe("name: x\ntune: {preset: alpacca}\n", "x.yaml")


@pytest.mark.parametrize("name", sorted(tuning_presets()))
def test_every_tuning_preset_is_a_recipe(name: str) -> None:
    recipe, preset = parse_recipe(f"name: x\ntune: {{preset: {name}}}\n", "x.yaml"), tuning_presets()[name]
    for section in ("method", "tune"):
        assert preset[section].items() <= getattr(recipe, section).model_dump().items()
    assert preset["notes"]
    assert preset["source"]
