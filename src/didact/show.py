"""One row on its way to the model: row, instance, tokens; learnt tokens apart from context."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from didact.console import Console, printable
from didact.errors import UsageError
from didact.folder import disk_error
from didact.instance import Drop, Instance, Message
from didact.lineage import fate, find, lineage
from didact.pictures import told as picture_told

if TYPE_CHECKING:
    from rich.text import Text

    from didact.render import Renderer
    from didact.run import Run
    from didact.sources import Row, Task

SHOWN = 3  # instances of a data file
LEGEND = "tokens with their ids; + is learnt, # is the stop that is learnt too, the rest is context"


def show_row(run: Run, number: int, page: Path | None = None) -> None:
    """Print row `number` (from 1, through all sources), the instances made of it and the tokens of each.

    page: where to write the same as a page, with the pictures beside their tokens.
    """
    console, drops = run.console, list[Drop]()
    row, instances = instances_of(run, number, drops)
    console.say(f"row {number}  {row.source}:{row.number}", "bold")
    show_fields(console, row.data)
    for drop in drops:
        console.say(f"dropped: {drop.reason} - {drop.detail}" if drop.detail else f"dropped: {drop.reason}")
    for instance in instances:
        show_instance(console, instance, run.path)
        show_tokens(console, run, instance)
    if page is not None:
        write_page(run, instances, page)


def instances_of(run: Run, number: int, drops: list[Drop]) -> tuple[Row, list[Instance]]:
    """A row and all that the recipe makes of it, held out or not."""
    from didact.build import build_row
    from didact.sources import open_source
    from didact.token_count import tokenizer_json

    counted_by = run.tokenizer_name()
    tokenizer = tokenizer_json(counted_by) if counted_by else ""
    opened = (
        task
        for source in run.recipe.sources
        for task in open_source(source, run.home, drops.append, run.path, tokenizer)
    )
    rows: Iterator[tuple[Task, Row]] = ((task, row) for task in opened for row in task.rows())
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


def show_instance(console: Console, instance: Instance, folder: Path | None = None) -> None:
    """The turns of an instance, its slots in colours, where it comes from and, in a run, where it went."""
    console.say(f"\ninstance {instance.id}", "bold")
    for line in [*lineage(instance), *(fate(folder, instance.id) if folder is not None else [])]:
        console.say(f"  {line}", "aside")
    for message in instance.messages:
        console.rich.print(_turn(message))
    if instance.references:
        console.say(f"  also right: {' | '.join(instance.references)}", "aside")
    if instance.choices:
        console.say(f"  choices: {' | '.join(instance.choices)}", "aside")


def _turn(message: Message) -> Text:
    """A turn; where it has several slots each is named, so that they can be told apart without colours too."""
    from rich.text import Text

    named = len({part.slot for part in message.parts}) > 1
    text, before = Text(f"  {message.role}: "), None
    for part in message.parts:
        if named and part.slot != before:
            text.append(f"[{part.slot or 'text'}] ", style="aside")
        before = part.slot
        said = printable(part.value) if part.kind == "text" else printable(picture_told(part.value))
        text.append(said.replace("\n", "\n    "), style=part.slot or "")
    return text


def is_data(path: Path) -> bool:
    """Whether a path is data to look at, not a recipe or the folder of a run."""
    if path.is_dir():
        return not (path / "recipe.json").exists()
    name = path.name.lower()
    return path.is_file() and name != "recipe.json" and not name.endswith((".yaml", ".yml"))


def show_data(path: Path, number: int, console: Console) -> None:
    """Say how a file is read, show `SHOWN` of its instances from row `number` on, and count rows and drops of all."""
    from didact.convert import open_data

    source = open_data(path, on_error="drop")
    console.say(f"{path} is read as {source.description}")
    shown, at = 0, 0
    for instance in source.instances():
        at += 1
        if at >= number and shown < SHOWN:
            show_instance(console, instance)
            shown += 1
    if not shown:
        reasons = Counter(drop.reason for drop in source.drops)
        told = "; ".join(f"{many:,} {reason}" for reason, many in reasons.most_common())
        fix = f"dropped: {told}; first: {_detail(source.drops[0])}" if told else "rows are counted from 1"
        raise UsageError(f"there is no instance {number}: {source.rows:,} rows gave {at:,}", fix, file=path)
    console.say(f"\n{source.rows:,} rows, {at:,} instances, {len(source.drops):,} rows dropped", "bold")
    for reason, many in Counter(drop.reason for drop in source.drops).most_common():
        first = next(drop for drop in source.drops if drop.reason == reason)
        console.say(f"  {many:,} {reason}; first: {_detail(first)}")


def show_id(run: Run, wanted: str, page: Path | None = None) -> None:
    """Print the instance of a run with this id, and the instances of the run that it grew from."""
    instance = find(run.path, wanted)
    if page is not None:
        write_page(run, [instance], page)
    show_instance(run.console, instance, run.path)
    for parent in instance.origin.parents:
        if fate(run.path, parent):
            run.console.say("\ngrown from", "bold")
            show_instance(run.console, find(run.path, parent), run.path)


def show_tokens(console: Console, run: Run, instance: Instance) -> None:
    """The tokens as training sees them, from the renderer that training uses; refuses what training would refuse."""
    from didact.fit import appending

    renderer = run.renderer()
    rows = appending(instance, renderer)
    if len(rows) > 1:
        console.say(f"\nthe chat template rewrites earlier turns, so {len(rows)} answers are rows of their own", "bold")
    for row in rows:
        _show_row_tokens(console, renderer, row)
    console.say(f"  {LEGEND}", "aside")


def _show_row_tokens(console: Console, renderer: Renderer, row: Instance) -> None:
    from rich.text import Text

    tokens = renderer.render(row)
    renderer.check(row, tokens)
    line = Text("  ")
    for i, shown in enumerate(renderer.shown(tokens)):
        image = next((n for n, (start, end) in enumerate(tokens.media) if start <= i < end), None)
        if image is not None:
            start, end = tokens.media[image]
            named = printable(picture_told(tokens.images[image])) if i == start else ""
            line.append(f"{named}·{end - start} places " if named else "", style="context")
            continue
        kind = "stop" if shown.stop and shown.weight else "answer" if shown.weight else "context"
        mark = {"stop": "#", "answer": "+", "context": ""}[kind]
        line.append(mark + printable(shown.text).replace("\n", "\\n").replace("\t", "\\t"), style=kind)
        line.append(f"·{shown.id} ", style="aside")
    console.say(f"\n{len(tokens.ids)} tokens, {tokens.supervised} of them learnt", "bold")
    console.rich.print(line)


def write_page(run: Run, instances: Sequence[Instance], page: Path) -> None:
    """Write instances, their pictures and their coloured tokens as one page that needs nothing else."""
    from didact.fit import appending
    from didact.show_page import Seen, page_html

    renderer, seen = run.renderer(), []
    for instance in instances:
        for row in appending(instance, renderer):
            tokens = renderer.render(row)
            renderer.check(row, tokens)
            seen.append(Seen(instance, lineage(instance), renderer.shown(tokens), tokens.media))
    try:
        page.write_text(page_html(str(run.recipe.name), seen), "utf-8")
    except OSError as error:
        raise disk_error(error, page) from error
    run.console.say(f"\nPage    {page.resolve()}")


def _detail(drop: Drop) -> str:
    """Where a row that was dropped lies, and what was wrong with it."""
    place = f"{drop.origin.source}:{drop.origin.row}"
    return drop.detail if drop.detail.startswith(place) else f"{place} {drop.detail}".rstrip()
