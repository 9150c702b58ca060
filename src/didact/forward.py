"""The forward pass of training: packed where that is proved to change nothing, the head only where a loss is read.

What is done is settled once, on real rows: each shortcut must give the logits of the plain way, or is left out and
that is said.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from didact import attention, kinds, lean
from didact.pack import Batch, batch, flat, shared_beginnings, told_apart

if TYPE_CHECKING:
    import torch

    from didact.model import Loaded
    from didact.render import Tokens

Precision = Literal["fp32", "bf16"]
Head = Callable[..., "torch.Tensor"]  # ids_BT, chosen_BT, other inputs of the model -> logits_NV
MUST_GAIN = 1.3  # bf16 rounds: it must pay
SAMPLE_TOKENS = 512
PROOF_TOKENS, PROOF_READS = 40, 8  # of each row on which a pass is proved
NEAR = 3e-5  # largest difference of equal logits in fp32, of the largest logit
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
    layer only where a loss is read; frozen: what layers gave that do not change.
    """

    head: Literal["reads", "kept", "all"] = "all"
    packed: bool = False
    share: bool = False
    tail: bool = False
    objective: Objective | None = None
    frozen: Known | None = None

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


def settle(
    loaded: Loaded, data: Sequence[Tokens], packing: bool | Literal["auto"], say: Callable[[str], None]
) -> Forward:
    """The cheapest pass that gives the logits of one row at a time on rows of the data."""
    import torch

    from didact import tail

    if loaded.kind != "causal":
        say("one sequence per row: packing is for models that write from left to right")
        return Forward()
    data, plain = [_short(data[row]) for row in sample(data)], Forward()
    rows = range(len(data))
    # computed again in the backward, the last layer would be that of every position
    again = any(getattr(module, "gradient_checkpointing", False) for module in loaded.model.modules())
    again = again and getattr(tail.last(loaded.model), "gradient_checkpointing", True)
    ways = [way for way in WAYS if (packing is not False or not way.packed) and not (again and way.tail)]
    with _still(loaded):
        expected = torch.cat([plain.logits(loaded, plain.batch(loaded, data, [row])) for row in rows])
        found = next((way for way in ways if _gives(way, loaded, data, rows, expected)), plain)
    if packing is not False and not found.packed:
        say("one sequence per row, grouped by length: packed, this model gives other logits")
    if found.head == "all":
        say("the head is computed at every position: at supervised ones alone this model gives other logits")
    if found.packed and found.head == "reads" and not found.tail and not again:
        say("the last layer is computed at every position: its end was not found, or gives other logits")
    if found.share and dropout(loaded):
        found = replace(found, share=False)  # rows would share one draw of what is dropped
        say("shared beginnings are computed for each row: with dropout each draws for itself")
    return found


def _short(tokens: Tokens) -> Tokens:
    """The beginning of a row, with tokens that are read: it tells as well whether rows see each other."""
    if len(tokens.ids) <= PROOF_TOKENS or tokens.media:
        return tokens
    weights = [0.0] * (PROOF_TOKENS - PROOF_READS) + [1.0] * PROOF_READS
    return replace(tokens, ids=tokens.ids[:PROOF_TOKENS], weights=weights)


def dropout(loaded: Loaded) -> bool:
    """Whether anything is dropped at random in training."""
    import torch

    settings = loaded.model.config.get_text_config().to_dict()
    names = [name for name in settings if "drop" in name and not name.startswith(("summary", "classifier"))]
    drawn = any(isinstance(settings[name], float) and settings[name] > 0 for name in names)
    return drawn or any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in loaded.model.modules())


@contextmanager
def _still(loaded: Loaded) -> Iterator[None]:
    """No dropout and no gradient."""
    import torch

    was = loaded.model.training
    loaded.model.eval()
    with torch.no_grad():
        yield
    loaded.model.train(was)


def _gives(way: Forward, loaded: Loaded, data: Sequence[Tokens], rows: Sequence[int], expected: torch.Tensor) -> bool:
    """Whether this pass gives the logits of some rows that were computed alone."""
    try:
        with way.on(loaded):
            found = way.logits(loaded, way.batch(loaded, data, rows)).float()
    except FAULTS:
        return False
    if found.shape != expected.shape:
        return False
    return bool((found - expected.float()).abs().max() <= NEAR * expected.abs().max().clamp(min=1.0))


def sample(data: Sequence[Tokens], n: int = 3) -> list[int]:
    """Rather short rows for proofs and measurements, two of which begin alike if any do."""
    order = sorted(range(len(data)), key=lambda row: len(data[row].ids))
    some = order[len(order) // 6 :][:64]
    families = shared_beginnings(told_apart(data, some))
    alike = max(families, key=lambda family: family[1] * (len(family[0]) > 1))[0][:2]
    chosen = [some[i] for i in alike] + [row for i, row in enumerate(some) if i not in alike]
    return chosen[:n]


def measure(
    loaded: Loaded, way: Forward, data: Sequence[Tokens], trained: Sequence[torch.nn.Parameter]
) -> tuple[Precision, str]:
    """The faster precision over a few real forwards and backwards, and what to say of it; fp32 unless bf16 pays."""
    import torch

    from didact.precision import bf16

    rows, tokens = list[int](), 0
    for row in sample(data, 32):
        tokens += len(data[row].ids)
        if rows and tokens > SAMPLE_TOKENS:
            break
        rows.append(row)
    one = way.batch(loaded, data, rows)
    clock = time.process_time if loaded.device.type == "cpu" else time.perf_counter  # other programs do not count

    def seconds() -> float:
        times = []
        for _ in range(3):  # the first is a warm-up
            tick = clock()
            way.loss(loaded, one).backward()  # type: ignore[no-untyped-call]
            if loaded.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(clock() - tick)
        return min(times[1:])

    with way.on(loaded):
        exact = seconds()
        try:
            with bf16(loaded.model):
                rounded = seconds()
        except RuntimeError:  # a model that insists on fp32 somewhere
            rounded = float("inf")
    for weight in trained:
        weight.grad = None
    fastest: Precision = "bf16" if rounded * MUST_GAIN < exact else "fp32"
    return fastest, f"computes in {fastest} (bf16 is {exact / rounded:.1f} times as fast)"


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
