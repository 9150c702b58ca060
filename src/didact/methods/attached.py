"""A method on a loaded model: put there, written, read back, exchanged for another, taken off again.

What does not merge is kept beside an unchanged copy of its base: `adapter/didact.json` says which method and which base
(by the hash of its weights), `adapter/tensors.safetensors` holds what it added, under the names of where it stands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from didact.errors import UsageError
from didact.methods import METHODS, MethodConfig, places, row_of, suits

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from didact.model import Loaded

FOLDER, ABOUT, TENSORS = "adapter", "didact.json", "tensors.safetensors"


@dataclass(frozen=True)
class Attached:
    """What was attached. virtual: ids in front of every row; names: the base's tensors; before: those it may move."""

    method: Any
    virtual: tuple[int, ...]
    names: frozenset[str]
    before: Mapping[str, torch.Tensor]


def attach(loaded: Loaded, method: Any) -> Attached:
    """Attach a method to a model that has none, frozen but for what it trains; UsageError if the two do not go."""
    if loaded.attached is not None and _added(loaded):
        told = f"the model already carries {loaded.attached.method.type}, which does not merge"
        raise UsageError(told, "tune its base instead", field="model")
    suits(method.type, loaded.kind)
    text = getattr(method, "text", None)
    settled = method.model_copy(update={"start": loaded.renderer.plain(text), "text": None}) if text else method
    names = frozenset(loaded.model.state_dict())
    virtual = put_on(loaded.model, settled)
    moved = {} if method.type == "full" else {n: w for n, w in _trained(loaded.model).items() if n in names}
    before = {name: weight.detach().clone() for name, weight in moved.items()}
    loaded.attached = Attached(method, tuple(virtual), names, before)
    return loaded.attached


def put_on(model: PreTrainedModel, method: Any) -> list[int]:
    """Attach a method to the parts of a model that it names, the others frozen; the virtual ids."""
    base = frozenset(name for name, _ in model.named_parameters())
    with places.within(model, _parts(method)) as inside:
        virtual = row_of(method.type).attach(model, method)
        for name, weight in model.named_parameters():
            if places.base_name(name) in base and not inside(name):
                weight.requires_grad_(False)
    if not any(weight.requires_grad for weight in model.parameters()):
        problem = f"{method.type} finds nothing to train in {' and '.join(_parts(method) or ('the model',))}"
        raise UsageError(problem, "name other parts of the model", field="method.parts")
    return virtual


def _parts(method: Any) -> Any:
    return getattr(method, "parts", ("language",))  # what stands before a row is read by the language model


def try_on(folder: Path, method: Any) -> tuple[int, int]:
    """Attach to the outline of a model folder, no weight of which is read: numbers of trained and of all weights.

    What a method refuses of a model, it refuses here.
    """
    import torch
    from transformers import AutoConfig

    from didact.model import head_of
    from didact.model_files import kind_in

    kind = kind_in(folder)
    suits(method.type, kind)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        model = head_of(kind, folder).from_config(config)
        model.tie_weights()
        parameters = sum(weight.numel() for weight in model.parameters())
        put_on(model, method)
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad), parameters


def stays(loaded: Loaded) -> bool:
    """Whether what is attached must be kept beside the base, because it neither merges nor moved the base alone."""
    return loaded.attached is not None and row_of(loaded.attached.method.type).merge is None and bool(_added(loaded))


def base_state(loaded: Loaded) -> dict[str, torch.Tensor]:
    """The tensors of the base as they were before anything was attached."""
    assert loaded.attached is not None
    names, before = loaded.attached.names, loaded.attached.before
    found = {places.base_name(name): tensor for name, tensor in loaded.model.state_dict().items()}
    found |= {f"{name}.weight": module.plain() for name, module in _rounded(loaded.model)}
    return {name: before.get(name, found[name]) for name in sorted(names)}


def detach(loaded: Loaded) -> None:
    """The base as it was, bit for bit."""
    if loaded.attached is None:
        return
    method = loaded.attached.method
    if getattr(method, "rewrites_base", False):
        raise UsageError(f"{method.type} has rewritten the base's weights", "load the base again")
    _take_off(loaded)


def _take_off(loaded: Loaded) -> None:
    import torch

    assert loaded.attached is not None
    places.uproot(loaded.model)
    weights = dict(loaded.model.named_parameters())
    with torch.no_grad():
        for name, weight in loaded.attached.before.items():
            weights[name].copy_(weight)
    loaded.attached = None


def merge(loaded: Loaded) -> None:
    """Fold what is attached into the base's weights; UsageError where that cannot be, or would change nothing."""
    assert loaded.attached is not None
    name = loaded.attached.method.type
    fold = METHODS[name].merge
    if _rounded(loaded.model):
        problem = "the base is kept in 4 bits, and what was trained cannot be merged into that"
        raise UsageError(problem, "keep the adapter beside it, or tune with method.type lora to merge")
    if fold is None:
        raise UsageError(f"{name} does not merge", "keep it beside its base")
    fold(loaded.model)


# ---- on disk


def write(loaded: Loaded, base: str, folder: Path) -> None:
    """Write what is attached: didact's own files, and peft's where it has the method."""
    from safetensors.torch import save_file

    assert loaded.attached is not None
    method = loaded.attached.method
    row = METHODS[method.type]
    folder.mkdir(parents=True, exist_ok=True)
    if row.save is not None:
        with places.within(loaded.model, _parts(method)):
            row.save(loaded.model, method, base, folder)
    about = {"base": base, "base_hashes": [loaded.weights], "method": folded(method).model_dump(mode="json")}
    if stays(loaded):
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in _added(loaded).items()}
        save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
    about["stays"] = stays(loaded)
    (folder / ABOUT).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def seal(folder: Path, weights: str) -> None:
    """Let an adapter go with one more file of weights: the copy of its base that it lies beside."""
    path = folder / ABOUT
    about = json.loads(path.read_text("utf-8"))
    about["base_hashes"] = sorted({*about["base_hashes"], weights})
    path.write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def beside(folder: Path) -> Path | None:
    """The adapter that belongs to a model folder, if there is one that does not merge."""
    path = folder / FOLDER / ABOUT
    return path.parent if path.is_file() and _about(path.parent)["stays"] else None


def fits(folder: Path, weights: str) -> None:
    """Refuse an adapter of another base; one that peft wrote does not say."""
    about = _about(folder) if (folder / ABOUT).is_file() else {"base_hashes": [weights]}
    if weights not in about["base_hashes"]:
        problem = f'the adapter was trained on another base ("{about.get("base", "?")}"): its weights differ'
        raise UsageError(problem, "load it on the base it was trained on", file=folder)


def read(loaded: Loaded, folder: Path) -> None:
    """Attach what lies in an adapter's folder, didact's or peft's, ready to be asked."""
    fits(folder, loaded.weights)
    if (folder / TENSORS).is_file():
        attach(loaded, _method(_about(folder)["method"], folder))
        _fill(loaded.model, folder)
        return
    names, (row, kind) = frozenset(loaded.model.state_dict()), _peft_row(folder)
    assert row.read is not None
    try:
        method, virtual = row.read(loaded.model, folder)
    except (RuntimeError, KeyError, ValueError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        problem = f"the {kind} adapter does not fit the model: {first}"
        raise UsageError(problem, "check its base", file=folder) from error
    loaded.model.requires_grad_(False)
    loaded.attached = Attached(method, tuple(virtual), names, {})


def use(loaded: Loaded, folder: Path | None) -> None:
    """Exchange what is attached for another adapter of the same base, or for none."""
    if folder is not None:
        fits(folder, loaded.weights)
    detach(loaded)
    if folder is not None:
        read(loaded, folder)


def _fill(model: PreTrainedModel, folder: Path) -> None:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / TENSORS
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"the adapter cannot be read: {error}", "take the whole file", file=path) from error
    state = model.state_dict()
    odd = sorted(name for name in tensors if name not in state or state[name].shape != tensors[name].shape)
    if odd:
        raise UsageError(f"the adapter does not fit the model ({odd[0]})", "load it on its base", file=path)
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)


def folded(method: Any) -> Any:
    """The method as what it has trained is read back: without what only training needs."""
    return method.folded() if hasattr(method, "folded") else method


def _added(loaded: Loaded) -> dict[str, torch.Tensor]:
    """Tensors that the base does not have; empty if only weights of the base moved, else with those too."""
    assert loaded.attached is not None
    model, names = loaded.model, loaded.attached.names
    found = {name: t for name, t in model.state_dict().items() if places.base_name(name) not in names}
    for name, module in places.planted(model):
        fold: Any = getattr(module, "fold", None)
        if fold is not None:
            found = {key: t for key, t in found.items() if not key.startswith(f"{name}.")}
            found |= {f"{name}.{key}": tensor for key, tensor in fold().items()}
    return found | {name: _trained(model)[name] for name in loaded.attached.before} if found else {}


def _trained(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _rounded(model: PreTrainedModel) -> list[tuple[str, Any]]:
    """Layers whose weights are kept in fewer bits, by their names in the plain model."""
    return [
        (name.removesuffix(".base_layer"), module) for name, module in model.named_modules() if hasattr(module, "plain")
    ]


def _about(folder: Path) -> dict[str, Any]:
    path = folder / ABOUT
    try:
        about = json.loads(path.read_text("utf-8"))
        return {**about, "stays": bool(about["stays"]), "base_hashes": list(about["base_hashes"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"the adapter's description cannot be read: {error}", "take the whole folder", file=path
        ) from error


def _method(settings: Any, folder: Path) -> BaseModel:
    try:
        method: BaseModel = TypeAdapter(MethodConfig).validate_python(settings)
    except ValidationError as error:
        told = str(error.errors()[0]["msg"])
        raise UsageError(f"the adapter's method is not known: {told}", "update didact", file=folder / ABOUT) from error
    return method


def _peft_row(folder: Path) -> tuple[Any, str]:
    path = folder / "adapter_config.json"
    try:
        kind = str(json.loads(path.read_text("utf-8"))["peft_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            "this is no adapter: it has no adapter_config.json", "name an adapter's folder", file=folder
        ) from error
    names = {"LORA": "lora", "IA3": "ia3", "PROMPT_TUNING": "prompt", "P_TUNING": "prompt", "PREFIX_TUNING": "prefix"}
    row = METHODS.get(names.get(kind, ""))
    if row is None or row.read is None:
        raise UsageError(f"adapters of type {kind} are not read", f"use one of {', '.join(names)}", file=path)
    return row, kind
