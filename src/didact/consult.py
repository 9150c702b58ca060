"""What filters ask of teachers in the stage `curate`: grades of a judge, vectors of an endpoint; and what that cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from didact.errors import UsageError
from didact.generation import account_of, totals
from didact.llm import Reply, Request, vector
from didact.teachers import Teachers, local_folder

if TYPE_CHECKING:
    from didact.curate.context import Conversation
    from didact.run import Run

ACCOUNT = "curation.json"


class Consult:
    """Asks for one stage. accounts: one for each filter that asked, in their order."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.accounts: list[dict[str, Any]] = []

    def ask(self, conversations: Sequence[Conversation], teacher: str) -> list[str | None]:
        """A teacher's answer to each, None where it gave none; the log answers what it has answered before."""
        requests = [Request(tuple((turn.role, turn.text) for turn in turns)) for turns in conversations]
        return [reply.text if reply.ok else None for reply in self._replies("judge", requests, teacher)]

    def embed(self, texts: Sequence[str], name: str) -> Any:
        """One row per text, by a teacher of that name whose api is embeddings, or by a model of this machine."""
        if name not in self.run.recipe.teachers:
            from didact.embed import embed

            try:
                return embed(texts, local_folder(name, self.run.home))
            except UsageError as error:
                raise error.at(field="curate.embedding") from error
        import numpy as np

        requests = [Request(prompt=text, max_tokens=0) for text in texts]
        replies = self._replies("diversity", requests, name)
        for text, reply in zip(texts, replies, strict=True):
            if not reply.ok:
                fix = "repeat the command: what was answered is kept; or drop such instances before"
                raise UsageError(f"no vector for {text[:60]!r}: {reply.why}", fix, field=f"teachers.{name}")
        rows = [vector(reply.text) for reply in replies]
        if len({len(row) for row in rows}) > 1:
            fix = "name a model whose vectors are all of one length"
            raise UsageError("the teacher's vectors differ in length", fix, field=f"teachers.{name}")
        return np.asarray(rows, np.float32)

    def _replies(self, strategy: str, requests: Sequence[Request], teacher: str) -> list[Reply]:
        run = self.run
        with Teachers(
            run.recipe.teachers, run.recipe.budget, run.path, run.home, lambda text: run.console.stage("", text)
        ) as teachers:
            llm = teachers.llm(teacher, vectors=strategy == "diversity")
            replies = llm.ask(requests)
            account = account_of(strategy, totals(teachers), llm.counts.seconds)
        self.accounts.append(account)
        why = "".join(f", {n:,} {reason}" for reason, n in account["without answer"].items())
        cost = f", cost {account['money']:,.2f}" if account["money"] else ""
        run.console.stage("", f"{strategy} {llm.name}: {len(replies):,} prompts{why}; {llm.counts.calls:,} calls{cost}")
        return replies

    def save(self) -> list[str]:
        """Write the accounts, if anybody was asked; gives the names of the files."""
        if not self.accounts:
            self.run.folder.remove(ACCOUNT)
            return []
        self.run.folder.write(ACCOUNT, json.dumps(self.accounts, indent=1, ensure_ascii=False) + "\n")
        return [ACCOUNT]
