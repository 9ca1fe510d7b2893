"""How a guard becomes one of the cluster's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langflow_sluice.cluster.link import cluster_link
from langflow_sluice.cluster.redis_settings import URL_VARIABLE, redis_settings
from langflow_sluice.cluster.share import ClusterShare
from langflow_sluice.errors import InvalidInput

if TYPE_CHECKING:
    from langflow_sluice.cluster.redis_settings import RedisSettings
    from langflow_sluice.guard.admission import AdmissionQueue
    from langflow_sluice.guard.clock import Clock
    from langflow_sluice.guard.settings import GuardSettings


def cluster_settings() -> RedisSettings:
    """Where the cluster's Redis is.

    Raises:
        InvalidInput: It is configured nowhere, or wrong.
    """
    settings = redis_settings()
    if settings is None:
        fix = (
            f"Set {URL_VARIABLE} (redis://user:password@host:6379/0) in the server's environment, "
            f"or set scope to process."
        )
        raise InvalidInput.of("scope", "cluster", "the workers have no Redis to share a guard through", fix=fix)
    return settings


def check_cluster() -> None:
    """Looks whether a guard can become the cluster's.

    Raises:
        InvalidInput: There is no Redis to share through, or its settings are wrong.
    """
    cluster_link(cluster_settings())


def join_cluster(name: str, key: str, queue: AdmissionQueue, clock: Clock, settings: GuardSettings) -> ClusterShare:
    """This process's share of a guard.

    Args:
        name: The guard's, for people.
        key: The guard's, the same in all processes.
        queue: Its queue in this process.
        clock: The queue's.
        settings: The guard's.

    Raises:
        InvalidInput: There is no Redis to share through, or its settings are wrong.
    """
    link = cluster_link(cluster_settings())
    share = ClusterShare(name, link, queue, clock, settings, queue.in_flight)
    link.add(key, share)
    return share
