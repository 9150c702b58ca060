"""How many training instances each task gives: rates by size, equal, capped, by temperature, or as given.

Examples-proportional mixing with a maximum is Raffel et al. 2020's (arXiv 1910.10683, section 3.5.2), as Flan uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from didact.build import draws
from didact.build.config import MixingConfig
from didact.errors import UsageError, nearest
from didact.template import matches


@dataclass(frozen=True, slots=True)
class Supply:
    """What a task could give: `rows` to train on, in `templates` each, `items` instances in all after its cap.

    part: another name that globs may meet, such as super-ni/NAME.
    """

    name: str
    cluster: str
    rows: int
    templates: int
    items: int
    part: str = ""


@dataclass(frozen=True, slots=True)
class Mixture:
    """rates and numbers of instances by task name, and what there is to say about them."""

    rates: Mapping[str, float]
    quotas: Mapping[str, int]
    notes: tuple[str, ...] = ()


def cap(names: Sequence[str], limit: int | Mapping[str, int] | None) -> int | None:
    """The cap of a task; the first glob that matches its name, cluster or part counts."""
    if limit is None or isinstance(limit, int):
        return limit
    return next((n for glob, n in limit.items() if any(matches(name, [glob]) for name in names)), None)


def mix(supplies: Sequence[Supply], config: MixingConfig, preset: bool = False) -> Mixture:
    """Rates that sum to 1, and whole numbers that keep them as nearly as whole numbers can.

    Without `repeat` no task gives more than it has: a total beyond that is lowered, so that the rates hold. preset:
    weights come from a preset, so globs that match nothing are passed over. Raises UsageError.
    """
    able = [supply for supply in supplies if supply.items]
    if not able:
        return Mixture({}, {})
    weights, unmet = _weights(able, config, preset)
    whole = sum(weights.values())
    if not whole:
        problem = "every task has weight 0"
        raise UsageError(problem, "give at least one task a weight", field="build.mixing.weights")
    rates = {name: weight / whole for name, weight in weights.items()}
    items = {supply.name: supply.items for supply in able}
    notes = [f"no weight is for {', '.join(unmet[:4])}{' ...' * (len(unmet) > 4)}: nothing of it"] if unmet else []
    if config.total is None and config.by in ("size", "capped"):
        return Mixture(rates, {name: min(round(weight), items[name]) for name, weight in weights.items()})
    most, scarce = min((items[name] / rate, name) for name, rate in rates.items() if rate)
    total = config.total or int(most + 1e-6)
    if total > most and not config.repeat:
        notes.append(
            f'{int(most):,} of {total:,} instances: task "{scarce}" has no more than {items[scarce]:,} '
            f"(its rate is {rates[scarce]:.2%}); mixing.repeat uses rows again"
        )
        total = int(most + 1e-6)
    quotas = _whole_numbers(rates, total)
    if not config.repeat:
        quotas = {name: min(n, items[name]) for name, n in quotas.items()}
    if any(n == 0 for name, n in quotas.items() if rates[name]):
        lost = sum(n == 0 for name, n in quotas.items() if rates[name])
        notes.append(f"{lost} tasks have too low a rate for a single one of {total:,} instances")
    return Mixture(rates, quotas, tuple(notes))


def _weights(able: Sequence[Supply], config: MixingConfig, preset: bool) -> tuple[dict[str, float], list[str]]:
    """What each task weighs, and the tasks that no weight is for."""
    size: dict[str, Callable[[Supply], float]] = {
        "size": lambda supply: supply.items,
        "equal": lambda supply: 1,
        "capped": lambda supply: capped(supply, config),
        "temperature": lambda supply: capped(supply, config) ** (1 / config.temperature),
    }
    if config.by != "weights":
        return {supply.name: size[config.by](supply) for supply in able}, []
    shared: dict[str, list[Supply]] = {glob: [] for glob in config.weights}
    unmet = list[str]()
    for supply in able:
        names = (supply.name, supply.cluster, supply.part)
        first = next((glob for glob in config.weights if any(matches(name, [glob]) for name in names)), None)
        if first is None:
            unmet.append(supply.name)
        else:
            shared[first].append(supply)
    found = {supply.name: 0.0 for supply in able}
    for glob, weight in config.weights.items():
        if not shared[glob] and weight and not preset:
            known = {name for supply in able for name in (supply.name, supply.cluster)}
            raise UsageError(f'"{glob}" matches no task', nearest(glob, known), field="build.mixing.weights")
        part = sum(capped(supply, config) for supply in shared[glob])
        for supply in shared[glob]:
            found[supply.name] = weight * capped(supply, config) / part
    return found, unmet


def capped(supply: Supply, config: MixingConfig) -> int:
    """The size of a task as far as it counts."""
    if config.per_template and supply.rows <= config.maximum:
        return supply.items
    return min(supply.items, config.maximum)


def _whole_numbers(rates: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers that sum to the total, each within one of its share (largest remainders)."""
    exact = {name: rate * total for name, rate in rates.items()}
    found = {name: int(value + 1e-9) for name, value in exact.items()}
    # Ties go by a hash, so that no cluster gains by its name.
    ranked = sorted(exact, key=lambda name: (round(found[name] - exact[name], 9), draws.number(0, name)))
    for name in ranked[: total - sum(found.values())]:
        found[name] += 1
    return found
