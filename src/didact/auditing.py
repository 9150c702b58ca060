"""What the audit of a run examines: its models, its data, and what a probe may ask of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from didact import fingerprint
from didact.arms import Answers, key_of, retrained
from didact.consult import Consult
from didact.folder import sha256
from didact.harness import harness
from didact.instance import Instance, Message, Part, digest

if TYPE_CHECKING:
    from didact.audit import Arm, Overlap, Speaker, Subject
    from didact.infer import Answerer
    from didact.render import Renderer
    from didact.run import Run


def subject_of(run: Run, shelf: Answers) -> Subject:
    """The base and the tuned model of a run beside the data that were kept from it and given to it."""
    from didact import starter
    from didact.audit import Subject
    from didact.infer import Answerer
    from didact.methods.virtual import ahead
    from didact.model import load_tuned

    base, tuned = Answerer(run.model()), Answerer(load_tuned(run.path / "tuned"))
    heldout = list(run.instances("heldout.jsonl"))
    virtual = ahead(run.recipe.method)
    fitting = fits(run, base, heldout, virtual)
    asked = [instance for instance, fit in zip(heldout, fitting, strict=True) if fit]
    code = fingerprint.speaking()
    files = sorted(file for file in (run.path / "tuned").rglob("*") if file.is_file())
    own = {str(file.relative_to(run.path)): sha256(file) for file in files}
    limit = base.max_new_tokens
    kept = list(run.instances("kept.jsonl"))

    def sampled(who: str, temperature: float, seed: int) -> Speaker:
        return Answerer((base if who == "base" else tuned).loaded, temperature=temperature, seed=seed)

    return Subject(
        base=base,
        tuned=tuned,
        heldout=asked,
        trained=kept,
        texts=starter.plain_text(200, run.recipe.seed),
        retrain=lambda arm: _retrain(run, arm),
        seed=run.recipe.seed,
        left_out=len(heldout) - len(asked),
        key=lambda arm: key_of(run, arm.instances, arm.changes),
        keys=(
            digest(["base", fingerprint.model(run.model_name()), code, limit]),
            digest(["tuned", fingerprint.model(run.model_name()), own, code, limit]),
        ),
        shelf=shelf,
        overlap=lambda instances, n, near: _overlap(kept, instances, n, near),
        fits=lambda instances: fits(run, base, instances, virtual),
        reworded=lambda instances: _reworded(run, instances),
        sampled=sampled if base.loaded.kind == "causal" else None,  # other kinds answer greedily only
        ask=lambda conversations, teacher: Consult(run).ask([tuple(turns) for turns in conversations], teacher),
        harness=lambda settings: harness(base.loaded, tuned.loaded, settings, run.home),
        epochs=run.recipe.tune.epochs,
        seconds_per_instance=_cost(run, len(kept)),
    )


def _cost(run: Run, instances: int) -> float:
    """Seconds that training took for each instance each time, loading and saving included."""
    seconds = run.journal.get("stages", {}).get("tune", {}).get("seconds", 0.0)
    return float(seconds) / max(1.0, instances * run.recipe.tune.epochs)


def _retrain(run: Run, arm: Arm) -> Speaker:
    from didact.infer import Answerer

    return Answerer(retrained(run, arm.instances, arm.name, arm.changes))


def fits(run: Run, answerer: Answerer, instances: Sequence[Instance], virtual: int) -> list[bool]:
    """Which instances the model can read behind virtual tokens with room for an answer and every choice."""
    limit, renderer = run.model().max_positions, run.renderer()
    shown = [not renderer.unshown(instance) for instance in instances]
    able = [instance for instance, can in zip(instances, shown, strict=True) if can]
    known = iter(_fits(limit, renderer, answerer, able, virtual))
    return [can and next(known) for can in shown]


def _fits(
    limit: int | None, renderer: Renderer, answerer: Answerer, instances: Sequence[Instance], virtual: int
) -> list[bool]:
    if limit is None:
        return [True] * len(instances)
    limit -= virtual
    choices = {choice for instance in instances for choice in instance.choices}
    sizes = {choice: len(renderer.plain(choice)) + 2 for choice in choices}
    room = answerer.max_new_tokens
    return [
        len(prompt) + max([room, *(sizes[choice] for choice in instance.choices)]) < limit
        for instance, prompt in zip(instances, renderer.prompt_all(instances), strict=True)
    ]


def _overlap(trained: Sequence[Instance], heldout: Sequence[Instance], n: int, near: float) -> list[Overlap | None]:
    """What each held-out instance shares with training, by the index that `curate: decontaminate` uses."""
    from didact.audit import Overlap
    from didact.curate import STRATEGIES, Context

    config, decontaminate = STRATEGIES["decontaminate"]
    told = decontaminate(config.model_validate({"n": n, "near": near}), list(heldout), Context(heldout=trained))
    return [None if v.keep else Overlap(v.reason.replace("held-out", "training"), v.score, v.near) for v in told]


def _reworded(run: Run, instances: Sequence[Instance]) -> list[list[Instance]]:
    """Each instance's row in every template of its task that asks the same; none where the row is not found again."""
    from didact.build.split import is_inverted
    from didact.errors import UsageError
    from didact.sources import open_source
    from didact.template import TemplateDrop

    wanted = {(i.origin.task, i.origin.source, i.origin.row): number for number, i in enumerate(instances)}
    tasks = {task for task, _, _ in wanted}
    found: list[list[Instance]] = [[] for _ in instances]
    opened = (
        task for source in run.recipe.sources for task in open_source(source, run.home, lambda drop: None, run.path)
    )
    for task in opened:
        templates = [t for t in task.templates if not is_inverted(t)]
        for row in task.rows() if task.name in tasks and len(templates) > 1 else ():
            number = wanted.get((task.name, row.source, row.number))
            for template in templates if number is not None else ():
                try:
                    words = template.render({k: v for k, v in row.data.items() if k != "_split"}).at(task.home)
                except (TemplateDrop, UsageError):
                    continue
                one = instances[number or 0]
                if words.answer == one.answer:
                    origin = replace(one.origin, via=f"template:{template.name}", parents=(one.id,))
                    messages = (Message("user", words.parts), Message("assistant", (Part(words.answer, "answer"),)))
                    made = Instance.of(messages, origin, (), words.choices, {**one.tags, "template": template.name})
                    found[number or 0].append(made)
    return found
