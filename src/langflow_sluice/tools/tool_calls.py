"""One call of a tool through a guard: its slot is held until all work on it has really ended."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from langflow_sluice.errors import InvalidInput, SluiceError, UpstreamTimeout, UpstreamUnavailable, checked_amount
from langflow_sluice.guard import PRIORITIES
from langflow_sluice.guard.waiter import Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from langflow_sluice.failures import Failure
    from langflow_sluice.guard import Guard, Priority, Slot

T = TypeVar("T")


class ToolTimeout(UpstreamTimeout):
    """A tool gave no answer within ``tool_timeout``; its work may go on."""

    code = "tool_timeout"


class ToolBrokenOff(UpstreamUnavailable):
    """A tool's work ended itself by a cancellation that nobody had asked for."""

    code = "tool_broken_off"


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """How a guarded tool is called.

    Attributes:
        timeout_s: Seconds from the start of the tool's work to its answer, the wait for a slot not included, since
            the guard's ``queue_timeout_s`` bounds that; 0 turns it off.
        priority: The lane in the guard's queue.
    """

    timeout_s: float = 60.0
    priority: Priority = "normal"

    def __post_init__(self) -> None:
        fix = "Set tool_timeout to 0 (no limit) or above."
        checked_amount("tool_timeout", self.timeout_s, "it is a number of 0 or more", fix=fix)
        if self.priority not in PRIORITIES:
            raise InvalidInput.of("priority", self.priority, "there is no such lane", fix=f"Use one of {PRIORITIES}.")


class Permit:
    """A slot held by all who work on one call, and given back when the last of them has ended; any thread.

    Args:
        slot: Entered already.
    """

    __slots__ = ("_ended", "_lock", "_parts", "slot")

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self._lock = threading.Lock()
        self._parts = 0
        self._ended = False

    def begin(self) -> None:
        """Counts one more who works on the call.

        Raises:
            RuntimeError: The call has been given up and the slot is somebody else's.
        """
        with self._lock:
            if self._ended:
                msg = "the call that this work belongs to has been given up"
                raise RuntimeError(msg)
            self._parts += 1

    def end(self) -> None:
        """Counts one less; with the last one the slot goes back."""
        with self._lock:
            self._parts -= 1
            self._ended = ended = not self._parts
        if ended:
            self.slot.__exit__(None, None, None)

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        """While entered, the slot is held."""
        self.begin()
        try:
            yield
        finally:
            self.end()


class GuardedCall:
    """One call of a tool, from the look at its arguments to its end.

    Attributes:
        admitted: Whether it has had a slot.
        permit: What its work holds.
        turned_away: The error by which the guard turned it away, if it did.
    """

    __slots__ = ("admitted", "permit", "protection", "turned_away")

    def __init__(self, protection: ToolProtection) -> None:
        self.protection = protection
        self.admitted = False
        self.permit: Permit | None = None
        self.turned_away: SluiceError | None = None

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """While entered, what the tool does by its own methods is part of this call."""
        before = _running.get()
        _running.set(self)
        try:
            yield
        finally:
            _running.set(before)

    @contextlib.contextmanager
    def admission(self) -> Iterator[None]:
        """Around the wait for the slot: notes whether there was one, and if not, why."""
        try:
            yield
        except SluiceError as error:
            self.turned_away = error
            raise
        self.admitted = True


# The call that the running code works on. LangChain's methods call each other: _arun falls back to _run on a thread,
# and many a tool's _run runs its own _arun. A second slot for the same call is a deadlock at a cap of 1.
_running: contextvars.ContextVar[GuardedCall | None] = contextvars.ContextVar("sluice_tool_call", default=None)


class ToolProtection:
    """What stands in front of a tool: shared by its copies, and itself under ``copy`` and ``deepcopy``.

    Args:
        guard: The gate that every call passes.
        policy: Timeout and priority.
        diagnose: Tells what a tool's error means, or None if it does not come from a service.
    """

    def __init__(self, guard: Guard, policy: ToolPolicy, diagnose: Callable[[Exception], Failure | None]) -> None:
        self.guard = guard
        self.policy = policy
        self._diagnose = diagnose

    async def call(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        """Makes one guarded call, from any event loop.

        Cancelled while it waits, it leaves the queue. Cancelled later, it cancels the work and waits for its end. Late,
        it raises at once; either way the slot is held until the work has ended, threads included.

        Args:
            name: The tool's, for errors.
            work: Starts the tool's work.

        Raises:
            Rejected: The guard turned the call away.
            ToolTimeout: There was no answer in time.
            ToolBrokenOff: The work was cancelled, but not by the caller.
            Exception: What the work raised.
        """
        call = self._running_or_new()
        if call.permit is not None:
            with call.permit.part():
                return await work()
        slot = self.guard.slot(priority=self.policy.priority)
        with call.admission():
            await slot.__aenter__()
        call.permit = permit = Permit(slot)

        async def working() -> T:
            with permit.part():
                return await work()

        with permit.part(), self._telling(slot):
            with call.entered():
                task = asyncio.ensure_future(working())
            await self._until_late(task)
            if not task.done():
                task.cancel()
                task.add_done_callback(_forget)
                raise self._too_late(name)
            if task.cancelled():
                msg = f"Tool {name!r} broke its call off without an answer."
                raise ToolBrokenOff(msg, hint="Look at the connection that the tool works with.")
            # A tool may call its own methods several times, one after the other: the next one is a call again.
            call.permit = None
            return task.result()

    async def _until_late(self, task: asyncio.Future[Any]) -> None:
        try:
            if not self.policy.timeout_s:
                await asyncio.wait({task})
                return
            loop = asyncio.get_running_loop()
            late = loop.create_future()

            def ring() -> None:
                if not late.done():
                    late.set_result(None)

            def wake() -> None:
                # The loop may have been closed; an error here would end the clock's thread.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(ring)

            with self._timer(wake):
                await asyncio.wait({task, late}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            task.add_done_callback(_forget)
            await asyncio.wait({task})
            raise

    def call_blocking(self, name: str, work: Callable[[], T]) -> T:
        """``call`` for a thread without a running event loop.

        With a timeout the work runs on a thread of its own, since nothing could end the wait for it otherwise.
        """
        call = self._running_or_new()
        if call.permit is not None:
            with call.permit.part():
                return work()
        slot = self.guard.slot(priority=self.policy.priority)
        with call.admission():
            slot.__enter__()
        call.permit = permit = Permit(slot)
        with permit.part(), self._telling(slot):
            with call.entered():
                if not self.policy.timeout_s:
                    try:
                        return work()
                    finally:
                        call.permit = None
                future = _start_thread(permit, work)
            over = threading.Event()
            future.add_done_callback(lambda _: over.set())
            with self._timer(over.set):
                over.wait()
            if not future.done():
                raise self._too_late(name)
            call.permit = None
            return future.result()

    @contextlib.contextmanager
    def _timer(self, ring: Callable[[], None]) -> Iterator[None]:
        clock = self.guard.clock
        timer = clock.call_at(clock.now() + self.policy.timeout_s, ring)
        try:
            yield
        finally:
            timer.cancel()

    def _running_or_new(self) -> GuardedCall:
        call = _running.get()
        return call if call is not None and call.protection is self else GuardedCall(self)

    @contextlib.contextmanager
    def _telling(self, slot: Slot) -> Iterator[None]:
        """Around the work, while the slot is held: tells the guard what it said about the service behind the tool."""
        try:
            yield
        except Exception as error:
            failure = self._diagnose(error)
            if failure is not None:
                slot.report(failure.outcome, pause_s=failure.retry_after_s or 0.0)
            raise
        slot.report(Outcome.OK)

    def _too_late(self, name: str) -> ToolTimeout:
        msg = f"Tool {name!r} gave no answer within {self.policy.timeout_s:g} s (tool_timeout)."
        return ToolTimeout(msg, hint="Raise tool_timeout if the tool is meant to be this slow.")

    def __copy__(self) -> ToolProtection:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> ToolProtection:
        return self


async def in_thread(work: Callable[[], T]) -> T:
    """Runs a part of the running call on a thread of its own, in a copy of the context.

    Not on the loop's executor, which is Langflow's own for all synchronous nodes and has few threads: tools that hang
    would take them all, and a server could not end before they do. Cancelled, it leaves the thread to its work.
    """
    call = _running.get()
    if call is None or call.permit is None:
        return await asyncio.to_thread(work)
    return await asyncio.wrap_future(_start_thread(call.permit, work))


def _start_thread(permit: Permit, work: Callable[[], T]) -> concurrent.futures.Future[T]:
    context = contextvars.copy_context()
    future: concurrent.futures.Future[T] = concurrent.futures.Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            answer = context.run(work)
        except StopIteration as error:
            # No future takes it; this is what a coroutine makes of it.
            wrapped = RuntimeError("the tool raised StopIteration")
            wrapped.__cause__ = error
            permit.end()
            future.set_exception(wrapped)
        except BaseException as error:  # noqa: BLE001 - raised again where the answer is waited for
            permit.end()
            future.set_exception(error)
        else:
            permit.end()
            future.set_result(answer)

    permit.begin()
    try:
        threading.Thread(target=run, name="sluice-tool", daemon=True).start()
    except BaseException:
        permit.end()
        raise
    return future


def _forget(task: asyncio.Future[Any]) -> None:
    """Looks at the end of work that nobody waits for any more, so that it is not reported as overlooked."""
    if not task.cancelled():
        task.exception()
