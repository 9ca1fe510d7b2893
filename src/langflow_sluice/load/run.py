"""A whole load run: each flow, stage by stage, until all is done or somebody stops it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import threading
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from langflow_sluice.load.call import CUT_OFF, Caller
from langflow_sluice.load.causes import Hidden, causes_of
from langflow_sluice.load.comparison import compared
from langflow_sluice.load.diagnosis import HOLDS, Finding, find, level
from langflow_sluice.load.drive import Drive, latency_of
from langflow_sluice.load.results import FlowResult, LoadReport, Split, Stage
from langflow_sluice.load.target import LoadServer
from langflow_sluice.load.watch import Watch, most_connections

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from langflow_sluice.load.database import DatabaseLook
    from langflow_sluice.load.drive import Driven
    from langflow_sluice.load.guards import GuardsLook
    from langflow_sluice.load.plan import Asked, StagePlan
    from langflow_sluice.load.target import Address, FlowTarget

STOPPED: Final = "stopped"
"""The verdict on a flow that somebody stopped before it could be seen under load."""

_PAIR = 2
# Each ends the run as the first Ctrl-C does; the last one is sent where a terminal or a connection to one is closed.
_ENDING = ("SIGINT", "SIGTERM", "SIGHUP")
_NOTHING_TOLD = Split(None, None, None, None)


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a run is to do.

    Attributes:
        address: The server.
        api_key: A key of its API; None to use its auto login.
        flows: One, or two to compare, as the user names them.
        stages: For each flow; the first is one call at a time.
        what: What calls carry.
        warm_up: Calls before each stage that do not count.
        max_seconds: For one stage, and for its warm-up.
        timeout_s: For one call.
        pause_s: Between stages, and between flows.
        database: Counts connections; None where nobody is to be asked.
        guards: Tells of the server's guards; None where they cannot be seen.
    """

    address: Address
    api_key: str | None = field(repr=False)
    flows: tuple[str, ...]
    stages: tuple[StagePlan, ...]
    what: Asked
    warm_up: int
    max_seconds: float
    timeout_s: float
    pause_s: float
    database: DatabaseLook | None = None
    guards: GuardsLook | None = None


class Progress(Protocol):
    """Is told what is under way; from the loop of the run, so it must not take long."""

    def begins(self, flow: str, what: str, drive: Drive) -> None:
        """A stage or its warm-up begins; the drive's counts tell how far it is."""

    def ends(self, flow: str, what: str, stage: Stage) -> None:
        """A stage is done."""


def run_load(options: LoadOptions, progress: Progress) -> tuple[LoadReport, bool]:
    """Runs the load; call it from a thread without a running loop, and from the main thread for signals to end it.

    Those are Ctrl-C, SIGTERM and, where it is not ignored, SIGHUP. The first one ends the run with what there is, a
    second one at once; either way the key that was made for the run is removed.

    Returns:
        What was found, and whether it was stopped before its end: then it holds what had been measured until then.

    Raises:
        InvalidInput: The server has no such flow; nothing was called.
        LangflowError: The server cannot be reached, or refuses the key; nothing was called.
    """
    started_at = datetime.now().astimezone().isoformat(timespec="seconds")
    found: list[FlowResult] | None = None
    try:
        with _signals_do(signal.default_int_handler, {}), LoadServer(options.address, options.api_key) as server:
            targets = [server.find(flow) for flow in options.flows]
            version = server.version()
            key = server.key()
            found, stopped = asyncio.run(_Run(options, key, progress).flows(targets))
    except KeyboardInterrupt:
        # Also who does not wait until a server that is down refuses to remove the key has what was measured.
        if found is None:
            raise
        stopped = True
    report = LoadReport(
        target=options.address.url,
        started_at=started_at,
        server=version,
        max_connections=options.database.max_connections if options.database is not None else None,
        flows=tuple(found),
        comparison=compared(*found) if len(found) == _PAIR else "",
    )
    return report, stopped


class _Run:
    def __init__(self, options: LoadOptions, key: str, progress: Progress) -> None:
        self._options = options
        self._key = key
        self._progress = progress
        self._hidden = Hidden.of(options.what, key)
        self._stop = asyncio.Event()
        self._broken_off: Stage | None = None

    async def flows(self, targets: list[FlowTarget]) -> tuple[list[FlowResult], bool]:
        found: list[FlowResult] = []
        with _signals_set(self._stop):
            for target in targets:
                if target is not targets[0]:
                    await self._pause()
                if self._stop.is_set():
                    break
                result = await self._flow(target)
                if result is not None:
                    found.append(result)
        return found, self._stop.is_set()

    async def _flow(self, target: FlowTarget) -> FlowResult | None:
        options, stages = self._options, list[Stage]()
        caller = Caller(
            options.address,
            self._key,
            target,
            options.what,
            timeout_s=options.timeout_s,
            connections=max(plan.concurrency for plan in options.stages),
        )
        with Watch(options.database, options.guards) as watch:
            async with caller:
                for plan in options.stages:
                    if stages:
                        await self._pause()
                    stage = None if self._stop.is_set() else await self._stage(target, plan, caller, watch)
                    if stage is None:
                        break
                    self._progress.ends(target.name, plan.label, stage)
                    stages.append(stage)
                    if not stages[0].succeeded:
                        break  # What fails alone needs no load to fail.
        if not stages:
            return None
        finding = self._finding(stages, watch)
        return FlowResult(
            flow=target.name,
            stages=tuple(stages),
            samples=watch.samples,
            knee=finding.knee,
            verdict=finding.verdict,
            explanation=finding.explanation,
            dependency=finding.dependency,
        )

    def _finding(self, stages: list[Stage], watch: Watch) -> Finding:
        database, last = self._options.database, stages[-1]
        # Calls that were given up because somebody stopped the run say nothing about the flow; those that failed do.
        is_cut = last is self._broken_off and all(cause.code == CUT_OFF.kind for cause in last.causes)
        whole = stages[:-1] if is_cut else stages
        if not whole:
            told = (
                f"Stopped {level(last)}, after {last.succeeded} of {last.requests + last.unsent} calls were answered."
            )
            return Finding(None, STOPPED, told, "")
        finding = find(whole, watch.samples, database.max_connections if database is not None else None)
        if not self._stop.is_set():
            return finding
        if finding.verdict == HOLDS and len(whole) == 1 < len(self._options.stages):
            told = f"{finding.explanation} Stopped before anything could be said of it under load."
            return dataclasses.replace(finding, verdict=STOPPED, explanation=told)
        if self._broken_off is None and len(stages) == len(self._options.stages):
            return finding
        return dataclasses.replace(finding, explanation=f"{finding.explanation} Stopped before the end.")

    async def _stage(self, target: FlowTarget, plan: StagePlan, caller: Caller, watch: Watch) -> Stage | None:
        options = self._options
        if options.warm_up:
            at_once = min(plan.concurrency, options.warm_up)
            warming = dataclasses.replace(
                plan, kind="closed loop", concurrency=at_once, requests=options.warm_up, rate_per_s=0.0
            )
            await self._drive(target, f"{plan.label}, warm-up", self._drive_of(warming, caller))
            if self._stop.is_set():
                return None
        before = await watch.edge()
        drive = self._drive_of(plan, caller)
        begins_s = await watch.begin(drive)
        try:
            driven = await self._drive(target, plan.label, drive)
            is_stopped = self._stop.is_set()
        finally:
            await watch.end()
        split = _NOTHING_TOLD if self._stop.is_set() else watch.split(driven, before, await watch.edge())
        failures = [call.failure for call in driven.calls if call.failure is not None]
        stage = Stage(
            kind=plan.kind,
            concurrency=driven.peak if plan.kind == "open loop" else plan.concurrency,
            rate_per_s=plan.rate_per_s,
            requests=len(driven.calls),
            succeeded=len(driven.calls) - len(failures),
            unsent=driven.unsent,
            seconds=driven.seconds,
            latency=latency_of([call.seconds for call in driven.calls]),
            success_latency=latency_of([call.seconds for call in driven.calls if call.failure is None]),
            causes=causes_of(failures, self._hidden),
            split=split,
            connections=most_connections(watch.samples, begins_s),
            begins_s=begins_s,
        )
        # One whose last call was answered before the stop is whole.
        if is_stopped and (driven.unsent or CUT_OFF in failures):
            self._broken_off = stage
        return stage

    async def _drive(self, target: FlowTarget, what: str, drive: Drive) -> Driven:
        self._progress.begins(target.name, what, drive)
        return await drive.run()

    def _drive_of(self, plan: StagePlan, caller: Caller) -> Drive:
        return Drive(plan, caller.send, max_seconds=self._options.max_seconds, stop=self._stop)

    async def _pause(self) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stop.wait(), self._options.pause_s)


@contextlib.contextmanager
def _signals_do(what: Callable[[int, FrameType | None], Any], before: dict[int, Any]) -> Iterator[None]:
    """While entered, the signals that end a run do that; ``before`` gets what they did. In another thread, nothing."""
    try:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in _ENDING if hasattr(signal, name)):
                # What nohup has turned off stays so; shells turn SIGINT off for their jobs, where it can be meant.
                if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                    was = signal.getsignal(number)
                    before[number] = signal.SIG_DFL if was is None else was
                    signal.signal(number, what)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _signals_set(stop: asyncio.Event) -> Iterator[None]:
    """While entered, the first signal that ends a run sets the event; after it, each does what it did before."""
    loop = asyncio.get_running_loop()

    def interrupted(_: int, __: FrameType | None) -> None:
        for number, handler in before.items():
            signal.signal(number, handler)
        loop.call_soon_threadsafe(stop.set)

    before: dict[int, Any] = {}
    with _signals_do(interrupted, before):
        yield
