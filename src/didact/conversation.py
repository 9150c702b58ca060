"""A conversation as text with character spans: the chat template, rendered once, and where everything lies in it.

Where texts lie is known from a *scaffold*: the same conversation rendered with unique markers in place of its texts. So
text in a message can never be taken for structure, and a template that drops or rewrites a message is seen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import repeat
from typing import TYPE_CHECKING, Any, Literal

from didact.calling import Calling
from didact.errors import UsageError
from didact.instance import Message, Role, Slot
from didact.scaffold import (
    CLOSE,
    MARK,
    PICTURE,
    Place,
    Scaffold,
    Shape,
    between,
    form_at,
    inside,
    interleave,
    mark,
    own_end,
    part_spans,
    runs,
    split,
    stop_in,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = "plain"  # the name of the built-in template for models that have none
# Templates that write today's date would train another prompt every day.
DATE = "{%- macro strftime_now(form) -%}{{ '2025-01-01' if '%Y-' in form else '01 Jan 2025' }}{%- endmacro %}"
NONE = Calling()
MOST_PLANS = 4096
NO_THINKING = ("the chat template leaves out the thinking of an answer", "use a template that keeps it")
CALL = {"function": {"name": "didact_probe", "arguments": {"a": "b"}}, "type": "function", "id": "abcdefghi"}

Trained = Literal["all", "last", "none"]


class RewritesHistory(UsageError):
    """The template shows an earlier turn otherwise than when it was the last: each answer must be its own row."""


@dataclass(frozen=True, slots=True)
class Turn:
    start: int  # where the generation prompt ends
    end: int  # where the stop token ends


@dataclass(frozen=True, slots=True)
class Layout:
    """A conversation as text, with character spans."""

    text: str
    contents: tuple[tuple[int, int, Role], ...]  # of each text that comes from the row
    slots: tuple[tuple[int, int, Slot], ...]
    turns: tuple[Turn, ...]  # those to be trained
    seams: tuple[int, ...]  # where an answer begins: no token may reach across


@dataclass(frozen=True)
class _Plan:
    scaffold: Scaffold
    turns: tuple[tuple[Place, Place], ...]


class Conversations:
    """Lays out conversations with the chat template of a tokenizer. stops: the texts that end an assistant turn.

    control finds the tokens that can end a turn, marks all that are structure. sees: the model reads pictures, so that
    its template is given lists of parts. Raises UsageError if the template is missing, leaves its sandbox, has no stop
    or no generation prompt.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        control: re.Pattern[str],
        marks: re.Pattern[str],
        sees: bool = False,
        alone: bool = False,
    ) -> None:
        if not tokenizer.chat_template:
            raise UsageError(
                "the model has no chat template, so there is no agreed way to ask it",
                "put a chat_template.jinja into its folder, or choose the built-in one: chat_template: plain",
            )
        self.tokenizer, self.control, self.marks = tokenizer, control, marks
        template = str(tokenizer.chat_template)
        self._template = DATE + template if "strftime_now" in template else template
        self._plans: dict[tuple[Shape, bool, Trained], _Plan] = {}
        self.sees, self.alone, self._listed, self.moves = sees, alone, False, False
        self._listed = sees and self._lists()
        self.stops: tuple[str, ...] = (self._find_stop(),)
        self._check_generation_prompt()
        self.stops = tuple(dict.fromkeys([*self.stops, *self._find_call_stop()]))

    # ---- the template

    def _text(self, turns: Sequence[dict[str, Any]], generation: bool, tools: Sequence[dict[str, Any]] = ()) -> str:
        import jinja2

        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(turns),
                    tools=list(tools) or None,
                    chat_template=self._template,
                    tokenize=False,
                    add_generation_prompt=generation,
                )
            )
        except jinja2.exceptions.SecurityError as error:
            raise UsageError(
                f"the chat template tries to leave its sandbox: {error}", "use another template"
            ) from error
        except (jinja2.exceptions.TemplateError, TypeError, ValueError, KeyError) as error:
            roles = ", ".join(turn["role"] for turn in turns)
            raise UsageError(f"the chat template refuses the turns ({roles}): {error}", "mend the row") from error

    def _scaffold(self, shape: Shape, generation: bool, calling: Calling = NONE) -> Scaffold:
        """The text around the texts of such a conversation."""
        if not shape:
            return Scaffold(("",), ())
        turns, owners, thoughts = [], list[int](), set[int]()
        for number, (role, literals) in enumerate(shape):
            content = literals[0]
            for literal in literals[1:]:
                if literal.lstrip().startswith(CLOSE):
                    thoughts.add(len(owners))
                content += mark(len(owners)) + literal
                owners.append(number)
            turns.append({"role": role, "content": self._content(content), **calling.turns.get(number, {})})
        pieces = MARK.split(self._text(turns, generation, calling.tools))
        shown = tuple(int(mark) for mark in pieces[1::2])
        if len(set(shown)) < len(shown):
            roles = ", ".join(role for role, _ in shape)
            raise UsageError(f"the chat template repeats a turn of ({roles})", "use one that shows each once")
        lost = [shape[owners[i]][0] for i in range(len(owners)) if i not in shown and i not in thoughts]
        if lost:
            roles = ", ".join(role for role, _ in shape)
            raise UsageError(f"the chat template leaves out the {lost[0]} turn of ({roles})", "use one that keeps all")
        return Scaffold(tuple(pieces[::2]), shown)

    def _content(self, text: str) -> str | list[dict[str, str]]:
        """A content as the template is given it: text, or a list of texts and pictures."""
        if not self._listed and PICTURE not in text:
            return text
        pieces = [piece for piece in re.split(f"({PICTURE})", text) if piece]
        parts = [{"type": "image"} if piece == PICTURE else {"type": "text", "text": piece} for piece in pieces]
        return parts or [{"type": "text", "text": ""}]

    def _said(self, message: Message) -> str | list[dict[str, str]]:
        if not self.sees:
            return message.text
        parts = [{"type": "image"} if run == PICTURE else {"type": "text", "text": run} for run in runs(message)]
        listed = self._listed or {"type": "image"} in parts
        return (parts or [{"type": "text", "text": ""}]) if listed else message.text

    def _lists(self) -> bool:
        """Whether the template takes lists of parts also where there is no picture."""
        asked = [{"role": "user", "content": [{"type": "text", "text": mark(0)}]}]
        try:
            return MARK.findall(self._text(asked, True)) == ["0"] and "type" not in self._text(asked, True)
        except UsageError:
            return False

    def picture_mark(self, marks: Sequence[str]) -> str:
        """What the template writes for a picture, one of some texts; UsageError if it has no place for one.

        Sets `moves`: whether it puts pictures before texts that stand before them.
        """
        asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": mark(0)}]}]
        text = self._text(asked, True)
        found = next((one for one in marks if one in text), None)
        if found is None:
            fix = "use the chat template that was published with the model, or chat_template: plain"
            raise UsageError("the chat template has no place for pictures", fix)
        among = [{"type": "text", "text": mark(0)}, {"type": "image"}, {"type": "text", "text": mark(1)}]
        pieces = MARK.split(self._text([{"role": "user", "content": among}], True))
        self.moves = not (len(pieces) == 5 and found in pieces[2])
        return found

    # ---- where everything lies

    def texts(self, conversations: Sequence[Sequence[Message]], generation: bool) -> list[str | None]:
        """The texts of many without calls, for `lay_out`: together they cost half. None each if one is refused."""
        turns = [[{"role": m.role, "content": self._said(m)} for m in messages] for messages in conversations]
        try:
            found = self.tokenizer.apply_chat_template(
                turns, chat_template=self._template, tokenize=False, add_generation_prompt=generation
            )
            return [str(text) for text in found] if turns else []
        except Exception:  # whatever it is, that row will tell
            return [None] * len(turns)

    def lay_out(
        self,
        messages: Sequence[Message],
        generation: bool,
        trained: Trained = "all",
        calling: Calling = NONE,
        text: str | None = None,
    ) -> Layout:
        """The text of a conversation and its spans; with `generation` as a prompt. Raises UsageError (of no place)."""
        if not self.sees and any(part.kind == "image" for message in messages for part in message.parts):
            raise UsageError("the row has an image, but the model reads only text", "use rows without images")
        if any(part.kind == "image" for m in messages if m.role == "assistant" for part in m.parts):
            raise UsageError("the row has an image in an answer, and the model writes only text", "drop the row")
        if not messages:
            raise UsageError("the conversation is empty", "give it a user turn")
        if calling:
            self._refuse_control(calling)
        halves = [split(message) for message in messages]
        shape: Shape = tuple((m.role, tuple(literals)) for m, (literals, _) in zip(messages, halves, strict=True))
        texts = [(number, core) for number, (_, cores) in enumerate(halves) for core in cores]
        plan = self._prompt_plan(shape, trained, calling) if generation else self._plan(shape, False, trained, calling)
        if text is None:
            turns = [
                {"role": m.role, "content": self._said(m), **calling.turns.get(i, {})} for i, m in enumerate(messages)
            ]
            text = self._text(turns, generation, calling.tools)
        starts, spans, position = [0], [], 0
        for k, number in enumerate(plan.scaffold.shown):
            position += len(plan.scaffold.pieces[k])
            form = form_at(text, position, texts[number][1], plan.scaffold.pieces[k + 1])
            if form is None:
                break
            spans.append((position, position + len(form), texts[number][0]))
            position += len(form)
            starts.append(position)
        whole = "".join(interleave(plan.scaffold.pieces, [text[a:b] for a, b, _ in spans]))
        if len(spans) < len(plan.scaffold.shown) or whole != text:
            raise UsageError(
                "the chat template rewrites the text of a turn",
                "use a training template that keeps every turn as it is",
            )
        made = tuple(Turn(starts[a[0]] + a[1], starts[b[0]] + b[1]) for a, b in plan.turns)
        contents = tuple((a, b, messages[i].role) for a, b, i in spans)
        owners = [number for number, _ in texts] if self.sees else []
        within = [k - owners.index(owners[k]) for k in plan.scaffold.shown] if self.sees else repeat(0)
        placed = zip(spans, within, strict=False)
        slots = [slot for (a, b, i), n in placed for slot in part_spans(messages[i], (a, b), n)]
        seams = [turn.start for turn in made] + ([len(text)] if generation else [])
        return Layout(text, contents, tuple(slots), made, tuple(seams))

    def _prompt_plan(self, shape: Shape, trained: Trained, calling: Calling) -> _Plan:
        """With the seams that the row has, so that both are cut into the same tokens."""
        asked = any(role == "assistant" for role, _ in shape[1:])
        try:
            return self._plan(shape, True, trained if trained == "all" and asked else "none", calling)
        except RewritesHistory:  # then every answer is its own row, whose only seam is its last
            return self._plan(shape, True, "none", calling)

    def _plan(self, shape: Shape, generation: bool, trained: Trained, calling: Calling) -> _Plan:
        """Where texts and trained turns lie in conversations of this shape; each shape is worked out once."""
        key = (shape, generation, trained)
        if not calling and key in self._plans:
            return self._plans[key]
        scaffold = self._scaffold(shape, generation, calling)
        if calling.tools and scaffold == self._scaffold(shape, generation, Calling((), calling.turns)):
            raise UsageError("the chat template does not show the tools", "use one that does, or drop these rows")
        answers = [k for k, (role, _) in enumerate(shape) if role == "assistant" and k > 0]
        if trained != "none" and not answers:
            raise UsageError("no turn asks for the answer", "put a user turn before it")
        if self.alone and trained == "all" and len(answers) > 1:
            raise RewritesHistory("the model reads a prompt in both directions", "each answer must be its own row")
        chosen = {"all": answers, "last": answers[-1:], "none": []}[trained]
        turns = tuple(self._turn(shape, k, scaffold, calling, last=k == len(shape) - 1) for k in chosen)
        plan = _Plan(scaffold, turns)
        if not calling:
            if len(self._plans) >= MOST_PLANS:
                self._plans.clear()
            self._plans[key] = plan
        return plan

    def _turn(self, shape: Shape, k: int, whole: Scaffold, calling: Calling, last: bool) -> tuple[Place, Place]:
        """Where the k-th message begins, as its prompt shows it, and where its stop ends."""
        before = self._scaffold(shape[:k], True, calling)
        start = inside(before, whole)
        if start is None:
            raise RewritesHistory(
                "the chat template rewrites history: the prompt of an assistant turn is not the beginning "
                "of the whole conversation",
                "use a training template that only appends, or let `didact tune` train every answer as its own row",
            )
        first = sum(len(literals) - 1 for _, literals in shape[:k])
        if any(n not in whole.shown for n in range(first, first + len(shape[k][1]) - 1)):
            raise (UsageError if last else RewritesHistory)(*NO_THINKING)
        upto = self._scaffold(shape[: k + 1], False, calling)
        tail, calls = upto.pieces[-1], calling.calls(k)
        silent = start[0] == len(upto.shown)  # the turn has no text of its own
        skipped = start[1] if silent else own_end(tail, shape[k][1][-1])
        stop = stop_in(tail, skipped, list(self.control.finditer(tail, skipped)), last=bool(calls) or silent)
        if stop is None:
            raise UsageError("the chat template ends this assistant turn without a stop token", "add eos_token")
        if silent:
            end = inside(Scaffold((*upto.pieces[:-1], tail[:stop]), upto.shown), whole)
            if end is None and not calls:  # some templates put a think block ahead of the last answer alone
                rest = whole.pieces[start[0]][start[1] :]
                stop = stop_in(rest, 0, list(self.control.finditer(rest)), last=False)
                known = stop is not None and rest[:stop].strip() in {text.strip() for text in self.stops}
                end = (start[0], start[1] + stop) if stop is not None and known else None
        else:
            n = 1 + whole.shown.index(upto.shown[-1])
            end = (n, stop) if whole.pieces[n].startswith(tail[:stop]) else None
        if end is None:
            problem = "the chat template rewrites history: a turn ends otherwise when another follows"
            raise RewritesHistory(problem, "let `didact tune` train every answer as its own row")
        thinks = any(CLOSE in literal for literal in shape[k][1])
        if thinks and not any(CLOSE in piece for piece in between(whole, start, end)):
            raise (UsageError if last else RewritesHistory)(*NO_THINKING)
        if calls:
            self._prove_calls(shape[: k + 1], k, upto, calling)
        return start, end

    def _prove_calls(self, shape: Shape, k: int, upto: Scaffold, calling: Calling) -> None:
        """Refuse a template that leaves out what a turn calls."""
        if self._scaffold(shape, False, calling.without(k)) == upto:
            raise UsageError("the chat template has no place for tool calls", "use one that has, or drop these rows")

    def _refuse_control(self, calling: Calling) -> None:
        for text in calling.texts():
            found = self.marks.search(text)
            if found:
                problem = f"a tool or a call holds the control token {found.group()!r} as text"
                raise UsageError(problem, "take it out, or drop the row")

    # ---- at the start

    def _find_stop(self) -> str:
        """The text that ends an assistant turn: up to and including its first control token."""
        pieces = self._scaffold((("user", ("", "")), ("assistant", ("", ""))), False).pieces
        bos, tail = self.tokenizer.bos_token, pieces[-1]
        if bos and pieces[0].startswith(bos + bos):
            raise UsageError(
                "the chat template writes BOS twice", "take one {{ bos_token }} out of chat_template.jinja"
            )
        stop = stop_in(tail, 0, list(self.control.finditer(tail)), last=False)
        if stop is None:
            raise UsageError(
                f"the chat template ends an assistant turn with {tail!r}, which has no stop token",
                "write {{ eos_token }} after the assistant's content in chat_template.jinja",
            )
        return tail[:stop]

    def _check_generation_prompt(self) -> None:
        """Refuse a template that leaves it to the model to say whose turn it is."""
        shape: Shape = (("user", ("", "")), ("assistant", ("", "")))
        asked, whole = self._scaffold(shape[:1], True), self._scaffold(shape, False)
        place = inside(asked, whole)
        if asked == self._scaffold(shape[:1], False) and place is not None and whole.pieces[1][place[1] :].strip():
            raise UsageError(
                f"the chat template has no generation prompt: the model itself would have to write "
                f"{whole.pieces[1][place[1] :]!r} before each answer",
                "write it under {% if add_generation_prompt %} at the end of chat_template.jinja",
            )

    def _find_call_stop(self) -> list[str]:
        """How a turn that calls a tool ends, if the template knows such turns and ends them in another way."""
        shape: Shape = (("user", ("", "")), ("assistant", ("",)))
        calling = Calling(({"type": "function", "function": {"name": "didact_probe", "description": "d",
            "parameters": {"type": "object", "properties": {"a": {"type": "string", "description": "d"}}}}},),
            {1: {"tool_calls": [CALL]}})  # fmt: skip
        try:
            tail = self._scaffold(shape, False, calling).pieces[-1]
        except UsageError:
            return []
        if "didact_probe" not in tail:
            return []
        stop = stop_in(tail, 0, list(self.control.finditer(tail)), last=True)
        last = [m for m in self.control.finditer(tail) if stop is not None and m.end() == stop]
        return [last[0].group()] if last else []

    def bos_count(self, messages: Sequence[Message], calling: Calling = NONE) -> int:
        """How often the template itself writes BOS in such a conversation."""
        bos = self.tokenizer.bos_token
        if not bos:
            return 0
        shape: Shape = tuple((message.role, tuple(split(message)[0])) for message in messages)
        return sum(piece.count(bos) for piece in self._plan(shape, False, "none", calling).scaffold.pieces)


def plain_template() -> str:
    """The built-in chat template for models that have none."""
    return resources.files("didact").joinpath("templates/chat/plain.jinja").read_text(encoding="utf-8")


def sees(template: str, mark: str) -> str:
    """A template of texts as one that also takes lists of texts and pictures, a picture written as `mark`."""
    ahead = resources.files("didact").joinpath("templates/chat/pictures.jinja").read_text(encoding="utf-8")
    return ahead.replace("PICTURE", json.dumps(mark)) + template


def text_to_text_template() -> str:
    """The built-in template for masked and encoder-decoder models: a text, its end, the answer, its end."""
    return resources.files("didact").joinpath("templates/chat/text_to_text.jinja").read_text(encoding="utf-8")
