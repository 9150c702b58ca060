"""Eyes for the starter: a small vision tower that learns from nothing to tell what lies where in the picture world.

Every patch is asked what thing lies in its place and in which colour, and what it looks like itself, coarsely, so that
what the world has no words for (handwriting) is not lost. `didact join --vision` puts it before a language model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from didact.errors import UsageError
from didact.starter.scenes import CELL, SIDE, Scene, Thing, draw, lay, world

if TYPE_CHECKING:
    import torch

EMPTY = 0  # the class of a place where nothing lies, in both lists
COARSE = 4  # values per side of what a patch looks like
BATCH, RATE, WARMUP = 64, 2e-3, 50
Pixels = NDArray[np.float32]


def make(
    folder: Path,
    steps: int = 300,
    patch: int = 16,
    seed: int = 0,
    report: Callable[[str], None] = print,
    queries: bool = False,
) -> dict[str, float]:
    """Train the tower and save it with its image processor; the shares of things and colours that it tells right.

    queries: in the shape that goes before a Q-Former. Raises UsageError if the folder is there.
    """
    import torch

    from didact.assemble import new_tower, tower_model

    if folder.exists() and any(folder.iterdir()):
        raise UsageError("the folder is not empty", "name another one", file=folder)
    torch.manual_seed(seed)
    tower = new_tower(SIDE, patch)
    model = tower_model(tower.config, queries)
    width, places = int(tower.config.hidden_size), _places(patch)
    heads = torch.nn.ModuleList(
        torch.nn.Linear(width, n) for n in (len(_names()), len(_colours()), len(places), 3 * COARSE**2)
    )
    weights = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(weights, RATE, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    drawn = _batches(Random(f"eyes/{seed}"))
    for step in range(steps):
        rate = RATE * min(1.0, (step + 1) / WARMUP) * (1 - step / steps)
        optimizer.param_groups[0]["lr"] = rate
        pixels_BCHW, told_BP2 = next(drawn)
        states_BNC = model(pixels_BCHW).last_hidden_state[:, -len(places) :]
        found = [head(states_BNC) for head in heads]
        asked_BN2 = told_BP2[:, places]
        loss = sum(
            torch.nn.functional.cross_entropy(found[k].flatten(0, 1), asked_BN2[..., k].flatten()) for k in (0, 1)
        )
        where_BN = torch.arange(len(places)).expand(BATCH, -1)  # which patch it is, else the tower forgets it
        loss = loss + torch.nn.functional.cross_entropy(found[2].flatten(0, 1), where_BN.flatten())
        loss = loss + (found[3] - _looks(pixels_BCHW, patch)).pow(2).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 99:
            now = [(found[k].argmax(-1) == asked_BN2[..., k]).float().mean().item() for k in (0, 1)]
            report(f"step {step + 1} of {steps}: things {now[0]:.3f}, colours {now[1]:.3f}, loss {loss.item():.3f}")
    right = _right(model.eval(), heads, places, Random(f"eyes/{seed}/held out"))
    model.save_pretrained(folder)
    tower.processor.save_pretrained(folder)
    return right


def _right(model: Any, heads: Any, places: torch.Tensor, rng: Random) -> dict[str, float]:
    """Shares that are right of patches of new pictures where something lies."""
    import torch

    hits, total = [0.0, 0.0], 0
    with torch.no_grad():
        for _, (pixels_BCHW, told_BP2) in zip(range(8), _batches(rng), strict=False):
            states_BNC = model(pixels_BCHW).last_hidden_state[:, -len(places) :]
            asked_BN2 = told_BP2[:, places]
            lies_BN = asked_BN2[..., 0] != EMPTY
            total += int(lies_BN.sum())
            for k in (0, 1):
                hits[k] += float(((heads[k](states_BNC).argmax(-1) == asked_BN2[..., k]) & lies_BN).sum())
    return {"things": hits[0] / total, "colours": hits[1] / total}


def _batches(rng: Random) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pictures (B, 3, H, W) from -1 to 1, and thing and colour of each of their four places (B, 4, 2)."""
    import torch

    names, colours = _names(), _colours()
    while True:
        scenes = [_scene(rng) for _ in range(BATCH)]
        pixels = np.stack([_pixels(draw(scene, rng)) for scene in scenes])
        told = [[(names[t.name], colours[t.colour]) if t else (EMPTY, EMPTY) for t in s.places] for s in scenes]
        yield torch.from_numpy(pixels), torch.tensor(told)


def _scene(rng: Random) -> Scene:
    """Any things and digits in any colours, a place in three empty."""
    names, colours = list(_names())[1:], list(_colours())[1:]
    return lay(rng, [Thing(rng.choice(names), rng.choice(colours)) for _ in range(4) if rng.random() < 2 / 3])


def _pixels(held: bytes) -> Pixels:
    """The pixels of a picture of this world, whose PNG is not compressed: (3, H, W), from -1 to 1."""
    at = held.index(b"IDAT") + 4 + 2 + 5  # behind the heads of the stream and of its one block
    lines = np.frombuffer(held, np.uint8, SIDE * (1 + 3 * SIDE), at).reshape(SIDE, -1)[:, 1:]
    found: Pixels = (lines.reshape(SIDE, SIDE, 3).transpose(2, 0, 1) / 127.5 - 1).astype(np.float32)
    return found


def _places(patch: int) -> torch.Tensor:
    """The place in which each patch lies."""
    import torch

    line = torch.arange(SIDE // patch) * patch // CELL
    return (2 * line[:, None] + line[None]).flatten()


def _looks(pixels_BCHW: torch.Tensor, patch: int) -> torch.Tensor:
    """What each patch looks like, coarsely (B, patches, values)."""
    import torch

    coarse = torch.nn.functional.avg_pool2d(pixels_BCHW, patch // COARSE)
    return torch.nn.functional.unfold(coarse, COARSE, stride=COARSE).transpose(1, 2)


def _names() -> dict[str, int]:
    return {name: n for n, name in enumerate(["", *world()["kinds"], *map(str, range(10))])}


def _colours() -> dict[str, int]:
    return {name: n for n, name in enumerate(["", *world()["colours"]])}
