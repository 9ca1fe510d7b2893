"""A Langflow server as the owner of a user's flows, through its API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from langflow_sluice.embedded.langflow_client import LangflowClient, LangflowError
from langflow_sluice.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

REFUSED: Final = (401, 403)
"""Statuses by which Langflow says that it does not accept a key, or wants one."""

_KEY_HINT = "Make a key under Settings > Langflow API Keys and give it as LANGFLOW_API_KEY or --api-key."


class FlowsServer(LangflowClient):
    """A Langflow server as the owner of flows. A context manager.

    Args:
        url: Its address.
        api_key: A key for its API; without one, its auto login is used.
        timeout_s: Seconds for one request.

    Raises:
        InvalidInput: The address is none, or carries a password.
        LangflowError: There is no key, and the server has no auto login either; or it cannot be reached.
    """

    def __init__(self, url: str, api_key: str | None = None, *, timeout_s: float = 120.0) -> None:
        parts = urlsplit(url)
        if parts.username or parts.password:
            raise InvalidInput.of("url", "(not shown)", "it carries credentials", fix="Leave them out of the address.")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise InvalidInput.of("url", url, "this is no web address", fix="Give one such as http://localhost:7860.")
        super().__init__(url, api_key, timeout_s=timeout_s)
        if api_key is None:
            try:
                self._log_in()
            except BaseException:
                self.close()
                raise

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Returns every template of the palette, by type."""
        return {name: node for group in self.components().values() for name, node in group.items()}

    def flows(self) -> dict[str, dict[str, Any]]:
        """Returns name and id of the user's flows, by endpoint name; flows without one are left out."""
        found = self._request("GET", "/api/v1/flows/", params={"header_flows": "true", "get_all": "true"})
        return {flow["endpoint_name"]: flow for flow in found if flow.get("endpoint_name")}

    def variables(self) -> set[str]:
        """Returns the names of the user's global variables."""
        return {variable["name"] for variable in self._request("GET", "/api/v1/variables/")}

    def create(self, flow: Mapping[str, Any]) -> dict[str, Any]:
        """Creates a flow and returns it as the server has it; with an id of its own, which no other user can have."""
        kept = {name: value for name, value in flow.items() if name != "id"}
        created: dict[str, Any] = self._request("POST", "/api/v1/flows/", payload=kept)
        return created

    def replace(self, flow_id: str, flow: Mapping[str, Any]) -> None:
        """Replaces the content of a flow; its id and the name its user gave it stay."""
        changes = {name: flow[name] for name in ("data", "description", "tags")}
        self._request("PATCH", f"/api/v1/flows/{flow_id}", payload=changes)

    def _log_in(self) -> None:
        token = self._request("GET", "/api/v1/auto_login")
        # The session's cookies would go along with every call beside the token.
        self._http.cookies.clear()
        self._http.headers["Authorization"] = f"Bearer {token['access_token']}"

    def _request(self, method: str, path: str, *, payload: Any = None, **options: Any) -> Any:
        try:
            return super()._request(method, path, payload=payload, **options)
        except LangflowError as exc:
            if exc.status in REFUSED:
                raise LangflowError(self._refusal(), hint=_KEY_HINT, status=exc.status) from None
            if not exc.status:
                hint = exc.hint or "Start Langflow, or give its address with --url."
                message = f"{self.base_url}: {exc.message}"
                raise LangflowError(message, hint=hint) from None
            raise

    def _refusal(self) -> str:
        if "x-api-key" in self._http.headers:
            return f"The server at {self.base_url} does not accept the API key."
        return f"The server at {self.base_url} wants an API key."
