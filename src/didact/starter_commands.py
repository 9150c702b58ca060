"""The commands about the embedded world: make its base model, examine it, show what tuning it teaches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from didact.console import Console

app = typer.Typer(help="The embedded world: make its corpus, check its base model.", no_args_is_help=True)


@app.command("make")
def make_base(
    folder: Annotated[Path, typer.Argument(help="Where the base is made; a stopped making goes on there.")],
    seed: Annotated[int, typer.Option(help="Seed of weights and corpus.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Stop after so many steps.", show_default="all")] = None,
    compiled: Annotated[bool, typer.Option(help="Compile it first, a third faster (needs a C++ compiler).")] = False,
) -> None:
    """Make the starter's base model anew: its corpus, its tokenizer, its weights (an hour and a half on one core)."""
    from didact.starter.make import make

    made = make(folder, seed, steps=steps, report=Console().say, compiled=compiled)
    Console().say(f"the base is in {made}; examine it with: didact starter check {made}")


@app.command("eyes")
def make_eyes(
    folder: Annotated[Path, typer.Argument(help="Where the tower is written.")],
    steps: Annotated[int, typer.Option(help="Steps of 64 pictures.", min=1)] = 300,
    patch: Annotated[int, typer.Option(help="Pixels of a patch: 4, 8 or 16.", min=4)] = 16,
    seed: Annotated[int, typer.Option(help="Seed of weights and pictures.")] = 0,
    queries: Annotated[bool, typer.Option(help="In the shape that goes before the queries of a Q-Former.")] = False,
) -> None:
    """Train a small vision tower on the picture world, from nothing, in minutes; `didact join --vision` takes it."""
    from didact.starter.eyes import make

    right = make(folder, steps, patch, seed, Console().say, queries)
    Console().say(f"of new pictures it tells {right['things']:.1%} of things and {right['colours']:.1%} of colours")


@app.command("check")
def check_base(
    folder: Annotated[Path | None, typer.Argument(help="A base model.", show_default="the one that ships")] = None,
    items: Annotated[int, typer.Option(help="Questions per skill.", min=1)] = 400,
    seed: Annotated[int, typer.Option(help="Seed of the questions.")] = 1,
) -> None:
    """Examine what a base can do before any tuning, skill by skill; exit code 1 if a required skill is missing."""
    from didact.starter import base_folder
    from didact.starter.gates import check

    console = Console()
    gates = check(folder or base_folder(), items, seed)
    for gate in gates:
        mark = "ok  " if gate.ok else ("need" if gate.required else "    ")
        interval = f"{gate.value:.3f} [{gate.low:.3f}, {gate.high:.3f}]"
        console.say(f"{mark}  {gate.name:<14} {interval}  target {gate.target:g}", "" if gate.ok else "bold")
    if any(gate.required and not gate.ok for gate in gates):
        raise typer.Exit(1)


@app.command("effect")
def show_effect(
    out: Annotated[Path, typer.Argument(help="JSON lines of results; runs that are there are not repeated.")],
    folder: Annotated[
        Path | None, typer.Option("--base", help="A base model.", show_default="the one that ships")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds per arm.", min=1)] = 3,
    examples: Annotated[int, typer.Option(help="Training instances per run.", min=1)] = 6000,
) -> None:
    """Tune it on real, shuffled and simplified data and from random weights, and compare what was learned."""
    from didact.starter import base_folder
    from didact.starter.effect import effect
    from didact.starter.effect_table import table

    console = Console()
    console.say(table(effect(folder or base_folder(), out, seeds, examples, report=console.say)))
