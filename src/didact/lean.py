"""What a process that does nothing else leaves out when it imports transformers: torch's compiler, sharding, scipy.

transformers asks for them when it is imported and uses none in one process without `compile`; they bring a thousand
modules and as much time as all the rest. Nothing of either library is changed for good: transformers is told that this
torch cannot be distributed, as some builds cannot, and decorators of the compiler wait until it is asked for.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
_own = False
_marked: list[tuple[str, Callable[..., Any]]] = []  # what was to be told to the compiler


def own_process() -> None:
    """Say that nobody but didact uses this process, so that nobody can miss what is left out."""
    global _own
    _own = True


@contextmanager
def paused() -> Iterator[None]:
    """No collector of garbage in here, where much is made and little of it thrown away: else it takes a fifth."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def imports() -> Iterator[None]:
    """Imports of transformers in here cost less; in a process of others only by pausing the collector of garbage."""
    first = "transformers" not in sys.modules
    alone = _own and first and "RANK" not in os.environ and COMPILER not in sys.modules
    try:
        with paused():
            if alone:
                import torch

                _stand_in(COMPILER, str(Path(torch.__file__).parent / "_dynamo"), _compiler())
                _no_sharding(torch.distributed)
                _no_science()
            yield
            if first:  # later there may be models among what is no longer used
                gc.freeze()  # modules stay: nothing of them need be looked at again
    finally:
        if alone:
            _make_way(COMPILER)


def tell_compiler() -> None:
    """What was marked while the compiler was left out; to be called before it is used."""
    while _marked:
        name, function = _marked.pop()
        getattr(importlib.import_module(COMPILER), name)(function)


def _no_sharding(distributed: ModuleType) -> None:
    """Have transformers remember that this torch is not distributed; torch itself still knows better."""
    vars(distributed).setdefault("__getattr__", _submodule)  # peft asks for it by name without importing it
    real = distributed.is_available
    distributed.is_available = lambda: False  # type: ignore[attr-defined]
    try:
        from transformers.utils import is_torch_distributed_available

        is_torch_distributed_available()  # asked once, and remembered
    finally:
        distributed.is_available = real  # type: ignore[attr-defined]


def _no_science() -> None:
    """Have transformers remember that scipy and scikit-learn are not there: its own losses would load them."""
    from transformers.utils import import_utils as known

    real = known._is_package_available
    known._is_package_available = lambda *named, **others: (False, "N/A")
    try:
        for ask in (known.is_scipy_available, known.is_sklearn_available):
            ask.cache_clear()  # transformers asked when it was imported, which loads neither
            ask()
    finally:
        known._is_package_available = real


def _submodule(name: str) -> ModuleType:
    if name != "tensor":
        raise AttributeError(f"module 'torch.distributed' has no attribute {name!r}")
    return importlib.import_module("torch.distributed.tensor")


def _compiler() -> dict[str, Any]:
    """What of the compiler is called at import: it marks functions, and that can wait."""

    def marks(name: str) -> Callable[..., Any]:
        def mark(function: Callable[..., Any]) -> Callable[..., Any]:
            _marked.append((name, function))
            return function

        return mark

    def disable(function: Any = None, recursive: bool = True, **others: Any) -> Any:
        """Nothing is compiled before the compiler is loaded; from then on the function is what it makes of it."""
        if function is None:
            return partial(disable, recursive=recursive, **others)
        real = list[Any]()

        @wraps(function)
        def call(*inputs: Any, **named: Any) -> Any:
            compiler = sys.modules.get(COMPILER)
            if compiler is None or isinstance(compiler, _StandIn):
                return function(*inputs, **named)
            if not real:
                real.append(compiler.disable(function, recursive, **others))
            return real[0](*inputs, **named)

        return call

    return {name: marks(name) for name in ("allow_in_graph", "assume_constant_result")} | {"disable": disable}


class _StandIn(ModuleType):
    """In place of a module; asked for what it does not have, it makes way for the real one."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _make_way(self.__name__)
        return getattr(importlib.import_module(self.__name__), name)


def _stand_in(name: str, folder: str, offers: Mapping[str, Any]) -> None:
    """folder: where the submodules of a package are."""
    module = _StandIn(name)
    vars(module).update(offers, **({"__path__": [folder]} if folder else {}))
    sys.modules[name] = module
    package, _, leaf = name.rpartition(".")
    setattr(sys.modules[package], leaf, module)


def _make_way(name: str) -> None:
    if isinstance(sys.modules.get(name), _StandIn):
        del sys.modules[name]
        package, _, leaf = name.rpartition(".")
        vars(sys.modules[package]).pop(leaf, None)
