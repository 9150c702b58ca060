"""Rows in PET's patterns: texts with a gap, and the tokens of the words that may fill it (Schick 2021, 2001.07676).

A masked model sees both sides of the gap, a causal one what stands before it. A word that fills it is one token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from didact.errors import UsageError
from didact.instance import Instance

if TYPE_CHECKING:
    from didact.closed import Fork
    from didact.model import Loaded
    from didact.render import Renderer, Tokens

HOLE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Patterned:
    """An instance in a pattern: its row, and its labels in the order of the instance's choices."""

    tokens: Tokens
    labels: tuple[tuple[int, ...], ...]

    @property
    def reads(self) -> int:
        return self.tokens.supervised

    def fork(self, target: Sequence[float]) -> Fork:
        from didact.closed import Fork

        return Fork(self.reads - 1, self.reads, self.labels, tuple(target))


def view(
    base: Loaded, pattern: str, verbalizer: Mapping[str, Sequence[str]], text_weight: float,
    instances: Sequence[Instance], limit: int,
) -> list[Patterned]:  # fmt: skip
    """Every instance in a pattern, cut at the end of its longest text where it is longer than `limit` tokens.

    text_weight: of a causal model's loss on what stands before the gap.
    """
    head, _, tail = pattern.partition("{mask}")
    if base.kind == "causal":
        tail = ""
        if not HOLE.search(head):
            problem = f'in the pattern "{pattern}" a causal model sees nothing before the gap'
            raise UsageError(problem, "put {input} before {mask}", field="method.patterns")
    words = {label: tuple(_token(base.renderer, head, word, pattern) for word in some)
             for label, some in verbalizer.items()}  # fmt: skip
    probe = next(iter(verbalizer.values()))[0]
    return [_patterned(base, head, tail, probe, words, text_weight, instance, limit) for instance in instances]


def _token(renderer: Renderer, head: str, word: str, pattern: str) -> int:
    before = HOLE.sub("a", head)
    ids, start, end = renderer.around(before, word)
    unknown = renderer.tokenizer.unk_token_id
    if end - start != 1 or ids[start] == unknown:
        problem = f'"{word}" is {end - start} tokens in "{pattern}"' if end - start != 1 else f'"{word}" is unknown'
        raise UsageError(f"{problem} to this tokenizer", "take a word that is one token", field="method.verbalizer")
    return ids[start]


def _patterned(
    base: Loaded,
    head: str,
    tail: str,
    probe: str,
    words: Mapping[str, tuple[int, ...]],
    text_weight: float,
    instance: Instance,
    limit: int,
) -> Patterned:
    from didact.render import Tokens

    where = (instance.origin.source, instance.origin.row)
    texts = _texts(instance, head + tail)
    while True:
        before, after = (HOLE.sub(lambda hole: texts[hole[1]], side) for side in (head, tail))
        ids, start, _ = base.renderer.around(before, probe, after)
        ids = [*ids, base.renderer.stop_ids[0]] if base.kind == "masked" else ids[: start + 1]
        if len(ids) <= limit:
            break
        longest = max(texts, key=lambda name: len(texts[name]))
        if not texts[longest]:
            raise UsageError(f"the pattern alone is longer than {limit} tokens", "shorten it", field="method.patterns")
        texts[longest] = texts[longest][: int(len(texts[longest]) * limit / len(ids) * 0.95)]
    weights = [0.0] * len(ids)
    if text_weight and base.kind == "causal" and start > 1:
        weights[1:start] = [text_weight / (start - 1)] * (start - 1)
    weights[start] = 1.0
    tokens = Tokens(ids, weights, [None] * len(ids), instance.id, (), ((start, start + 1),), where)
    return Patterned(tokens, tuple(words[choice] for choice in instance.choices))


def _texts(instance: Instance, pattern: str) -> dict[str, str]:
    """What the holes of a pattern are filled with."""
    parts = [part for message in instance.context for part in message.parts]
    inputs = [part.value.strip() for part in parts if part.slot == "input"]
    found = {"input": " ".join(inputs), "prompt": instance.prompt.strip()}
    found["instruction"] = " ".join(part.value.strip() for part in parts if part.slot == "instruction")
    found |= {f"input{n}": text for n, text in enumerate(inputs, 1)}
    needed = [name for name in HOLE.findall(pattern) if name != "mask"]
    for name in needed:
        if not found.get(name):
            problem = f"the row has nothing for {{{name}}}"
            fix = f"use one of {', '.join('{' + known + '}' for known in found if found[known])}"
            where = instance.origin
            raise UsageError(problem, fix, file=where.source or None, line=where.row or None, field="method.patterns")
    return {name: found[name] for name in needed}
