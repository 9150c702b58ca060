"""Proofs on the user's own recipe, rows and model that training it is right, each with its number and tolerance.

A proof looks at what the loop really uses (the renderer, the forward pass, checkpoints, the save) and compares it with
the plain way: transformers' own loss, one row at a time, an uninterrupted run. A proof is one function and one line of
PROOFS; its docstring is its claim.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from didact.certify import gradients, rows, runs
from didact.certify.subject import Proof, Subject
from didact.errors import UsageError

PROOFS: dict[str, Callable[[Subject], Proof]] = {
    "masks": rows.masks,
    "stops": rows.stops,
    "prompts": rows.prompts,
    "lengths": rows.lengths,
    "loss": gradients.loss,
    "packing": gradients.packing,
    "accumulation": gradients.accumulation,
    "isolation": gradients.isolation,
    "resume": runs.resume,
    "reload": runs.reload,
}

__all__ = ["PROOFS", "Proof", "Subject", "certify", "to_json"]


def certify(subject: Subject, note: Callable[[Proof], None] = lambda proof: None) -> list[Proof]:
    """All proofs, in order; one that meets an error a person can mend has failed, with that error as its detail."""
    proofs = []
    for name, prove in PROOFS.items():
        began = time.perf_counter()
        try:
            proof = prove(subject)
        except UsageError as error:
            proof = Proof(math.inf, 0.0, False, str(error))
        claim = " ".join(str(prove.__doc__).split())
        proof = replace(proof, name=name, claim=claim, seconds=round(time.perf_counter() - began, 2))
        note(proof)
        proofs.append(proof)
    return proofs


def to_json(proofs: Sequence[Proof]) -> list[dict[str, Any]]:
    """Proofs as JSON values; a number that is not finite becomes null."""
    return [{key: _finite(value) for key, value in asdict(proof).items()} for proof in proofs]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
