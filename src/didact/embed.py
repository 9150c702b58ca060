"""Texts as vectors of a model: the mean of its last hidden states (Reimers and Gurevych 2019, arXiv 1908.10084)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from didact.errors import UsageError, missing_extra
from didact.model_files import find, inspect

if TYPE_CHECKING:
    import numpy as np

BATCH, LONGEST = 64, 512  # texts read together; tokens of a text that are read


def embed(texts: Sequence[str], name: str) -> np.ndarray[Any, Any]:
    """One row per text, float32, not brought to length 1; a text without tokens is zero.

    name: a folder of any encoder or language model in safetensors, "starter", or a hub id. UsageError if it is unfit.
    """
    try:
        import numpy as np
        import torch
        from transformers import AutoModel, AutoTokenizer, logging
    except ImportError as error:
        raise missing_extra(str(error.name), "tune") from error
    logging.disable_progress_bar()
    folder = find(name)
    inspect(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, local_files_only=True)
    except Exception as error:  # the library raises a different class for each kind of broken file
        first = next(iter(str(error).splitlines()), type(error).__name__)
        fix = "name an encoder or a language model that transformers knows"
        raise UsageError(f"the embedding model cannot be loaded: {first}", fix, file=folder) from error
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    longest = min(LONGEST, getattr(model.config, "max_position_embeddings", None) or LONGEST)
    rows = [tokenizer(text, truncation=True, max_length=longest)["input_ids"] for text in texts]
    order = [row for row in sorted(range(len(rows)), key=lambda row: len(rows[row])) if rows[row]]
    vectors_TC = np.zeros((len(rows), model.config.get_text_config().hidden_size), np.float32)
    for start in range(0, len(order), BATCH):
        some = order[start : start + BATCH]
        width = max(len(rows[row]) for row in some)
        ids_BT = torch.tensor([rows[row] + [0] * (width - len(rows[row])) for row in some], device=model.device)
        there_BT = torch.tensor([[i < len(rows[row]) for i in range(width)] for row in some], device=model.device)
        with torch.no_grad():
            hidden_BTC = model(input_ids=ids_BT, attention_mask=there_BT.long()).last_hidden_state.float()
        total_BC = (hidden_BTC * there_BT[..., None]).sum(1)
        vectors_TC[some] = (total_BC / there_BT.sum(1, keepdim=True)).cpu().numpy()
    return vectors_TC
