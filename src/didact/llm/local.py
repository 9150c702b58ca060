"""A model of this machine as teacher: a plain function from requests to answers, handed in by whoever can load one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b

from didact.llm.nouns import Answer, Request


@dataclass
class Local:
    """speak: answers some requests, in order; the answer to one must not depend on the others in its batch.

    model: what identifies it, its weights included; another model is asked anew.
    """

    model: str
    speak: Callable[[Sequence[Request]], Sequence[Answer]]
    batch: int = 256
    input_price: float = 0.0
    output_price: float = 0.0

    def key(self, request: Request) -> str:
        body = json.dumps([self.model, asdict(request)], separators=(",", ":"))
        return blake2b(body.encode(), digest_size=16).hexdigest()
