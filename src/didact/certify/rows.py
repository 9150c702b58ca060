"""Proofs about the rows: masks, stops, prompts and lengths."""

from __future__ import annotations

from dataclasses import replace

from didact.certify.subject import Proof, Subject, verdict
from didact.errors import UsageError
from didact.instance import Instance
from didact.render import Renderer


def masks(subject: Subject) -> Proof:
    """Every supervised token belongs to an answer or its stop, and every answer is supervised from end to end."""
    renderer, rows, wrong, first = subject.base.renderer, subject.fitted, 0, ""
    for instance, tokens in zip(rows.instances, rows.tokens, strict=True):
        try:
            renderer.check(instance, tokens)
        except UsageError as error:
            wrong, first = wrong + 1, first or str(error)
    learnt, total = sum(t.supervised for t in rows.tokens), sum(len(t.ids) for t in rows.tokens)
    return verdict(wrong, 0, first or f"{len(rows.tokens):,} rows, {learnt:,} of {total:,} tokens are learnt")


def stops(subject: Subject) -> Proof:
    """Every trained turn ends with a supervised stop token, and none stands inside it."""
    renderer, turns, wrong, first = subject.base.renderer, 0, 0, ""
    for tokens in subject.fitted.tokens:
        for a, b in tokens.turns:
            turns += 1
            inside = set(renderer.stop_ids).intersection(tokens.ids[a : b - 1])
            if tokens.ids[b - 1] not in renderer.stop_ids or not tokens.weights[b - 1] or inside:
                wrong, first = wrong + 1, first or "{}:{}".format(*tokens.where)
    names = ", ".join(repr(renderer.tokenizer.convert_ids_to_tokens(i)) for i in renderer.stop_ids)
    return verdict(wrong, 0, f"first in {first}" if first else f"{turns:,} turns; generation stops at {names}")


def prompts(subject: Subject) -> Proof:
    """What a chat sends before each answer is, token for token, what stood before it in training."""
    base = subject.base
    again = Renderer(base.tokenizer, base.renderer.turns, base.vision)  # as chat and evaluation make their own
    asked: list[tuple[Instance, list[int]]] = []
    for instance, tokens in zip(subject.fitted.instances, subject.fitted.tokens, strict=True):
        ends = [i for i, message in enumerate(instance.messages) if message.role == "assistant" and i]
        for end, (a, _) in zip(ends[-len(tokens.turns) :], tokens.turns, strict=True):
            asked.append((replace(instance, messages=instance.messages[: end + 1]), tokens.ids[:a]))
    found = again.prompt_all([instance for instance, _ in asked])
    wrong = [i for (i, expected), ids in zip(asked, found, strict=True) if ids != expected]
    first = f"first in {wrong[0].origin.source}:{wrong[0].origin.row}" if wrong else ""
    return verdict(len(wrong), 0, first or f"{len(asked):,} prompts are equal")


def lengths(subject: Subject) -> Proof:
    """No row is longer than the model reads, none is without a target, and whatever was cut is counted."""
    rows, limit = subject.fitted, subject.limit
    wrong = sum(len(tokens.ids) > limit or not tokens.supervised for tokens in rows.tokens)
    longest = max(len(tokens.ids) for tokens in rows.tokens)
    told = [f"longest {longest:,} of {limit:,} tokens, {len(rows.drops):,} rows dropped here", *rows.notes]
    return verdict(wrong, 0, "; ".join(told))
