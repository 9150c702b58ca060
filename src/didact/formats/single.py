"""One question and one answer: alpaca, prompt-completion, Self-Instruct and bare text.

Alpaca rows say in many ways that there is no input, and no output; the first are read as none, the second are dropped.
A prompt in which Alpaca's words are baked is taken apart again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from didact.errors import UsageError
from didact.formats.fields import MISSING, extra, joined, kept, list_of, mistyped, rest, text_of, within
from didact.instance import Instance, Message, Origin, Part
from didact.sandbox import TemplateDrop

NO_INPUT = {"noinput", "noinputrequired", "noinputneeded", "noinputnecessary", "noinputprovided", "n/a"}
NO_OUTPUT = {"nooutput", "nooutputrequired", "noinput"}
PLACEHOLDER = re.compile(r"\s*[<\[]\s*no\s?(in|out)put\b", re.IGNORECASE)
# A short paragraph or none, then the three headings of Alpaca's prompt.
WRAPPED = re.compile(
    r"\A(?P<before>(?:[^#\n]{0,400}\n\n)?### Instruction:\s*?\n)(?P<instruction>.+?)"
    r"(?:(?P<middle>\n\n### Input:\s*?\n)(?P<input>.+?))?(?P<after>\n\n### Response:\s*)\Z",
    re.DOTALL,
)


def read_alpaca(row: Mapping[str, Any], origin: Origin) -> list[Instance]:
    asked, answer = _key(row, "input", "context"), _key(row, "output", "response")
    given, said = _input(row, asked)
    names = {name: key for name, key in (("output", answer), ("input", asked)) if name != key}
    tags = kept("alpaca", columns=rest(row, "instruction", asked, answer), names=names, said=said)
    return [_instance(text_of(row, "instruction"), given, text_of(row, answer, empty=True), origin, tags)]


def write_alpaca(instance: Instance) -> dict[str, Any]:
    instruction, given = apart(instance)
    names, columns = extra(instance, "alpaca", "names"), extra(instance, "alpaca", "columns")
    asked = _with_input(names.get("input", "input"), given, extra(instance, "alpaca", "said"))
    own = {"instruction": instruction, **asked, names.get("output", "output"): instance.answer}
    return joined(own, columns)


def read_pair(row: Mapping[str, Any], origin: Origin) -> list[Instance]:
    key = _key(row, "completion", "response")
    prompt, answer = text_of(row, "prompt"), text_of(row, key, empty=True)
    names = {"completion": key} if key != "completion" else {}
    wrapped, words = WRAPPED.match(prompt), {}
    instruction, given = prompt, ""
    if wrapped and wrapped["instruction"].strip():
        instruction, given = wrapped["instruction"], wrapped["input"] or ""
        words = {name: wrapped[name] or "" for name in ("before", "middle", "after")}
    tags = kept("prompt-completion", columns=rest(row, "prompt", key), names=names, words=words)
    return [_instance(instruction, given, answer, origin, tags)]


def write_pair(instance: Instance) -> dict[str, Any]:
    only_question_and_answer(instance)
    words, prompt = extra(instance, "prompt-completion", "words"), instance.messages[0].text
    if words:
        instruction, given = apart(instance)
        prompt = words["before"] + instruction + (words["middle"] + given if given else "") + words["after"]
    key = extra(instance, "prompt-completion", "names").get("completion", "completion")
    return joined({"prompt": prompt, key: instance.answer}, extra(instance, "prompt-completion", "columns"))


def read_self_instruct(row: Mapping[str, Any], origin: Origin) -> list[Instance]:
    instruction, columns = text_of(row, "instruction"), rest(row, "instruction", "instances")
    found = []
    for i, item in enumerate(list_of(row, "instances")):
        try:
            if not isinstance(item, dict):
                raise mistyped(item, "an object", "")
            given, said = _input(item, "input")
            tags = kept("self-instruct", columns=columns, said=said, instance=rest(item, "input", "output"))
            found.append(_instance(instruction, given, text_of(item, "output", empty=True), origin, tags))
        except UsageError as error:
            raise within(error, f"instances.{i}") from error
        except TemplateDrop as left_out:
            many = len(row["instances"])
            detail = f"instance {i + 1} of {many}, and the others with it" if many > 1 else left_out.detail
            raise TemplateDrop(left_out.reason, detail) from left_out
    return found


def write_self_instruct(instances: Sequence[Instance]) -> dict[str, Any]:
    items = []
    for instance in instances:
        asked = _with_input("input", apart(instance)[1], extra(instance, "self-instruct", "said"))
        own = {**asked, "output": instance.answer}
        items.append(joined(own, extra(instance, "self-instruct", "instance")))
    columns = extra(instances[0], "self-instruct", "columns")
    return joined({"instruction": apart(instances[0])[0], "instances": items}, columns)


def read_text(row: Mapping[str, Any], origin: Origin) -> list[Instance]:
    answer = text_of(row, "text")
    messages = (Message("assistant", (Part(answer, "answer"),)),)
    return [Instance.of(messages, origin, tags=kept("text", columns=rest(row, "text")))]


def write_text(instance: Instance) -> dict[str, Any]:
    if len(instance.messages) != 1:
        problem = "plain text has no place for turns"
        raise UsageError(problem, "write it as messages, alpaca or prompt-completion")
    return joined({"text": instance.messages[0].text}, extra(instance, "text", "columns"))


def apart(instance: Instance) -> tuple[str, str]:
    """Instruction and input of a single question, apart again."""
    only_question_and_answer(instance)
    parts = instance.messages[0].parts
    if len(parts) == 2 and (parts[0].slot, parts[1].slot) == ("instruction", "input"):
        return parts[0].value.removesuffix("\n"), parts[1].value
    return instance.messages[0].text, ""


def only_question_and_answer(instance: Instance) -> None:
    """Refuse what is more, or less, than one question and one answer."""
    if [message.role for message in instance.messages] != ["user", "assistant"]:
        raise UsageError("this format holds one question and one answer", "write conversations as messages")


def says_nothing(answer: str) -> bool:
    """Whether an answer only stands in for one: <nooutput> and its like."""
    return PLACEHOLDER.match(answer) is not None or _plain(answer) in NO_OUTPUT


def _instance(instruction: str, given: str, answer: str, origin: Origin, tags: Mapping[str, str]) -> Instance:
    if not answer.strip():
        raise TemplateDrop("the answer is empty")
    if says_nothing(answer):
        raise TemplateDrop("the answer only says that there is none", answer.strip()[:60])
    parts = (
        (Part(instruction + "\n", "instruction"), Part(given, "input"))
        if given
        else (Part(instruction, "instruction"),)
    )
    messages = (Message("user", parts), Message("assistant", (Part(answer, "answer"),)))
    return Instance.of(messages, origin, tags=tags)


def _key(row: Mapping[str, Any], name: str, other: str) -> str:
    """The usual name of a column, or the other one if only that is there."""
    return other if name not in row and other in row else name


def _input(row: Mapping[str, Any], key: str) -> tuple[str, dict[str, Any]]:
    """The optional input; and, if there is none, how the row says so."""
    if row.get(key) is None:
        return "", {key: None} if key in row else {MISSING: key}
    given = text_of(row, key, empty=True)
    return ("", {key: given}) if _plain(given) in NO_INPUT else (given, {})


def _with_input(key: str, given: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """The column of the input; without one as the row had said so, which may be by having no such column."""
    if not given and MISSING in said:
        return {}
    return {key: said[key] if not given and key in said else given}


def _plain(text: str) -> str:
    """A short text without blanks and the marks that people put around a placeholder, in lower case."""
    return "".join(text.lower().split()).strip("<>[](){}\"'`\\.?!") if len(text) < 40 else text
