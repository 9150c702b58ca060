"""Virtual tokens: ids beyond the vocabulary whose embeddings come from a trained table.

A row begins with them, so that packing, caching and generation know them as tokens like any other. They are never
predicted: the head keeps the base's vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

from didact.errors import UsageError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from didact.model import Loaded
    from didact.render import Tokens

COMMON = 5000  # ids from which beginnings are drawn: tokenizers put frequent tokens first


def extend(model: PreTrainedModel, table: torch.nn.Module, length: int) -> list[int]:
    """Let ids from the size of the embedding on stand for the rows (length, C) that `table()` gives; the ids."""
    from didact.methods import places

    embedding = model.get_input_embeddings()
    ids, hooks = watch(embedding, table, length)

    def after(module: Any, inputs: Any, out_BTC: torch.Tensor) -> torch.Tensor:
        return put(out_BTC, table, table())

    places.plant(embedding, "prompt", table, *hooks, embedding.register_forward_hook(after))
    return ids


def table(rows_LE: torch.Tensor) -> torch.nn.Module:
    """A module that gives rows which are trained as they are, from these on."""
    import torch

    class Table(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(rows_LE)

        def forward(self) -> torch.Tensor:
            return self.table

    return Table()


def network(rows_LE: torch.Tensor, hidden: int) -> torch.nn.Module:
    """A module that gives rows which two layers make, from these on; `fold` gives the table that is left of it."""
    import torch

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("start", rows_LE)
            self.seeds = torch.nn.Parameter(torch.randn(len(rows_LE), hidden, device=rows_LE.device))
            self.inner = torch.nn.Linear(hidden, hidden, device=rows_LE.device)
            self.outer = torch.nn.Linear(hidden, rows_LE.shape[1], device=rows_LE.device)
            torch.nn.init.zeros_(self.outer.weight)
            torch.nn.init.zeros_(self.outer.bias)

        def forward(self) -> torch.Tensor:
            rows: torch.Tensor = self.start + self.outer(torch.tanh(self.inner(self.seeds)))
            return rows

        def fold(self) -> dict[str, torch.Tensor]:
            return {"table": self().detach()}

    return Network()


def watch(embedding: Any, table: Any, length: int) -> tuple[list[int], list[Any]]:
    """Keep in `table` where virtual ids stand in each forward, and hide them from the embedding; ids and hooks."""
    first = int(embedding.weight.shape[0])
    table.at_N = table.which_N = None

    def before(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        ids_BT = inputs[0]
        virtual_BT = ids_BT >= first
        table.at_N = virtual_BT.flatten().nonzero().flatten()
        table.which_N = ids_BT.flatten()[table.at_N] - first
        return (ids_BT.masked_fill(virtual_BT, 0), *inputs[1:])

    return list(range(first, first + length)), [embedding.register_forward_pre_hook(before)]


def put(out_BTC: torch.Tensor, table: Any, rows_LC: torch.Tensor) -> torch.Tensor:
    """The output of a module with these rows where virtual ids stand."""
    if table.at_N is None or not len(table.at_N):
        return out_BTC
    flat_NC = out_BTC.flatten(0, 1)
    return flat_NC.index_copy(0, table.at_N, rows_LC[table.which_N].to(flat_NC.dtype)).view_as(out_BTC)


def room(model: PreTrainedModel, length: int) -> None:
    """Refuse a prompt that leaves no room for a row."""
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if limit is not None and length >= int(limit) - 1:
        problem = f"a prompt of {length} tokens fills the context of {limit}"
        raise UsageError(problem, f"use far fewer than {limit}", field="method.length")


def beginning(model: PreTrainedModel, start: str | list[int], length: int) -> torch.Tensor:
    """Ids that a table begins from: those given, repeated as often as needed, or some drawn from the vocabulary."""
    import torch

    if isinstance(start, list) and start:
        return torch.tensor((start * length)[:length])
    rows = int(model.get_input_embeddings().weight.shape[0])
    return torch.randint(min(COMMON, rows), (length,))


class Begun(Sequence["Tokens"]):
    """Rows that begin with virtual tokens, which carry no loss; each is made when it is asked for."""

    def __init__(self, rows: Sequence[Tokens], virtual: Sequence[int]) -> None:
        self.rows, self.virtual = rows, list(virtual)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Tokens: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tokens]: ...
    def __getitem__(self, index: int | slice) -> Tokens | list[Tokens]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row, n = self.rows[index], len(self.virtual)
        turns = tuple((a + n, b + n) for a, b in row.turns)
        media = tuple((a + n, b + n) for a, b in row.media)
        ids, weights = [*self.virtual, *row.ids], [*[0.0] * n, *row.weights]
        return replace(row, ids=ids, weights=weights, slots=[*[None] * n, *row.slots], turns=turns, media=media)


def ahead(method: Any) -> int:
    """How many virtual tokens a method puts before every row."""
    return int(getattr(method, "length", 0))


def longest_row(loaded: Loaded, method: Any, limit: int) -> int:
    """The longest row in tokens, at most `limit`, beside those that a method is going to put before it."""
    room = loaded.max_positions
    return limit if room is None else min(limit, max(2, room - ahead(method)))


def begun(rows: Sequence[Tokens], virtual: Sequence[int]) -> Sequence[Tokens]:
    """The rows as a model with these virtual tokens reads them."""
    return Begun(rows, virtual) if virtual else rows
