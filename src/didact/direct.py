"""Weights into a model without the conversions of transformers, where names and shapes say that none are needed.

That is several times faster than `from_pretrained`, which plans each tensor's way on weights without content.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def direct(folder: Path, head: Any) -> PreTrainedModel | None:
    """The model in a folder in fp32, its weights mapped from the files; None if `from_pretrained` is needed.

    head: a class as AutoModelForCausalLM. Damaged files are left to `from_pretrained`, which tells what is wrong.
    """
    import torch
    from safetensors import SafetensorError, safe_open
    from transformers import AutoConfig, GenerationConfig

    state = torch.get_rng_state()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if getattr(config, "quantization_config", None) is not None:
            return None
        found: dict[str, torch.Tensor] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                found |= {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - no dictionary
        with uninitialised():
            model: PreTrainedModel = head.from_config(config, dtype=torch.float32)
        # each once: of tied weights the one name under which they are saved
        own = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]} & set(model.state_dict())
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items() if name in own}
        if {name: tensor.shape for name, tensor in found.items()} != shapes:
            return None
        model.load_state_dict(found, strict=False, assign=True)
        model.tie_weights()
        if model.can_generate() and (folder / "generation_config.json").exists():
            model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except (SafetensorError, AttributeError, OSError, RuntimeError, TypeError, ValueError, KeyError):
        return None
    finally:
        torch.set_rng_state(state)
    return model.eval()


@contextmanager
def uninitialised() -> Iterator[None]:
    """Modules made in here get no first values: theirs are about to be loaded."""
    from torch.overrides import TorchFunctionMode

    class Skip(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(function, "__module__", "") in ("torch.nn.init", "transformers.initialization"):
                return args[0] if args else kwargs["tensor"]
            return function(*args, **(kwargs or {}))

    with Skip():
        yield
