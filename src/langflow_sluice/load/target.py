"""The server and the flow that calls go to: on this machine, unless told otherwise."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from langflow_sluice.canvas.server import FlowsServer
from langflow_sluice.embedded.langflow_client import LangflowError
from langflow_sluice.errors import InvalidInput
from langflow_sluice.load.printable import on_a_line

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_LISTED = 20
_KEY_NAME = "sluice load"


@dataclass(frozen=True, slots=True)
class FlowTarget:
    """One flow of the server.

    Attributes:
        id: What calls name it by.
        name: What reports call it: its endpoint name, or its name where it has none.
    """

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Address:
    """Where calls go to.

    Attributes:
        url: Scheme, host and port.
        is_local: Whether it is on this machine.
    """

    url: str
    is_local: bool


def checked_address(url: str, *, allow_remote: bool) -> Address:
    """Looks where an address leads, before anything is sent there.

    Raises:
        InvalidInput: It is none, carries credentials, or leads to another machine and that was not allowed.
    """
    # Wherever it stands: without a scheme, or with a "/" in the password, nobody finds a password there any more.
    if "@" in url:
        raise InvalidInput.of("url", "(not shown)", "it carries credentials", fix="Leave them out of the address.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidInput.of("url", "(not shown)", "this is no web address", fix=_EXAMPLE) from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidInput.of("url", _QUERY.split(url)[0], "this is no web address", fix=_EXAMPLE)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    # A query could hold a key, and has no use here.
    shown = f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path.rstrip('/')}"
    is_local = _leads_here(parts.hostname)
    if not is_local and not allow_remote:
        problem = "it is not on this machine, and a load run can bring a server down"
        raise InvalidInput.of("url", shown, problem, fix="If that server is yours to load, give --allow-remote.")
    return Address(shown, is_local)


_QUERY = re.compile(r"[?#]")
_EXAMPLE = "Give one such as http://localhost:7860."


def _leads_here(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    # All of them: the next look-up may well bring another one first.
    return bool(found) and all(ipaddress.ip_address(str(each[4][0]).partition("%")[0]).is_loopback for each in found)


@dataclass(slots=True)
class _TemporaryKey:
    id: str
    key: str = field(repr=False)


class LoadServer(FlowsServer):
    """The server under load, for what is asked of it before and after. A context manager.

    On a server with auto login no key is needed: one is made for the run and removed with ``close``.

    Args:
        address: Its address.
        api_key: A key for its API; without one, its auto login is used.
        timeout_s: Seconds for one request.

    Raises:
        LangflowError: There is no key, and the server has no auto login either; or it cannot be reached.
    """

    def __init__(self, address: Address, api_key: str | None = None, *, timeout_s: float = 30.0) -> None:
        self._given = api_key
        self._made: _TemporaryKey | None = None
        super().__init__(address.url, api_key, timeout_s=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Removes the key that was made for the run, if one was, and closes the connections."""
        made, self._made = self._made, None
        try:
            if made is not None:
                # A server that the load has brought down keeps it; it is named for what it was.
                with contextlib.suppress(LangflowError):
                    self._request("DELETE", f"/api/v1/api_key/{made.id}")
        finally:
            super().close()

    def version(self) -> str:
        """Returns Langflow's version; empty where it does not tell."""
        try:
            told = self._request("GET", "/api/v1/version")
        except LangflowError:
            return ""
        return on_a_line(str(told.get("version") or "")) if isinstance(told, dict) else ""

    def key(self) -> str:
        """Returns the key that calls of a flow go with, which Langflow wants also where it logs in by itself."""
        if self._given is not None:
            return self._given
        if self._made is None:
            made = self._request("POST", "/api/v1/api_key/", payload={"name": _KEY_NAME})
            self._made = _TemporaryKey(str(made["id"]), str(made["api_key"]))
        return self._made.key

    def find(self, flow: str) -> FlowTarget:
        """Returns the flow of that id, endpoint name (which is a bundled flow's slug) or name.

        Raises:
            InvalidInput: There is none; names those there are.
        """
        there: list[dict[str, Any]] = self._request(
            "GET", "/api/v1/flows/", params={"header_flows": "true", "get_all": "true"}
        )
        for by in ("id", "endpoint_name", "name"):
            for each in there:
                if each.get(by) == flow:
                    return FlowTarget(str(each["id"]), _name(each))
        names = sorted(_name(each) for each in there if not each.get("is_component"))
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        known = f"Use one of {', '.join(names[:_LISTED])}{more}." if names else "The server has no flows yet."
        raise InvalidInput.of("flow", flow, f"the server at {self.base_url} has no such flow", fix=known)


def _name(flow: dict[str, Any]) -> str:
    return on_a_line(str(flow.get("endpoint_name") or flow.get("name") or flow["id"]))
