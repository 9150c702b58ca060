"""The ways to tune: which weights move. A method is one file and one line of METHODS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field

from didact.errors import UsageError
from didact.kinds import KINDS, Kind
from didact.methods import (
    adapter,
    bitfit,
    full,
    ia3,
    intrinsic,
    lomo,
    lora,
    p_tuning,
    prefix,
    projection,
    prompt,
    qlora,
    space,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Method:
    """attach changes the model in place, leaves `requires_grad` on what is trained, and gives virtual token ids.

    rate: the default learning rate for a base with that many parameters. purpose: what it is for, in a clause; slower:
    why it makes fewer than 0.9 of LoRA's examples in a second, where it does.
    merge folds it into the base weights; save writes what peft loads, and read attaches what peft wrote and gives
    config and virtual ids; loss and optimizer replace the loop's own. None where the method does not differ.
    models: kinds it works on. ahead: all that it trains stands ahead of a row, where it hardly moves a token that the
    base has never written.
    """

    config: type[BaseModel]
    attach: Callable[[PreTrainedModel, Any], list[int]]
    rate: Callable[[int], float]
    purpose: str
    paper: str
    slower: str = ""
    merge: Callable[[PreTrainedModel], None] | None = None
    save: Callable[[PreTrainedModel, Any, str, Path], None] | None = None
    read: Callable[[PreTrainedModel, Path], Any] | None = None
    loss: Callable[..., Any] | None = None
    optimizer: Callable[..., Any] | None = None
    models: tuple[Kind, ...] = KINDS
    ahead: bool = False


METHODS: dict[str, Method] = {
    "full": Method(full.FullConfig, full.attach, full.rate, "the reference; most data, most memory", "-"),
    "bitfit": Method(
        bitfit.BitfitConfig, bitfit.attach, bitfit.rate, "little data, the smallest change", "Ben Zaken 2021"
    ),
    "lora": Method(
        lora.LoraConfig,
        lora.attach,
        lora.rate,
        "the usual choice: close to full, small files",
        "Hu 2021",
        merge=lora.merge,
        save=lora.save,
        read=lora.read,
    ),
    "qlora": Method(
        qlora.QloraConfig,
        qlora.attach,
        qlora.rate,
        "large models: the base in 4 bits",
        "Dettmers 2023",
        slower="makes its weights from codes in every forward and backward",
        save=qlora.save,
    ),
    "lomo": Method(
        lomo.LomoConfig,
        lomo.attach,
        lomo.rate,
        "every weight in the memory of inference, nearly",
        "Lv 2023",
        slower="a second backward measures the norm that is clipped; tune.clip: 0 is without",
        optimizer=lomo.optimizer,
    ),
    "adapter": Method(
        adapter.AdapterConfig, adapter.attach, adapter.rate, "many tasks on one base, as good as full", "Houlsby 2019"
    ),
    "ia3": Method(
        ia3.Ia3Config,
        ia3.attach,
        ia3.rate,
        "few examples, a few thousand numbers",
        "Liu 2022",
        merge=ia3.merge,
        save=ia3.save,
        read=ia3.read,
    ),
    "prompt": Method(
        prompt.PromptConfig,
        prompt.attach,
        prompt.rate,
        "the smallest files; large models",
        "Lester 2021",
        save=prompt.save,
        read=prompt.read,
        models=("causal",),
        ahead=True,
    ),
    "p_tuning": Method(
        p_tuning.PTuningConfig,
        p_tuning.attach,
        p_tuning.rate,
        "a prompt that learns at ordinary rates",
        "Liu 2021",
        save=p_tuning.save,
        models=("causal",),
        ahead=True,
    ),
    "prefix": Method(
        prefix.PrefixConfig,
        prefix.attach,
        prefix.rate,
        "a prompt with a say in every layer",
        "Li 2021",
        save=prefix.save,
        read=prefix.read,
        models=("causal",),
    ),
    "intrinsic": Method(
        intrinsic.IntrinsicConfig,
        intrinsic.attach,
        intrinsic.rate,
        "a new task with a few numbers, in a space found over others",
        "Qin 2021",
        save=intrinsic.save,
        models=("causal",),
        ahead=True,
    ),
    "projection": Method(
        projection.ProjectionConfig,
        projection.attach,
        projection.rate,
        "how few numbers a task needs",
        "Li 2018",
        slower="makes a difference of every matrix in every forward",
        merge=projection.merge,
    ),
}
PARTS: dict[str, Method] = {  # of programs; no recipe names them
    "space": Method(space.SpaceConfig, space.attach, space.rate, "a part of subspace", "Qin 2021", models=("causal",)),
}
MethodConfig = Annotated[
    full.FullConfig
    | bitfit.BitfitConfig
    | lora.LoraConfig
    | qlora.QloraConfig
    | lomo.LomoConfig
    | adapter.AdapterConfig
    | ia3.Ia3Config
    | prompt.PromptConfig
    | p_tuning.PTuningConfig
    | prefix.PrefixConfig
    | intrinsic.IntrinsicConfig
    | projection.ProjectionConfig,
    Field(discriminator="type"),
]


def suits(method: str, kind: Kind, models: tuple[Kind, ...] | None = None) -> None:
    """Refuse a method on a kind of model that it does not work on, before a weight is loaded."""
    models = row_of(method).models if models is None else models
    if kind not in models:
        able = ", ".join(name for name, other in METHODS.items() if kind in other.models)
        problem = f"{method} is for {' and '.join(models)} models, and this one is {kind}"
        raise UsageError(problem, f"take another model, or one of {able}", field="method.type")


def row_of(method: str) -> Method:
    """The line of a method, or of a part of a program."""
    return METHODS[method] if method in METHODS else PARTS[method]
