"""Where in a model methods put what they add, and how it is put there and taken out again.

What is added is a module planted beside one of the base's, which hooks work through: no module of the base is replaced
and no name of its weights changes, so that the base is as it was once the addition is uprooted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import Field

from didact.errors import UsageError

if TYPE_CHECKING:
    import torch

Part = Literal["language", "projector", "tower"]
Parts = list[Part] | None
PARTS: Any = Field(
    None, description="Of a model that sees: language, projector, tower; default is all but its tower, which is frozen."
)
BRIDGES = ("merger", "deepstack")  # parts of a tower that project what it saw
FUSED = ("query_key_value", "qkv_proj", "c_attn", "Wqkv", "in_proj")


_within: ContextVar[Callable[[str], bool]] = ContextVar("_within", default=lambda name: True)


def parts(model: Any) -> Callable[[str], Part]:
    """Tells of which part of a model a weight or a module is, by its name; all of a blind one is language."""
    seen = getattr(model.config, "vision_config", None)
    if seen is None:
        return lambda name: "language"
    reads = {id(model.get_decoder()), id(model.get_output_embeddings()), id(getattr(model, "language_model", None))}
    named = list(model.named_modules())
    language = tuple(f"{name}." for name, module in named if id(module) in reads and name)
    tower = tuple(f"{name}." for name, module in named if getattr(module, "config", None) is seen and name)

    def part(name: str) -> Part:
        if f"{name}.".startswith(language):
            return "language"
        bridge = any(piece.startswith(BRIDGES) for piece in name.split("."))
        return "tower" if f"{name}.".startswith(tower) and not bridge else "projector"

    return part


@contextmanager
def within(model: Any, chosen: Sequence[Part] | None) -> Iterator[Callable[[str], bool]]:
    """Only these parts of a model are found in here; gives what says whether a name lies in them."""
    part = parts(model)
    seeing = hasattr(model.config, "vision_config")
    names = chosen or (("language", "projector") if seeing else ("language",))
    there = get_args(Part) if seeing else ("language",)
    for name in names:
        if name not in there:
            raise UsageError(
                f"the model has no {name}: it reads only text", "leave out method.parts", field="method.parts"
            )
    token = _within.set(lambda name: part(base_name(name)) in names)
    try:
        yield _within.get()
    finally:
        _within.reset(token)


def linear(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The linear layers of the base without its head, by their names in the plain model."""
    import torch
    from transformers.pytorch_utils import Conv1D

    of: Any = getattr(model, "get_output_embeddings", lambda: None)
    head = of()
    added = [name for name, module in model.named_modules() if getattr(module, "planted", False)]
    found: dict[str, torch.nn.Module] = {}
    for name, module in model.named_modules():
        ours = "lora_" in name or any(name.startswith(f"{other}.") or name == other for other in added)
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head and not ours and _within.get()(name):
            found[name.removesuffix(".base_layer")] = module
    return found


def width(module: torch.nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, Conv1D):
        return int(module.weight.shape[0]), int(module.weight.shape[1])
    return int(module.in_features), int(module.out_features)  # type: ignore[arg-type]


def layers(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """The layers of all stacks, in order, by name: the entries of lists that lie in no other list."""
    import torch

    stacks = [name for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)]
    outer = [name for name in stacks if not any(name.startswith(f"{other}.") for other in stacks if other != name)]
    return [
        (f"{stack}.{name}", layer)
        for stack in outer
        for name, layer in model.get_submodule(stack).named_children()
        if any(part.ndim > 1 for part in layer.parameters()) and _within.get()(f"{stack}.{name}")
    ]


def last(model: torch.nn.Module, number: int) -> list[tuple[str, torch.nn.Module]]:
    """So many layers from the end of the stack that reads last, by name; UsageError if there are fewer."""
    stack = layers(model)
    own = stack[-1][0].rpartition(".")[0] if stack else ""
    stack = [(name, layer) for name, layer in stack if name.rpartition(".")[0] == own]
    if number > len(stack):
        problem = f"the model has {len(stack)} layers, not {number}"
        raise UsageError(problem, f"use at most {len(stack)}", field="method.layers")
    return stack[-number:]


def writers(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module, str]]:
    """Each layer's projections back to the hidden size, with "attention" or "feed-forward": (name, module, which)."""
    found, all_linear = list[tuple[str, Any, str]](), linear(model)
    for layer, _ in layers(model):
        inside = {name: module for name, module in all_linear.items() if name.startswith(f"{layer}.")}
        attentions, others = dict[str, list[str]](), list[str]()
        for name in inside:
            path = name.removeprefix(f"{layer}.").split(".")
            at = next((i for i, part in enumerate(path[:-1]) if is_attention(part)), None)
            (others if at is None else attentions.setdefault(".".join(path[: at + 1]), [])).append(name)
        last = [(names[-1], "attention") for names in attentions.values()]
        last += [(others[-1], "feed-forward")] if others else []
        found += [(name, inside[name], which) for name, which in last]
    if not found:
        raise UsageError(f"no layers were found in {type(model).__name__}", "use method.type lora or full")
    return found


def is_attention(name: str) -> bool:
    """Whether a module's own name is that of an attention block."""
    return "attn" in name.lower() or "attention" in name.lower()


def norms(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Parameters of the layer norms over hidden states, by name."""
    size = int(model.config.get_text_config().hidden_size)  # type: ignore[union-attr, operator]
    return {
        f"{name}.{leaf}": weight
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        for leaf, weight in module.named_parameters(recurse=False)
        if weight.numel() == size and _within.get()(name)
    }


# ---- planting


def plant(module: torch.nn.Module, name: str, child: torch.nn.Module, *hooks: Any) -> None:
    """Put a module beside one of the base's; hooks are handles that go when it is uprooted."""
    assert not hasattr(module, name), f"two modules named {name}"
    child.planted, child.handles = True, list(hooks)  # type: ignore[assignment]
    weight = next(module.parameters(recurse=False), None)
    module.add_module(name, child if weight is None else child.to(weight.device))


def planted(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """What was planted, by name."""
    for name, module in model.named_modules():
        if getattr(module, "planted", False):
            yield name, module


def uproot(model: torch.nn.Module) -> None:
    """Take out all that was planted, biases that were added, and the layers of peft, unmerged."""
    for name, module in list(planted(model)):
        for handle in module.handles:  # type: ignore[union-attr]
            handle.remove()
        parent, _, leaf = name.rpartition(".")
        delattr(model.get_submodule(parent), leaf)
    for module in model.modules():
        for leaf, weight in list(module._parameters.items()):
            if getattr(weight, "added", False):
                module._parameters[leaf] = None
    unwrap(model, lambda name, layer: None)


def unwrap(model: torch.nn.Module, each: Callable[[str, Any], None]) -> None:
    """Put the base's layers back where peft has wrapped them; `each` sees every wrapper before it goes."""
    for name, layer in list(model.named_modules()):
        if hasattr(layer, "base_layer"):
            each(name, layer)
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, layer.base_layer)
    if hasattr(model, "peft_config"):
        del model.peft_config


def base_name(name: str) -> str:
    """The name of a weight in the plain model."""
    return name.replace(".base_layer.", ".")
