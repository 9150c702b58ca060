"""Prefix tuning: trained keys and values in front of every row, in each layer (Li 2021, arXiv 2101.00190).

Virtual tokens stand in front of the row, and where a layer makes their keys and values the trained ones are put
instead; what else becomes of these tokens nobody sees. So they are packed and cached like any other token. They begin
as the keys and values of real words. In training a small network makes them, if `hidden` is not 0; it is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.errors import UsageError
from didact.methods import full, interchange, places, virtual

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

KEYS, VALUES = ("k_proj", "key", "k", "k_lin"), ("v_proj", "value", "v", "v_lin")


class PrefixConfig(BaseModel):
    """Trained keys and values in front of every row."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["prefix"] = Field("prefix", description="Keys and values in front of every row are trained.")
    length: int = Field(16, ge=1, description="Virtual tokens.")
    hidden: int = Field(64, ge=0, description="Width of the network that makes them while training; 0 is none.")
    start: Literal["vocabulary", "random"] | list[int] = Field(
        "vocabulary", description="What they begin as: words drawn from the vocabulary, random, or these token ids."
    )
    text: str | None = Field(None, description="A text to begin as, repeated or cut to length; instead of start.")

    def folded(self) -> PrefixConfig:
        """The prefix that is left without the network."""
        return PrefixConfig(length=self.length, hidden=0, start="random")


@dataclass(frozen=True)
class Made:
    """Where a layer makes keys or values: these columns of what a module gives."""

    module: Any
    columns: torch.Tensor


def attach(model: PreTrainedModel, config: PrefixConfig) -> list[int]:
    """Plant the table at the embedding and hooks in the layers; UsageError for a model whose keys are not found."""
    virtual.room(model, config.length)
    model.requires_grad_(False)
    made = places_of(model)
    begin_LE = _beginning(model, made, config)
    table: Any = virtual.network(begin_LE, config.hidden) if config.hidden else virtual.table(begin_LE)
    embedding = model.get_input_embeddings()
    ids, hooks = virtual.watch(embedding, table, config.length)
    ends = list(accumulate(len(one.columns) for one in made))

    def once(module: Any, inputs: Any, out: torch.Tensor) -> None:
        table.now = [table()]  # for all layers of this pass; a list, as a module would take a parameter for its own

    def replaced(one: Made, start: int, end: int) -> Callable[..., torch.Tensor]:
        def hook(module: Any, inputs: Any, out_BTC: torch.Tensor) -> torch.Tensor:
            if table.at_N is None or not len(table.at_N):
                return out_BTC
            flat_NC, rows_NE = out_BTC.flatten(0, 1), table.now[0][table.which_N, start:end].to(out_BTC.dtype)
            at = (table.at_N[:, None], one.columns.to(out_BTC.device)[None])
            return flat_NC.index_put(at, rows_NE).view_as(out_BTC)

        return hook

    hooks.append(embedding.register_forward_hook(once))
    for one, end in zip(made, ends, strict=True):
        hooks.append(one.module.register_forward_hook(replaced(one, end - len(one.columns), end)))
    places.plant(embedding, "prefix", table, *hooks)
    return ids


def places_of(model: PreTrainedModel) -> list[Made]:
    """Where each layer makes its keys and its values, in the order key, value; proved on the model's own cache."""
    import torch

    made = list[Made]()
    for name, layer in places.layers(model):
        inside = [(n, m) for n, m in layer.named_modules() if any(map(places.is_attention, n.split(".")[:-1]))]
        leaves = {n.rpartition(".")[2]: m for n, m in reversed(inside) if n.removesuffix(".base_layer") == n}
        key, value = (next((leaves[n] for n in some if n in leaves), None) for some in (KEYS, VALUES))
        fused = next((leaves[n] for n in places.FUSED if n in leaves), None)
        if key is not None and value is not None:
            made += [Made(one, torch.arange(places.width(one)[1])) for one in (key, value)]
        elif fused is not None:
            made += [Made(fused, columns) for columns in _columns(model, fused)]
        else:
            raise _unknown(model, f"keys and values of {name} were not found")
    if not made:
        raise _unknown(model, "it has no layers")
    if next(model.parameters()).device.type != "meta":
        ids_L = torch.arange(8, 12, device=model.get_input_embeddings().weight.device)
        seen, layers = _seen(model, made, ids_L), cached(model, ids_L)
        for (_, value_LD), (_, expected_LD) in zip(zip(seen[::2], seen[1::2], strict=True), layers, strict=True):
            if value_LD.shape != expected_LD.shape or not torch.allclose(value_LD, expected_LD, atol=1e-5):
                raise _unknown(model, "its cache holds other values")
    return made


def _columns(model: PreTrainedModel, fused: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns of the keys and of the values of one projection for all three, head after head."""
    import torch

    text, outputs = model.config.get_text_config(), places.width(fused)[1]
    heads = int(text.num_attention_heads)
    size = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    kv_heads = int(getattr(text, "num_key_value_heads", None) or heads)
    if text.model_type in ("gpt_neox", "bloom") and outputs == 3 * heads * size:  # query, key, value of each head
        each = torch.arange(outputs).view(heads, 3, size)
        return each[:, 1].flatten(), each[:, 2].flatten()
    if outputs != (heads + 2 * kv_heads) * size:
        raise _unknown(model, "the parts of its fused projection are not known")
    first = heads * size
    return torch.arange(first, first + kv_heads * size), torch.arange(first + kv_heads * size, outputs)


def _unknown(model: PreTrainedModel, why: str) -> UsageError:
    problem = f"prefix does not know where {type(model).__name__} makes its keys and values: {why}"
    return UsageError(problem, "use method.type prompt", field="method.type")


def _seen(model: PreTrainedModel, made: list[Made], ids_L: torch.Tensor) -> list[torch.Tensor]:
    """What the modules give for some ids, at their columns (L, columns)."""
    import torch

    found: dict[int, torch.Tensor] = {}

    def keep(number: int) -> Any:
        return lambda module, inputs, out: found.__setitem__(number, out[0][:, made[number].columns.to(out.device)])

    handles = [one.module.register_forward_hook(keep(i)) for i, one in enumerate(made)]
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(input_ids=ids_L[None], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
        model.train(was)
    return [found[i].clone() for i in range(len(made))]


def cached(model: PreTrainedModel, ids_L: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The keys and values (L, heads x size) of each layer that the model keeps for some ids."""
    import torch

    was = model.training
    model.eval()
    with torch.no_grad():
        cache = model(input_ids=ids_L[None], use_cache=True).past_key_values
    model.train(was)
    return [
        (layer.keys[0].transpose(0, 1).flatten(1), layer.values[0].transpose(0, 1).flatten(1)) for layer in cache.layers
    ]


def _beginning(model: PreTrainedModel, made: list[Made], config: PrefixConfig) -> torch.Tensor:
    """Keys and values of all layers side by side (L, E) as they begin."""
    import torch

    embedding, sizes = model.get_input_embeddings().weight, [len(one.columns) for one in made]
    if embedding.device.type == "meta":
        return torch.empty(config.length, sum(sizes), device="meta")
    ids_L = virtual.beginning(model, config.start if config.start != "random" else "vocabulary", config.length)
    words_LE = torch.cat(_seen(model, made, ids_L.to(embedding.device)), 1)
    return torch.randn_like(words_LE) * words_LE.std() if config.start == "random" else words_LE


# ---- peft


def save(model: PreTrainedModel, config: BaseModel, base: str, folder: Path) -> None:
    """What peft.PeftModel.from_pretrained reads: the keys and values as they stand in the cache."""
    import torch
    from peft import PrefixTuningConfig

    embedding = model.get_input_embeddings()
    first, n = embedding.weight.shape[0], len(embedding.prefix())
    layers = cached(model, torch.arange(first, first + n, device=embedding.weight.device))
    rows_LE = torch.cat([part for layer in layers for part in layer], 1)
    text = model.config.get_text_config()
    heads = int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads)
    settings = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
        num_virtual_tokens=n,
        token_dim=layers[0][0].shape[1],
        num_transformer_submodules=1,
        num_attention_heads=heads,
        num_layers=len(layers),
        encoder_hidden_size=layers[0][0].shape[1],
    )
    interchange.write(folder, settings, {"prompt_embeddings": rows_LE})


def read(model: PreTrainedModel, folder: Path) -> tuple[PrefixConfig, list[int]]:
    """Attach a prefix as peft has written it; positions are taken out of its keys. Its config and the virtual ids.

    UsageError where keys pass a norm behind their projection: what was before it cannot be told.
    """
    import torch
    from safetensors.torch import load_file

    rows_LE = load_file(folder / "adapter_model.safetensors")["prompt_embeddings"]
    config = PrefixConfig(length=len(rows_LE), hidden=0, start="random")
    made, ids = places_of(model), attach(model, config)
    table = model.get_input_embeddings().prefix.table
    ends = [0, *accumulate(len(one.columns) for one in made)]
    if rows_LE.shape != table.shape:
        raise ValueError(f"it has {rows_LE.shape[1]} keys and values, the model {table.shape[1]}")
    keys = [slice(ends[i], ends[i + 1]) for i in range(0, len(made), 2)]
    with torch.no_grad():
        table.copy_(rows_LE)
        for part, turned_LDD in zip(keys, _turned(model, table, ids, keys), strict=True):
            heads_LHD = rows_LE[:, part].view(config.length, -1, turned_LDD.shape[-1]).to(table.device)
            solved = torch.linalg.solve(turned_LDD.double(), heads_LHD.transpose(1, 2).double())
            table[:, part] = solved.transpose(1, 2).flatten(1).to(table.dtype)
        ids_L = torch.tensor(ids, device=table.device)
        found_LE = torch.cat([part for layer in cached(model, ids_L) for part in layer], 1)
    if not torch.allclose(found_LE.cpu(), rows_LE, atol=1e-4 * float(rows_LE.abs().max())):
        problem = "this model norms its keys after projecting them: a prefix that peft trained cannot be taken over"
        raise UsageError(problem, "load it with peft", file=folder)
    return config, ids


def _turned(model: PreTrainedModel, table: torch.Tensor, ids: list[int], keys: list[slice]) -> list[torch.Tensor]:
    """What becomes of a key at each position, as a matrix (L, D, D) for each layer: rotations, found by asking."""
    import torch

    text = model.config.get_text_config()
    size = int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    before, columns = table.detach().clone(), list[list[torch.Tensor]]()
    ids_L = torch.tensor(ids, device=table.device)
    for axis in range(size):
        for part in keys:
            one_HD = torch.zeros((part.stop - part.start) // size, size, device=table.device)
            one_HD[:, axis] = 1.0
            table[:, part] = one_HD.flatten()
        columns.append([key_LE.view(len(ids), -1, size)[:, 0] for key_LE, _ in cached(model, ids_L)])
    table.copy_(before)
    return [torch.stack([columns[axis][layer] for axis in range(size)], -1) for layer in range(len(keys))]


def rate(parameters: int) -> float:
    """Ten times the rate of full fine-tuning."""
    return 10 * full.rate(parameters)
