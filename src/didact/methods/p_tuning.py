"""P-tuning: the embeddings in front of every row come from a small network, which is thrown away when they are learnt
(Liu 2021, arXiv 2103.10385).

The network is two layers over a table of its own, without the paper's LSTM; what it gives is added to the embeddings of
the words that the prompt begins as, and is zero at first. What is saved is a prompt like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.methods import full, prompt, virtual

if TYPE_CHECKING:
    from transformers import PreTrainedModel

save = prompt.save


class PTuningConfig(BaseModel):
    """Embeddings in front of every row, made by a small network."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["p_tuning"] = Field("p_tuning", description="A small network that makes a prompt is trained.")
    length: int = Field(16, ge=1, description="Virtual tokens.")
    hidden: int = Field(128, ge=1, description="Width of the network.")
    start: Literal["vocabulary", "random"] | list[int] = Field(
        "vocabulary", description="What they begin as: words drawn from the vocabulary, random, or these token ids."
    )
    text: str | None = Field(None, description="A text to begin as, repeated or cut to length; instead of start.")

    def folded(self) -> prompt.PromptConfig:
        """The prompt that is left."""
        return prompt.PromptConfig(length=self.length, start="random")


def attach(model: PreTrainedModel, config: PTuningConfig) -> list[int]:
    """Plant the network at the embedding; a prompt that fills the context is a UsageError."""
    virtual.room(model, config.length)
    model.requires_grad_(False)
    rows_LC = prompt.first_rows(model, config.start, config.length)
    return virtual.extend(model, virtual.network(rows_LC, config.hidden), config.length)


def rate(parameters: int) -> float:
    """Three times the rate of full fine-tuning."""
    return 3 * full.rate(parameters)
