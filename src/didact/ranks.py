"""One model over several processes: FSDP2 (`fully_shard`; Zhao 2023, arXiv 2304.11277), and what the loop asks of it.

A step's rows are dealt out to the ranks, its loss is still divided by the supervised tokens of all of them, and
everything the loop decides is decided by all alike. Alone, each method is the identity and nothing is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from didact.forward import Forward

Cut = Callable[[Sequence[int]], list[list[int]]]


@dataclass(frozen=True)
class Ranks:
    """This process among those that train one model. mesh: of all of them."""

    number: int = 0
    count: int = 1
    mesh: Any = None

    @property
    def first(self) -> bool:
        return self.number == 0

    def shard(self, model: PreTrainedModel, forward: Forward, half: bool) -> Forward:
        """Shard a model in place, layer by layer; gives the pass that goes through the model's own forward.

        half: compute in bf16, with fp32 shards and fp32 sums of gradients.
        """
        if self.count == 1:
            return forward
        import torch
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if half else MixedPrecisionPolicy()
        for module in list(model.modules()):
            if isinstance(module, torch.nn.ModuleList):
                for layer in module:
                    fully_shard(layer, mesh=self.mesh, mp_policy=policy)
        fully_shard(model, mesh=self.mesh, mp_policy=policy)
        # what is gathered before the forward and let go after it hangs on the model as a whole
        return replace(forward, head="kept" if forward.packed else "all", tail=False)

    def share(self, rows: Sequence[int], lengths: Sequence[int], cut: Cut) -> list[tuple[list[int], float]]:
        """This rank's micro-batches of a step with the factors of their losses.

        Every rank makes the same number of them, as each takes part in gathering the weights: one that has fewer
        repeats one with the factor 0. The factor undoes the mean that is taken of the ranks' gradients.
        """
        if self.count == 1:
            return [(together, 1.0) for together in cut(rows)]
        order = sorted(rows, key=lambda row: (-lengths[row], row))
        cuts = [cut(own) if own else [] for own in (order[rank :: self.count] for rank in range(self.count))]
        mine = [(together, float(self.count)) for together in cuts[self.number]]
        idle = [([order[-1]], 0.0)] * (max(map(len, cuts)) - len(mine))
        return [*mine, *idle]

    def total(self, value: float) -> float:
        """The sum over ranks."""
        if self.count == 1:
            return value
        import torch

        summed = torch.tensor([value], dtype=torch.float64)
        torch.distributed.all_reduce(summed, group=self.talk)
        return float(summed)

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank."""
        return flag if self.count == 1 else self.total(float(flag)) > 0

    def whole(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Sharded tensors gathered; all ranks must ask."""
        return {name: gathered(tensor) for name, tensor in tensors.items()}

    @property
    def talk(self) -> Any:
        """The group for numbers that lie on the CPU."""
        return self.mesh.get_group() if self.mesh is not None and self.mesh.device_type == "cpu" else _gloo()


ALONE = Ranks()


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in one piece."""
    whole: torch.Tensor = getattr(tensor, "full_tensor", lambda: tensor)()
    return whole


def sharded_like(value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A whole tensor cut as a weight is, on its device; scalars stay whole."""
    if not hasattr(weight, "placements") or value.shape != weight.shape:
        return value.to(weight.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(weight, DTensor)
    return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)


_GROUPS: list[Any] = []


def _gloo() -> Any:
    import torch

    if not _GROUPS:
        _GROUPS.append(torch.distributed.new_group(backend="gloo"))
    return _GROUPS[0]
