"""Makes the starter base from seeds alone: tokenizer, a Llama with a circuit set by hand, drills, then prose.

Resumable: a checkpoint holds weights, optimiser and step, and the data of a step follow from the seed and the step.
The circuit: two heads of layer 0 look one and two tokens back (through their q and k biases), heads of layer 1 match
what stood before, and copy (Olsson et al. 2022, "In-context learning and induction heads"); nothing is frozen.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from didact.starter.corpus import LAYOUTS, MIX, documents
from didact.starter.drills import DRILLS, FIRST, SECOND
from didact.starter.pieces import ORDINALS
from didact.starter.tokens import BEGIN, make_tokenizer, word_ids
from didact.starter.world import world

if TYPE_CHECKING:
    import torch

SHAPE = {"hidden_size": 160, "intermediate_size": 448, "num_hidden_layers": 6, "num_attention_heads": 5}
MARK = 1 << 16


@dataclass(frozen=True)
class Phase:
    """A stretch of the schedule: its steps, what it reads, and its learning rate from start to end."""

    name: str
    steps: int
    rates: tuple[float, float]
    drills: float  # share of the tokens that are drills on random words
    rest: float  # weight of the tokens that nothing determines
    mix: Mapping[str, float] = field(default_factory=lambda: MIX)
    layouts: Mapping[str, float] = field(default_factory=lambda: LAYOUTS)
    which: tuple[str, ...] = FIRST  # the drills
    stand_ins: float = 0.25  # share of the documents with other words in the place of people
    tokens: int = 4096  # tokens of a step, about


EARLY = {**MIX, "known": 0.2, "twins": 0.06, "odd": 0.06, "labels": 0.08, "prose": 0.0}
DENSE = {"dense": 0.75, "ahead": 0.25}
HOLD = {**EARLY, "scene": 0.38, "listed": 0.2, "odd": 0.09, "known": 0.07, "twins": 0.06, "labels": 0.1}
HELD = {"dense": 0.13, "brief": 0.12, "thoughts": 0.2, "ahead": 0.5, "full": 0.05}
REPLAY = ("repeat", *SECOND)
OFTEN = ("repeat", "repeat", *REPLAY)
COMPARE = {
    "scene": 0.2, "owners": 0.17, "checks": 0.11, "alike": 0.06, "twins": 0.08, "story": 0.03, "listed": 0.13,
    "odd": 0.07, "known": 0.04, "labels": 0.05, "review": 0.02, "feelings": 0.02, "news": 0.02,
}  # fmt: skip
LISTS = {**COMPARE, "listed": 0.22, "checks": 0.15, "twins": 0.06, "labels": 0.03, "known": 0.03}
CLAIMS = ("claim", "claim", "claim", "alike", "alike", *OFTEN)
MIXED = {
    "scene": 0.2, "owners": 0.22, "checks": 0.08, "alike": 0.05, "twins": 0.05, "story": 0.04, "listed": 0.17,
    "odd": 0.07, "known": 0.03, "labels": 0.04, "review": 0.015, "feelings": 0.015, "news": 0.02,
}  # fmt: skip
EVEN = {"dense": 0.12, "brief": 0.2, "thoughts": 0.2, "ahead": 0.36, "full": 0.12}
ASKED = ("asked", "asked", "asked", "asked", "claim", "claim", "alike", "things", "things", *SECOND)
ALL = ("things", "things", "things", "claim", "claim", "claim", "alike", *SECOND)
TRUTH = {
    **MIXED, "checks": 0.22, "haves": 0.08, "alike": 0.08, "scene": 0.14, "owners": 0.16, "listed": 0.14, "story": 0.02,
}  # fmt: skip
FIRSTLY = {"dense": 0.1, "brief": 0.17, "thoughts": 0.15, "ahead": 0.48, "full": 0.1}
AFTER = {**TRUTH, "checks": 0.36, "haves": 0.03, "alike": 0.16, "scene": 0.12, "owners": 0.14, "listed": 0.1}
AFTERWARDS = {"dense": 0.2, "brief": 0.27, "thoughts": 0.12, "ahead": 0.36, "full": 0.05}
ALIKE = ("alike", "alike", "alike", "alike", "asked", "things", "things", *SECOND)
LAST = {
    "scene": 0.18, "owners": 0.24, "checks": 0.1, "haves": 0.02, "alike": 0.07, "twins": 0.04, "story": 0.03,
    "listed": 0.14, "odd": 0.05, "known": 0.05, "labels": 0.04, "review": 0.01, "feelings": 0.01, "news": 0.02,
}  # fmt: skip
REPLAYED = ("things", "things", "things", "alike", "alike", "asked", *SECOND)
END = {
    **LAST, "checks": 0.19, "alike": 0.09, "listed": 0.11, "odd": 0.05, "twins": 0.03, "known": 0.04, "labels": 0.03,
}  # fmt: skip
ENDING = ("things", "things", "things", "alike", "claim", "claim", "asked", *SECOND)
OWNED = {
    "scene": 0.12, "owners": 0.32, "checks": 0.14, "alike": 0.08, "story": 0.03, "twins": 0.03, "listed": 0.11,
    "odd": 0.04, "known": 0.04, "labels": 0.04, "review": 0.01, "feelings": 0.01, "news": 0.03,
}  # fmt: skip
SETTLED = {"dense": 0.12, "brief": 0.16, "thoughts": 0.17, "ahead": 0.45, "full": 0.1}
SCHEDULE = (
    Phase("drills", 700, (2e-3, 2e-3), 1.0, 0.0, tokens=1536),
    Phase("dense", 2800, (2e-3, 1.79e-3), 0.12, 0.02, EARLY, DENSE, tokens=2048),
    Phase("hold", 2000, (1.8e-3, 1.6e-3), 0.10, 0.02, HOLD, HELD, REPLAY, tokens=3072),
    Phase("compare", 1000, (1.6e-3, 1.6e-3 - 2e-4 / 3), 0.10, 0.02, COMPARE, HELD, OFTEN, 0.4, tokens=3072),
    Phase("claims", 1000, (1.53e-3, 1.45e-3), 0.32, 0.02, LISTS, HELD, CLAIMS, 0.4, tokens=3072),
    Phase("mixed", 1000, (1.45e-3, 1.45e-3 - 5e-4 / 3), 0.14, 0.02, MIXED, EVEN, ALL, 0.4, tokens=3072),
    Phase("truth", 1000, (1.28e-3, 1.25e-3), 0.2, 0.02, TRUTH, FIRSTLY, ASKED, 0.4, tokens=3072),
    Phase("after", 800, (1.25e-3, 1.25e-3), 0.17, 0.02, AFTER, AFTERWARDS, ALIKE, 0.4, tokens=3072),
    Phase("settle", 1700, (1.2e-3, 1.2e-3 - 1.19e-3 * 17 / 44), 0.12, 0.02, LAST, EVEN, REPLAYED, 0.4, tokens=3072),
    Phase("end", 2700, (7.4e-4, 1e-5), 0.12, 0.02, END, EVEN, ENDING, 0.4, tokens=3072),
    Phase("owned", 5300, (6e-4, 1e-5), 0.10, 0.02, OWNED, EVEN, ENDING, 0.4, tokens=3072),
    Phase("sure", 1300, (3e-4, 1e-5), 0.08, 0.004, OWNED, SETTLED, ENDING, 0.4, tokens=3072),
)


def make(
    folder: Path,
    seed: int = 0,
    schedule: tuple[Phase, ...] = SCHEDULE,
    steps: int | None = None,
    report: Callable[[str], None] = print,
    probe: Callable[[Any, Any], Mapping[str, float]] | None = None,
    every: int = 500,
    compiled: bool = False,
) -> Path:
    """Make a base in `folder` (its checkpoint too; the same call goes on after a stop) and return the folder.

    steps: stop after so many of the schedule's steps. probe: called every `every` steps with model and tokenizer.
    A GPU is used where there is one; weights are equal to the bit only on a CPU with one thread.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(folder)
    model = new_model(len(tokenizer), tokenizer, seed).to("cuda" if torch.cuda.is_available() else "cpu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    total = sum(phase.steps for phase in schedule)
    body = torch.compile(model.model, dynamic=True) if compiled else model.model
    done, tokens, seconds = load_checkpoint(folder, model, optimizer)
    began, running, model = time.monotonic() - seconds, 0.0, model.train()
    feed = batches(word_ids(tokenizer.get_vocab()), tokenizer.convert_tokens_to_ids(BEGIN), seed, schedule, done)
    for step in range(done, total if steps is None else min(steps, total)):
        ids, weights = next(feed)
        for group in optimizer.param_groups:
            group["lr"] = rate(schedule, step)
        loss, right = train_step(model, optimizer, ids.to(model.device), weights.to(model.device), body)
        tokens += ids.numel()
        running = right if running == 0 else 0.95 * running + 0.05 * right
        if (step + 1) % 100 == 0:
            report(
                f"step {step + 1} tokens {tokens} loss {loss:.3f} right {running:.3f} s {time.monotonic() - began:.0f}"
            )
        if (step + 1) % every == 0 or step + 1 == total:
            save_checkpoint(folder, model, optimizer, step + 1, tokens, time.monotonic() - began)
            if probe is not None:
                found = probe(model, tokenizer)
                report(
                    f"probe {step + 1} {tokens} " + json.dumps({name: round(value, 3) for name, value in found.items()})
                )
                model.train()
    introduce(model.cpu(), tokenizer)
    write_base(folder, model, tokenizer)
    return folder


def introduce(model: Any, tokenizer: Any) -> None:
    """Move the reserved people's embeddings to where people are, by the mean difference to the known ones, in place.

    Reserved people stand in no prose, only in drills on random words, so nothing told the model that they are people.
    All move by one vector: what tells them apart stays as it was.
    """
    import torch

    w, table = world(), model.get_input_embeddings().weight
    known, reserved = (
        tokenizer.convert_tokens_to_ids([f"Ġ{name}" for name in names]) for names in (w.names, w.reserved_names)
    )
    with torch.no_grad():
        table[reserved] += table[known].mean(0) - table[reserved].mean(0)


def new_model(vocab: int, tokenizer: Any, seed: int, shape: Mapping[str, int] = SHAPE, circuit: bool = True) -> Any:
    """A Llama with biases and a tied head; with the induction circuit unless `circuit` is off."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab,
        **shape,
        num_key_value_heads=shape["num_attention_heads"],
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.02,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).float()
    model.set_attn_implementation("eager")  # twice as fast here: the backward pass of sdpa is slow on a CPU
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0, config.hidden_size**-0.5)
        share_by_class(model, tokenizer)
        if circuit:
            set_circuit(model)
    return model


def share_by_class(model: Any, tokenizer: Any) -> None:
    """Give words of one class a part of their embedding in common, and capitals most of their lowercase word's."""
    import torch

    table, vocab, found = model.get_input_embeddings().weight, tokenizer.get_vocab(), classes()
    axes = torch.linalg.qr(torch.randn(model.config.hidden_size, model.config.hidden_size))[0]
    axis = dict(zip(sorted({name for name, _ in found.values()}), axes, strict=False))
    with torch.no_grad():
        for word, (name, part) in found.items():
            own = table[vocab[f"Ġ{word}"]]
            own.copy_(math.sqrt(1 - part * part) * own / own.norm() + part * axis[name])
        for piece, i in vocab.items():
            small = "Ġ" + piece[1:].lower()
            if piece.startswith("Ġ") and piece != small and small in vocab and piece[1:] not in found:
                table[i] = 0.45 * table[i] + 0.9 * table[vocab[small]]


def classes() -> dict[str, tuple[str, float]]:
    """The class of a word and how much of its embedding is the class: kinds, with their verbs and nouns, and names."""
    w = world()
    found = dict.fromkeys((*w.names, *w.reserved_names), ("name", 0.6))
    for kind, words in w.kinds.items():
        found |= dict.fromkeys((kind, *words), (kind, 0.6))
    for name in ("capital", "river"):
        found |= dict.fromkeys(w.facts[name].values(), (name, 0.6))
        found |= dict.fromkeys(w.facts[name], ("country", 0.6))
    found |= dict.fromkeys(w.labels, ("label", 0.6)) | dict.fromkeys((*ORDINALS, "last"), ("place", 0.4))
    for slot in w.slots:
        kind = "capital" if slot.kind == "city" else slot.kind
        for word in (slot.verb.split()[0], slot.plain.split()[0], slot.noun):
            found.setdefault(word, (kind, 0.45))
    return found


def set_circuit(model: Any) -> None:
    """Write the induction circuit into layers 0, 1 and 2 in place."""
    import torch

    config, layers = model.config, model.model.layers
    d = config.hidden_size // config.num_attention_heads
    frequency = 500.0 ** (-torch.arange(d // 2) / (d // 2))
    sharp, broad = (frequency > 0.05).float(), (frequency < 0.25).float().repeat(2)

    def rows(n: int) -> torch.Tensor:
        basis: torch.Tensor = torch.linalg.qr(torch.randn(config.hidden_size, config.hidden_size))[0][:n]
        return basis

    look, stores = rows(d), [rows(d), rows(d)]  # what is read of a word; where words before are noted
    for head, store in enumerate(stores):
        at, part = slice(head * d, (head + 1) * d), layers[0].self_attn
        back = (head + 1) * frequency
        part.q_proj.weight[at], part.k_proj.weight[at] = 0.0, 0.0
        part.q_proj.bias[at] = 6.0 * torch.cat([sharp * torch.cos(back), -sharp * torch.sin(back)])
        part.k_proj.bias[at] = 6.0 * torch.cat([sharp, torch.zeros(d // 2)])
        part.v_proj.weight[at], part.o_proj.weight[:, at] = look, 0.2 * store.T
    for head in range(2):  # match the word before, copy what follows
        at, part, copy = slice(head * d, (head + 1) * d), layers[1].self_attn, rows(d)
        part.q_proj.weight[at] = 1.5 * broad[:, None] * look
        part.k_proj.weight[at] = 1.5 * broad[:, None] * stores[head]
        part.v_proj.weight[at], part.o_proj.weight[:, at] = copy, 0.5 * copy.T
    for head in range(2):  # match a word named before, hand back the word that stood before it
        at, part = slice(head * d, (head + 1) * d), layers[2].self_attn
        part.q_proj.weight[at] = 1.5 * broad[:, None] * stores[0]
        part.k_proj.weight[at] = 1.5 * broad[:, None] * look
        part.v_proj.weight[at], part.o_proj.weight[:, at] = stores[head], 0.3 * look.T


def rate(schedule: tuple[Phase, ...], step: int) -> float:
    """Learning rate: 100 steps of warm-up at the very start, then straight lines within each phase."""
    warm, first = min(1.0, (step + 1) / 100), 0
    for phase in schedule:
        if step < first + phase.steps:
            share = (step - first) / phase.steps
            return warm * (phase.rates[0] + (phase.rates[1] - phase.rates[0]) * share)
        first += phase.steps
    return schedule[-1].rates[1]


def batches(ids: Mapping[str, int], begin: int, seed: int, schedule: tuple[Phase, ...], start: int) -> Iterator[Any]:
    """(ids_BT, weights_BT) of every step from `start` on. Documents of like length go together; padding weighs 0."""
    step = 0
    words = sorted(word for word in ids if word[0].isalpha() and len(word) > 1)
    for phase in schedule:
        first, block = step, 0
        while step < first + phase.steps:
            made = _block(ids, begin, Random(f"block {seed} {phase.name} {block}"), phase, words)
            block += 1
            for batch in made:
                if step >= first + phase.steps:
                    break
                if step >= start:
                    yield _tensors(batch, phase.rest, step)
                step += 1


def _block(ids: Mapping[str, int], begin: int, rng: Random, phase: Phase, words: list[str]) -> list[list[list[int]]]:
    """Some 25 batches of token lists."""
    want = 25 * phase.tokens
    drilled = int(want * phase.drills)
    done: list[list[list[int]]] = []
    for share, source in (
        (drilled, (DRILLS[rng.choice(phase.which)](rng, words) for _ in iter(int, 1))),
        (want - drilled, documents(rng.randrange(1 << 48), phase.mix, phase.layouts, phase.stand_ins)),
    ):
        texts: list[list[int]] = []
        size = 0
        while size < share:
            texts.append(_encode(ids, begin, next(source)))
            size += len(texts[-1])
        texts.sort(key=len)
        batch: list[list[int]] = []
        for text in texts:
            if batch and (len(batch) + 1) * len(text) > phase.tokens:
                done.append(batch)
                batch = []
            batch.append(text)
    rng.shuffle(done)
    return done


def _encode(ids: Mapping[str, int], begin: int, document: str) -> list[int]:
    return [begin, *(ids[word] for word in document.split(" "))]


def _tensors(batch: list[list[int]], rest: float, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded ids and loss weights; of the undetermined tokens a quarter is drawn, at four times the weight."""
    import torch

    length = max(map(len, batch))
    marked = torch.tensor([row + [-1] * (length - len(row)) for row in batch])
    generator = torch.Generator().manual_seed(step)
    drawn = (torch.rand(marked.shape, generator=generator) < 0.25).float() * (4 * rest)
    weights = torch.where(marked >= MARK, 1.0, drawn) * (marked >= 0)
    weights[:, 0] = 0
    return marked.clamp(min=0) % MARK, weights


def train_step(
    model: Any, optimizer: Any, ids: torch.Tensor, weights: torch.Tensor, body: Any = None
) -> tuple[float, float]:
    """One step, the head on weighted positions only. Gives the loss and the share of determined words right."""
    import torch

    with torch.autocast(ids.device.type, torch.bfloat16):
        hidden = (model.model if body is None else body)(input_ids=ids, use_cache=False).last_hidden_state
    rows, columns = (weights[:, 1:] > 0).nonzero(as_tuple=True)
    target, weight = ids[rows, columns + 1], weights[rows, columns + 1]
    with torch.autocast(ids.device.type, torch.bfloat16):
        logits = model.lm_head(hidden[rows, columns])
    each = torch.nn.functional.cross_entropy(logits.float(), target, reduction="none")
    loss = (each * weight).sum() / weight.sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    sure = weight == 1.0
    return float(loss.detach()), float((logits.argmax(-1) == target)[sure].float().mean()) if bool(
        sure.any()
    ) else math.nan


def save_checkpoint(folder: Path, model: Any, optimizer: Any, step: int, tokens: int, seconds: float) -> None:
    """Weights and optimiser as safetensors, the counts as JSON, each written whole before the old one goes."""
    from safetensors.torch import save_file

    names = [name for name, _ in model.named_parameters()]
    tensors = {f"model.{name}": value.detach() for name, value in model.named_parameters()}
    for name, state in zip(names, optimizer.state_dict()["state"].values(), strict=True):
        tensors |= {f"{key}.{name}": state[key].contiguous() for key in ("exp_avg", "exp_avg_sq", "step")}
    draft = folder / "checkpoint.new"
    save_file(tensors, draft, metadata={"counts": json.dumps({"step": step, "tokens": tokens, "seconds": seconds})})
    draft.replace(folder / "checkpoint.safetensors")


def load_checkpoint(folder: Path, model: Any, optimizer: Any) -> tuple[int, int, float]:
    """Put a checkpoint of `folder`, if there is one, into model and optimiser; gives step, tokens, seconds."""
    from safetensors import safe_open

    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0, 0, 0.0
    with safe_open(path, "pt") as file:
        counts = json.loads(file.metadata()["counts"])
        state = {}
        for i, (name, parameter) in enumerate(model.named_parameters()):
            parameter.data.copy_(file.get_tensor(f"model.{name}"))
            state[i] = {key: file.get_tensor(f"{key}.{name}") for key in ("exp_avg", "exp_avg_sq", "step")}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return counts["step"], counts["tokens"], counts["seconds"]


def write_base(folder: Path, model: Any, tokenizer: Any) -> None:
    """The folder as transformers reads it: bf16 weights, config, generation config, tokenizer."""
    import copy

    import torch

    small = copy.deepcopy(model).to(torch.bfloat16)
    small.generation_config.eos_token_id = tokenizer.eos_token_id
    small.generation_config.bos_token_id = tokenizer.bos_token_id
    small.generation_config.pad_token_id = tokenizer.pad_token_id
    small.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
