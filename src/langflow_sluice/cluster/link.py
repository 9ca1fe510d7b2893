"""One process's connections to the cluster's Redis: one to ask and one to listen, whatever guards and callers it has.

One thread asks. While an answer is under way, everything that guards want gathers for the next exchange, so that under
load a round trip carries many callers. Another thread listens for permits that other processes hand over. Callers
never wait for a socket, and no event loop is needed.
"""

from __future__ import annotations

import atexit
import contextlib
import heapq
import itertools
import logging
import os
import queue
import random
import secrets
import threading
import time
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from langflow_sluice.cluster import exchange
from langflow_sluice.cluster.replies import UNEXPECTED, UNKNOWN_RUN, code_of, kept_s, load_script, reason_of, run_of
from langflow_sluice.cluster.share import LEASE_USED
from langflow_sluice.errors import InvalidInput
from langflow_sluice.guard.registry import FORGET_AFTER_S

if TYPE_CHECKING:
    from redis import Redis

    from langflow_sluice.cluster.redis_settings import RedisSettings
    from langflow_sluice.cluster.share import ClusterShare

LEASE_VARIABLE = "SLUICE_LEASE"
LEASE_S = 10.0
# A message may be lost with its connection: who waits looks again by itself, but seldom.
LOOK_AGAIN_S = 1.0
# A silent connection is tested this often.
LISTEN_S = 5.0
# Seconds between attempts to reach Redis, doubled from the first to the last, with jitter.
RETRY_FROM_S, RETRY_TO_S = 0.05, 1.0
# Seconds that the end of the process may take to tell Redis.
_GOODBYE_S = 1.0
# Seconds after which the queue of a guard is looked at again by whoever waits for it.
_UNSTUCK_S = 1.0
# Seconds after which whether Redis has kept its data is looked at again, which also has it keep its mark.
_LOOK_FOR_LOSS_S = 3600.0
# Errors about one guard's data; the others are about the server, the login or the connection.
_ABOUT_DATA = frozenset({"ERR", "WRONGTYPE"})

_log = logging.getLogger("langflow_sluice.cluster")


def lease_seconds() -> float:
    """For how long a process's permits are its own if it is not heard of: ``SLUICE_LEASE``, else ``LEASE_S``.

    Raises:
        InvalidInput: The variable holds no number of seconds from 0.2 to 600.
    """
    text = os.environ.get(LEASE_VARIABLE, "").strip()
    if not text:
        return LEASE_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.2 <= seconds <= 600:  # noqa: PLR2004 - the range is told in the next line
        raise InvalidInput.of(LEASE_VARIABLE, text, "a lease lasts 0.2 to 600 seconds", fix="Enter such a number.")
    return seconds


class ClusterLink:
    """Shares of guards by name, and the threads that keep them up to date; any thread.

    Args:
        settings: Where Redis is.
        lease_s: See ``lease_seconds``; the same in all processes.

    Attributes:
        process: This process's name in Redis; another one after each start.
        exchanges: Exchanges that were answered.
    """

    def __init__(self, settings: RedisSettings, lease_s: float) -> None:
        self.settings = settings
        self.label = settings.label
        self.lease_s = lease_s
        self.look_again_s = LOOK_AGAIN_S
        self.listen_s = LISTEN_S
        self.forget_after_s = FORGET_AFTER_S
        # All come back well within a lease: after a time without Redis the script waits no longer for them.
        self._retry_to_s = min(RETRY_TO_S, lease_s / 4)
        self.process = secrets.token_hex(8)
        self.exchanges = 0
        self._lock = threading.Lock()
        self._shares: dict[str, ClusterShare] = {}
        self._work: queue.SimpleQueue[ClusterShare | None] = queue.SimpleQueue()
        self._due: list[tuple[float, int, ClusterShare]] = []
        self._due_at: dict[str, float] = {}
        self._sequence = itertools.count()
        self._threads: list[threading.Thread] = []
        self._connection: Any = None
        self._client: Any = None
        self._sha = b""
        self._server_run = UNKNOWN_RUN
        self._certain_at = 0.0
        self._look_for_loss_at = 0.0
        self._refusal = ""
        self._retry_s = self._hear_again_s = RETRY_FROM_S
        self._ended = threading.Event()

    def add(self, key: str, share: ClusterShare) -> None:
        """Takes care of a share from now on; ``key`` is the guard's, the same in all processes."""
        name = exchange.digest(key)
        with self._lock:
            before = self._shares.get(name)
            self._shares[name] = share
            share.digest = name
            share.keys = exchange.keys(self.settings.prefix, name)
            if not self._threads:
                for work, title in ((self._ask, "sluice-cluster"), (self._listen, "sluice-cluster-ear")):
                    thread = threading.Thread(target=work, name=title, daemon=True)
                    self._threads.append(thread)
                    thread.start()
        if before is not None and not before.retired:
            before.queue.submit(before.displaced, None)

    def poke(self, share: ClusterShare) -> None:
        """Has a share asked for as soon as the connection is free; returns at once."""
        if not share.poked:
            share.poked = True
            self._work.put(share)

    def close(self) -> None:
        """Leaves all guards, so that nobody has to wait for leases to run out; takes a second at most."""
        self._ended.set()
        self._work.put(None)
        for thread in self._threads[:1]:
            if thread is not threading.current_thread():
                thread.join(_GOODBYE_S)

    # The asking thread.

    def _ask(self) -> None:
        while not self._ended.is_set():
            batch = self._gather()
            try:
                if self._connection is None:
                    self._connect()
                elif any(share.is_new for share in batch) or time.monotonic() >= self._look_for_loss_at:
                    self._look_for_loss()
                for share in batch:
                    self._stop_alone(share)
                if batch:
                    self._exchange(batch)
                self._retry_s = RETRY_FROM_S
            except Exception as error:  # noqa: BLE001 - whatever the library raises, the guards must learn of it
                self._broken(error)
                self._ended.wait(self._retry_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                self._retry_s = min(self._retry_to_s, 2 * self._retry_s)
        self._say_goodbye()

    def _gather(self) -> list[ClusterShare]:
        """Those that have something to ask, and those whose time has come; waits for the first."""
        batch: dict[str, ClusterShare] = {}

        def put(share: ClusterShare) -> None:
            # One that was left and made anew needs no goodbye: the new membership ends the old one.
            if self._shares.get(share.digest) is share:
                batch[share.digest] = share

        timeout = max(0.0, self._due[0][0] - time.monotonic()) if self._due else None
        with contextlib.suppress(queue.Empty):
            share = self._work.get(timeout=timeout)
            while share is not None:
                put(share)
                share = self._work.get_nowait()
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            at, _, share = heapq.heappop(self._due)
            if self._due_at.get(share.digest) == at:
                put(share)
        return list(batch.values())

    def _exchange(self, batch: list[ClusterShare]) -> None:
        asked_at = time.monotonic()
        uncertain_s = max(0.0, self._certain_at - asked_at)
        commands, leaving = [], set()
        for share in batch:
            share.poked = False
            ask = share.ask()
            if ask.goodbye:
                leaving.add(share)
            arguments = ask.arguments(
                self.process,
                share.digest,
                self.settings.prefix,
                lease_s=self.lease_s,
                server_run=self._server_run,
                uncertain_s=uncertain_s,
            )
            commands.append(("EVALSHA", self._sha, exchange.NUMBER_OF_KEYS, *share.keys, *arguments))
        answers = self._answers(commands)
        for share, answer in zip(batch, answers, strict=True):
            if share in leaving and share.retired:
                self._forget(share)
            elif isinstance(answer, ResponseError):
                share.doubtful = True
                share.queue.submit(share.failed, reason_of(answer))
                self._plan(share, time.monotonic() + self._retry_to_s)
            elif share in leaving:
                self._due_at.pop(share.digest, None)
                share.queue.submit(share.left, answer)
            else:
                self.exchanges += 1
                # One that came too late counts as none, and may have the share go on alone.
                share.doubtful = time.monotonic() - asked_at >= LEASE_USED * self.lease_s
                share.queue.submit(share.answered, (answer, asked_at, self._server_run))
                self._plan(share, share.due_at(time.monotonic()))

    def _answers(self, commands: list[tuple[Any, ...]]) -> list[exchange.Answer | ResponseError]:
        """What Redis says to each; an error stands for itself where it is about one guard's data alone.

        Raises:
            RedisError: It is about all of them.
        """
        told = self._replies(commands)
        if any(isinstance(each, NoScriptError) for each in told):
            # Somebody has flushed the scripts. What did not run is sent again, and what did may run again.
            load_script(self._connection)
            told = self._replies(commands)
        for each in told:
            if isinstance(each, Exception) and code_of(each) not in _ABOUT_DATA:
                raise each
        return [each if isinstance(each, ResponseError) else exchange.Answer.of(each) for each in told]

    def _replies(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        connection = self._connection
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        told: list[Any] = []
        for _ in commands:
            try:
                told.append(connection.read_response())
            except ResponseError as error:  # noqa: PERF203 - each answer may be one
                told.append(error)
        return told

    def _forget(self, share: ClusterShare) -> None:
        with self._lock:
            if self._shares.get(share.digest) is share:
                del self._shares[share.digest]
                self._due_at.pop(share.digest, None)

    def _plan(self, share: ClusterShare, at: float) -> None:
        self._due_at[share.digest] = at
        heapq.heappush(self._due, (at, next(self._sequence), share))
        if len(self._due) > 4 * len(self._shares) + 64:
            self._due = [each for each in self._due if self._due_at.get(each[2].digest) == each[0]]
            heapq.heapify(self._due)

    @staticmethod
    def _stop_alone(share: ClusterShare) -> None:
        """Returns when the share starts nothing alone; what Redis grants from now on comes on top of nothing."""
        if share.doubtful:
            stopped = threading.Event()
            share.queue.submit(share.pause_alone, stopped)
            # Whoever works off the queue now does so within microseconds, unless it failed half way.
            while not stopped.wait(_UNSTUCK_S):
                share.queue.submit(share.pause_alone, stopped)

    def _connect(self) -> None:
        from langflow_sluice.cluster.redis_clients import blocking_client

        self._client = self._client or blocking_client(self.settings, connections=1)
        connection = self._client.connection_pool.get_connection()
        try:
            self._sha = load_script(connection)
            self._server_run, up_s = run_of(connection)
            kept = kept_s(connection, self.settings.prefix)
        except BaseException:
            connection.disconnect()
            self._client.connection_pool.release(connection)
            raise
        # Processes that used a server before this one, or before its data was lost, have not come back to it before a
        # lease has passed.
        self._certain_at = time.monotonic() + self.lease_s - min(up_s, kept)
        self._look_for_loss_at = time.monotonic() + _LOOK_FOR_LOSS_S
        self._connection = connection

    def _look_for_loss(self) -> None:
        """Looks, before a guard is joined, whether all data was lost while this connection stood."""
        certain_at = self.lease_s - kept_s(self._connection, self.settings.prefix) + time.monotonic()
        self._certain_at = max(self._certain_at, certain_at)
        self._look_for_loss_at = time.monotonic() + _LOOK_FOR_LOSS_S

    def _broken(self, error: Exception) -> None:
        if self._connection is not None:
            self._connection.disconnect()
            self._client.connection_pool.release(self._connection)
            self._connection = None
        reason = reason_of(error)
        if reason == UNEXPECTED:
            _log.error("An exchange with Redis at %s failed", self.label, exc_info=error)
        now = time.monotonic()
        with self._lock:
            shares = list(self._shares.values())
        for share in shares:
            share.doubtful = True
            try:
                share.queue.submit(share.failed, reason)
            except Exception:  # noqa: BLE001 - the others must learn of it, and this thread must live
                _log.exception("Guard %r could not be told that Redis is away", share.name)
            # The order matters: a caller that comes now finds that it must poke, or is seen here.
            share.poked = False
            if not share.asleep:
                self._plan(share, now)

    def _say_goodbye(self) -> None:
        if self._connection is None:
            return
        with self._lock:
            shares = list(self._shares.values())
        for share in shares:
            share.retired = True
        with contextlib.suppress(Exception):
            self._exchange(shares)
        self._connection.disconnect()

    # The listening thread.

    def _listen(self) -> None:
        from langflow_sluice.cluster.redis_clients import blocking_client

        client = blocking_client(self.settings, connections=1)
        while not self._ended.is_set():
            try:
                self._listen_until_broken(client)
            except Exception as error:  # noqa: BLE001, PERF203 - as above; the asking thread tells of it
                if reason_of(error) == UNEXPECTED:
                    _log.error("Listening to Redis at %s failed", self.label, exc_info=error)
                elif isinstance(error, ResponseError):
                    self._may_not_listen(reason_of(error))
                self._look_again()
                self._ended.wait(self._hear_again_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                self._hear_again_s = min(self._retry_to_s, 2 * self._hear_again_s)

    def _may_not_listen(self, reason: str) -> None:
        if reason == self._refusal:
            return
        self._refusal = reason
        _log.warning(
            "Redis at %s does not let this process listen (%s), so that it learns late of permits that other workers "
            "hand over. Give the Redis user the right to the channels %s* (ACL SETUSER ... &%s*).",
            self.label,
            reason,
            exchange.channel(self.settings.prefix),
            exchange.channel(self.settings.prefix),
        )

    def _listen_until_broken(self, client: Redis) -> None:
        with client.pubsub() as listening:  # type: ignore[no-untyped-call]
            listening.subscribe(exchange.channel(self.settings.prefix, self.process))
            silent = False
            while not self._ended.is_set():
                message = listening.get_message(timeout=self.listen_s)
                if message is None:
                    if silent:
                        raise RedisTimeout  # the connection has died without a word: not even the test was answered
                    listening.ping()
                silent = message is None
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    self._hear_again_s = RETRY_FROM_S
                    self._refusal = ""
                    self._look_again()
                elif message["type"] == "message":
                    self._hear(message["data"])

    def _hear(self, message: bytes) -> None:
        name, handover = exchange.Handover.of(message)
        share = self._shares.get(name)
        if share is None:
            return
        if handover is None:
            self.poke(share)
        else:
            share.queue.submit(share.handed_over, handover)

    def _look_again(self) -> None:
        """After a time without ears: messages may have been missed."""
        with self._lock:
            shares = list(self._shares.values())
        for share in shares:
            if not share.asleep:
                self.poke(share)


_links: dict[tuple[RedisSettings, float], ClusterLink] = {}
_links_lock = threading.Lock()


def cluster_link(settings: RedisSettings) -> ClusterLink:
    """The link of this process to that Redis, made on first use.

    Raises:
        InvalidInput: ``SLUICE_LEASE`` is wrong.
    """
    key = (settings, lease_seconds())
    with _links_lock:
        if key not in _links:
            _links[key] = ClusterLink(*key)
        return _links[key]


def close_links() -> None:
    """Leaves all guards of all clusters; at the end of the process."""
    with _links_lock:
        links = list(_links.values())
        _links.clear()
    for link in links:
        link.close()


def _start_afresh() -> None:
    global _links_lock  # noqa: PLW0603 - the parent's threads and permits are not ours
    _links_lock = threading.Lock()
    _links.clear()


os.register_at_fork(after_in_child=_start_afresh)
atexit.register(close_links)
