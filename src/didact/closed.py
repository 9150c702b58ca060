"""A loss over a closed set of labels: at one place of a row only the labels' tokens compete, for a soft target.

A label's score is the mean of its tokens' logits; the loss is T^2 x KL(target || softmax(scores / T)), which for a hard
target and T = 1 is the cross-entropy (Schick & Schuetze 2021, arXiv 2001.07676; Hinton 2015, arXiv 1503.02531).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from didact import kinds
from didact.forward import Forward
from didact.instance import digest
from didact.pack import Batch

if TYPE_CHECKING:
    import torch

    from didact.model import Loaded
    from didact.render import Tokens

MASKED_SHARE = 0.15  # of a text's tokens are hidden for the loss of a masked model on plain text


@dataclass(frozen=True, slots=True)
class Fork:
    """Where the labels of a row part: at the read-th of its `reads` supervised tokens.

    labels: the tokens that mean each label equally well; target: how likely each is, summing to 1.
    """

    read: int
    reads: int
    labels: tuple[tuple[int, ...], ...]
    target: tuple[float, ...]


@dataclass(frozen=True)
class Closed:
    """The objective. forks: one per row of the data.

    plain: the row is learnt as text too, the fork included. text: weight of a masked model's loss on 15% of the other
    tokens of a row; a causal model's rows carry that weight themselves.
    """

    forks: Sequence[Fork]
    temperature: float = 1.0
    plain: bool = False
    text: float = 0.0

    @property
    def key(self) -> str:
        forks = [[fork.read, fork.labels, fork.target] for fork in self.forks]
        return digest([forks, self.temperature, self.plain, self.text])

    def batch(self, way: Forward, loaded: Loaded, data: Sequence[Tokens], rows: Sequence[int]) -> Batch:
        """Rows as they are; of a masked model with what stands after the gap."""
        if loaded.kind != "masked" or self.plain:
            return way.batch(loaded, data, rows)
        return gapped(loaded, data, rows, self.text)

    def loss(self, way: Forward, loaded: Loaded, one: Batch) -> torch.Tensor:
        """Loss at the forks, and of the other supervised tokens as text."""
        import torch

        from didact import loss

        logits_NV = way.logits(loaded, one)
        forks = [self.forks[row] for row in one.rows]
        gaps = loaded.kind == "masked" and not self.plain  # `gapped` puts them first
        at_R = torch.arange(len(forks), device=one.ids_BT.device) if gaps else at(forks, logits_NV)
        weights_R = one.weights_N[at_R]
        text_N = one.weights_N.clone()
        if not self.plain:
            text_N[at_R] = 0.0
        scores_RL, target_RL = scores(logits_NV[at_R], forks), targets(forks, logits_NV)
        closed = (soft_loss(scores_RL, target_RL, self.temperature) * weights_R).sum()
        return closed + loss.of_logits(logits_NV, one.labels_N, text_N)


def gapped(loaded: Loaded, data: Sequence[Tokens], rows: Sequence[int], text: float) -> Batch:
    """Rows of a masked model with a mask at their supervised place.

    Behind them, weighted `text`, the same rows with 15% of the other tokens hidden, the same ones each time.
    """
    import torch

    shown, weights = list[kinds.Shown](), list[float]()
    for row in rows:
        (place,) = (i for i, weight in enumerate(data[row].weights) if weight)
        shown.append(_hidden(loaded, data[row].ids, [place]))
        weights.append(data[row].weights[place])
    for row in rows if text else ():
        ids = data[row].ids
        places = [i for i in range(1, len(ids) - 1) if not data[row].weights[i]]
        hidden = sorted(random.Random(data[row].instance_id).sample(places, max(1, round(MASKED_SHARE * len(places)))))
        shown.append(_hidden(loaded, ids, hidden))
        weights += [text / len(hidden)] * len(hidden)
    ids_BT, reads_N, inputs = kinds.tensors(loaded, shown)
    labels_N = torch.tensor([label for one in shown for label in one.labels])
    names = tuple(data[row].instance_id for row in rows)
    zeros = torch.zeros_like(ids_BT)
    return Batch(ids_BT, zeros, reads_N, labels_N, torch.tensor(weights), names, tuple(rows), inputs=inputs)


def at(forks: Sequence[Fork], like: torch.Tensor) -> torch.Tensor:
    """Which of all that is read of some rows are their forks (R)."""
    import torch

    ends = list(itertools.accumulate((fork.reads for fork in forks), initial=0))
    return torch.tensor([end + fork.read for end, fork in zip(ends, forks, strict=False)], device=like.device)


def scores(logits_RV: torch.Tensor, forks: Sequence[Fork]) -> torch.Tensor:
    """Each label's mean logit (R, L); -inf where a row has fewer labels."""
    import torch

    most, widest = max(len(f.labels) for f in forks), max(len(some) for f in forks for some in f.labels)
    ids_RLW = torch.zeros(len(forks), most, widest, dtype=torch.long)
    there_RLW = torch.zeros(len(forks), most, widest, dtype=torch.bool)
    for i, fork in enumerate(forks):
        for k, some in enumerate(fork.labels):
            ids_RLW[i, k, : len(some)], there_RLW[i, k, : len(some)] = torch.tensor(some), True
    ids_RLW, there_RLW = ids_RLW.to(logits_RV.device), there_RLW.to(logits_RV.device)
    picked = logits_RV.gather(1, ids_RLW.flatten(1)).view(ids_RLW.shape).float()
    counts_RL = there_RLW.sum(-1)
    means_RL = (picked * there_RLW).sum(-1) / counts_RL.clamp(min=1)
    return means_RL.masked_fill(counts_RL == 0, float("-inf"))


def targets(forks: Sequence[Fork], like: torch.Tensor) -> torch.Tensor:
    """The target distributions (R, L)."""
    import torch

    most = max(len(fork.labels) for fork in forks)
    rows = [[*fork.target, *([0.0] * (most - len(fork.target)))] for fork in forks]
    return torch.tensor(rows, device=like.device)


def soft_loss(scores_RL: torch.Tensor, target_RL: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 x KL(target || softmax(scores / T)) of each row (R)."""
    import torch

    logs_RL = torch.log_softmax(scores_RL / temperature, -1)
    terms_RL = torch.where(target_RL > 0, torch.xlogy(target_RL, target_RL) - target_RL * logs_RL, 0.0)
    return temperature**2 * terms_RL.sum(-1)


def ask(loaded: Loaded, data: Sequence[Tokens], forks: Sequence[Fork], max_tokens: int = 8192) -> list[list[float]]:
    """The labels' scores at each row's fork."""
    import torch

    way, found = Forward(), dict[int, list[float]]()
    order = sorted(range(len(data)), key=lambda i: -len(data[i].ids))
    loaded.model.eval()
    while order:
        size = max(1, max_tokens // len(data[order[0]].ids))
        rows, order = order[:size], order[size:]
        gaps = loaded.kind == "masked"
        one = (gapped(loaded, data, rows, 0.0) if gaps else way.batch(loaded, data, rows)).to(loaded.device)
        some = [forks[row] for row in rows]
        with torch.inference_mode():
            logits_NV = way.logits(loaded, one)
            values = scores(logits_NV if gaps else logits_NV[at(some, logits_NV)], some).tolist()
        found |= dict(zip(rows, values, strict=True))
    return [found[i][: len(forks[i].labels)] for i in range(len(data))]


def _hidden(loaded: Loaded, ids: Sequence[int], places: Sequence[int]) -> kinds.Shown:
    chosen = set(places)
    return kinds.Shown(
        [loaded.mask_id if i in chosen else id_ for i, id_ in enumerate(ids)], list(places), [ids[i] for i in places]
    )
