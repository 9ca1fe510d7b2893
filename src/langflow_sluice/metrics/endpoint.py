"""Where Prometheus finds the figures: Langflow's own endpoint, and one of ours if the operator wants it."""

from __future__ import annotations

import errno
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import InvalidInput
from langflow_sluice.metrics.state_folder import state_folder

if TYPE_CHECKING:
    from langflow_sluice.metrics.prometheus import SluiceCollector

ADDRESS_VARIABLE = "SLUICE_METRICS_ADDRESS"
_LOOPBACK = "127.0.0.1"
_FORM = "Set it to a port (9464), or to an address and a port (0.0.0.0:9464, [::]:9464)."

_log = logging.getLogger("langflow_sluice.metrics")


class Endpoint:
    """Shows the figures of all processes wherever this one can; one thread.

    Several processes want the same port, and one gets it. The others try again now and then, so that the endpoint
    outlives its process.
    """

    def __init__(self) -> None:
        self._server: Any = None
        self._registered = False
        self._said = ""

    def tend(self) -> None:
        """Does what has not been done and can be done now.

        Raises:
            InvalidInput: The operator's address is none.
        """
        # Langflow has loaded it where its own endpoint is on; else nobody would ask.
        client = sys.modules.get("prometheus_client")
        if client is not None and not self._registered:
            client.REGISTRY.register(_collector())
            self._registered = True
        address = os.environ.get(ADDRESS_VARIABLE, "").strip()
        if address and self._server is None:
            self._serve(*parsed(address))

    def close(self) -> None:
        """Gives the port back."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _serve(self, host: str, port: int) -> None:
        from prometheus_client import CollectorRegistry, start_http_server

        registry = CollectorRegistry()
        registry.register(_collector())
        try:
            self._server, _ = start_http_server(port, addr=host, registry=registry)
        except (OSError, UnicodeError) as error:  # UnicodeError: the host cannot be a name
            # Most often another worker has the port, and answers for all. Anything else stays as it is until somebody
            # reads of it, once and not at every attempt.
            problem = getattr(error, "strerror", None) or str(error)
            if getattr(error, "errno", None) != errno.EADDRINUSE and problem != self._said:
                self._said = problem
                _log.warning("No metrics at %s=%s:%d: %s", ADDRESS_VARIABLE, host, port, problem)


def parsed(address: str) -> tuple[str, int]:
    """Host and port of an address; the host is this machine's own unless told otherwise.

    Raises:
        InvalidInput: It is none.
    """
    host, _, port = address.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise InvalidInput.of(ADDRESS_VARIABLE, address, "it has no port", fix=_FORM)
    if host.startswith("[") and host.endswith("]"):  # how addresses with colons are set apart from the port
        host = host[1:-1]
    return host or _LOOPBACK, int(port)


def _collector() -> SluiceCollector:
    from langflow_sluice.metrics.prometheus import SluiceCollector

    return SluiceCollector(state_folder().read)
