"""Models that see: the processor beside a language model, what a picture is in a row, and what it is in a batch.

Where a chat template writes a placeholder, the ids stand that the processor itself gives for this picture, so that
splits into tiles, grids and fixed counts are the model's own. A picture is prepared once and kept while there is room.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from didact.errors import UsageError
from didact.pictures import open_rgb

if TYPE_CHECKING:
    import torch

    from didact.render import Tokens

SAMPLE = "a picture of didact's own"  # in place of a path
MOST = 1 << 29  # bytes of prepared pictures that are kept
OF_ROWS = frozenset(  # and not of pictures
    {"input_ids", "attention_mask", "labels", "token_type_ids", "mm_token_type_ids"}
    | {"qformer_input_ids", "qformer_attention_mask"}
)
TYPED = ("mm_token_type_ids", "token_type_ids")  # how models are told which positions are pictures
PREFIX = ("paligemma",)  # read their prompt in both directions: positions are told apart from those of the answer


@dataclass(frozen=True, slots=True)
class Picture:
    """A prepared picture. ids: what stands in a row for it; tensors: what the model is given, by name."""

    ids: tuple[int, ...]
    tensors: Mapping[str, torch.Tensor]

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


class Vision:
    """What a model folder says of pictures. image_id: the id whose places the model fills with what it sees.

    mark: what a chat template writes for a picture. Raises UsageError for processors that do not say these.
    """

    def __init__(self, processor: Any, config: Mapping[str, Any], hashed: str) -> None:
        self.processor, self.tokenizer, self.hash = processor, processor.tokenizer, hashed
        self.two_way = config.get("model_type") in PREFIX
        self.reader = getattr(processor, "qformer_tokenizer", None)  # of what is asked of the picture
        told = config.get("image_token_id", config.get("image_token_index", getattr(processor, "image_token_id", None)))
        if told is None:
            raise UsageError("the model does not say which token stands for a picture", "add image_token_id to it")
        self.image_id = int(told)
        names = [getattr(processor, name, None) for name in ("boi_token", "image_token")]
        texts = [str(getattr(name, "content", name)) for name in names if name is not None]
        self.marks = tuple(dict.fromkeys([*texts, self.tokenizer.convert_ids_to_tokens(self.image_id)]))
        self.mark = self.marks[-1]
        self.typed: str | None = None
        self.accepted: frozenset[str] | None = None
        self._features: Callable[[Mapping[str, torch.Tensor]], int | None] | None = None
        self._counted: dict[Any, int | None] = {}
        self._known: OrderedDict[str, Picture] = OrderedDict()
        self._held = 0

    @property
    def mark_id(self) -> int:
        """The id of the placeholder in a text that is not yet expanded."""
        found: int = self.tokenizer.convert_tokens_to_ids(self.mark)
        return found

    def bind(self, model: Any) -> None:
        """Know the model: which inputs it takes, and how many features it makes of a picture."""
        self.accepted = frozenset(inspect.signature(model.forward).parameters)
        self._features = lambda tensors: _features(model, tensors)

    def later(self, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Of a model's inputs those that it also needs when its pictures are in the cache."""
        return given if self.reader else {}

    # ---- a picture

    def picture(self, path: str) -> Picture:
        """A picture as the processor prepares it; UsageError if it cannot be read or the model makes other of it."""
        if path in self._known:
            self._known.move_to_end(path)
            return self._known[path]
        made = self.prepared(_ramp() if path == SAMPLE else open_rgb(path))
        self._count(made)
        self._known[path] = made
        self._held += made.bytes
        while self._held > MOST and len(self._known) > 1:
            self._held -= self._known.popitem(last=False)[1].bytes
        return made

    @property
    def sample(self) -> Picture:
        """A small picture without content, to ask a model whether it is still the same."""
        return self.picture(SAMPLE)

    def prepared(self, image: Any) -> Picture:
        """What the processor makes of a picture in RGB."""
        try:
            out = self.processor(images=[image], text=["" if self.reader else self.mark], return_tensors="pt")
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError, ZeroDivisionError) as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise UsageError(f"the processor of the model refuses the picture: {first}", "drop the row") from error
        self.typed = self.typed or next((name for name in TYPED if name in out), None)
        tensors = {name: value for name, value in out.items() if name not in OF_ROWS and hasattr(value, "numel")}
        tensors = {n: t for n, t in tensors.items() if self.accepted is None or n in self.accepted}
        return Picture(tuple(self._own(out["input_ids"][0].tolist())), tensors)

    def _own(self, ids: list[int]) -> list[int]:
        """The ids of the picture alone, without what the tokenizer puts around any text."""
        plain = self.tokenizer(self.mark)["input_ids"]
        at = plain.index(self.mark_id)
        before, after = plain[:at], plain[at + 1 :]
        around = ids[:at] == before and (not after or ids[-len(after) :] == after)
        if around and self.image_id in ids and not self.two_way and not self.reader:
            return ids[at : len(ids) - len(after)]
        places = [i for i, id_ in enumerate(ids) if id_ == self.image_id]
        if not places:
            raise UsageError("the processor gives a picture no place in the row", "use the processor of this model")
        return ids[places[0] : places[-1] + 1]

    def _count(self, made: Picture) -> None:
        """Refuse a processor that leaves another number of places than the model fills; looked at once per shape."""
        if self._features is None:
            return
        places = made.ids.count(self.image_id)
        key = places, tuple((name, tuple(t.shape), _small(t)) for name, t in made.tensors.items())
        if key not in self._counted:
            self._counted[key] = self._features(made.tensors)
        features = self._counted[key]
        if features is not None and features != places:
            problem = f"the row has {places} places for the picture, but the model makes {features} features of it"
            raise UsageError(problem, "use the processor that was saved with this model")

    # ---- a row, a batch

    def place(
        self, ids: list[int], spans: list[tuple[int, int]], pictures: Sequence[str]
    ) -> tuple[list[int], list[tuple[int, int]], list[tuple[int, int]]]:
        """A row's ids and character spans with its pictures in their places, and the range of ids of each."""
        places = [i for i, id_ in enumerate(ids) if id_ == self.mark_id]
        if len(places) != len(pictures):
            problem = f"the chat template shows {len(places)} pictures of a row that has {len(pictures)}"
            raise UsageError(problem, "use a template that shows each picture once")
        new_ids, new_spans, media = list[int](), list[tuple[int, int]](), list[tuple[int, int]]()
        done = 0
        for at, path in zip(places, pictures, strict=True):
            own = self.picture(path).ids
            new_ids += [*ids[done:at], *own]
            new_spans += [*spans[done:at], *[spans[at]] * len(own)]
            media.append((len(new_ids) - len(own), len(new_ids)))
            done = at + 1
        return new_ids + ids[done:], new_spans + spans[done:], media

    def inputs(
        self, pictures: Sequence[str], ids_BT: torch.Tensor, prompts: Sequence[tuple[int, int]] = ()
    ) -> dict[str, torch.Tensor]:
        """What the model needs beside the ids of a batch: its pictures in the order of their places, and what is where.

        prompts: where the prompt of each row begins and where its answer does.
        """
        import torch

        made = [self.picture(path).tensors for path in pictures]
        found = {name: _joined([tensors[name] for tensors in made]) for name in (made[0] if made else ())}
        if self.two_way:
            begins_B1 = torch.tensor([start for _, start in prompts])[:, None]
            found["token_type_ids"] = (torch.arange(ids_BT.shape[1])[None] >= begins_B1).long()
        elif made and self.typed is not None and (self.accepted is None or self.typed in self.accepted):
            found[self.typed] = (ids_BT.cpu() == self.image_id).long()
        if self.reader and made:
            rows = [row[a:b] for row, (a, b) in zip(ids_BT.tolist(), prompts, strict=True)]
            asked = [self.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in rows]
            read = self.reader(asked, padding=True, padding_side="right", return_tensors="pt")
            found |= {f"qformer_{name}": read[name] for name in ("input_ids", "attention_mask")}
        return {name: tensor.to(ids_BT.device) for name, tensor in found.items()}


def of_row(loaded: Any, tokens: Tokens, ids_BT: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the model needs beside the ids of one row, which end like its own; nothing if it does not see."""
    if loaded.vision is None:
        return {}
    start = tokens.turns[0][0] + ids_BT.shape[1] - len(tokens.ids)
    found: dict[str, torch.Tensor] = loaded.vision.inputs(tokens.images, ids_BT, [(0, start)])
    return found


def positions(model: Any, ids_BT: torch.Tensor, seen_BT: torch.Tensor, given: Mapping[str, Any]) -> torch.Tensor:
    """Positions of prompts padded on the left: (B, T), or (axes, B, T) where pictures have rows and columns."""
    told = getattr(model.base_model, "get_rope_index", None)
    if told is not None and given:
        known = inspect.signature(told).parameters
        found: torch.Tensor = told(
            input_ids=ids_BT, attention_mask=seen_BT, **{n: t for n, t in given.items() if n in known}
        )[0]
        return found
    return (seen_BT.cumsum(1) - 1).clamp(min=0)


def following(positions_BT: torch.Tensor) -> torch.Tensor:
    """The position after the last of each row, on every axis."""
    if positions_BT.ndim == 2:
        return positions_BT[:, -1:] + 1
    return (positions_BT.amax((0, 2))[None, :, None] + 1).expand(len(positions_BT), -1, -1)


def _ramp() -> Any:
    from PIL import Image

    return Image.linear_gradient("L").resize((48, 32)).convert("RGB")


def _joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors of several pictures after each other, filled up with zeros to one size."""
    import torch

    size = [max(lengths) for lengths in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    filled = []
    for tensor in tensors:
        lacks = [(0, most - own) for most, own in zip(reversed(size), reversed(tensor.shape[1:]), strict=True)]
        flat = [n for pair in lacks for n in pair]
        filled.append(torch.nn.functional.pad(tensor, flat) if any(flat) else tensor)
    return torch.cat(filled)


def _small(tensor: torch.Tensor) -> Any:
    """The values of a tensor that says how a picture is laid out, not what is on it."""
    return tuple(tensor.flatten().tolist()) if tensor.numel() <= 16 else ()


def _features(model: Any, tensors: Mapping[str, torch.Tensor]) -> int | None:
    """How many positions a model fills with a picture; None if it does not tell."""
    import torch

    ask = getattr(model, "get_image_features", None)
    if ask is None:
        return None
    given = {n: t.to(model.device) for n, t in tensors.items() if n in inspect.signature(ask).parameters}
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            out = ask(**given)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        return None
    finally:
        model.train(was)
    found = getattr(out, "pooler_output", out)
    width = int(model.config.get_text_config().hidden_size)
    pieces = list(found) if isinstance(found, (list, tuple)) else [found]
    if not all(hasattr(piece, "numel") and piece.shape[-1] == width for piece in pieces):
        return None
    return sum(int(piece.numel()) for piece in pieces) // width
