"""One way to ask many conversations at once: any OpenAI-compatible endpoint, or a local model as a plain callable.

Every answer is on the disk before it counts, under the hash of its request: the same command goes on where it stopped
and pays nothing twice. Every prompt ends in a counted state: ok, rejected (why) or failed (why).
"""

from __future__ import annotations

from didact.llm.ask import Llm
from didact.llm.budget import Bill, Budget, BudgetConfig
from didact.llm.config import EndpointConfig, LocalConfig, TeacherConfig
from didact.llm.endpoint import Endpoint, vector
from didact.llm.local import Local
from didact.llm.log import Log
from didact.llm.nouns import Answer, Counts, Reply, Request, repeats

__all__ = [
    "Answer",
    "Bill",
    "Budget",
    "BudgetConfig",
    "Counts",
    "Endpoint",
    "EndpointConfig",
    "Llm",
    "Local",
    "LocalConfig",
    "Log",
    "Reply",
    "Request",
    "TeacherConfig",
    "repeats",
    "vector",
]
