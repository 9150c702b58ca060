"""A loaded model as a local teacher: sampled or greedy continuations of conversations and plain texts.

Each request has its own random numbers, drawn from what it asks, so an answer does not depend on its company.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from random import Random
from typing import TYPE_CHECKING, cast

from didact.instance import Instance, Message, Origin, Part, Role
from didact.llm import Answer, Request

if TYPE_CHECKING:
    import torch

    from didact.model import Loaded

LOOK_EVERY = 8  # steps between two looks for stop texts


def speaker(loaded: Loaded, rows: int = 128) -> Callable[[Sequence[Request]], list[Answer]]:
    """A function that answers requests, in order; `rows` at a time, shortest prompts first."""

    def speak(requests: Sequence[Request]) -> list[Answer]:
        prompts = [_ids(loaded, request) for request in requests]
        room = loaded.max_positions or 1 << 30
        answers = [Answer("", why="the prompt is longer than the model reads")] * len(requests)
        fitting = [i for i in range(len(requests)) if 0 < len(prompts[i]) < room]
        fitting.sort(key=lambda i: (requests[i].max_tokens, len(prompts[i]), i))
        for start in range(0, len(fitting), rows):
            some = fitting[start : start + rows]
            found = _continue(loaded, [requests[i] for i in some], [prompts[i] for i in some])
            for i, answer in zip(some, found, strict=True):
                answers[i] = answer
        return answers

    return speak


def _ids(loaded: Loaded, request: Request) -> list[int]:
    if not request.messages:
        return loaded.renderer.plain(request.prompt)
    messages = tuple(Message(cast(Role, role), (Part(text),)) for role, text in request.messages)
    return loaded.renderer.prompt(Instance.of((*messages, Message("assistant", ())), Origin("teacher", 0)))


def _continue(loaded: Loaded, requests: Sequence[Request], prompts: Sequence[list[int]]) -> list[Answer]:
    """Continuations of one batch."""
    stops, done = frozenset(loaded.renderer.stop_ids), [False] * len(prompts)
    found: list[list[int]] = [[] for _ in prompts]
    steps = _steps(loaded, requests, prompts, done)
    for step, ids in enumerate(steps):
        for row, token in ids:
            found[row].append(token)
            request = requests[row]
            done[row] = token in stops or len(found[row]) >= request.max_tokens
            if request.stop and not done[row] and step % LOOK_EVERY == LOOK_EVERY - 1:
                done[row] = _cut(loaded.renderer.decode(found[row]), request.stop)[1]
    return [_answer(loaded, *item) for item in zip(requests, prompts, found, strict=True)]


def _answer(loaded: Loaded, request: Request, prompt: list[int], ids: list[int]) -> Answer:
    stopped = bool(ids) and ids[-1] in loaded.renderer.stop_ids
    text, cut = _cut(loaded.renderer.decode(ids[:-1] if stopped else ids), request.stop)
    finish = "stop" if stopped or cut else "length"
    return Answer(text.strip(), finish, len(prompt), len(ids), "" if text.strip() else "the answer is blank")


def _cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _steps(
    loaded: Loaded, requests: Sequence[Request], prompts: Sequence[list[int]], done: Sequence[bool]
) -> Iterator[list[tuple[int, int]]]:
    """Whose and which id comes next, for rows that are not done; a prompt that is asked several times is read once.

    Rows that are done leave the batch when they are half of it.
    """
    import torch
    from transformers import DynamicCache

    model, device = loaded.model.eval(), loaded.device
    numbers: dict[tuple[int, ...], int] = {}
    own = [numbers.setdefault(tuple(prompt), len(numbers)) for prompt in prompts]
    longest = max(map(len, prompts))
    limit = (loaded.max_positions or 1 << 30) - longest
    numbers = {(*loaded.virtual, *prompt): number for prompt, number in numbers.items()}
    longest += len(loaded.virtual)
    ids_BT = torch.full((len(numbers), longest), loaded.pad_id, dtype=torch.long)
    seen_BT = torch.zeros(len(numbers), longest, dtype=torch.long)
    for i, prompt in enumerate(numbers):  # padding on the left, so that all rows end together
        ids_BT[i, longest - len(prompt) :] = torch.tensor(prompt)
        seen_BT[i, longest - len(prompt) :] = 1
    ids_BT, seen_BT = ids_BT.to(device), seen_BT.to(device)
    positions_BT = (seen_BT.cumsum(1) - 1).clamp(min=0)
    dice = [Random(json.dumps(asdict(request), sort_keys=True)) for request in requests]
    rows = list(range(len(prompts)))
    cache = DynamicCache(config=model.config)
    for step in range(min(limit, max(request.max_tokens for request in requests))):
        with torch.inference_mode():
            logits_BV = model(
                input_ids=ids_BT,
                attention_mask=seen_BT if bool((seen_BT == 0).any()) else None,
                position_ids=positions_BT,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            if step == 0:  # from here on every request has its row
                spread = torch.tensor(own, device=device)
                cache.batch_select_indices(spread)
                logits_BV, positions_BT, seen_BT = logits_BV[spread], positions_BT[spread], seen_BT[spread]
            ids_B = _pick(logits_BV.float(), [requests[i] for i in rows], [dice[i].random() for i in rows])
        yield [(row, token) for row, token in zip(rows, ids_B.tolist(), strict=True) if not done[row]]
        alive = [i for i, row in enumerate(rows) if not done[row]]
        if not alive:
            return
        if 2 * len(alive) <= len(rows):
            kept = torch.tensor(alive, device=device)
            cache.batch_select_indices(kept)
            ids_B, positions_BT, seen_BT = ids_B[kept], positions_BT[kept], seen_BT[kept]
            rows = [rows[i] for i in alive]
        ids_BT, positions_BT = ids_B[:, None], positions_BT[:, -1:] + 1
        seen_BT = torch.nn.functional.pad(seen_BT, (0, 1), value=1)


def _pick(logits_BV: torch.Tensor, requests: Sequence[Request], draws: Sequence[float]) -> torch.Tensor:
    """The most likely id at temperature 0, else the one in which a row's random number falls, within its top_p."""
    import torch

    greedy_B = logits_BV.argmax(-1)
    heat_B = torch.tensor([request.temperature for request in requests], device=logits_BV.device)
    if not bool((heat_B > 0).any()):
        return greedy_B
    top_B = torch.tensor([request.top_p for request in requests], device=logits_BV.device)
    scaled_BV = logits_BV.double() / heat_B.clamp(min=1e-6)[:, None]
    chances_BV, order_BV = scaled_BV.softmax(-1).sort(stable=True, dim=-1, descending=True)
    sums_BV = chances_BV.cumsum(-1)
    inside_BV = sums_BV - chances_BV < top_B[:, None]  # the first is always inside
    total_B = (chances_BV * inside_BV).sum(-1)
    draws_B = torch.tensor(draws, dtype=torch.double, device=logits_BV.device) * total_B
    place_B = (sums_BV <= draws_B[:, None]).sum(-1).clamp(max=sums_BV.shape[-1] - 1)
    place_B = torch.minimum(place_B, inside_BV.sum(-1) - 1)
    return torch.where(heat_B > 0, order_BV.gather(1, place_B[:, None])[:, 0], greedy_B)
