"""The story, top to bottom: write a recipe, look at it, run its stages, talk to the result, see what is missing.

Everything heavy is imported where it is used, so that `didact --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from didact import lean
from didact.errors import Interrupted, UsageError
from didact.starter_commands import app as starter

if TYPE_CHECKING:
    from didact.console import Console
    from didact.run import Run

app = typer.Typer(
    name="didact",
    help="Build instruction data, tune a language model on it, and see what the tuning taught.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Target = Annotated[Path, typer.Argument(help="A recipe, or the folder of a run.", show_default=False)]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run.", show_default="runs/NAME")]
Certified = Annotated[bool, typer.Option("--certified", help="Refuse to train without a certificate that holds.")]
Budget = Annotated[
    str | None, typer.Option("--budget", help="Time for the audit, such as 10m; it picks what fits. none: all of it.")
]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change the recipe; repeatable.")]


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Where to write the recipe.")] = Path("recipe.yaml"),
    data: Annotated[Path | None, typer.Option(help="A file of rows; its format is found and shown.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of a recipe and stop.")] = False,
) -> None:
    """Write a small commented recipe, for your data if you give it."""
    console = _console()
    if schema:
        import json

        from didact.recipe import json_schema

        typer.echo(json.dumps(json_schema(), indent=2))
        return
    from didact.init import write_recipe

    write_recipe(path, data, console)


@app.command()
def show(
    target: Annotated[Path, typer.Argument(help="A recipe, a run, or a file of instructions.", show_default=False)],
    row: Annotated[int, typer.Option(help="Which row, counted from 1 through all sources.")] = 1,
    id_: Annotated[str | None, typer.Option("--id", help="An instance of a run, or how its id begins.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write it as a page too, with its pictures.")] = None,
    sets: Overrides = None,
) -> None:
    """Show one row as instance and as coloured tokens; of a data file, how it is read, and its first rows."""
    from didact.show import is_data, show_data, show_id, show_row

    if is_data(target):
        show_data(target, row, _console())
    elif id_ is not None:
        show_id(_open(target, None, sets), id_, html)
    else:
        show_row(_open(target, None, sets), row, html)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A file of instructions, a folder of tasks, or of a run.")],
    out: Annotated[Path, typer.Argument(help="File to write: .jsonl .json .csv .tsv .parquet .arrow, also .gz .zst.")],
    to: Annotated[str, typer.Option(help="Format: alpaca, sharegpt, messages, ...", show_default=False)],
    as_: Annotated[str, typer.Option("--from", help="Format of the source.", show_default="recognised")] = "auto",
    carry: Annotated[bool, typer.Option("--carry", help="Keep what has no place in a column didact.")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Leave faulty rows out, and count them.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write instructions in another format, every row accounted for."""
    from didact.convert import convert as write
    from didact.convert import format_name, open_data

    settings = {"format": format_name(as_, "--from", ("auto",)), "on_error": "drop" if drop else "stop"}
    write(open_data(source, **settings), out, format_name(to, "--to"), _console(), carry, force)


@app.command()
def build(target: Target, out: Out = None, sets: Overrides = None) -> None:
    """Make instances from the rows, and put some away for the audit."""
    _upto("build", target, out, sets)


@app.command()
def generate(
    target: Target,
    out: Out = None,
    sets: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what it would ask and cost, and ask nothing.")
    ] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Go on with a recipe that was changed while generation was stopped midway.")
    ] = False,
) -> None:
    """Up to here, then let a language model write more instances."""
    run = _open(target, out, sets)
    if not run.recipe.generate:
        raise UsageError("the recipe has no strategy", "add one: generate: [{type: self_instruct}]", field="generate")
    if dry_run:
        from didact.generation import bill

        with run:
            run.upto("build")
            for line in bill(run):
                _console().say(line)
        return
    run.anew = anew
    with run:
        run.upto("generate")


@app.command()
def curate(target: Target, out: Out = None, sets: Overrides = None) -> None:
    """Up to here, then drop what should not be learnt, each with its reason."""
    _upto("curate", target, out, sets)


@app.command()
def card(target: Target, out: Out = None, sets: Overrides = None) -> None:
    """Up to here, then write the dataset's card: what it is made of, what was left out, how varied it is."""
    run = _upto("card", target, out, sets)
    _console().say(f"\nCard    {(run.path / 'card' / 'card.html').resolve()}")


@app.command()
def certify(target: Target, out: Out = None, sets: Overrides = None) -> None:
    """Prove on your own rows and model that training them is right, in about a minute; exit code 2 if it is not."""
    from didact.certificate import certify as prove

    with _open(target, out, sets) as run:
        prove(run)


@app.command()
def tune(
    target: Target,
    out: Out = None,
    sets: Overrides = None,
    certified: Certified = False,
    nproc: Annotated[int, typer.Option("--nproc", min=1, help="Processes that share the model (FSDP2).")] = 1,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines: prepare, and print what to start.")] = 1,
) -> None:
    """Up to here, then train the model on the answers."""
    _upto("tune", target, out, sets, certified, (nproc, nodes))


@app.command()
def audit(
    target: Target,
    other: Annotated[Path | None, typer.Argument(help="A second run, to compare with.", show_default=False)] = None,
    out: Out = None,
    sets: Overrides = None,
    budget: Budget = None,
) -> None:
    """Up to here, then find out what the tuning taught; of two runs, which taught more."""
    if other is None:
        _tell_findings(_upto("audit", target, out, _with_budget(sets, budget)))
        return
    if out is not None or sets or budget:
        raise UsageError("two runs are compared as they are", "leave --out, --set and --budget away")
    from didact.versus import against

    console = _console()
    found, told, page = against(target, other, console)
    console.say(f"\n{told}", "stage")
    for finding in found:
        console.say(f"\n  {finding.question}", "aside")
        console.say(f"  {finding.verdict}")
    console.say(f"\nReport  {page.resolve()}")


@app.command()
def report(target: Target, out: Out = None, sets: Overrides = None, budget: Budget = None) -> None:
    """Up to here, then write the report as one HTML page."""
    _tell_findings(_upto("report", target, out, _with_budget(sets, budget)))


@app.command()
def run(
    target: Target, out: Out = None, sets: Overrides = None, certified: Certified = False, budget: Budget = None
) -> None:
    """All stages, from rows to report; those that need not run again are reused."""
    _tell_findings(_upto("report", target, out, _with_budget(sets, budget), certified))


@app.command()
def compare(
    target: Target,
    methods: Annotated[str, typer.Option("--methods", help="Names with commas between, or all.")] = "all",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings of each method.")] = 3,
    items: Annotated[int, typer.Option("--items", min=2, help="Held-out items that are asked.")] = 400,
    out: Out = None,
    sets: Overrides = None,
) -> None:
    """Tune with several methods on the same rows, and say which are better, which tie, and what they cost."""
    from didact.compare import compare as beside

    with _open(target, out, sets) as run:
        run.upto("curate")
        beside(run, methods, seeds, items)
    _console().say(f"\nReport  {(run.path / 'compare' / 'report.html').resolve()}")


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(help="Which, or all; without it they are listed.", show_default=False)] = "",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings of each arm.")] = 3,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of results and pages.")] = Path("runs/reproduce"),
    pages: Annotated[Path | None, typer.Option("--pages", help="Also write the pages there.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Far too small to tell: only shows that it runs.")] = False,
) -> None:
    """Try published findings again in miniature: claim, arms, the signs that were seen, a verdict by rule."""
    from didact.reproduce.work import chosen, listing, publish
    from didact.reproduce.work import reproduce as make

    console = _console()
    if not name:
        for line in listing(out):
            console.say(line)
        return
    out = out / "quick" if quick else out
    make(chosen(name), out, console, seeds=seeds, quick=quick)
    console.say(f"\nPages   {(out / 'README.md').resolve()}")
    if pages is not None:
        console.say(f"Written there too: {', '.join(publish(out, pages))}")


@app.command()
def chat(folder: Annotated[Path, typer.Argument(help="The folder of a run.", show_default=False)]) -> None:
    """Talk to the base model and the tuned one, side by side."""
    from didact.chat import chat as talk
    from didact.chat import typed

    if not (folder / "tuned").is_dir():
        raise UsageError("no tuned model here", "didact tune makes one", file=folder)
    console = _console()
    run = _open(folder, None, None)
    lines = typed(console) if sys.stdin.isatty() else (line for line in sys.stdin)
    talk(run.voices(), lines, console)


@app.command()
def methods(
    model: Annotated[str, typer.Option(help="A model: starter, a folder, or a name on the hub.")] = "starter",
) -> None:
    """List the ways to tune: what each trains of a model, the memory of a step, and what it is for."""
    from didact.methods.listing import listing
    from didact.model_files import find
    from didact.programs import PROGRAMS

    console = _console()
    console.say(f"{'method':<10} {'trained':>24} {'memory':>13}  {'afterwards':<13} what it is for", "stage")
    for line in listing(find(model)):
        console.say(str(line), "aside" if line.why else "")
    for name, program in PROGRAMS.items():
        console.say(f"{name:<10} {'several trainings':>24} {'':>13}  {'':<13} {program.purpose} ({program.paper})")


@app.command()
def join(
    folder: Annotated[Path, typer.Argument(help="Where the model is written.", show_default=False)],
    language: Annotated[str, typer.Option(help="A causal model; fresh is a tiny random one.")] = "starter",
    vision: Annotated[str, typer.Option(help="Model whose tower is taken (CLIP, SigLIP, LLaVA), or new.")] = "new",
    side: Annotated[int, typer.Option(help="Pixels of a new tower's pictures.", min=8)] = 48,
    patch: Annotated[int, typer.Option(help="Pixels of its patches.", min=1)] = 8,
    width: Annotated[int, typer.Option(help="Its hidden size.", min=24)] = 96,
    layers: Annotated[int, typer.Option(help="Its layers.", min=1)] = 3,
    queries: Annotated[int, typer.Option(help="Queries of a Q-Former instead of a place for each patch.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Seed of random weights.")] = 0,
) -> None:
    """Put a model that sees together: a vision tower, a new projector, a language model."""
    from didact.assemble import put_together

    made = put_together(folder, language, vision, (side, patch, width, layers), queries, seed)
    _console().say(f"the model is in {made}: model: {made}")


@app.command()
def doctor() -> None:
    """Print versions, what is missing, and how to mend it."""
    from didact import __version__
    from didact.doctor import checks

    console = _console()
    console.say(f"didact {__version__}")
    found = checks(Path.cwd())
    for check in found:
        mark = "ok  " if not check.fix else ("need" if check.needed else "    ")
        fix = f" - {check.fix}" if check.fix else ""
        console.say(f"{mark}  {check.name:<16} {check.found}{fix}", "" if not check.fix else "bold")
    if any(check.fix and check.needed for check in found):
        raise typer.Exit(1)


app.add_typer(starter, name="starter")


def _upto(
    stage: str,
    target: Path,
    out: Path | None,
    sets: list[str] | None,
    certified: bool = False,
    processes: tuple[int, int] = (1, 1),
) -> Run:
    run = _open(target, out, sets)
    run.ranks, run.nodes = processes
    if run.recipe.tune.compile and max(processes) > 1:
        from didact.prepare import no_compile

        raise no_compile()
    with run:
        if certified:
            from didact.certificate import require

            run.upto("curate")
            require(run)
        run.upto(stage)
    return run


def _with_budget(sets: list[str] | None, budget: str | None) -> list[str] | None:
    return (
        sets if budget is None else [*(sets or []), "audit_budget=" + ("null" if budget == "none" else f'"{budget}"')]
    )


def _open(target: Path, out: Path | None, sets: list[str] | None) -> Run:
    from didact.run import open_run

    return open_run(target, out, sets or [], _console())


def _tell_findings(run: Run) -> None:
    """In plain words what was learned, and where it is written."""
    from didact.audit.verdict import headline

    console, findings = _console(), run.findings()
    console.say("\nWhat was learned", "stage")
    console.say(headline(findings), "stage")
    for finding in findings:
        console.say(f"\n  {finding.question}", "aside")
        console.say(f"  {finding.verdict}")
    page = run.path / "audit" / "report.html"
    current = run.journal["stages"].get("report", {}).get("inputs") == run.inputs("report")  # else it tells of another
    told = page.resolve() if page.exists() and current else f"didact report {run.path}"
    console.say(f"\nReport  {told}\nChat    didact chat {run.path}")


def _console() -> Console:
    from didact.console import Console

    return Console()


def main() -> NoReturn:
    """The command line. Exit codes: 0 done, 2 something to mend, 130 and 143 stopped by Ctrl-C and SIGTERM."""
    # Threads that wait by spinning make torch ten times slower as soon as another program wants the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    lean.own_process()
    try:
        code = app(standalone_mode=False, prog_name="didact")
        sys.exit(code if isinstance(code, int) else 0)
    except UsageError as error:
        _fail(str(error), 2)
    except Interrupted as stopped:
        _fail(str(stopped), stopped.code)
    except (typer.Abort, KeyboardInterrupt):
        _fail("stopped", 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except Exception as error:
        if hasattr(error, "format_message"):  # a click error: an unknown option, a missing argument
            context = getattr(error, "ctx", None)
            command = context.command_path if context is not None else "didact"
            _fail(f"{' '.join(error.format_message().split()).rstrip('.')} - see {command} --help", 2)
        raise


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(message, err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
