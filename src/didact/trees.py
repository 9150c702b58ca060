"""The choices of one prompt scored together: laid out in one row as branches, of which none sees another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Tree:
    """A prompt with its choices as branches: laid out in one row, no branch sees another."""

    number: int
    prompt: list[int]
    branches: list[list[int]]

    @property
    def length(self) -> int:
        return len(self.prompt) + sum(len(branch) - 1 for branch in self.branches)


@dataclass(frozen=True)
class Laid:
    """Trees as a batch. mask_B1TT: added to the scores of attention; chosen_BT: positions whose logits are read.

    place_N, targets_N: of each token of a branch, which of those logits predicts it, and its id.
    """

    ids_BT: torch.Tensor
    positions_BT: torch.Tensor
    mask_B1TT: torch.Tensor
    chosen_BT: torch.Tensor
    place_N: torch.Tensor
    targets_N: torch.Tensor
    numbers_N: torch.Tensor
    branches: int

    def sums(self, values_N: torch.Tensor) -> list[float]:
        """What the tokens of each branch have together."""
        found: list[float] = values_N.new_zeros(self.branches).index_add(0, self.numbers_N, values_N).tolist()
        return found


def lay(group: list[Tree], pad_id: int, device: torch.device) -> Laid:
    """One row per tree: the prompt once, then the branches, each seeing the prompt and itself."""
    import torch

    length = max(tree.length for tree in group)
    ids_BT = torch.full((len(group), length), pad_id, dtype=torch.long)
    positions_BT = torch.zeros(len(group), length, dtype=torch.long)
    branch_BT = torch.full((len(group), length), -1, dtype=torch.long)  # -1 padding, 0 prompt, n the n-th branch
    asked: list[tuple[int, int, int, int]] = []  # row, position that predicts, target, number of the choice
    number = 0
    for i, tree in enumerate(group):
        n = len(tree.prompt)
        ids_BT[i, :n], positions_BT[i, :n], branch_BT[i, :n] = torch.tensor(tree.prompt), torch.arange(n), 0
        position = n
        for k, branch in enumerate(tree.branches, start=1):
            inner = len(branch) - 1
            asked.append((i, n - 1, branch[0], number))
            asked += [(i, position + j, branch[j + 1], number) for j in range(inner)]
            if inner:
                ids_BT[i, position : position + inner] = torch.tensor(branch[:-1])
                positions_BT[i, position : position + inner] = torch.arange(n, n + inner)
                branch_BT[i, position : position + inner] = k
            position += inner
            number += 1
    ids_BT, positions_BT, branch_BT = ids_BT.to(device), positions_BT.to(device), branch_BT.to(device)
    same = (branch_BT[:, :, None] == branch_BT[:, None, :]) | (branch_BT[:, None, :] == 0)
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    allowed = (same & causal & (branch_BT[:, None, :] >= 0)) | torch.eye(length, dtype=torch.bool, device=device)
    mask = torch.zeros(allowed.shape, device=device).masked_fill(~allowed, torch.finfo(torch.float32).min)
    rows_N, columns_N, targets_N, numbers_N = torch.tensor(asked, device=device).T
    chosen_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
    chosen_BT[rows_N, columns_N] = True
    place_BT = chosen_BT.flatten().cumsum(0).reshape(chosen_BT.shape) - 1  # branches share the prompt's last position
    return Laid(
        ids_BT, positions_BT, mask[:, None], chosen_BT, place_BT[rows_N, columns_N], targets_N, numbers_N, number
    )


def tree_of(number: int, group: list[tuple[list[int], int]]) -> Tree:
    prompt = group[0][0][: group[0][1]]
    assert all(ids[:start] == prompt for ids, start in group), "choices of one instance share their prompt"
    return Tree(number, prompt, [ids[start:] for ids, start in group])


def flatten(values: list[list[float]]) -> list[float]:
    return [value for row in values for value in row]


def regroup(values: list[float], group: list[Tree]) -> list[list[float]]:
    rest = iter(values)
    return [[next(rest) for _ in tree.branches] for tree in group]
