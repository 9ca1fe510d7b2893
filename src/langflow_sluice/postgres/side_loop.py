"""An event loop for callers that have none: one for the process, on a thread of its own, for as long as it lives.

A loop made for each call would need connections of its own each time; the server's main loop would do, but whoever
blocks that one while waiting for us would wait for ever.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from langflow_sluice.errors import WouldBlockLoop

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

# A caller that blocks an event loop may be waiting for what that very loop has to finish first (a permit that one of
# its tasks holds): it is told after this, instead of waiting for ever.
PATIENCE_ON_A_LOOP_S = 10.0
_STOP_TIMEOUT_S = 2.0
_FROM_WITHIN = "from within another search"
_NOT_ENDED = f"and had not ended within {PATIENCE_ON_A_LOOP_S:g} s"


class SideLoop:
    """A loop on a daemon thread, started by the first call; any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the loop, in the context of the caller, and blocks until it is done.

        An interrupt of the caller cancels it.

        Raises:
            WouldBlockLoop: Called on a thread whose event loop it blocks: the side loop itself at once, another one if
                the work has not ended within ``PATIENCE_ON_A_LOOP_S``.
        """
        running = _running_loop()
        if running is not None and running is self._loop:
            work.close()
            raise _would_block(_FROM_WITHIN)
        task = asyncio.run_coroutine_threadsafe(work, self._started())
        try:
            return task.result(None if running is None else PATIENCE_ON_A_LOOP_S)
        except concurrent.futures.TimeoutError:
            if task.done():  # the work's own
                raise
            task.cancel()
            raise _would_block(_NOT_ENDED) from None
        except BaseException:
            task.cancel()
            raise

    def stop(self) -> None:
        """Ends the loop and its thread; the next call starts another one."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_STOP_TIMEOUT_S)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name="sluice-side-loop", daemon=True)
                self._thread.start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _would_block(how: str) -> WouldBlockLoop:
    msg = f"A synchronous search was called on a thread that runs an event loop, {how}."
    return WouldBlockLoop(msg, hint="Call the asynchronous method (ainvoke), or run the call in a worker thread.")


side_loop = SideLoop()


def _start_afresh() -> None:
    global side_loop  # noqa: PLW0603 - a forked child has the loop, and not its thread
    side_loop = SideLoop()


def _stop() -> None:
    side_loop.stop()


os.register_at_fork(after_in_child=_start_afresh)
atexit.register(_stop)
