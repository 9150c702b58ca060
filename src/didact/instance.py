"""The nouns of the data: Part, Message, Instance, Origin, Verdict, Drop. Frozen; to and from JSON lines.

An instance is a conversation whose assistant turns are to be learnt. It may lack its instruction or its answer until
a strategy completes it, so raw text, bare questions and full (instruction, input, output) triples are one type.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
Slot = Literal["instruction", "input", "demo", "answer"]
READ = ("tool_calls", "tool_call_id", "name", "reasoning_content")  # what chat templates read of a turn beside its text
PICTURES = "pictures"  # the folder, within a run's, where pictures lie
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a message: text, or an image. `slot` says which part of a task it plays.

    The value of an image is the absolute path of a checked file (`pictures`), whose name is a hash of its bytes.
    """

    value: str
    slot: Slot | None = None
    kind: Literal["text", "image"] = "text"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. Its text is its text parts joined as they are, with nothing between."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        return "".join(part.value for part in self.parts if part.kind == "text")


@dataclass(frozen=True, slots=True)
class Origin:
    """Lineage from row to loss: enough to find the row again and to render it another way.

    `row` is the 1-based record in `source`; `via` is what made the instance (`template:NAME`, `format:alpaca`, a
    strategy); `parents` are ids of instances it grew from.
    """

    source: str
    row: int
    via: str = ""
    teacher: str = ""
    parents: tuple[str, ...] = ()
    task: str = ""
    cluster: str = ""
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Instance:
    """A conversation to learn from or to be tested on.

    id: hash of the content (messages with their tools, choices, references), so equal content has equal ids.
    references: other right answers. choices: the closed set of answers, if there is one. tags: `split` (train |
    heldout), `level` (seen_template | heldout_template | heldout_task | heldout_cluster) and whatever a stage wants to
    remember.
    """

    id: str
    messages: tuple[Message, ...]
    origin: Origin
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(
        messages: tuple[Message, ...],
        origin: Origin,
        references: tuple[str, ...] = (),
        choices: tuple[str, ...] = (),
        tags: Mapping[str, str] | None = None,
    ) -> Instance:
        """An instance with its id computed from its content."""
        content: list[Any] = [
            [[message.role, [[part.kind, _told(part)] for part in message.parts]] for message in messages],
            list(references),
            list(choices),
        ]
        if told := beside(tags or {}):
            content.append(told)
        return Instance(digest(content), messages, origin, references, choices, dict(tags or {}))

    @property
    def answer(self) -> str:
        """The text of the last assistant turn; empty if there is none."""
        last = self.messages[-1] if self.messages else None
        return last.text if last is not None and last.role == "assistant" else ""

    @property
    def context(self) -> tuple[Message, ...]:
        """The messages before the last assistant turn: what a model is shown when it is asked."""
        return self.messages[:-1] if self.messages and self.messages[-1].role == "assistant" else self.messages

    @property
    def prompt(self) -> str:
        """The text of the context, turn after turn, for filters and reports (not what the model sees)."""
        return "\n".join(message.text for message in self.context)

    @property
    def images(self) -> tuple[str, ...]:
        """The paths of its pictures, in order."""
        return tuple(part.value for message in self.messages for part in message.parts if part.kind == "image")

    @property
    def pictured(self) -> tuple[str, ...]:
        """The names of its pictures, which are equal where the pictures are."""
        return tuple(PurePath(path).name for path in self.images)

    def tagged(self, **tags: str) -> Instance:
        """The same instance with tags added."""
        return replace(self, tags={**self.tags, **tags})

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back to an equal instance; pictures by their place in a run's folder."""
        return {
            "id": self.id,
            "messages": [
                {"role": message.role, "parts": [_part_to_json(part) for part in message.parts]}
                for message in self.messages
            ],
            "references": list(self.references),
            "choices": list(self.choices),
            "origin": {name: value for name, value in _origin_to_json(self.origin).items() if value},
            "tags": dict(self.tags),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any], folder: Path | None = None) -> Instance:
        """The inverse of `to_json`. folder: where the file lies that it comes from, for the paths of its pictures."""
        origin = dict(data["origin"])
        return Instance(
            id=data["id"],
            messages=tuple(
                Message(
                    message["role"],
                    tuple(_part_from_json(part, folder) for part in message["parts"]),
                )
                for message in data["messages"]
            ),
            origin=Origin(
                **{
                    **origin,
                    "source": origin.get("source", ""),
                    "row": origin.get("row", 0),
                    "parents": tuple(origin.get("parents", ())),
                }
            ),
            references=tuple(data.get("references", ())),
            choices=tuple(data.get("choices", ())),
            tags=dict(data.get("tags", {})),
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a filter says of one instance: keep, or drop with a reason; `near` names what it resembles."""

    keep: bool
    reason: str = ""
    score: float | None = None
    near: str = ""


@dataclass(frozen=True, slots=True)
class Drop:
    """A row or an instance that went no further, and why. `reason` is a short fixed phrase that can be counted."""

    reason: str
    detail: str
    origin: Origin
    instance: Instance | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "reason": self.reason,
            "detail": self.detail,
            "origin": {name: value for name, value in _origin_to_json(self.origin).items() if value},
            "instance": None if self.instance is None else self.instance.to_json(),
        }


def digest(value: object, length: int = 16) -> str:
    """Hex SHA-256 of a JSON value in canonical form, cut to `length` digits."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def beside(tags: Mapping[str, str]) -> list[Any]:
    """What chat templates write of a row beside its texts: its tools, and by number what its turns call; or nothing.

    Formats keep it in the tag `extra`.
    """
    text = tags.get("extra", "")
    if '"tools"' not in text and '"turns"' not in text:
        return []
    extra = json.loads(text)
    rests = {number: turn.get("rest", {}) for number, turn in extra.get("turns", {}).items()}
    told = {number: {key: rest[key] for key in READ if rest.get(key)} for number, rest in rests.items()}
    tools, turns = extra.get("columns", {}).get("tools"), {number: rest for number, rest in told.items() if rest}
    return [tools, turns] if tools or turns else []


def _told(part: Part) -> str:
    """What a part is, wherever its picture lies: equal pictures have equal names."""
    return part.value if part.kind == "text" else PurePath(part.value).name


def _part_from_json(data: Mapping[str, Any], folder: Path | None) -> Part:
    kind = data.get("kind", "text")
    value = data["value"]
    if kind == "image" and folder is not None and isinstance(value, str):
        value = str(folder.absolute() / value)
    return Part(value, data.get("slot"), kind)


def _part_to_json(part: Part) -> dict[str, str]:
    data = {"value": part.value if part.kind == "text" else f"{PICTURES}/{_told(part)}"}
    if part.slot is not None:
        data["slot"] = part.slot
    if part.kind != "text":
        data["kind"] = part.kind
    return data


def _origin_to_json(origin: Origin) -> dict[str, Any]:
    return {
        "source": origin.source,
        "row": origin.row,
        "via": origin.via,
        "teacher": origin.teacher,
        "parents": list(origin.parents),
        "task": origin.task,
        "cluster": origin.cluster,
        "licence": origin.licence,
    }
