"""One guard for each name, for all flows of the process."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from langflow_sluice.guard.clock import SYSTEM_CLOCK, Clock
from langflow_sluice.guard.guard import Guard
from langflow_sluice.guard.operator_limits import operator_limits
from langflow_sluice.guard.settings import GuardSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

# A node that has not asked for its guard for this long no longer tightens it for others: it was edited or deleted.
FORGET_AFTER_S = 600.0
# Guards are kept while in use and for a long time after; gates and fan-outs of deleted flows are not kept for ever.
MAX_IDLE_GUARDS = 1024


@dataclass(slots=True)
class _Entry:
    guard: Guard
    asked: dict[str, tuple[GuardSettings, float]] = field(default_factory=dict)


class GuardRegistry:
    """Guards by name; any thread.

    Several nodes may name one guard with different settings: each limit is then the tightest asked for, and
    ``disagreement`` says so. A node that changes its own settings replaces what it asked for before.

    Args:
        clock: Given to the guards and used to forget nodes that are gone.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def guard(self, key: str, settings: GuardSettings, *, asked_by: str, name: str = "") -> Guard:
        """The guard of that key, made on first use, with these settings taken into account.

        Args:
            key: Tells guards apart; holds whatever makes a name private, such as its user.
            settings: What the caller wants held.
            asked_by: Identity of the node that asks, the same each time it runs.
            name: The guard's name in messages and for the operator's rules, where that is not its key.

        Raises:
            InvalidInput: The operator's own limits cannot be read, or the guard is the cluster's and no Redis is there.
        """
        ceiling = operator_limits().ceiling(name or key)
        if settings.under(ceiling).scope == "cluster":
            from langflow_sluice.cluster.joining import check_cluster

            check_cluster()  # said before anything is changed
        now = self._clock.now()
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self._drop_idle()
                entry = self._entries[key] = _Entry(Guard(name or key, settings, self._clock, key=key))
            self._entries.move_to_end(key)
            known = entry.asked.get(asked_by)
            entry.asked[asked_by] = (settings, now)
            if known is None or known[0] != settings or len(entry.asked) > 1 or ceiling != entry.guard.ceiling:
                entry.asked = {who: what for who, what in entry.asked.items() if now - what[1] < FORGET_AFTER_S}
                wanted = functools.reduce(GuardSettings.tighter, (asked for asked, _ in entry.asked.values()))
                entry.guard.ceiling = ceiling
                effective = wanted.under(ceiling)
                if effective != entry.guard.settings:
                    entry.guard.change(effective)
                asked_for = (asked for asked, _ in entry.asked.values())
                entry.guard.contested = frozenset(name for asked in asked_for for name in asked.differing(effective))
            return entry.guard

    def guards(self) -> list[Guard]:
        """All guards, the one asked for last at the end."""
        with self._lock:
            return [entry.guard for entry in self._entries.values()]

    def _drop_idle(self) -> None:
        surplus = len(self._entries) + 1 - MAX_IDLE_GUARDS  # one more is about to come
        for name in [each for each, entry in self._entries.items() if _is_idle(entry.guard)][: max(0, surplus)]:
            self._entries.pop(name).guard.retire()


def disagreement(guard: Guard, wanted: GuardSettings) -> str:
    """Says in one sentence where a guard holds tighter limits than wanted, and who wants that; else nothing."""
    allowed = wanted.under(guard.ceiling)
    told = []
    if wanted.differing(allowed):
        told.append(f"Guard {guard.name!r} is limited by the operator of this server: {_instead(wanted, allowed)}.")
    if allowed.differing(guard.settings):
        told.append(
            f"Another node that shares guard {guard.name!r} asks for less: {_instead(allowed, guard.settings)}."
        )
    return " ".join(told)


def _instead(wanted: GuardSettings, held: GuardSettings) -> str:
    return ", ".join(
        f"{name} {_limit(held, name)} instead of {_limit(wanted, name)}" for name in wanted.differing(held)
    )


def _limit(settings: GuardSettings, name: str) -> str:
    value = getattr(settings, name)
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, str):
        return value
    return f"{value:g}" if value else "no limit"


def _is_idle(guard: Guard) -> bool:
    return not guard.admission.in_flight and not sum(guard.admission.waiting().values())


_registry = GuardRegistry()


def _start_afresh() -> None:
    global _registry  # noqa: PLW0603 - permits held by the parent process are not ours
    _registry = GuardRegistry()


os.register_at_fork(after_in_child=_start_afresh)


@contextlib.contextmanager
def replaced(other: GuardRegistry) -> Iterator[None]:
    """While entered, ``guard_registry`` returns another registry; for tests."""
    global _registry  # noqa: PLW0603 - as above
    before, _registry = _registry, other
    try:
        yield
    finally:
        _registry = before


def guard_registry() -> GuardRegistry:
    """The registry of this process; a forked child has its own, empty one."""
    return _registry
