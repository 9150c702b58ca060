"""Instance -> Tokens: the one renderer of training, evaluation, chat and serving.

The chat template is rendered to text once, the text is tokenised once with offsets, and weights and slots are read off
character spans. The prompt of an assistant turn is a prefix of the training row: what was trained is what is asked.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from didact.calling import Calling, calling
from didact.conversation import Conversations, Layout
from didact.errors import UsageError
from didact.instance import Instance, Message, Part, Slot, digest
from didact.lean import paused
from didact.spans import Range, any_of, encode, encode_inner, fused, slots_of, within, without_added
from didact.words import Words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from didact.vision import Vision

Turns = Literal["all", "last"]
TAG = re.compile(r"[<\[{].*\S.*[>\]}]|.*[|｜].*", re.DOTALL)
RULES = 2  # raised when the same template and tokenizer give other tokens
LAST = {"train": "last"}  # the tag of a row of whose turns only the last is learnt


@dataclass(frozen=True, slots=True)
class Tokens:
    """A rendered instance. ids, weights, slots: one per token; weight 0 is context. images: paths, in order.

    turns: half-open token ranges of the trained assistant turns. where: the row it came from, for messages. media: the
    token range of each image; nothing is ever cut inside one.
    """

    ids: list[int]
    weights: list[float]
    slots: list[Slot | None]
    instance_id: str
    images: tuple[str, ...] = ()
    turns: tuple[tuple[int, int], ...] = ()
    where: tuple[str, int] = ("", 0)
    media: tuple[tuple[int, int], ...] = ()

    @property
    def supervised(self) -> int:
        return sum(weight != 0 for weight in self.weights)


@dataclass(frozen=True, slots=True)
class Shown:
    """One token as `didact show` prints it."""

    text: str
    id: int
    weight: float
    slot: Slot | None
    stop: bool


class Renderer:
    """Renders with one tokenizer and its chat template.

    turns: which assistant turns are trained. vision: what the model says of pictures, if it sees. stop_ids: what ends
    a generated turn. hash: of template and tokenizer. control_text: how many control tokens were found as text in
    contents and encoded as text.
    Raises UsageError if the template is missing, leaves the sandbox, drops messages or has no stop token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, turns: Turns = "all", vision: Vision | None = None) -> None:
        from tokenizers import Tokenizer

        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise UsageError("the tokenizer gives no character offsets", "use a model with a tokenizer.json")
        self.tokenizer, self.turns, self.control_text, self.vision = tokenizer, turns, 0, vision
        self._backend = Tokenizer.from_str(backend.to_str())
        self._backend.no_padding()
        self._backend.no_truncation()
        told = self._backend.to_str()
        self._words = Words(self._backend, told)
        added = {token.content: i for i, token in tokenizer.added_tokens_decoder.items()}
        special = {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        special |= {t: tokenizer.convert_tokens_to_ids(t) for t in tokenizer.all_special_tokens}
        # Tags such as <think> are structure too where nobody but the model writes them; runs of blanks are not
        marks = special | {text: i for text, i in added.items() if TAG.fullmatch(text)}
        self._special, self._special_ids = special, frozenset(special.values())
        self._mark_ids = frozenset(marks.values())
        self._control = any_of(special)
        self.bos = _bos(tokenizer)
        own = [] if vision is None else [vision.hash]
        self.hash = digest([tokenizer.chat_template, told, sorted(marks), self.bos, RULES, *own], 64)
        alone = vision is not None and vision.two_way
        self._conversations = Conversations(tokenizer, self._control, any_of(marks), vision is not None, alone)
        if vision is not None:
            vision.mark = self._conversations.picture_mark(vision.marks)
        self.stop = self._conversations.stops[0]
        stops = [special[self._control.search(stop).group()] for stop in self._conversations.stops]  # type: ignore[union-attr]
        eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys([*stops, *eos]))

    @cached_property
    def _literal(self) -> Any:
        """The tokenizer without added tokens, for the few texts that have them as letters."""
        return without_added(self._backend)

    # ---- instance -> ids

    def render(self, instance: Instance) -> Tokens:
        """The training form of an instance; raises UsageError naming the row if it cannot be trained truly."""
        return self.render_all([instance])[0]

    def render_all(self, instances: Sequence[Instance]) -> list[Tokens]:
        """`render` of many, tokenised together (several times faster)."""
        with paused():
            return self._render_all(instances)

    def _render_all(self, instances: Sequence[Instance]) -> list[Tokens]:
        layouts, rendered = self._layouts(instances, generation=False), []
        encoded = self._encode(layouts)
        for instance, layout, (ids, spans) in zip(instances, layouts, encoded, strict=True):
            images = tuple(pictures(instance.messages))
            ids, spans, media = self._placed(instance, images, ids, spans)
            weights, slots, ranges = [0.0] * len(ids), slots_of(layout, spans), []
            for turn in layout.turns:
                first, end = within(spans, turn.start, turn.end)
                if first < end:
                    weights[first:end] = [1.0] * (end - first)
                    ranges.append((first, end))
            where = (instance.origin.source, instance.origin.row)
            rendered.append(Tokens(ids, weights, slots, instance.id, images, tuple(ranges), where, media))
        return rendered

    def prompt(self, instance: Instance) -> list[int]:
        """Ids of the context and the generation prompt: exactly what `render` puts before the last answer."""
        return self.prompt_all([instance])[0]

    def prompt_all(self, instances: Sequence[Instance]) -> list[list[int]]:
        """`prompt` of many."""
        with paused():
            encoded = self._encode(self._layouts(instances, generation=True))
            return [
                self._placed(instance, pictures(instance.context), ids, spans)[0]
                for instance, (ids, spans) in zip(instances, encoded, strict=True)
            ]

    def _placed(
        self, instance: Instance, images: Sequence[str], ids: list[int], spans: list[Range]
    ) -> tuple[list[int], list[Range], tuple[Range, ...]]:
        """Ids and spans with the places that the pictures take, and where these are."""
        if self.vision is None:
            return ids, spans, ()
        with _of(instance):
            if fault := self.unshown(instance):
                raise UsageError(fault, "leave out such rows, and examples: build.few_shot.share")
            new_ids, new_spans, media = self.vision.place(ids, spans, images)
        return new_ids, new_spans, tuple(media)

    def unshown(self, instance: Instance) -> str:
        """Why the model cannot be shown the pictures of an instance as they stand; empty if it can."""
        if self.vision is None:
            return ""
        if self.vision.reader and len(instance.images) != 1:
            return f"the row has {len(instance.images)} pictures, and this model reads exactly one in each row"
        demos = any(part.kind == "image" and part.slot == "demo" for m in instance.messages for part in m.parts)
        if demos and self._conversations.moves:
            return "the chat template puts all pictures of a turn before its texts, so examples would lose theirs"
        return ""

    def complete(self, instance: Instance, answer: str) -> Instance:
        """The instance with another last answer; for ranking choices."""
        return replace(instance, messages=(*instance.context, Message("assistant", (Part(answer, "answer"),))))

    def plain(self, text: str) -> list[int]:
        """Ids of a text without any template, control tokens in it as text, BOS in front if the model has it."""
        ids = self._literal.encode(text, add_special_tokens=False).ids
        return [*([] if self.bos is None else [self.bos]), *ids]

    def around(self, before: str, word: str, after: str = "") -> tuple[list[int], int, int]:
        """Ids of a plain text, and the range of those that hold any of `word`; for patterns with a gap."""
        encoding = self._literal.encode(before + word + after, add_special_tokens=False)
        start, end = len(before), len(before) + len(word)
        inside = [i for i, (a, b) in enumerate(encoding.offsets) if a < end and b > start]
        front = [] if self.bos is None else [self.bos]
        first, last = (inside[0], inside[-1] + 1) if inside else (len(encoding.ids), len(encoding.ids))
        return [*front, *encoding.ids], first + len(front), last + len(front)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, without control tokens."""
        kept = [i for i in ids if i not in self._special_ids]
        return str(self.tokenizer.decode(kept, clean_up_tokenization_spaces=False))

    # ---- proof

    def check(self, instance: Instance, tokens: Tokens) -> None:
        """Prove the mask of a row: supervised ids == answer + stop, prompt == prefix, one BOS, a target to learn.

        Raises UsageError naming the row.
        """
        self.check_all([instance], [tokens])

    def check_all(self, instances: Sequence[Instance], rendered: Sequence[Tokens]) -> None:
        """`check` of many."""
        for instance, tokens, prompt in zip(instances, rendered, self.prompt_all(instances), strict=True):
            problem = self._fault(instance, tokens, prompt)
            if problem:
                fix = "`didact show` prints its tokens; drop the row or mend the chat template"
                raise UsageError(problem, fix, file=instance.origin.source, line=instance.origin.row)

    def _fault(self, instance: Instance, tokens: Tokens, prompt: list[int]) -> str:
        told = _calling(instance)
        answers = [(i, m.text) for i, m in enumerate(instance.messages) if m.role == "assistant" and i]
        answers = answers if self._trained(instance) == "all" else answers[-1:]
        if not tokens.supervised or not tokens.turns:
            return "the row has no supervised token: there is nothing to learn"
        if len(answers) != len(tokens.turns):
            return f"{len(answers)} assistant turns but {len(tokens.turns)} trained spans"
        supervised = {i for i, weight in enumerate(tokens.weights) if weight}
        if supervised != {i for a, b in tokens.turns for i in range(a, b)}:
            return "tokens outside the answers are supervised"
        for (a, b), (number, answer) in zip(tokens.turns, answers, strict=True):
            said = self.tokenizer.decode(tokens.ids[a:b], clean_up_tokenization_spaces=False)
            stop = self.tokenizer.decode(tokens.ids[b - 1 : b], clean_up_tokenization_spaces=False)
            if tokens.ids[b - 1] not in self.stop_ids:
                return f"the answer is not followed by a supervised stop token {self.stop!r}: {said[-40:]!r}"
            for call in told.calls(number):
                name = call["function"]["name"]
                if name not in said:
                    return f"the supervised tokens read {said[:60]!r}, without the call to {name!r}"
            forms = dict.fromkeys((answer, self._normal(answer)))  # BERT's tokenizer writes small letters
            whole = any(
                _squeeze(form) in _squeeze(said)
                if told.calls(number)
                else _squeeze(said).endswith(_squeeze(form + stop))
                for form in forms
            )
            if not whole:
                return f"the supervised tokens read {said[:60]!r}, not the answer {answer[:60]!r} + {stop!r}"
        if tokens.ids[: tokens.turns[-1][0]] != prompt:
            return "the tokens before the answer are not the prompt a chat would send"
        bos, ids = self.tokenizer.bos_token_id, tokens.ids
        if self.bos is not None and ids[:1] != [self.bos]:
            return "the row does not begin with BOS"
        if bos is not None and bos not in self.stop_ids:
            expected = max(self._conversations.bos_count(instance.messages, told), int(self.bos is not None))
            if ids.count(bos) != expected or ids[:2] == [bos, bos]:
                return f"{ids.count(bos)} BOS tokens instead of {expected}"
        return ""

    def _normal(self, text: str) -> str:
        """A text as the tokenizer's normaliser leaves it."""
        normalizer = self._backend.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text)).replace("\u2581", "")

    def shown(self, tokens: Tokens) -> list[Shown]:
        """The tokens with their texts, for coloured printing."""
        texts = [self.tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in tokens.ids]
        last = {b - 1 for _, b in tokens.turns}
        zipped = zip(texts, tokens.ids, tokens.weights, tokens.slots, strict=True)
        return [Shown(text, id_, weight, slot, i in last) for i, (text, id_, weight, slot) in enumerate(zipped)]

    # ---- text -> ids

    def _layouts(self, instances: Sequence[Instance], generation: bool) -> list[Layout]:
        asked = [instance.context if generation else instance.messages for instance in instances]
        told = []
        for instance in instances:
            with _of(instance):
                told.append(_calling(instance))
        plain = [i for i, calls in enumerate(told) if not calls]
        texts = dict(zip(plain, self._conversations.texts([asked[i] for i in plain], generation), strict=True))
        made = []
        for i, instance in enumerate(instances):
            how = self._trained(instance), told[i], texts.get(i)
            with _of(instance):
                made.append(self._conversations.lay_out(asked[i], generation, *how))
        return made

    def _trained(self, instance: Instance) -> Turns:
        return "last" if instance.tags.get("train") == "last" else self.turns

    def _encode(self, layouts: Sequence[Layout]) -> list[tuple[list[int], list[Range]]]:
        """Ids and character spans; control tokens inside contents as text, no token across a seam, BOS in front."""
        encoded = self._words.encode([layout.text for layout in layouts])
        result = []
        for layout, (ids, spans) in zip(layouts, encoded, strict=True):
            if any(fused(layout.text, seam, spans) for seam in layout.seams):
                ids, spans = self._encode_pieces(layout.text, sorted({0, *layout.seams, len(layout.text)}))
            if layout.contents and self._conversations.marks.search(
                layout.text, layout.contents[0][0], layout.contents[-1][1]
            ):
                ids, spans = self._as_text(layout, ids, spans)
            if self.bos is not None and ids[:1] != [self.bos]:
                ids, spans = [self.bos, *ids], [(0, 0), *spans]
            result.append((ids, spans))
        return result

    def _encode_pieces(self, text: str, cuts: list[int]) -> tuple[list[int], list[Range]]:
        ids: list[int] = []
        spans: list[Range] = []
        for a, b in itertools.pairwise(cuts):
            piece_ids, piece_spans = encode_inner(self._backend, text[a:b]) if a else encode(self._backend, text[:b])
            ids += piece_ids
            spans += [(a + c, a + d) for c, d in piece_spans]
        return ids, spans

    def _as_text(self, layout: Layout, ids: list[int], spans: list[Range]) -> tuple[list[int], list[Range]]:
        """Replace control tokens that lie inside a content by the tokens of their letters.

        In an answer the model's own tags (<think>, <tool_call>) stay tags: it must produce them.
        """
        new_ids: list[int] = []
        new_spans: list[Range] = []
        k, contents = 0, layout.contents
        for id_, (a, b) in zip(ids, spans, strict=True):
            while k < len(contents) and contents[k][1] <= a:
                k += 1
            inside = k < len(contents) and contents[k][0] < b
            forbidden = self._special_ids if inside and contents[k][2] == "assistant" else self._mark_ids
            # a letter that the vocabulary lacks gives the unknown token, which is no control token written out
            if not inside or id_ not in forbidden or not self._conversations.marks.search(layout.text, a, b):
                new_ids.append(id_)
                new_spans.append((a, b))
                continue
            self.control_text += 1
            piece_ids, piece_spans = encode_inner(self._literal, layout.text[a:b])
            if self._mark_ids.intersection(piece_ids):  # the model's own vocabulary may know the token as a piece
                each = [encode_inner(self._literal, letter) for letter in layout.text[a:b]]
                piece_ids = [i for letter_ids, _ in each for i in letter_ids]
                piece_spans = [(n, n + 1) for n, (letter_ids, _) in enumerate(each) for _ in letter_ids]
            new_ids += piece_ids
            new_spans += [(a + c, a + d) for c, d in piece_spans]
        return new_ids, new_spans


def pictures(messages: Sequence[Message]) -> list[str]:
    """The paths of the pictures of some turns, in order."""
    return [part.value for message in messages for part in message.parts if part.kind == "image"]


@contextmanager
def _of(instance: Instance) -> Iterator[None]:
    """Errors in here name the instance's row."""
    try:
        yield
    except UsageError as error:
        raise error.at(file=instance.origin.source or None, line=instance.origin.row or None) from error


def _calling(instance: Instance) -> Calling:
    return calling(instance) if "extra" in instance.tags else Calling()


def _bos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id that must begin every row: the one the tokenizer itself or its template puts there, if any."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return None
    return int(bos) if tokenizer("a")["input_ids"][:1] == [bos] else None


def _squeeze(text: str) -> str:
    return "".join(text.split())
