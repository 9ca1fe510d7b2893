"""Connections for asking a database about itself, none of which can hold the doctor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

    import psycopg
    from sqlalchemy import URL
    from typing_extensions import Self

T = TypeVar("T")

APPLICATION_NAME = "sluice-doctor"
# From the end of its socket until a task has noticed.
_GRACE_S = 2.0


class Lines:
    """Connections to one database, for a bounded time; an async context manager that closes them.

    Args:
        url: The database.
        timeout_s: Seconds to connect; psycopg takes 2 at least.
    """

    def __init__(self, url: URL, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._connections: list[psycopg.AsyncConnection[Any]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for connection in self._connections:
            await connection.close()

    async def open(self, **more: Any) -> psycopg.AsyncConnection[Any]:
        """A connection that prepares nothing and begins no transactions by itself, as poolers want it."""
        import psycopg

        url = self._url
        given: dict[str, Any] = {
            **url.query,
            "host": url.host or url.query.get("host"),
            "port": url.port,
            "user": url.username,
            "password": url.password,
            "dbname": url.database,
            "connect_timeout": max(2, round(self._timeout_s)),
            "application_name": APPLICATION_NAME,
            **more,
        }
        arguments = {name: value for name, value in given.items() if value is not None}
        opened = await psycopg.AsyncConnection.connect(autocommit=True, prepare_threshold=None, **arguments)
        self._connections.append(opened)
        return opened

    async def within(self, seconds: float, work: Coroutine[Any, Any, T]) -> T:
        """Does work on these connections, and cuts them off when it takes longer.

        Raises:
            asyncio.TimeoutError: It took longer.
        """
        task = asyncio.ensure_future(work)
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            # Not cancelled: psycopg would then call the server once more, to cancel, and wait for that too.
            self._cut_off()
            done, _ = await asyncio.wait({task}, timeout=_GRACE_S if self._connections else 0)
            if not done:
                task.cancel()
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await task
            raise asyncio.TimeoutError
        return task.result()

    def _cut_off(self) -> None:
        for connection in self._connections:
            with contextlib.suppress(OSError):
                copy = socket.socket(fileno=os.dup(connection.fileno()))
                try:
                    copy.shutdown(socket.SHUT_RDWR)
                finally:
                    copy.close()
