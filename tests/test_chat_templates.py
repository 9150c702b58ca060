"""Every family of chat templates: what is trained is the answer and its stop, and train ids are chat ids.

The conversations are random, with tools, thinking, empty turns, unicode and control tokens as text. What is expected
comes from the template itself, rendered by transformers, not from the renderer under test.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from didact.errors import UsageError
from didact.fit import fit
from didact.instance import Instance, Message, Origin, Part
from didact.render import Renderer

HERE = Path(__file__).parent / "chat_templates"
FAMILIES: dict[str, dict[str, Any]] = yaml.safe_load((HERE / "families.yaml").read_text("utf-8"))
GOOD = [name for name, family in FAMILIES.items() if "refused" not in family]
FORGED = [
    "<|im_end|>",
    "<|im_start|>assistant\n",
    "</s>",
    "<s>",
    "[INST]",
    "<think>",
    "</think>",
    "<|eot_id|>",
    "<|return|>",
]
WORDS = [
    "red",
    "a b",
    "Größe",
    "日本語",
    "🙂",
    "é",
    "{{ x }}",
    "{% if %}",
    "None",
    "\n",
    "  ",
    "0",
    "User:",
    "\u200d",
    "x" * 40,
]
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": {
    "type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}}}]  # fmt: skip


def tokenizer(name: str) -> Any:
    """A tokenizer with the control tokens of a family and enough merges to put the seams to the test."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    family = FAMILIES[name]
    special = [token for token in (family.get("bos"), family["eos"]) if token] + family.get("special", [])
    if family.get("kind") == "blanks":
        letters = ["<unk>", *(f"<0x{i:02X}>" for i in range(256)), *"▁abcdefghijklmnopqrstuvwxyz:\n"]
        merges = [("▁", "r"), ("▁r", "e"), ("e", "d"), ("▁", "▁"), ("\n", "\n"), (":", "▁"), ("▁", "a")]
        letters += ["".join(merge) for merge in merges]
        vocab = {token: i for i, token in enumerate(letters)}
        backend = Tokenizer(
            models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
        )
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        backend.decoder = decoders.Sequence(steps)
    else:
        merges = [("Ċ", "Ċ"), ("r", "e"), ("re", "d"), ("Ġ", "Ġ"), (":", "Ċ"), (":", "Ġ"), ("Ċ", "o"), ("Ġ", "a")]
        letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(merge) for merge in merges)]
        backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(letters)}, merges=merges))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
    wide = family.get("kind") == "wide"
    backend.add_special_tokens([AddedToken(token, special=True, rstrip=wide, normalized=False) for token in special])
    backend.add_tokens([AddedToken(token, normalized=False) for token in family.get("added", [])])
    if family.get("add_bos"):
        bos = family["bos"]
        backend.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], special_tokens=[(bos, backend.token_to_id(bos))]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=family.get("bos"), eos_token=family["eos"], extra_special_tokens=special
    )
    made.chat_template = (HERE / f"{name}.jinja").read_text("utf-8").rstrip("\n")
    return made


@dataclass(frozen=True)
class Made:
    """A random conversation, as an instance and as what transformers takes."""

    instance: Instance
    turns: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    thinks: bool
    forged: bool


def make(name: str, number: int) -> Made:
    """The conversation of this number: always the same."""
    family, dice = FAMILIES[name], random.Random(f"{name}/{number}")
    own = [family["eos"], *family.get("special", []), *family.get("added", [])]
    forged = number % 3 == 0

    def text(empty: bool = True) -> str:
        words = [dice.choice(WORDS) for _ in range(dice.choice([0, 1, 2, 4]) if empty else 2)]
        if forged and dice.random() < 0.5:
            words.insert(dice.randrange(len(words) + 1), dice.choice([*own, *FORGED]))
        return dice.choice(["", " "]).join(words)

    called = bool(family.get("tools")) and number % 4 == 1
    thinks = number % 5 == 2 and not called
    turns: list[dict[str, Any]] = []
    if (dice.random() < 0.5 or family.get("tools_need_system")) and family.get("system", True):
        turns.append({"role": "system", "content": text()})
    for _ in range(dice.choice([1, 1, 2, 3])):
        turns.append({"role": "user", "content": text()})
        if called:
            arguments = {"place": dice.choice(["Köln", 'a "quoted" town', "back\\slash", ""]), "n": dice.randrange(9)}
            call = {"id": f"call{dice.randrange(10**5):05d}", "type": "function",
                    "function": {"name": "weather", "arguments": arguments}}  # fmt: skip
            turns.append({"role": "assistant", "content": "", "tool_calls": [call]})
            turns.append({"role": "tool", "content": text(False), "tool_call_id": call["id"]})
        answer = text()
        if thinks:
            thought = dice.choice(["", "hmm", "one\n\ntwo", "é 🙂"])
            answer = (
                f"<think>{dice.choice(['', chr(10)])}{thought}{chr(10)}</think>{dice.choice(['', chr(10) * 2])}"
                + answer
            )
        turns.append({"role": "assistant", "content": answer})
    kept = {
        str(i): {"rest": {k: v for k, v in turn.items() if k not in ("role", "content")}}
        for i, turn in enumerate(turns)
    }
    extra = {"columns": {"tools": TOOLS} if called else {}, "turns": kept}
    slot = {"assistant": "answer"}
    messages = tuple(Message(t["role"], (Part(t["content"], slot.get(t["role"], "instruction")),)) for t in turns)  # type: ignore[arg-type]
    instance = Instance.of(messages, Origin("rows.jsonl", number + 1), tags={"extra": json.dumps(extra)})
    return Made(instance, turns, TOOLS if called else None, thinks, forged)


def asked(renderer: Renderer, made: Made, end: int | None = None, generation: bool = False) -> str:
    """The conversation as transformers renders it by itself; dates are the day's in both."""
    template = renderer._conversations._template  # with its date pinned, which is not under test here
    turns = made.turns[:end]
    return str(
        renderer.tokenizer.apply_chat_template(
            turns, tools=made.tools, chat_template=template, tokenize=False, add_generation_prompt=generation
        )
    )


def squeeze(text: str) -> str:
    return "".join(text.split())


def examine(name: str, numbers: range) -> int:
    """Check conversations of a family; how many answers were learnt."""
    renderer, family, learnt = Renderer(tokenizer(name)), FAMILIES[name], 0
    evaluation = Renderer(tokenizer(name))  # as another process would make it
    for number in numbers:
        made = make(name, number)
        answered = [turn["content"] for turn in made.turns if turn["role"] == "assistant"]
        loose = any(max(text.count("<think>"), text.count("</think>")) > made.thinks for text in answered)
        if (made.thinks and family.get("thinking") == "refused") or (
            loose and "thinking" in family and refuses(renderer, made)
        ):
            with pytest.raises(UsageError, match=rf"rows.jsonl:{number + 1}: .*(leaves out|rewrites|not the answer)"):
                fit([made.instance], renderer, 10**6, "drop")
            continue
        before = renderer.control_text
        fitted = fit([made.instance], renderer, 10**6, "drop")
        rewrites = bool(fitted.notes)
        may = family.get("history") == "rewrites" or (family.get("thinking") == "strips" and made.thinks)
        assert may or not rewrites, f"{name}/{number}: {fitted.notes}"
        answers = [i for i, turn in enumerate(made.turns) if turn["role"] == "assistant"]
        trained = [(row, span) for row in fitted.tokens for span in row.turns]
        assert len(trained) == len(answers), (name, number)
        for (row, (a, b)), k in zip(trained, answers, strict=True):
            learnt += 1
            prompt, upto = asked(renderer, made, k, True), asked(renderer, made, k + 1)
            assert upto.startswith(prompt)
            expected = upto[len(prompt) :].rstrip()
            if family.get("kind") == "wide":
                expected = expected.lstrip()
            said = renderer.tokenizer.decode(row.ids[a:b], clean_up_tokenization_spaces=False)
            if may or "<think>" in expected:  # the last answer alone may have a think block put ahead of it
                assert squeeze(expected).endswith(squeeze(said)), (name, number, said, expected)
            else:
                assert squeeze(said) == squeeze(expected), (name, number, said, expected)
            if family.get("kind", "bytes") == "bytes" and squeeze(said) == squeeze(expected):
                assert said.strip() == expected.strip(), (name, number, said, expected)
            content = squeeze(made.turns[k]["content"])
            assert content in squeeze(said), (name, number, said)
            stop = row.ids[b - 1]
            assert stop in renderer.stop_ids
            assert row.weights[a:b] == [1.0] * (b - a)
            # the ids of a chat and of an evaluation are those that were trained
            cut = Instance.of(made.instance.messages[: k + 1], made.instance.origin, tags=made.instance.tags)
            assert evaluation.prompt(cut) == row.ids[:a], (name, number, k)
        for row in fitted.tokens:
            inside = {i for a, b in row.turns for i in range(a, b)}
            assert all(bool(weight) == (i in inside) for i, weight in enumerate(row.weights)), (name, number)
        if made.forged:
            prove_no_forgery(name, renderer, made, fitted.tokens)
        elif not made.thinks:
            assert renderer.control_text == before
        if (
            not made.forged
            and len(fitted.tokens) == 1
            and not renderer._conversations._template.startswith("{%- macro")
        ):
            # nothing special about it: transformers' own encoding has the same text
            whole = renderer.tokenizer.decode(fitted.tokens[0].ids, clean_up_tokenization_spaces=False)
            text = asked(renderer, made)
            assert squeeze(whole) in (squeeze(text), squeeze((family.get("bos") or "") + text)), (name, number)
    return learnt


def refuses(renderer: Renderer, made: Made) -> bool:
    """Whether a row with tags of thinking inside its answers is refused; templates that split at them must."""
    try:
        fit([made.instance], renderer, 10**6, "drop")
    except UsageError:
        return True
    return False


def prove_no_forgery(name: str, renderer: Renderer, made: Made, rows: list[Any]) -> None:
    """No more control tokens than the same conversation has with every text replaced by a letter."""
    own = renderer._mark_ids
    blank = []
    for message in made.instance.messages:
        text = message.text
        plain = "x" if text.strip() else text
        if message.role == "assistant" and made.thinks:
            thought, _, answer = text.partition("</think>")
            inner = thought.partition("<think>")[2]
            plain = f"<think>{'x' if inner.strip() else inner}\n</think>{'x' if answer.strip() else answer}"
        blank.append(Message(message.role, (Part(plain, message.parts[0].slot),)))
    clean = Instance.of(tuple(blank), made.instance.origin, tags=made.instance.tags)
    honest = fit([clean], renderer, 10**6, "drop").tokens
    special = renderer._special_ids
    for row, other in zip(rows, honest, strict=True):
        assert sum(i in special for i in row.ids) == sum(i in special for i in other.ids), name
        inside = {i for a, b in row.turns for i in range(a, b)}
        there = {i for a, b in other.turns for i in range(a, b)}
        # outside the answers not even tags such as <think>; inside they are the model's own
        answers = "".join(m.text for m in made.instance.messages if m.role == "assistant")
        if not any(renderer.tokenizer.convert_ids_to_tokens(i) in answers for i in own - special):
            found = sum(i in own for k, i in enumerate(row.ids) if k not in inside)
            assert found == sum(i in own for k, i in enumerate(other.ids) if k not in there), name


@pytest.mark.parametrize("name", GOOD)
def test_a_family(name: str) -> None:
    assert examine(name, range(16)) >= 14 or FAMILIES[name].get("thinking") == "refused"


@pytest.mark.slow
@pytest.mark.parametrize("name", GOOD)
def test_a_family_at_length(name: str) -> None:
    assert examine(name, range(200)) >= 200


def test_there_are_enough_families() -> None:
    assert len(GOOD) >= 40
    assert {path.stem for path in HERE.glob("*.jinja")} == set(FAMILIES)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in GOOD])
def test_a_template_that_cannot_be_trained_is_refused_with_its_reason(name: str) -> None:
    pair = (Message("user", (Part("a"),)), Message("assistant", (Part("b"),)))
    with pytest.raises(UsageError, match=FAMILIES[name]["refused"]) as caught:
        Renderer(tokenizer(name)).render(Instance.of(pair, Origin("f", 1)))
    assert caught.value.fix
