"""Strategies that let a language model write instances. A strategy is one file and one line in `GENERATE`.

Each takes its Config and the Context and gives instances, one after the other; it asks its teacher once per round and
neither waits nor retries. A third function, `bill`, tells beforehand what it will ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any

from pydantic import BaseModel, Field

from didact.generate.alpaca import AlpacaConfig, alpaca
from didact.generate.alpaca import bill as alpaca_bill
from didact.generate.backtranslate import BacktranslateConfig, backtranslate
from didact.generate.backtranslate import bill as backtranslate_bill
from didact.generate.context import SPARE, Asker, Context
from didact.generate.distill import DistillConfig, distill
from didact.generate.distill import bill as distill_bill
from didact.generate.evol_instruct import EvolInstructConfig, evol_instruct
from didact.generate.evol_instruct import bill as evol_instruct_bill
from didact.generate.instruct_wild import InstructWildConfig, instruct_wild
from didact.generate.instruct_wild import bill as instruct_wild_bill
from didact.generate.llava import LlavaConfig, llava
from didact.generate.llava import bill as llava_bill
from didact.generate.self_chat import SelfChatConfig, self_chat
from didact.generate.self_chat import bill as self_chat_bill
from didact.generate.self_instruct import SelfInstructConfig, self_instruct
from didact.generate.self_instruct import bill as self_instruct_bill
from didact.generate.unnatural import UnnaturalConfig, unnatural
from didact.generate.unnatural import bill as unnatural_bill
from didact.instance import Instance
from didact.llm import Bill

Strategy = Callable[[Any, Context], Iterator[Instance]]
GENERATE: dict[str, tuple[type[BaseModel], Strategy, Callable[[Any, Context], Bill]]] = {
    "alpaca": (AlpacaConfig, alpaca, alpaca_bill),
    "backtranslate": (BacktranslateConfig, backtranslate, backtranslate_bill),
    "distill": (DistillConfig, distill, distill_bill),
    "evol_instruct": (EvolInstructConfig, evol_instruct, evol_instruct_bill),
    "instruct_wild": (InstructWildConfig, instruct_wild, instruct_wild_bill),
    "llava": (LlavaConfig, llava, llava_bill),
    "self_chat": (SelfChatConfig, self_chat, self_chat_bill),
    "self_instruct": (SelfInstructConfig, self_instruct, self_instruct_bill),
    "unnatural": (UnnaturalConfig, unnatural, unnatural_bill),
}
Generate = Annotated[
    AlpacaConfig
    | BacktranslateConfig
    | DistillConfig
    | EvolInstructConfig
    | InstructWildConfig
    | LlavaConfig
    | SelfChatConfig
    | SelfInstructConfig
    | UnnaturalConfig,
    Field(discriminator="type"),
]

__all__ = ["GENERATE", "SPARE", "Asker", "Context", "Generate"]
