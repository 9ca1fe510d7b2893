"""One caller at a guard, and how it is woken on its own loop or thread."""

from __future__ import annotations

import asyncio
import enum
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from langflow_sluice.guard.settings import Priority


class WaiterState(enum.Enum):
    """Where a caller stands; only the admission queue moves it on."""

    NEW = enum.auto()
    WAITING = enum.auto()
    GRANTED = enum.auto()
    EXPIRED = enum.auto()
    REFUSED = enum.auto()
    BROKEN = enum.auto()
    CUT_OFF = enum.auto()
    GONE = enum.auto()


class Outcome(enum.Enum):
    """What a call told about the service, beside its answer.

    OK is an answer in time, whatever it said about the request. OVERLOADED is a refusal for too many requests. FAULT
    is the service's own failure. TIMEOUT is both: it may be down or only too busy.
    """

    OK = enum.auto()
    OVERLOADED = enum.auto()
    FAULT = enum.auto()
    TIMEOUT = enum.auto()


def on_event_loop() -> bool:
    """Whether the calling thread runs an event loop at this moment."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Sleeper:
    """Something that may wait and be woken by another thread; what waits says how by setting ``_wake``."""

    __slots__ = ("_wake",)

    def __init__(self) -> None:
        self._wake: Callable[[], object] | None = None

    @property
    def waits(self) -> bool:
        """Whether it has made itself ready to be woken."""
        return self._wake is not None

    def wake(self) -> bool:
        """Wakes what waits; any thread.

        Returns:
            False where nobody can be told any more: the caller's event loop is closed.
        """
        wake = self._wake
        if wake is None:
            return True
        try:
            wake()
        except RuntimeError:
            return False
        return True


class Waiter(Sleeper):
    """One caller's place at a guard.

    A waiter is made before it is known whether the caller must wait, and most callers need not: what it takes to be
    woken is made only then. A grant may fall between the caller's look at the state and its wait; so the granting
    side sets the state first and then looks for something to wake, and the waiting side does it the other way round.
    """

    __slots__ = (
        "enqueued_at",
        "epoch",
        "fence",
        "granted_at",
        "patience_s",
        "position",
        "priority",
        "probe",
        "state",
        "tokens",
    )

    def __init__(self, tokens: float, priority: Priority, patience_s: float | None) -> None:
        super().__init__()
        self.tokens = tokens
        self.priority = priority
        self.patience_s = patience_s
        self.state = WaiterState.NEW
        self.enqueued_at = 0.0
        self.granted_at = 0.0
        self.epoch = 0
        self.fence = 0
        self.probe = False
        self.position = 0

    @property
    def settled(self) -> bool:
        """Whether the caller has its answer."""
        state = self.state
        return state is not WaiterState.NEW and state is not WaiterState.WAITING

    async def wait(self) -> None:
        """Waits on the running loop until settled; cancellation leaves the state to the queue."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def resolve() -> None:
            if not future.done():
                future.set_result(None)

        thread = threading.get_ident()

        def wake() -> None:
            # The caller's own loop needs no wake-up through the self-pipe; a closed one raises in both ways.
            if threading.get_ident() == thread and not loop.is_closed():
                resolve()
            else:
                loop.call_soon_threadsafe(resolve)

        self._wake = wake
        if not self.settled:
            await future

    def wait_blocking(self, timeout_s: float | None = None, woken: threading.Event | None = None) -> None:
        """Blocks the calling thread until settled, or until the time is over.

        Args:
            timeout_s: That time, in seconds; any if not given.
            woken: Ends the wait, too, when somebody else sets it.
        """
        woken = woken or threading.Event()
        self._wake = woken.set
        if not self.settled:
            woken.wait(timeout_s)
