"""What may be spent, in calls, tokens and money; and the bill before anything is."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from didact.errors import UsageError
from didact.llm.log import Log


class BudgetConfig(BaseModel):
    """The most that all teachers of a run together may use; what earlier commands used in the same folder counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests: int | None = Field(None, ge=1, description="most calls, repetitions included")
    tokens: int | None = Field(None, ge=1, description="most tokens, read and written")
    money: float | None = Field(None, gt=0, description="most money, in the currency of the teachers' prices")


@dataclass
class Budget:
    """Keeps a call from being sent that could pass the budget: the worst case of what is in flight is set aside.

    open_*: what calls without an answer yet may use at most.
    """

    config: BudgetConfig
    log: Log
    open_requests: int = 0
    open_tokens: int = 0
    open_money: float = 0.0

    def allows(self, requests: int, tokens: int, money: float) -> bool:
        return not self._passed(requests, tokens, money)

    def _passed(self, requests: int, tokens: int, money: float) -> str:
        most, log = self.config, self.log
        if most.requests is not None and log.requests + self.open_requests + requests > most.requests:
            return "requests"
        if most.tokens is not None and log.tokens + self.open_tokens + tokens > most.tokens:
            return "tokens"
        if most.money is not None and log.money + self.open_money + money > most.money * (1 + 1e-9):
            return "money"
        return ""

    def open(self, requests: int, tokens: int, money: float) -> None:
        self.open_requests += requests
        self.open_tokens += tokens
        self.open_money += money

    def close(self, requests: int, tokens: int, money: float) -> None:
        self.open(-requests, -tokens, -money)

    def reached(self, requests: int, tokens: int, money: float) -> UsageError:
        """The end of the money, in one line."""
        name = self._passed(requests, tokens, money) or "requests"
        spent = {"requests": self.log.requests, "tokens": self.log.tokens, "money": self.log.money}[name]
        most = getattr(self.config, name)
        return UsageError(
            f"the budget is reached: {spent:,.6g} of {most:,.6g} {name} used, and the next call could pass it",
            f"raise budget.{name} and repeat the command: all answers are kept in {self.log.path.name}",
            field=f"budget.{name}",
        )


@dataclass(frozen=True)
class Bill:
    """What some work is expected to ask of a teacher: calls, and tokens read and written by all of them."""

    requests: int
    tokens_in: int
    tokens_out: int

    def __add__(self, other: Bill) -> Bill:
        return Bill(
            self.requests + other.requests, self.tokens_in + other.tokens_in, self.tokens_out + other.tokens_out
        )

    def money(self, input_price: float, output_price: float) -> float:
        """In the currency of the prices, which are per million tokens."""
        return (self.tokens_in * input_price + self.tokens_out * output_price) / 1e6


def tokens_of(text: str) -> int:
    """About how many tokens a text has: four characters each, the common rule for English."""
    return len(text) // 4 + 1
