"""What teachers wrote, strategy by strategy: accepted, rejected over time, left over, kept in the end, and the cost."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

from didact.card.made import Fact, Made, turn_of

SPARE = "spare: "  # reasons that say nothing against what was written: it was more than was wanted


def generated(made: Made) -> list[Fact]:
    """Of each strategy what was written, rejected as it went on, more than was wanted, kept in the end; and the cost.

    acceptance: of what was not more than was wanted.
    """
    kept = Counter(i.origin.via.split(":", 1)[1] for i in made.kept if i.origin.via.startswith("generate:"))
    rejected: defaultdict[str, list[int]] = defaultdict(list)
    spare: Counter[str] = Counter()
    for record in made.dropped:
        via = str(record.get("origin", {}).get("via", ""))
        if record.get("stage") == "generate" and via.startswith("generate:"):
            origin = record["origin"]
            if str(record.get("reason", "")).startswith(SPARE):
                spare[via.split(":", 1)[1]] += 1
                continue
            rejected[via.split(":", 1)[1]].append(turn_of(str(origin.get("source", "")), int(origin.get("row", 0))))
    accounts = {str(account.get("strategy", "")): account for account in made.accounts}
    rows = []
    for name in sorted({*made.generated, *accounts, *kept, *rejected, *spare}):
        given, away = list(made.generated.get(name, ())), rejected[name]
        account, money = accounts.get(name, {}), float(accounts.get(name, {}).get("money", 0) or 0)
        written = len(given) + len(away) + spare[name]
        row = {"strategy": name, "written": written, "accepted": len(given), "spare": spare[name], "kept": kept[name]}
        row |= {key: account[key] for key in ("prompts", "calls", "tokens", "failed", "rejected") if key in account}
        row["acceptance"] = round(len(given) / max(1, len(given) + len(away)), 4)
        row["money"] = money
        row["cost_per_kept"] = round(money / kept[name], 6) if kept[name] else None
        used = account.get("tokens")
        row["tokens_per_kept"] = round(used / kept[name], 1) if kept[name] and used is not None else None
        rows.append({**row, "over_time": _over_time(given, away)})
    return rows


def _over_time(given: Sequence[int], away: Sequence[int], bins: int = 12) -> list[float | None]:
    """Share that was rejected, in equal stretches of the order in which it was written; None for an empty stretch."""
    order = sorted([*((number, 0) for number in given), *((number, 1) for number in away)])
    if len(order) < bins or not away or order[0][0] < 1:
        return []
    cuts = [round(k * len(order) / bins) for k in range(bins + 1)]
    stretches = [[bad for _, bad in order[a:b]] for a, b in pairwise(cuts)]
    return [round(sum(stretch) / len(stretch), 4) if stretch else None for stretch in stretches]


def cost(made: Made) -> Fact:
    """What all teachers were asked together, those of filters included; per instance that was written and kept."""
    kept = sum(i.origin.via.startswith("generate:") for i in made.kept)
    keys = ("strategy", "prompts", "calls", "failed", "rejected", "tokens", "money")
    filters = [{key: account.get(key, 0) for key in keys} for account in made.asked]
    every = [*made.accounts, *made.asked]
    calls, tokens = (sum(int(account.get(key, 0)) for account in every) for key in ("calls", "tokens"))
    money = round(sum(float(account.get("money", 0) or 0) for account in every), 6)
    per_kept = round(money / kept, 6) if kept else None
    return {"filters": filters, "calls": calls, "tokens": tokens, "money": money, "per_kept": per_kept}
