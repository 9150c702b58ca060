"""A conversation as text with character spans: the chat template, rendered once, and where everything lies in it.

Where contents lie is known from a *scaffold*: the same roles rendered with unique markers for contents. So text in a
message can never be taken for structure, and a template that drops or rewrites a message is seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from didact.errors import UsageError
from didact.instance import Message, Slot

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = re.compile("\ue0f0(\\d+)\ue0f1")  # private-use characters: no template or tokenizer gives them a meaning
PLAIN = "plain"  # the name of the built-in template for models that have none


@dataclass(frozen=True, slots=True)
class Turn:
    start: int  # where the generation prompt ends
    answer_end: int  # where the content ends
    end: int  # where the stop token ends


@dataclass(frozen=True, slots=True)
class Layout:
    """A conversation as text, with character spans."""

    text: str
    contents: tuple[tuple[int, int], ...]  # of each message
    slots: tuple[tuple[int, int, Slot], ...]
    turns: tuple[Turn, ...]
    seams: tuple[int, ...]  # where an answer begins: no token may reach across


class Conversations:
    """Lays out conversations with the chat template of a tokenizer. stop: the text that ends an assistant turn.

    control finds the control tokens. Raises UsageError if the template is missing, leaves its sandbox or has no stop.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, control: re.Pattern[str]) -> None:
        if not tokenizer.chat_template:
            raise UsageError(
                "the model has no chat template, so there is no agreed way to ask it",
                "put a chat_template.jinja into its folder, or choose the built-in one: chat_template: plain",
            )
        self.tokenizer, self.control = tokenizer, control
        self._scaffolds: dict[tuple[tuple[str, ...], bool], list[str]] = {}
        self.stop = self._find_stop()

    def _text(self, messages: Iterable[tuple[str, str]], generation: bool) -> str:
        import jinja2

        turns = [{"role": role, "content": content} for role, content in messages]
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation))
        except jinja2.exceptions.SecurityError as error:
            raise UsageError(
                f"the chat template tries to leave its sandbox: {error}", "use another template"
            ) from error
        except (jinja2.exceptions.TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(turn["role"] for turn in turns)
            raise UsageError(f"the chat template refuses the turns ({roles}): {error}", "mend the row") from error

    def _scaffold(self, roles: tuple[str, ...], generation: bool) -> list[str]:
        """The text around the contents of such a conversation: len(roles) + 1 pieces."""
        key = (roles, generation)
        if key not in self._scaffolds:
            text = self._text(((role, f"\ue0f0{i}\ue0f1") for i, role in enumerate(roles)), generation)
            pieces = MARK.split(text)
            if pieces[1::2] != [str(i) for i in range(len(roles))]:
                lost = [roles[i] for i in range(len(roles)) if str(i) not in pieces[1::2]]
                what = f"leaves out the {lost[0]} turn" if lost else "repeats or reorders the turns"
                raise UsageError(f"the chat template {what} of ({', '.join(roles)})", "use a template that keeps all")
            self._scaffolds[key] = pieces[::2]
        return self._scaffolds[key]

    def lay_out(self, messages: Sequence[Message], generation: bool) -> Layout:
        """The text of a conversation and its spans; with `generation` as a prompt. Raises UsageError (of no place)."""
        if any(part.kind == "image" for message in messages for part in message.parts):
            raise UsageError("the row has an image, but the model reads only text", "use rows without images")
        if not messages:
            raise UsageError("the conversation is empty", "give it a user turn")
        pairs = [(message.role, message.text) for message in messages]
        text = self._text(pairs, generation)
        roles = tuple(role for role, _ in pairs)
        contents = _match(text, self._scaffold(roles, generation), [content for _, content in pairs])
        if contents is None:
            raise UsageError(
                "the chat template rewrites the text of a turn (such as dropping its thinking)",
                "use a training template that keeps every turn as it is",
            )
        turns = []
        for k, role in enumerate(roles):
            if role != "assistant":
                continue
            before = self._text(pairs[:k], True) if k else ""
            if not text.startswith(before) or len(before) > contents[k][0]:
                raise UsageError(
                    "the chat template rewrites history: the prompt of an assistant turn is not the beginning "
                    "of the whole conversation",
                    "use a training template that only appends",
                )
            end = contents[k][1]
            if not text.startswith(self.stop, end):
                raise UsageError("the chat template ends this assistant turn without a stop token", "add eos_token")
            turns.append(Turn(len(before), end, end + len(self.stop)))
        slots = [part for message, span in zip(messages, contents, strict=True) for part in _part_spans(message, span)]
        seams = [turn.start for turn in turns] + ([len(text)] if generation else [])
        return Layout(text, tuple(contents), tuple(slots), tuple(turns), tuple(seams))

    def _find_stop(self) -> str:
        """The text that ends an assistant turn: up to and including its first control token."""
        tail = self._scaffold(("user", "assistant"), False)[-1]
        found = self.control.search(tail)
        if found is None or found.start() > 8 or tail[: found.start()].strip():
            raise UsageError(
                f"the chat template ends an assistant turn with {tail!r}, which has no stop token",
                "write {{ eos_token }} after the assistant's content in chat_template.jinja",
            )
        return tail[: found.end()]

    def bos_count(self, roles: tuple[str, ...]) -> int:
        """How often the template itself writes BOS in a conversation of these roles."""
        bos = self.tokenizer.bos_token
        return sum(piece.count(bos) for piece in self._scaffold(roles, False)) if bos else 0


def _match(text: str, scaffold: list[str], contents: list[str]) -> list[tuple[int, int]] | None:
    """Where each content lies in the text, as it is or stripped by the template; None if it is not all there."""
    if not text.startswith(scaffold[0]):
        return None
    position, spans = len(scaffold[0]), []
    for i, content in enumerate(contents):
        following = scaffold[i + 1]
        for form in (content, content.rstrip(), content.lstrip(), content.strip()):
            if text.startswith(form + following, position):
                break
        else:
            return None
        spans.append((position, position + len(form)))
        position += len(form) + len(following)
    return spans if position == len(text) else None


def _part_spans(message: Message, span: tuple[int, int]) -> list[tuple[int, int, Slot]]:
    """Character spans of the parts of a message whose content lies at `span` (perhaps stripped)."""
    start, end = span
    if message.role == "assistant":
        return [(start, end, "answer")]
    whole = message.text
    left = len(whole) - len(whole.lstrip()) if end - start < len(whole.rstrip()) else 0
    position, spans = start - left, []
    for part in message.parts:
        if part.slot is not None and part.value:
            spans.append((max(position, start), min(position + len(part.value), end), part.slot))
        position += len(part.value)
    return spans


def plain_template() -> str:
    """The built-in chat template for models that have none."""
    return resources.files("didact").joinpath("templates/chat/plain.jinja").read_text(encoding="utf-8")
