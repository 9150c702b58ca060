"""The forward pass of training: packed where that is proved to change nothing, the head only where a loss is read.

What is done is settled once, on real rows: each shortcut must give the logits of the plain way, or is left out and
that is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from didact import attention, kinds, lean
from didact.pack import Batch, batch, best_fit, by_length, flat

if TYPE_CHECKING:
    import torch

    from didact.model import Loaded
    from didact.render import Tokens

Precision = Literal["fp32", "bf16"]
Head = Callable[..., "torch.Tensor"]  # ids_BT, chosen_BT, other inputs of the model -> logits_NV
FAULTS = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


class Objective(Protocol):
    """What is learnt in place of every answer's next token. key: names it where runs are told apart."""

    @property
    def key(self) -> str: ...
    def batch(self, way: Forward, loaded: Loaded, data: Sequence[Tokens], rows: Sequence[int]) -> Batch:
        """The tensors of some rows, not yet on the device."""
        ...

    def loss(self, way: Forward, loaded: Loaded, one: Batch) -> torch.Tensor:
        """The loss of a batch whose weights are already its share of the step."""
        ...


class Known(Protocol):
    """What is known of the hidden states of the data beforehand, see frozen.py."""

    def given(self, loaded: Loaded, one: Batch) -> AbstractContextManager[None]:
        """A forward pass of this batch in here need not compute it."""
        ...


@dataclass(frozen=True, slots=True)
class Forward:
    """How a batch becomes a loss.

    head: where it is computed; packed: sequences on one axis; share: their beginnings too; tail: the end of the last
    layer only where a loss is read; frozen: what layers gave that do not change; alone: each row by itself.
    """

    head: Literal["reads", "kept", "all"] = "all"
    packed: bool = False
    share: bool = False
    tail: bool = False
    objective: Objective | None = None
    frozen: Known | None = None
    alone: bool = False

    def cut(self, rows: Sequence[int], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
        """Rows in micro-batches of at most `max_tokens`, as they cost least in this pass; a longer row stands alone."""
        if self.alone:
            return [[row] for row in rows]
        return best_fit(rows, lengths, max_tokens) if self.packed else by_length(rows, lengths, max_tokens)

    def batch(self, loaded: Loaded, data: Sequence[Tokens], rows: Sequence[int]) -> Batch:
        """The tensors of some rows, laid out for this pass, on the device."""
        if self.objective is not None:
            return self.objective.batch(replace(self, objective=None), loaded, data, rows).to(loaded.device)
        if loaded.kind != "causal":
            return shown(loaded, data, rows).to(loaded.device)
        one = flat(data, rows, self.share) if self.packed else batch(data, rows, loaded.pad_id)
        if loaded.vision is not None:
            prompts = [(0, data[row].turns[0][0]) for row in rows]
            one = replace(one, inputs=loaded.vision.inputs(one.images, one.ids_BT, prompts))
        return one.to(loaded.device)

    @contextmanager
    def on(self, loaded: Loaded) -> Iterator[None]:
        """The model with the attention this pass needs, and as before afterwards."""
        model = loaded.model
        before = attention.implementation(model)
        try:
            if self.packed:
                if not model._can_set_attn_implementation():
                    raise NotImplementedError("the attention of this model is not taken from the library's interface")
                attention.switch(model, attention.register())
            yield
        finally:
            if self.packed and attention.implementation(model) != before:
                attention.switch(model, before)

    def logits(self, loaded: Loaded, one: Batch) -> torch.Tensor:
        """Logits where a loss is read (N, V)."""
        if self.head == "reads":
            logits: torch.Tensor = loaded.model.get_output_embeddings()(self.hidden(loaded, one))
            return logits
        kept = {"logits_to_keep": one.reads_N} if self.head == "kept" else {}
        with self._known(loaded, one):
            logits = loaded.model(**self._inputs(loaded, one), **kept).logits.flatten(0, 1)
        return logits if kept else logits[one.reads_N]

    def hidden(self, loaded: Loaded, one: Batch) -> torch.Tensor:
        """Last hidden states where a loss is read (N, C)."""
        from didact import tail

        end = tail.only_at(loaded.model.base_model, one.reads_N) if self.tail else nullcontext()
        with end, self._known(loaded, one):
            states = loaded.model.base_model(**self._inputs(loaded, one)).last_hidden_state
        chosen: torch.Tensor = states.flatten(0, 1).index_select(0, one.reads_N)
        return chosen

    def loss(self, loaded: Loaded, one: Batch) -> torch.Tensor:
        """Weighted sum of the cross-entropy of supervised tokens, in nats, unless there is another objective."""
        from didact import loss

        if self.objective is not None:
            return self.objective.loss(replace(self, objective=None), loaded, one)
        if self.head == "reads":
            head = loaded.model.get_output_embeddings()
            return loss.cross_entropy(self.hidden(loaded, one), head, one.labels_N, one.weights_N)
        return loss.of_logits(self.logits(loaded, one), one.labels_N, one.weights_N)

    def _known(self, loaded: Loaded, one: Batch) -> AbstractContextManager[None]:
        return nullcontext() if self.frozen is None else self.frozen.given(loaded, one)

    def _inputs(self, loaded: Loaded, one: Batch) -> dict[str, Any]:
        if loaded.kind != "causal":
            return {"input_ids": one.ids_BT, **one.inputs}
        inputs: dict[str, Any] = {"input_ids": one.ids_BT, "use_cache": False, **one.inputs}
        if self.packed:
            width = loaded.model.config.get_text_config().hidden_size
            inputs["position_ids"] = one.positions_BT
            inputs["packing"] = attention.plan(one.spans, width, one.ids_BT.device)
        # right padding needs no mask: a causal model never looks to the right
        return inputs


WAYS = (  # the cheapest first
    Forward("reads", packed=True, share=True, tail=True),
    Forward("reads", packed=True, share=True),
    Forward("reads", packed=True),
    Forward("kept", packed=True, share=True),
    Forward("kept", packed=True),
    Forward("all", packed=True),
    Forward("reads"),
)


def shown(loaded: Loaded, data: Sequence[Tokens], rows: Sequence[int]) -> Batch:
    """Rows for a model that is not causal: one sequence each, of a masked model one for each token that is taught."""
    import torch

    found, weights = list[kinds.Shown](), list[float]()
    for row in rows:
        ids, turns = data[row].ids, data[row].turns
        for start, end in turns:
            found += kinds.taught(loaded, ids, start, end)
            weights += data[row].weights[start:end]
    ids_BT, reads_N, inputs = kinds.tensors(loaded, found)
    labels_N = torch.tensor([label for one in found for label in one.labels])
    names = tuple(data[row].instance_id for row in rows)
    places = torch.zeros_like(ids_BT)
    return Batch(ids_BT, places, reads_N, labels_N, torch.tensor(weights), names, tuple(rows), inputs=inputs)


@contextmanager
def compiled(model: torch.nn.Module) -> Iterator[None]:
    """The layers of the model compiled, its attention left as it is: the shapes of its groups change in every batch."""
    import torch

    lean.tell_compiler()
    layers: list[torch.nn.Module] = max(
        (list(module) for module in model.modules() if isinstance(module, torch.nn.ModuleList)), key=len, default=[]
    )
    for layer in layers:
        layer.compile(dynamic=True)
    attention.register(torch.compiler.disable(attention.isolated))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        attention.register()
        for layer in layers:
            layer._compiled_call_impl = None


def head(loaded: Loaded, ids_BT: torch.Tensor, chosen_BT: torch.Tensor, say: Callable[[str], None]) -> Head:
    """The forward pass of asking, with the head at chosen positions only if it proves equal on these rows."""
    import torch

    model = loaded.model

    def full(ids_BT: torch.Tensor, chosen_BT: torch.Tensor, **inputs: Any) -> torch.Tensor:
        logits: torch.Tensor = model(input_ids=ids_BT, use_cache=False, **inputs).logits[chosen_BT]
        return logits

    body, output = getattr(model, "base_model", None), model.get_output_embeddings()
    if body is None or body is model or output is None:
        say("the head is computed at every position: the model does not name its body and head")
        return full

    def chosen(ids_BT: torch.Tensor, chosen_BT: torch.Tensor, **inputs: Any) -> torch.Tensor:
        hidden_NC = body(input_ids=ids_BT, use_cache=False, **inputs).last_hidden_state[chosen_BT]
        logits: torch.Tensor = output(hidden_NC)
        return logits

    ids_BT, chosen_BT = ids_BT[:4].to(loaded.device), chosen_BT[:4].to(loaded.device)
    model.eval()
    with torch.no_grad():
        try:
            a, b = full(ids_BT, chosen_BT).float(), chosen(ids_BT, chosen_BT).float()
            equal = torch.allclose(a, b, rtol=1e-5, atol=1e-5)
        except (AttributeError, TypeError, RuntimeError):
            equal = False
    if not equal:
        say("the head is computed at every position: at supervised ones alone it gives other logits for this model")
    return chosen if equal else full
