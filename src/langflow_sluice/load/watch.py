"""Samples of everything while calls are under way, and where the time of a stage's calls went."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from langflow_sluice.load.results import Sample, Split

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Self

    from langflow_sluice.load.database import DatabaseLook
    from langflow_sluice.load.drive import Drive, Driven
    from langflow_sluice.load.guards import GuardsLook, GuardTotals

EVERY_S = 0.25
# What is watched may be what has given way: a stage begins, and ends, without a look that takes longer.
_PATIENCE_S = 2.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Edge:
    """Sums at the beginning or the end of a stage."""

    guards: GuardTotals | None
    database_s: float | None


class Watch:
    """Samples from a thread of its own, so that a slow database holds up no call; a context manager.

    A database that does not answer at all costs the looks at it, and the run 2 s at each end of a stage.

    Args:
        database: Counts connections; None where nobody is to be asked.
        guards: Tells of the server's guards; None where they cannot be seen.
    """

    def __init__(self, database: DatabaseLook | None, guards: GuardsLook | None) -> None:
        self._database = database
        self._guards = guards
        self._drive: Drive | None = None
        self._samples: list[Sample] = []
        self._began: float | None = None
        # Samples of a stage stand between its two edges. Nobody holds it while something is asked.
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="sluice-load-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._jobs.put(None)
        # Where a look hangs, the thread ends after it, or with the process.
        self._thread.join(_PATIENCE_S)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All so far, in the order of time."""
        with self._lock:
            return tuple(self._samples)

    async def edge(self) -> Edge:
        """The sums now; waits up to 2 s for the server to tell them, and as long for the database."""
        guards = await self._guards.totals() if self._guards is not None else None
        worked = await self._asked(self._database.worked_s) if self._database is not None else None
        return Edge(guards, worked)

    async def begin(self, drive: Drive) -> float:
        """Begins to sample a stage, with a first sample; returns when that was, on the time axis of the samples."""
        with self._lock:
            if self._began is None:
                self._began = perf_counter()
            begins_s = perf_counter() - self._began
            self._drive = drive
        await self._asked(self._sample)
        return begins_s

    async def end(self) -> None:
        """Takes the stage's last sample."""
        await self._asked(self._sample)
        with self._lock:
            self._drive = None

    def split(self, driven: Driven, before: Edge, after: Edge) -> Split:
        """Where the time of a stage's mean call went, by what was told at its edges.

        Each part is a sum over all that the server did meanwhile, divided by the calls: a flow that does several
        things at once has parts that add up to more than the call took, and then nobody can say what Langflow took.
        """
        calls = len(driven.calls)
        if not calls:
            return Split(None, None, None, None)
        queue = provider = database = None
        if before.guards is not None and after.guards is not None:
            times = after.guards.since(before.guards)
            queue, provider = times.waited_s, times.provider_s
        if before.database_s is not None and after.database_s is not None:
            database = max(0.0, after.database_s - before.database_s)
        rest = math.fsum(call.own_s for call in driven.calls) - sum(filter(None, (queue, provider, database)))
        # Without the provider's part the rest is not Langflow's own.
        langflow = rest if provider is not None and rest >= 0 else None
        queue, provider, database, langflow = (
            None if part is None else part / calls for part in (queue, provider, database, langflow)
        )
        return Split(queue, provider, database, langflow)

    async def _asked(self, work: Callable[[], T]) -> T | None:
        """What the thread brings; None if it does not within 2 s. Not ``to_thread``: its threads keep a loop open."""
        brings: Future[T] = Future()
        self._jobs.put((work, brings))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(brings), _PATIENCE_S)
        except asyncio.TimeoutError:
            return None

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=EVERY_S)
            except queue.Empty:
                self._sample()
                continue
            if job is None:
                return
            work, brings = job
            # Nobody waits any more for what came too late.
            if brings.set_running_or_notify_cancel():
                try:
                    brings.set_result(work())
                except Exception as error:  # noqa: BLE001 - raised where it is waited for
                    brings.set_exception(error)

    def _sample(self) -> None:
        with self._lock:
            drive, began = self._drive, self._began
        if drive is None or began is None:
            return
        calls, at_s = drive.in_flight, perf_counter() - began
        seen = self._database.connections() if self._database is not None else None
        guards = self._guards.now() if self._guards is not None else None
        sample = Sample(
            at_s=at_s,
            calls=calls,
            connections=None if seen is None else seen.total,
            active=None if seen is None else seen.active,
            guard_in_flight=None if guards is None else guards.in_flight,
            guard_waiting=None if guards is None else guards.waiting,
            loop_lag_s=None if guards is None else guards.loop_lag_s,
        )
        with self._lock:
            # The stage may be over meanwhile.
            if self._drive is drive:
                self._samples.append(sample)


def most_connections(samples: Sequence[Sample], begins_s: float) -> int | None:
    """The most connections seen from a moment on; None where none were counted."""
    return max(
        (each.connections for each in samples if each.at_s >= begins_s and each.connections is not None), default=None
    )
