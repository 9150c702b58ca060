"""rows -> instances: which rows and templates are held out, and every kept row in the words of its templates.

Rows are read once (`rows`), split before templates are applied (`split`), by group or by content, so no held-out row is
in training in other words; how much of each task is used, `mixing` says; `plan` brings it in order and `compose` puts
each item into words. Split, choice of templates and order follow from hashes of the seed and the row, not from the
order of the file: more rows at the end of a file leave the earlier ones where they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from didact.build.compose import build_row, compose
from didact.build.config import BuildConfig
from didact.build.plan import Plan, plan, read
from didact.build.rows import Rows
from didact.build.wording import OUTSIDE
from didact.instance import Drop, Instance
from didact.sources import Task

__all__ = ["OUTSIDE", "BuildConfig", "Plan", "build", "build_row"]


def build(
    tasks: Sequence[Task], config: BuildConfig, drop: Callable[[Drop], None], tokenizer: str = ""
) -> Iterator[Instance]:
    """The instances of tasks, those held out first, each part in an order that the seed decides.

    Tags: split (train | heldout); level of held-out ones (seen_template | heldout_template | heldout_task |
    heldout_cluster); template; where they apply: options and cot (the layout), shots (how many examples; their
    rows are `origin.parents`, as source:row), pruned (how many found no room), zero-shot (why there are none although
    they were drawn) and inverted (yes). tokenizer: counts tokens where there are examples (`token_count`). Rows that
    give no instance go to `drop`. Raises UsageError for settings that match nothing or leave nothing, and for faulty
    rows of tasks whose `on_error` is stop.
    """
    rows = Rows()
    found = read(tasks, config, rows, drop, lambda done: None)
    planned = plan(tasks, config, rows, found, tokenizer)
    for items in (planned.heldout, planned.train):
        for item in items:
            yield from compose(planned, item, drop)
