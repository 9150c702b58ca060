"""One row on its way to the model: row, instance, tokens; learnt tokens apart from context."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from didact.console import Console, printable
from didact.errors import UsageError
from didact.instance import Drop, Instance

if TYPE_CHECKING:
    from didact.run import Run
    from didact.sources import Row, Task

LEGEND = "tokens with their ids; + is learnt, # is the stop that is learnt too, the rest is context"


def show_row(run: Run, number: int) -> None:
    """Print row `number` (from 1, through all sources), the instances made of it and the tokens of each."""
    console, drops = run.console, list[Drop]()
    row, instances = instances_of(run, number, drops)
    console.say(f"row {number}  {row.source}:{row.number}", "bold")
    show_fields(console, row.data)
    for drop in drops:
        console.say(f"dropped: {drop.reason} - {drop.detail}" if drop.detail else f"dropped: {drop.reason}")
    for instance in instances:
        show_instance(console, instance)
        show_tokens(console, run, instance)


def instances_of(run: Run, number: int, drops: list[Drop]) -> tuple[Row, list[Instance]]:
    """A row and all that the recipe makes of it, held out or not."""
    from didact.build import build_row
    from didact.sources import open_source

    tasks = (task for source in run.recipe.sources for task in open_source(source, run.home, drops.append))
    rows: Iterator[tuple[Task, Row]] = ((task, row) for task in tasks for row in task.rows())
    found = next(islice(rows, max(0, number - 1), None), None) if number >= 1 else None
    if found is None:
        raise UsageError(f"there is no row {number}", "rows are counted from 1 through all sources", field="--row")
    task, row = found
    drops.clear()
    return row, list(build_row(task, row, run.recipe.build, drops.append))


def show_fields(console: Console, data: Mapping[str, Any]) -> None:
    """The columns of a row."""
    for name, value in data.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        console.say(f"  {name}: {text}")


def show_instance(console: Console, instance: Instance) -> None:
    """The turns of an instance, and where it comes from."""
    origin = instance.origin
    told = [
        origin.via,
        f"task {origin.task}" if origin.task else "",
        f"cluster {origin.cluster}" if origin.cluster else "",
    ]
    console.say(f"\ninstance {instance.id}  {', '.join(part for part in told if part)}", "bold")
    for message in instance.messages:
        console.say(
            f"  {message.role}: {message.text}".replace("\n", "\n    "), "answer" if message.role == "assistant" else ""
        )
    if instance.choices:
        console.say(f"  choices: {' | '.join(instance.choices)}", "aside")


def show_tokens(console: Console, run: Run, instance: Instance) -> None:
    """The tokens as training sees them, from the renderer that training uses; refuses what training would refuse."""
    from rich.text import Text

    renderer = run.renderer()
    tokens = renderer.render(instance)
    renderer.check(instance, tokens)
    line = Text("  ")
    for shown in renderer.shown(tokens):
        kind = "stop" if shown.stop and shown.weight else "answer" if shown.weight else "context"
        mark = {"stop": "#", "answer": "+", "context": ""}[kind]
        line.append(mark + printable(shown.text).replace("\n", "\\n").replace("\t", "\\t"), style=kind)
        line.append(f"·{shown.id} ", style="aside")
    console.say(f"\n{len(tokens.ids)} tokens, {tokens.supervised} of them learnt", "bold")
    console.rich.print(line)
    console.say(f"  {LEGEND}", "aside")
