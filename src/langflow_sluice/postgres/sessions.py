"""The end of a server session, and whether one still lives."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from typing import TYPE_CHECKING, Any

from langflow_sluice.guard.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable

# How often to look whether the server has closed its side, and for how long.
_LOOK_EVERY_S = 0.001
_LOOK_FOR_S = 3.0


def end_session(driver: Any, ended: Callable[[], None]) -> None:
    """Closes a driver's connection that is not in use; any thread.

    Args:
        driver: psycopg's connection.
        ended: Called, on any thread, when the server no longer counts the session: it lets a closed connection go a
            moment later, and whoever opens another one in that moment has one more than allowed. After some seconds it
            is called in any case.
    """
    remaining = keep_socket(driver)
    driver.pgconn.finish()
    await_end(remaining, ended)


def keep_socket(driver: Any) -> socket.socket | None:
    """A second handle of a connection's socket, which outlives its close; ``None`` where there is no such thing."""
    try:
        return socket.socket(fileno=os.dup(driver.pgconn.socket))
    except Exception:  # noqa: BLE001 - closed already, or Windows, where a socket is no file
        return None


def await_end(remaining: socket.socket | None, ended: Callable[[], None]) -> None:
    """Calls ``ended`` when the server has closed its side of a connection that was closed on ours."""
    if remaining is None:
        ended()
        return
    with contextlib.suppress(OSError):
        remaining.shutdown(socket.SHUT_WR)
    deadline = SYSTEM_CLOCK.now() + _LOOK_FOR_S

    def look() -> None:
        now = SYSTEM_CLOCK.now()
        if now < deadline and is_silent(remaining.fileno()):
            SYSTEM_CLOCK.call_at(now + _LOOK_EVERY_S, look)
            return
        remaining.close()
        ended()

    look()


def is_alive(driver: Any) -> bool:
    """Whether the session of an idle connection goes on, as far as can be told without asking the server."""
    pgconn = driver.pgconn
    try:
        if is_silent(pgconn.socket):
            return True
        # A notice, or the end: reading tells.
        pgconn.consume_input()
        return is_silent(pgconn.socket)
    except Exception:  # noqa: BLE001 - whatever it says, the connection is not one to use
        return False


def is_silent(descriptor: int) -> bool:
    """Whether there is nothing to read; a side that was closed reads."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return not poll.poll(0)
    return not select.select([descriptor], [], [], 0)[0]
