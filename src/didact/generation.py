"""The stage `generate`: strategies one after the other, what they made and what became of every prompt.

Instances of tasks that are held out are left out here, whoever wrote them; overlap with held-out texts is curation's.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from didact import fingerprint
from didact.curate.judge import JudgeConfig
from didact.curate.judge import bill as judge_bill
from didact.errors import UsageError
from didact.generate import GENERATE, SPARE, Asker, Context
from didact.instance import Drop, Instance, digest
from didact.llm import Bill, EndpointConfig, Llm
from didact.recipe import Recipe
from didact.teachers import CALLS, Teachers, identity, known, told

if TYPE_CHECKING:
    from didact.model import Loaded
    from didact.run import Run

MADE, ACCOUNT = "generated.jsonl", "generation.json"


def generate(run: Run, retrained: Callable[[Sequence[Instance]], Loaded]) -> tuple[dict[str, int], Sequence[str]]:
    """Write what the strategies make, what they dropped, and an account of it."""
    drops: list[Drop] = []
    accounts: list[dict[str, Any]] = []
    budget, teachers = run.recipe.budget, run.recipe.teachers
    with Teachers(teachers, budget, run.path, run.home, lambda text: run.console.stage("", text)) as asked:
        context = _context(run, asked, drops.append, retrained)
        lines = (_line(made.to_json()) for made in _write(run, asked, context, drops, accounts))
        count = run.folder.write_lines(MADE, lines)
    if not count:
        run.folder.remove(MADE)
        most = Counter(drop.reason for drop in drops).most_common(1)
        fix = f"most often ({most[0][1]}): {most[0][0]}" if most else "look at the strategies' settings"
        raise UsageError("no instance was generated", fix, field="generate")
    run.folder.write(ACCOUNT, json.dumps(accounts, indent=1, ensure_ascii=False) + "\n")
    head = run.journal["stages"]["build"]["outputs"]["dropped.jsonl"]["bytes"]
    dropped = (_line({"stage": "generate", **drop.to_json()}) for drop in drops)
    run.folder.write_lines("dropped.jsonl", dropped, keep=head)
    spare = sum(drop.reason.startswith(SPARE) for drop in drops)
    counts = {"instances": count, "dropped": len(drops) - spare} | ({"spare": spare} if spare else {})
    for name in ("prompts", "calls", "rejected", "failed"):
        counts[name] = sum(account[name] for account in accounts)
    for name in ("valid", "right"):  # by the rows' own rules, where they have any
        if any(name in account for account in accounts):
            counts[name] = sum(account.get(name, 0) for account in accounts)
    return counts, (MADE, ACCOUNT, "dropped.jsonl")


def _write(
    run: Run, asked: Teachers, context: Context, drops: list[Drop], accounts: list[dict[str, Any]]
) -> Iterator[Instance]:
    """The instances of all strategies, in their order; an account of each is added when it ends."""
    away = held_out_tasks(run.instances("heldout.jsonl"))
    for config in run.recipe.generate:
        before, began, already = totals(asked), time.monotonic(), len(drops)
        seen: Counter[str] = Counter()
        marks: defaultdict[str, list[float]] = defaultdict(list)
        with run.console.progress("generate") as update:
            state = [0, 0]
            _follow(asked, context, update, state, began)
            for made in GENERATE[config.type][1](config, context):
                if (made.origin.task, made.origin.cluster) in away:
                    drops.append(Drop("its task is held out", "", made.origin, made))
                    continue
                seen.update(["made", *(name for name in ("valid", "right") if made.tags.get(name) == "yes")])
                seen.update(["checked"] if "right" in made.tags else [])
                if "difficulty" in made.tags:
                    marks[made.tags["round"]].append(float(made.tags["difficulty"]))
                yield made
        account = account_of(config.type, totals(asked) - before, time.monotonic() - began, seen)
        account["dropped"] = dict(Counter(drop.reason for drop in drops[already:]).most_common())
        if marks:
            account["difficulty by round"] = {r: round(sum(some) / len(some), 2) for r, some in sorted(marks.items())}
        accounts.append(account)
        run.console.stage("", _said(account))


def held_out_tasks(heldout: Iterator[Instance]) -> set[tuple[str, str]]:
    """Tasks that are only tested on, as (task, cluster)."""
    levels = ("heldout_task", "heldout_cluster")
    return {(i.origin.task, i.origin.cluster) for i in heldout if i.tags.get("level") in levels}


def _context(
    run: Run,
    asked: Teachers,
    drop: Callable[[Drop], None],
    retrained: Callable[[Sequence[Instance]], Loaded],
) -> Context:
    def tuned_on(instances: Sequence[Instance]) -> Asker:
        method, tune = run.recipe.method.model_dump(), run.recipe.tune.model_dump()
        name = digest([fingerprint.model(run.model_name()), method, tune, [i.id for i in instances]])
        return asked.own(name, lambda: retrained(instances))

    return Context(
        asked.llm,
        drop,
        built=lambda: run.instances("built.jsonl"),
        questions=lambda sources: questions(sources, run.home, drop, run.path),
        retrain=tuned_on,
        home=run.home,
        pictures=run.path,
        seed=run.recipe.seed,
    )


def questions(
    sources: Sequence[Any], home: Path, drop: Callable[[Drop], None], pictures: Path | None = None
) -> Iterator[Instance]:
    """Rows of sources in the words of their templates; rows that are marked as held out are left out.

    pictures: the folder of the run, that keeps their pictures.
    """
    from didact.build import BuildConfig, build
    from didact.sources import open_source

    tasks = [task for source in sources for task in open_source(source, home, drop, pictures)]
    config = BuildConfig(heldout_templates=0, heldout_rows=0)
    return (made for made in build(tasks, config, drop) if made.tags.get("split") != "heldout")


def _follow(
    asked: Teachers, context: Context, update: Callable[[int, int, str], None], state: list[int], began: float
) -> None:
    """Show how far it is, how fast it goes and what it costs."""
    last: list[Llm] = []

    def show() -> None:
        update(state[0], state[1], told(last[0], began) if last else "")

    def progress(done: int, total: int) -> None:
        state[:] = [done, total]
        show()

    def report(llm: Llm) -> None:
        last[:] = [llm]
        show()

    context.progress, asked.report = progress, report


def totals(asked: Teachers) -> Counter[str]:
    """What all teachers together have been asked so far; `why: ...` counts the prompts without an answer."""
    found: Counter[str] = Counter()
    for llm in asked.opened.values():
        counts = llm.counts
        found.update(prompts=counts.prompts, ok=counts.ok, known=counts.known, calls=counts.calls, waits=counts.waits)
        found.update(tokens=counts.tokens, money=round(counts.money * 1_000_000))
        found.update(rejected=counts.rejected.total(), failed=counts.failed.total())
        found.update({f"why: {why}": n for why, n in (counts.rejected + counts.failed).items()})
    return found


def account_of(name: str, used: Counter[str], seconds: float, seen: Counter[str] | None = None) -> dict[str, Any]:
    """What a strategy or filter asked and used, as in the run's files. seen: what it made of that."""
    account: dict[str, Any] = {"strategy": name}
    if seen is not None:
        account |= {"made": seen["made"]} | {key: seen[key] for key in ("checked", "valid", "right") if seen["checked"]}
    names = ("prompts", "ok", "rejected", "failed", "known", "calls", "waits", "tokens")
    account |= {key: used.get(key, 0) for key in names}
    account["money"] = used.get("money", 0) / 1_000_000
    account["without answer"] = {key[5:]: n for key, n in used.items() if key.startswith("why: ") and n}
    return account | {"seconds": round(seconds, 1)}


def _said(account: dict[str, Any]) -> str:
    """The account of a strategy in a line."""
    text = f"{account['strategy']}: {account['made']:,} instances from {account['prompts']:,} prompts"
    bad = ", ".join(f"{n:,} {why}" for why, n in account["without answer"].items())
    text += f" ({bad})" if bad else ""
    text += f", {account['calls']:,} calls, {account['tokens']:,} tokens"
    text += f", cost {account['money']:,.2f}" if account["money"] else ""
    if grown := account.get("difficulty by round"):
        text += f"; mean difficulty by round: {', '.join(f'{r}: {mark:.2f}' for r, mark in grown.items())}"
    if account.get("checked"):
        share = 100 * account["right"] / account["checked"]
        text += f"; by the rows' own rules {account['valid']:,} are valid and {account['right']:,} right ({share:.0f}%)"
    return text


# ---- what goes in, and what it will cost


def inputs(recipe: Recipe, home: Path) -> dict[str, Any]:
    """What of the recipe decides what is made: strategies, and who answers; not how fast, nor the budget."""
    found = fingerprint.flat("generate", recipe.generate) | {"seed": recipe.seed}
    for config in recipe.generate:
        for name in _asked(config, recipe):
            found |= fingerprint.flat(f"teachers.{name}", identity(recipe.teachers[name], home))
    for number, config in enumerate(recipe.generate):
        for setting in ("seeds", "texts", "rows"):
            value = getattr(config, setting, "")
            if value not in ("", "built") and (home / value).is_file():
                found[f"generate.{number}.{setting}: content"] = fingerprint.content(home / value)
        found |= {
            key.replace("sources.", f"generate.{number}.sources.", 1): value
            for key, value in fingerprint.sources(getattr(config, "sources", ()), home).items()
        }
    return found


def _asked(config: Any, recipe: Recipe) -> list[str]:
    """Names of the teachers that a strategy may ask: those that answer first, then its judge."""
    answer = getattr(config, "teachers", None) or [getattr(config, "teacher", "")]
    judge = [config.judge] if getattr(config, "judge", "") or getattr(config, "pick", "") == "judged" else []
    return list(dict.fromkeys(known(recipe.teachers, name) for name in [*answer, *judge]))


def changed_midway(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What of the recipe is other than when generation was stopped midway; code and data do not count."""
    own = [key for key in {**before, **now} if key.startswith(("generate.", "teachers.", "seed"))]
    return [fingerprint.change(key, before.get(key), now.get(key)) for key in own if before.get(key) != now.get(key)]


def bill(run: Run) -> list[str]:
    """What the strategies will ask of their teachers, at most and at the prices of the recipe; nothing is asked."""
    recipe, lines, total, money, rounds = run.recipe, list[str](), Bill(0, 0, 0), 0.0, 0.0
    context = Context(
        _nobody,
        built=lambda: run.instances("built.jsonl"),
        questions=lambda sources: questions(sources, run.home, lambda drop: None),
        home=run.home,
        seed=recipe.seed,
    )
    for config in recipe.generate:
        part = GENERATE[config.type][2](config, context)
        names = _asked(config, recipe)
        prices = [0.0]  # who is asked how much is not told apart, so all is priced at the dearest
        for teacher in map(recipe.teachers.__getitem__, names):
            if isinstance(teacher, EndpointConfig):
                prices.append(part.money(teacher.input_price, teacher.output_price))
                rounds += part.requests / teacher.slots / len(names)
        price, asked = max(prices), ", ".join(f"{name}: {recipe.teachers[name].model}" for name in names)
        lines.append(f"{config.type}: {_priced(part, price)} ({asked})")
        total, money = total + part, money + price
    least = f"; at least {rounds:,.0f} s for each second that a call takes" if rounds else ""
    lines.append(f"together: {_priced(total, money)}{least}; what {CALLS} already answers is not asked again")
    return lines + [_judged(config, recipe) for config in recipe.curate if isinstance(config, JudgeConfig)]


def _judged(config: JudgeConfig, recipe: Recipe) -> str:
    """What a judge of curation will ask; how many instances reach it is known only then."""
    name = known(recipe.teachers, config.teacher)
    teacher = recipe.teachers[name]
    part = judge_bill(config, 1000)
    price = part.money(teacher.input_price, teacher.output_price) if isinstance(teacher, EndpointConfig) else 0.0
    return f"curate: judge, for each 1,000 instances it sees: {_priced(part, price)} ({name}: {teacher.model})"


def _priced(part: Bill, money: float) -> str:
    text = f"about {part.requests:,} requests, {part.tokens_in:,} tokens read, {part.tokens_out:,} written"
    return f"{text}, cost {money:,.2f}"


def _nobody(name: str) -> Asker:
    raise AssertionError("a bill asks nobody")


def _line(record: dict[str, Any]) -> str:
    text = json.dumps(record, ensure_ascii=False) + "\n"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair: written as an escape
        text = json.dumps(record) + "\n"
    return text
