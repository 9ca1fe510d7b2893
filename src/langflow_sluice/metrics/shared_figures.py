"""Figures of workers on several machines: in the Redis that they share anyway, beside each machine's own folder."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from typing import TYPE_CHECKING, Any

from langflow_sluice.metrics.figures import ProcessFigures
from langflow_sluice.metrics.state_folder import GONE_AFTER_S, StateFolder, has_died

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from langflow_sluice.cluster.redis_settings import RedisSettings

# Nobody waits for figures: after an error Redis is left alone for so long.
_AGAIN_AFTER_S = 10.0

_log = logging.getLogger("langflow_sluice.metrics")


class SharedFigures(StateFolder):
    """A folder whose contents other machines see too; any process, one thread at a time.

    What Redis does not take or give is left out, with one line in the log: the folder serves this machine in any case.

    Args:
        path: The folder.
        settings: Where Redis is.
    """

    def __init__(self, path: Path, settings: RedisSettings) -> None:
        super().__init__(path)
        self._settings = settings
        self._names = f"{settings.prefix}:workers"
        self._client: Any = None
        self._not_before = 0.0

    def write(self, told: ProcessFigures) -> None:
        """As ``StateFolder.write``, and to Redis."""
        super().write(told)

        def share(redis: Any) -> None:
            pipeline = redis.pipeline()
            pipeline.set(self._name_of(told.worker), json.dumps(told.to_dict()), px=round(GONE_AFTER_S * 1000))
            pipeline.zadd(self._names, {told.worker: told.told_at})
            pipeline.zremrangebyscore(self._names, "-inf", told.told_at - 2 * GONE_AFTER_S)
            pipeline.expire(self._names, round(2 * GONE_AFTER_S))
            pipeline.execute()

        self._unless_away(share)

    def withdraw(self, worker: str) -> None:
        """As ``StateFolder.withdraw``, and from Redis."""
        super().withdraw(worker)

        def forget(redis: Any) -> None:
            redis.delete(self._name_of(worker))
            redis.zrem(self._names, worker)

        self._unless_away(forget)

    def read(self) -> list[ProcessFigures]:
        """What all processes of all machines have told that are not known to be gone, in the order of their names."""
        here = {told.worker: told for told in self._told_lately()}
        found = dict(here)

        def look(redis: Any) -> None:
            workers = [name.decode() for name in redis.zrange(self._names, 0, -1)]
            for value in redis.mget([self._name_of(worker) for worker in workers]) if workers else ():
                # Just gone, or another version's.
                with contextlib.suppress(ValueError, TypeError, AttributeError):
                    told = ProcessFigures.from_dict(json.loads(value))
                    if told.worker not in found or found[told.worker].told_at < told.told_at:
                        found[told.worker] = told

        self._unless_away(look)
        # Those that have died are left out last, since Redis still has what they told. Whom only Redis knows may be
        # another machine's, though its host has the name of this one.
        return [
            told for _, told in sorted(found.items()) if told is not here.get(told.worker) or not has_died(told.worker)
        ]

    def _name_of(self, worker: str) -> str:
        return f"{self._settings.prefix}:figures:{worker}"

    def _unless_away(self, work: Callable[[Any], None]) -> None:
        from redis.exceptions import RedisError

        from langflow_sluice.cluster.redis_clients import blocking_client

        if time.monotonic() < self._not_before:
            return
        try:
            self._client = self._client or blocking_client(self._settings, connections=1)
            work(self._client)
        except (RedisError, OSError) as error:
            self._not_before = time.monotonic() + _AGAIN_AFTER_S
            kind = type(error).__name__
            _log.warning("Redis at %s does not take or give figures (%s)", self._settings.label, kind)
