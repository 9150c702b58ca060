"""What a template may cost: steps in loops, sizes of texts and lists. All is checked before it is made, since the
operating system kills a process that fills the memory before Python can say no.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sized
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

LARGEST = 1_000_000  # characters or items that one operation may make
MOST_STEPS = 200_000  # of all loops of one rendering together; a call of a macro counts as ten
LONGEST_TEXT = 20 * LARGEST  # characters of a rendered text
STEPS = "_steps"  # where a rendering counts down
PADDED = ("center", "expandtabs", "ljust", "rjust", "zfill")
SIZED_BY_NUMBER = ("batch", "center", "indent", "round", "slice", "tojson", "wordwrap")


class Endless(Exception):
    """A template that takes more steps than any honest one."""


def count_steps(tree: nodes.Template) -> bool:
    """Make every loop and macro of a parsed template count its steps; whether there are any."""
    loops, macros = list(tree.find_all(nodes.For)), list(tree.find_all(nodes.Macro))
    for loop in loops:
        loop.iter = nodes.Filter(loop.iter, STEPS, [], [], None, None, lineno=loop.lineno)
        for call in loop.find_all(nodes.Call) if loop.recursive else ():
            if isinstance(call.node, nodes.Name) and call.node.name == "loop" and call.args:
                call.args[0] = nodes.Filter(call.args[0], STEPS, [], [], None, None, lineno=loop.lineno)
    for macro in macros:
        one = nodes.Filter(nodes.Const(" " * 10, lineno=macro.lineno), STEPS, [], [], None, None, lineno=macro.lineno)
        macro.body.insert(0, nodes.If(nodes.Not(one, lineno=macro.lineno), [], [], [], lineno=macro.lineno))
    for concat in list(tree.find_all(nodes.Concat)):
        concat.nodes = [_sized(concat.nodes, concat.lineno)]
    return bool(loops or macros)


def _sized(parts: list[nodes.Expr], line: int) -> nodes.Expr:
    return nodes.Filter(nodes.List(parts, lineno=line), "_concat", [], [], None, None, lineno=line)


@jinja2.pass_context
def _steps(context: Context, items: Any) -> Any:
    """The items, taken off what the rendering has left; those without a length one by one."""
    left: list[int] = context[STEPS]
    if not isinstance(items, Sized):
        return _one_by_one(iter(items), left)
    _take(left, len(items))
    return items


def _one_by_one(items: Iterator[Any], left: list[int]) -> Iterator[Any]:
    for item in items:
        _take(left, 1)
        yield item


def _take(left: list[int], steps: int) -> None:
    left[0] -= steps
    if left[0] < 0:
        raise Endless(f"more than {MOST_STEPS:,} steps in its loops and macros")


def _check(size: int, what: str = "a text or list") -> None:
    if size > LARGEST:
        raise SecurityError(f"{what} of more than {LARGEST:,} items")


def _concat(parts: Iterable[Any]) -> str:
    texts = [str(part) for part in parts]
    _check(sum(map(len, texts)))
    return "".join(texts)


def _of_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, refused when a number it is given would make its result huge."""

    skipped = 1 if getattr(function, "jinja_pass_arg", None) is None else 2  # the value, and what Jinja hands in first

    @wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        _numbers(args[skipped:], options)
        return function(*args, **options)

    return checked


def _replace_sized(text: str, old: str, new: str) -> None:
    _check(len(text) + (text.count(old) if old else len(text) + 1) * len(new))


def _join_sized(separator: str, items: list[Any]) -> None:
    _check(sum(len(item) for item in items if isinstance(item, str)) + len(separator) * len(items))


def _format_sized(text: str, values: Iterable[Any]) -> None:
    """Widths stand in the text as digits, or come as numbers."""
    for width in re.findall(r"\d{4,}", text):
        _check(int(width[:12]))
    if re.search(r"\{[^{}]*:[^{}]*\{", text):
        raise SecurityError(f"a format whose width may make a text of more than {LARGEST:,} items")
    if "*" in text:
        for value in values:
            if isinstance(value, int):
                _check(abs(value))


class Bounded(ImmutableSandboxedEnvironment):
    """The sandbox, and nothing in it that takes all the time or memory."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        replace, join, form = (self.filters[name] for name in ("replace", "join", "format"))

        def checked_replace(eval_ctx: Any, s: str, old: str, new: str, count: int | None = None) -> str:
            _replace_sized(str(s), str(old), str(new))
            return str(replace(eval_ctx, s, old, new, count))

        def checked_join(eval_ctx: Any, value: Iterable[Any], d: str = "", attribute: Any = None) -> Any:
            items = list(value)
            _join_sized(d, items)
            return join(eval_ctx, items, d, attribute)

        def checked_format(value: str, *args: Any, **kwargs: Any) -> str:
            _format_sized(str(value), (*args, *kwargs.values()))
            return str(form(value, *args, **kwargs))

        self.filters |= {name: _of_numbers(self.filters[name]) for name in SIZED_BY_NUMBER}
        self.filters |= {"replace": jinja2.pass_eval_context(checked_replace), "format": checked_format}
        self.filters |= {"join": jinja2.pass_eval_context(checked_join), STEPS: _steps, "_concat": _concat}

    @staticmethod
    def concat(texts: Iterable[str]) -> str:
        """The pieces of a rendered text in one, if it does not grow beyond all measure."""
        found = list(texts)
        if len(found) > 20 and sum(map(len, found)) > LONGEST_TEXT:
            raise SecurityError(f"a text of more than {LONGEST_TEXT:,} characters")
        return "".join(found)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(side) for side in (left, right) if isinstance(side, (str, list, tuple))]
        times = [side for side in (left, right) if isinstance(side, int)]
        if operator == "*" and sizes and times and sizes[0] * times[0] > LARGEST:
            raise SecurityError(f"a text or list repeated to more than {LARGEST:,} items")
        if operator == "**" and isinstance(right, (int, float)) and abs(right) > 1000:
            raise SecurityError("a power above 1,000")
        if operator == "+" and len(sizes) == 2:
            _check(sum(sizes))
        if operator == "%" and isinstance(left, str):
            _format_sized(left, right if isinstance(right, tuple) else (right,))
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        inner = super().wrap_str_format(value)
        if inner is None:
            return None

        @wraps(inner)
        def checked(*args: Any, **kwargs: Any) -> str:
            _format_sized(str(value.__self__), ())
            return inner(*args, **kwargs)

        return checked

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        text, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(text, str):
            if name in PADDED:
                _numbers(args, kwargs)
            elif name == "replace" and len(args) > 1:
                _replace_sized(text, str(args[0]), str(args[1]))
            elif name == "join" and args:
                args = (list(args[0]), *args[1:])
                _join_sized(text, args[0])
        return super().call(context, obj, *args, **kwargs)


def _numbers(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, int):
            _check(abs(value))
