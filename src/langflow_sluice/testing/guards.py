"""Guards of a test's own, so that tests do not meet in one guard, and need not wait for one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from langflow_sluice.guard import GuardRegistry, registry
from langflow_sluice.guard.clock import SYSTEM_CLOCK
from langflow_sluice.single_flight import clear_caches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langflow_sluice.guard.clock import Clock


@contextlib.contextmanager
def isolated_guards(clock: Clock = SYSTEM_CLOCK) -> Iterator[GuardRegistry]:
    """While entered, nodes find their guards in a new, empty registry, and nothing in the caches.

    Not for tests that run side by side in one process: the registry is the process's.

    Args:
        clock: Given to the guards; a ``ManualClock`` makes rates, pauses, timeouts and retries pass without waiting.
    """
    mine = GuardRegistry(clock)
    clear_caches()
    with registry.replaced(mine):
        yield mine
    clear_caches()
