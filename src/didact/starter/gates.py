"""The gates of the base: what it must be able to do in prose, with people and lists it never met, before it may ship.

Each gate asks for the next word, greedily, over the whole vocabulary, in the frames of the corpus; the last one asks
that instructions are not answered before tuning. Targets were set beforehand and are never tuned; the frames are those
that they were set on, whatever the corpus gained since.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from didact.starter import corpus, drills, pieces
from didact.starter.tokens import BEGIN, word_ids
from didact.starter.world import World, world

Probe = tuple[str, str]  # a prompt as a token string, and the word that must follow
FACTS = ("fact.capital", "fact.river", "fact.origin", "fact.season")


@dataclass(frozen=True)
class Gate:
    """One figure of the base. required: the release needs it; else it is aimed at. low, high: 95 % Wilson interval."""

    name: str
    value: float
    target: float
    ok: bool
    required: bool
    n: int
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def ask_one(rng: Random, w: World, piece: pieces.Piece, *skills: str) -> Probe:
    """A document of one ask of the piece, cut before its answer."""
    ask = rng.choice([ask for ask in piece.asks if ask.skill in skills])
    text = corpus.compose(rng, w, replace(piece, asks=[ask]), 1, first=True)
    prompt, _, rest = text.partition(" ^")
    return prompt, rest.split(" ")[0]


def _repeat(rng: Random, w: World) -> Probe:
    words = drills.repeat(rng, sorted(w.kind_of)).split(" ")
    at = rng.choice([i for i, word in enumerate(words) if word.startswith("^")])
    return " ".join(words[:at]).replace("^", ""), words[at][1:]


def _scene(*skills: str, people: int = 3, slots: int = 2, twins: bool = False) -> Callable[[Random, World], Probe]:
    def draw(rng: Random, w: World) -> Probe:
        piece = pieces.scene(rng, w, True, people, rng.sample(w.slots, slots), rng.choice(corpus.STYLES), twins)
        return ask_one(rng, w, piece, *skills)

    return draw


def _list(skill: str, sort: str = "mixed") -> Callable[[Random, World], Probe]:
    return lambda rng, w: ask_one(rng, w, pieces.listed(rng, w, True, rng.choice((4, 5, 6)), sort), skill)


def _known(*skills: str) -> Callable[[Random, World], Probe]:
    return lambda rng, w: ask_one(rng, w, pieces.known(rng, w, None, rng.choice(skills), 1), *skills)


def _same(rng: Random, w: World) -> Probe:
    """Two words by kind, or two of three people by what they have."""
    return ask_one(rng, w, pieces.twins(rng, w, True, 1), "twin") if rng.random() < 0.5 else _pair(rng, w)


def _pair(rng: Random, w: World) -> Probe:
    """Two of three people, as often alike as not."""
    piece = pieces.scene(rng, w, True, 3, rng.sample(w.slots, 1), rng.choice(corpus.STYLES), True)
    return ask_one(rng, w, piece, "same")


def _polarity(rng: Random, w: World) -> Probe:
    return ask_one(rng, w, pieces.review(rng, w, True, rng.choice(list(w.data["reviewed"]))), "mood", "tone")


def _story(rng: Random, w: World) -> Probe:
    """The thing of a kind among three or four that one person has."""
    slots = rng.sample(w.slots, rng.choice((3, 4)))
    return ask_one(rng, w, pieces.story(rng, w, True, slots, rng.choice(corpus.STYLES)), "pick")


# name: (how a probe is drawn, target, required)
GATES: Mapping[str, tuple[Callable[[Random, World], Probe], float, bool]] = {
    "repeat": (_repeat, 0.99, True),
    "lookup": (_scene("look"), 0.95, True),
    "pick": (_list("pick"), 0.95, True),
    "is-a": (_known("isa"), 0.95, True),
    "position": (_list("pos"), 0.95, True),
    "facts": (_known(*FACTS), 0.95, True),
    "polarity": (_polarity, 0.95, True),
    "reverse": (_scene("rev"), 0.85, False),
    "before": (_list("before"), 0.85, False),
    "odd": (_list("odd", "odd"), 0.85, False),
    "yes/no": (_scene("check"), 0.85, False),
    "same": (_same, 0.85, False),
    "label": (lambda rng, w: ask_one(rng, w, pieces.labels(rng, w, True, 3), "label"), 0.85, False),
}
# Watched while training; no gate of the release, but what `didact starter effect` asks of the other operations.
WATCHED: Mapping[str, Callable[[Random, World], Probe]] = {
    "after": _list("after"),
    "have": _list("have"),
    "opposite": _known("opp"),
    "either": _list("either"),
    "story": _story,
    "feel": lambda rng, w: ask_one(rng, w, pieces.feelings(rng, w, True, 2), "feel"),
    "news": lambda rng, w: ask_one(rng, w, pieces.report(rng, w, True, 2), "news"),
}
ENOUGH = 0.85  # of a skill that is only watched
GATE_N, GATE_SEED = 400, 1  # what a gate is measured on


def check(folder: Path, n: int = GATE_N, seed: int = GATE_SEED) -> list[Gate]:
    """All gates of the base in `folder`, n probes each; the last is exact match on instructions, which must be low."""
    from didact.infer import Answerer
    from didact.model import load
    from didact.starter.levels import instructions

    loaded = load(str(folder))
    found = [measure(loaded, name, *gate, n=n, seed=seed) for name, gate in GATES.items()]
    items = instructions(n, seed)
    answers = Answerer(loaded, max_new_tokens=8, batch_size=64).answer(items)
    value = sum(answer.text.strip() == item.answer for answer, item in zip(answers, items, strict=True)) / len(items)
    low, high = wilson(value, len(items))
    return [*found, Gate("instruction", value, 0.05, value <= 0.05, True, len(items), low, high)]


def watch(folder: Path, n: int = 200, seed: int = 2) -> list[Gate]:
    """All skills that are asked for by the next word: the gates as `check` asks them, and `n` probes of each skill
    without a gate, which needs `ENOUGH`."""
    from didact.model import load

    loaded = load(str(folder))
    gates = [measure(loaded, name, *gate, n=GATE_N, seed=GATE_SEED) for name, gate in GATES.items()]
    return gates + [measure(loaded, name, draw, ENOUGH, False, n=n, seed=seed) for name, draw in WATCHED.items()]


def measure(
    loaded: Any, name: str, draw: Callable[[Random, World], Probe], target: float, required: bool, *, n: int, seed: int
) -> Gate:
    """One gate: the share of `n` probes whose next word is right."""
    value = accuracy(loaded.model, loaded.tokenizer, probes(name, draw, n, seed))
    low, high = wilson(value, n)
    return Gate(name, value, target, value >= target, required, n, low, high)


def probes(name: str, draw: Callable[[Random, World], Probe], n: int, seed: int) -> list[Probe]:
    """`n` probes of a gate."""
    rng, w = Random(f"gate {name} {seed}"), world()
    return [draw(rng, w) for _ in range(n)]


def quick(model: Any, tokenizer: Any, n: int = 60) -> dict[str, float]:
    """All word gates and what is watched, for the curves during training."""
    draws: dict[str, Callable[[Random, World], Probe]] = {name: gate[0] for name, gate in GATES.items()} | dict(WATCHED)
    return {name: accuracy(model, tokenizer, probes(name, draw, n, 0)) for name, draw in draws.items()}


def accuracy(model: Any, tokenizer: Any, items: Sequence[Probe]) -> float:
    """Share of probes whose next word is right."""
    import torch

    ids, begin = word_ids(tokenizer.get_vocab()), tokenizer.convert_tokens_to_ids(BEGIN)
    rows = sorted(([begin, *(ids[word] for word in prompt.split(" "))], ids[answer]) for prompt, answer in items)
    rows.sort(key=lambda row: len(row[0]))
    right = 0
    model.eval()
    with torch.inference_mode():
        for some in _chunks(rows, 50):
            length = max(len(prompt) for prompt, _ in some)
            ids_BT = torch.tensor([prompt + [0] * (length - len(prompt)) for prompt, _ in some], device=model.device)
            last = torch.tensor([len(prompt) - 1 for prompt, _ in some])
            hidden = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state[torch.arange(len(some)), last]
            right += sum(int(a) == b for a, (_, b) in zip(model.lm_head(hidden).argmax(-1), some, strict=True))
    return right / len(rows)


def _chunks(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for i in range(0, len(rows), size):
        yield rows[i : i + size]


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    z = 1.96
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)
