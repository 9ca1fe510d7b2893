"""What the figures of a guard say about the service behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langflow_sluice.gauge.joining import quantile_s
from langflow_sluice.gauge.pressure import Pressure, Severity
from langflow_sluice.gauge.words import amount, duration, name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langflow_sluice.gauge.queues import Fullness
    from langflow_sluice.metrics.figures import GuardFigures


def guard_pressure(guard: GuardFigures, full: Fullness, *, is_database: bool) -> Iterator[Pressure]:
    """What is the matter with a guard.

    Args:
        guard: Its figures, over all workers.
        full: In how many of them it is, and whether that is what its callers wait for.
        is_database: Whether it stands in front of a database.
    """
    where, waiting = f"Guard {name(guard.name)}", sum(guard.waiting.values())
    if guard.breaker == "open":
        away = guard.turned_away.get("open", 0)
        yield Pressure(
            Severity.FAILING,
            where,
            f"breaker open: the service behind it failed, and {amount(away, 'call')} got no try so far",
            "Look at the service itself, no limit helps here; the guard tries it again by itself",
            affected=1 + away,
        )
    elif guard.breaker == "half_open":
        yield Pressure(
            Severity.PRESSURE,
            where,
            f"breaker half open: the service has failed and is being tried again, {waiting} waiting",
            "Look at the service itself; the guard opens up as soon as a call succeeds",
            affected=waiting,
        )
    if guard.standing in _WITHOUT_REDIS:
        away = guard.turned_away.get("redis", 0)
        yield Pressure(
            Severity.FAILING,
            where,
            f"the Redis that all workers share it through is away, so {_WITHOUT_REDIS[guard.standing]};"
            f" {amount(away, 'call')} turned away for that so far",
            "Look at Redis (SLUICE_REDIS_URL): the guard goes back to it by itself",
            affected=1 + away,
        )
    if waiting:
        yield _queue(guard, where, waiting, full, is_database=is_database)
    elif guard.paused_s > 0:
        yield Pressure(Severity.NOTE, where, f"paused: {_asked_to_wait(guard)}", _ASK_LESS)
    elif _backed_off(guard):
        yield Pressure(Severity.NOTE, where, _limit_is_down(guard), _BACKED_OFF)
    refused, late = guard.turned_away.get("full", 0), guard.turned_away.get("timeout", 0)
    if (refused or late) and not waiting:
        yield Pressure(
            Severity.NOTE,
            where,
            f"turned away since the start: {refused} because the queue was full, {late} after queue_timeout; none waits"
            " now",
            "Raise max_queue or queue_timeout for bursts, or send less at once",
            affected=refused + late,
        )


def _queue(guard: GuardFigures, where: str, waiting: int, full: Fullness, *, is_database: bool) -> Pressure:
    refused, late = guard.turned_away.get("full", 0), guard.turned_away.get("timeout", 0)
    told = [f"{waiting} waiting, {_state(guard, full)}"]
    waited_s = quantile_s(guard.wait, 0.95)
    if waited_s is not None:
        told.append(f"p95 wait {duration(waited_s)} so far")
    if refused or late:
        told.append(f"turned away so far: {refused} by a full queue, {late} by queue_timeout")
    each = f" in each of {full.workers} workers" if full.workers > 1 and guard.standing == "process" else ""
    severity = Severity.FAILING if refused or late else Severity.PRESSURE
    if guard.paused_s > 0:
        told.append(_asked_to_wait(guard))
        change = _ASK_LESS
    elif _backed_off(guard):
        told.append(_limit_is_down(guard))
        change = _BACKED_OFF
    elif not full.holds:
        why, change, is_pressure = _not_full(guard, full, each)
        told.append(why)
        severity = severity if is_pressure else Severity.NOTE
    elif guard.retries:
        told.append(f"{amount(guard.retries, 'attempt')} had to be repeated")
        change = (
            "Do not raise max_concurrency blindly, since calls have failed: look at the provider's 429s in the node's"
            " status, and turn Adaptive on, which finds out what the service takes"
        )
    elif is_database:
        change = (
            f"Raise max_concurrency{each} together with pool_size and max_overflow, if the server has connections to"
            " spare; nothing has failed so far"
        )
    else:
        told.append("no call had to be repeated and no pause was asked for")
        change = f"Raise max_concurrency{each}: the provider has not refused anything"
        if each and not _all_busy(guard):
            change += ". Or set scope to cluster, since other workers have room"
    return Pressure(severity, where, ", ".join(told), change, affected=waiting)


def _not_full(guard: GuardFigures, full: Fullness, each: str) -> tuple[str, str, bool]:
    """What else callers wait for, what to change, and whether that is pressure at all."""
    if guard.breaker != "closed":
        return "the breaker holds them", "Look at the service itself, no limit helps here", True
    if guard.standing == "unreached":
        why = "Redis holds them, which has not answered for a moment"
        return why, "Look at Redis (SLUICE_REDIS_URL), no limit helps here", True
    if full.rated:
        rates = _rates(guard)
        why = f"the rate holds them, not max_concurrency ({', '.join(rates.values()) or 'not set for all'})"
        change = f"Raise {' or '.join(rates) or 'the rate'}{each} if your quota allows more, or send less"
        return why, change, True
    why = "no limit holds them at this moment, so they are about to be let in"
    return why, "Look again: as long as others wait then, there is nothing to change", False


def _state(guard: GuardFigures, full: Fullness) -> str:
    if full.holds and _all_busy(guard):
        return f"limit {guard.limit} busy"
    in_flight = f"{guard.in_flight} of {guard.limit or 'any number'} in flight"
    if not full.holds:
        return in_flight
    where = f"full in {full.full_in} of {full.workers} workers" if full.workers > 1 else "full where they wait"
    return f"{where}, {in_flight} in all"


def _all_busy(guard: GuardFigures) -> bool:
    return bool(guard.limit) and guard.in_flight >= guard.limit


def _rates(guard: GuardFigures) -> dict[str, str]:
    rates = {"requests_per_minute": guard.requests_per_minute, "tokens_per_minute": guard.tokens_per_minute}
    return {rate: f"{rate} {value:g}" for rate, value in rates.items() if value}


_WITHOUT_REDIS = {
    "unreached": "calls wait",
    "cut_off": "calls are turned away",
    "local_share": "each worker holds its part of the limits",
}


def _backed_off(guard: GuardFigures) -> bool:
    # Without a cap of its own an adaptive guard looks for the service's capacity from above.
    return 0 < guard.limit < guard.max_concurrency


def _limit_is_down(guard: GuardFigures) -> str:
    return (
        f"the adaptive limit is down to {guard.limit} of {guard.max_concurrency}: the service refused or was too slow"
    )


def _asked_to_wait(guard: GuardFigures) -> str:
    return f"the service has asked to be left alone for another {duration(guard.paused_s)}"


_ASK_LESS = (
    "The provider's limit is reached: set requests_per_minute and tokens_per_minute to your quota, lower"
    " max_concurrency or turn Adaptive on; a higher quota is the provider's to give"
)
_BACKED_OFF = (
    "Leave max_concurrency: the service takes no more at present. Get a higher quota or more capacity, or send less;"
    " the limit rises by itself while calls succeed"
)
