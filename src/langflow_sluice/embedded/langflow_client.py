"""A small client of Langflow's API: upload a flow, run it, set variables."""

from __future__ import annotations

import contextlib
import ipaddress
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from langflow_sluice.errors import SluiceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    import httpx
    from typing_extensions import Self

_DEFAULT_TIMEOUT_S = 120.0
_LONGEST_DETAIL = 2000
_FIRST_ERROR_STATUS = 400


class LangflowError(SluiceError):
    """Langflow refused a request, failed at it or did not answer in time.

    Attributes:
        status: HTTP status; 0 when there was no answer.
    """

    code: ClassVar[str] = "langflow_error"

    def __init__(self, message: str, *, hint: str = "", status: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.status = status

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.message, self.hint, self.status))


def _rebuild(message: str, hint: str, status: int) -> LangflowError:
    return LangflowError(message, hint=hint, status=status)


@dataclass(frozen=True)
class RunResult:
    """What a run of a flow returned.

    Attributes:
        text: The text of the last chat output that has one; empty when the flow has no chat output.
        outputs: The ``outputs`` of the answer as they came: one entry for each input, each with the result data of the
            flow's output nodes.
        session_id: The session the run belonged to.
    """

    text: str
    outputs: Sequence[Mapping[str, Any]]
    session_id: str = ""

    @classmethod
    def from_json(cls, payload: Mapping[str, Any]) -> RunResult:
        """Builds the result from the answer of ``POST /api/v1/run/<flow>``."""
        outputs = payload.get("outputs") or []
        text = ""
        for run in outputs:
            for node in run.get("outputs") or []:
                text = _text_of(node or {}) or text
        return cls(text=text, outputs=outputs, session_id=str(payload.get("session_id") or ""))


def _text_of(node: Mapping[str, Any]) -> str:
    """The chat text of one node's result data: a Message stands in ``results.message``."""
    for result in (node.get("results") or {}).values():
        if isinstance(result, dict):
            text = result.get("text") or (result.get("data") or {}).get("text")
            if isinstance(text, str) and text:
                return text
    return ""


def _by_proxy(base_url: str) -> bool:
    """Whether the environment's proxies may be used: not for this machine, whose keys are no proxy's business."""
    host = urlsplit(base_url).hostname or ""
    with contextlib.suppress(ValueError):
        return not ipaddress.ip_address(host).is_loopback
    return host != "localhost"


class LangflowClient:
    """Calls one Langflow server; safe from any thread, blocks until the answer is there. A context manager.

    Args:
        base_url: Address of the server, such as ``http://127.0.0.1:7860``.
        api_key: A Langflow API key; ``None`` calls without one, which only some endpoints allow.
        timeout_s: Seconds for each request that has no timeout of its own.
    """

    def __init__(self, base_url: str, api_key: str | None = None, *, timeout_s: float = _DEFAULT_TIMEOUT_S) -> None:
        import httpx

        self.base_url = base_url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.base_url, headers=_headers(api_key), timeout=timeout_s, trust_env=_by_proxy(base_url)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def components(self) -> dict[str, Any]:
        """Returns every component's template, by palette group and then by type (``GET /api/v1/all``)."""
        return dict(self._request("GET", "/api/v1/all"))

    def upload_flow(self, flow: Mapping[str, Any]) -> str:
        """Creates a flow and returns its id; a flow of the same name is kept, Langflow numbers the new one."""
        return str(self._request("POST", "/api/v1/flows/", payload=dict(flow))["id"])

    def set_variable(self, name: str, value: str, *, kind: str = "Credential") -> None:
        """Creates or changes a global variable.

        Args:
            name: Its name, as nodes refer to it.
            value: Its value.
            kind: ``Credential`` or ``Generic``.
        """
        variables = self._request("GET", "/api/v1/variables/")
        known = next((variable for variable in variables if variable["name"] == name), None)
        payload: dict[str, Any] = {"name": name, "value": value, "type": kind, "default_fields": []}
        if known is None:
            self._request("POST", "/api/v1/variables/", payload=payload)
        else:
            path = f"/api/v1/variables/{known['id']}"
            self._request("PATCH", path, payload={**payload, "id": known["id"]})

    def create_api_key(self, name: str = "sluice") -> str:
        """Creates an API key on a server with auto login and returns it; this client uses it from now on.

        ``POST /api/v1/run`` wants a key even with ``LANGFLOW_AUTO_LOGIN=true``. The session that auto login hands out
        may create one.
        """
        token = self._request("GET", "/api/v1/auto_login")["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        key = str(self._request("POST", "/api/v1/api_key/", payload={"name": name}, headers=headers)["api_key"])
        # The cookies of the session would go along with every call, and outlast what the key may do.
        self._http.cookies.clear()
        self._http.headers.update(_headers(key))
        return key

    def run(
        self,
        flow_id: str,
        input_value: str,
        *,
        session_id: str | None = None,
        tweaks: Mapping[str, Any] | None = None,
        timeout_s: float = _DEFAULT_TIMEOUT_S,
        input_type: str = "chat",
        output_type: str = "chat",
    ) -> RunResult:
        """Runs a flow and waits for its result.

        Langflow does not notice a caller who leaves: a run that takes longer than ``timeout_s`` goes on.

        Args:
            flow_id: Id or endpoint name of the flow.
            input_value: The input.
            session_id: The chat session; the flow's id when ``None``.
            tweaks: Values for nodes, by node id or type.
            timeout_s: Seconds to wait.
            input_type: ``chat``, ``text`` or ``any``.
            output_type: ``chat``, ``text``, ``any`` or ``debug``.

        Raises:
            LangflowError: If the run fails, with the server's own words, or takes too long.
        """
        payload = _run_payload(input_value, session_id, tweaks, input_type, output_type)
        return RunResult.from_json(self._request("POST", f"/api/v1/run/{flow_id}", payload=payload, timeout=timeout_s))

    def _request(self, method: str, path: str, *, payload: Any = None, **options: Any) -> Any:
        import httpx

        try:
            response = self._http.request(method, path, json=payload, **options)
        except httpx.HTTPError as exc:
            # from None: httpx keeps the request, whose headers hold the key and whose body may hold a prompt.
            raise _no_answer(method, path, exc) from None
        return _checked(method, path, response)


class AsyncLangflowClient:
    """Runs flows from an event loop, many at a time; an async context manager, bound to the loop that enters it.

    Args:
        base_url: Address of the server.
        api_key: A Langflow API key.
        max_connections: Most connections at once. A call beyond them waits for one within its ``timeout_s``.
    """

    def __init__(self, base_url: str, api_key: str | None = None, *, max_connections: int = 100) -> None:
        import httpx

        limits = httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
        headers, by_proxy = _headers(api_key), _by_proxy(base_url)
        self._http = httpx.AsyncClient(
            base_url=base_url.rstrip("/"), headers=headers, limits=limits, trust_env=by_proxy
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def run(
        self,
        flow_id: str,
        input_value: str,
        *,
        session_id: str | None = None,
        tweaks: Mapping[str, Any] | None = None,
        timeout_s: float = _DEFAULT_TIMEOUT_S,
        input_type: str = "chat",
        output_type: str = "chat",
    ) -> RunResult:
        """Runs a flow; see ``LangflowClient.run``. Cancelled, it closes its connection and the run goes on."""
        import httpx

        payload = _run_payload(input_value, session_id, tweaks, input_type, output_type)
        path = f"/api/v1/run/{flow_id}"
        try:
            response = await self._http.post(path, json=payload, timeout=timeout_s)
        except httpx.HTTPError as exc:
            raise _no_answer("POST", path, exc) from None
        return RunResult.from_json(_checked("POST", path, response))


def _headers(api_key: str | None) -> dict[str, str]:
    return {} if api_key is None else {"x-api-key": api_key}


def _run_payload(
    input_value: str, session_id: str | None, tweaks: Mapping[str, Any] | None, input_type: str, output_type: str
) -> dict[str, Any]:
    payload: dict[str, Any] = {"input_value": input_value, "input_type": input_type, "output_type": output_type}
    if session_id is not None:
        payload["session_id"] = session_id
    if tweaks is not None:
        payload["tweaks"] = dict(tweaks)
    return payload


def _no_answer(method: str, path: str, exc: httpx.HTTPError) -> LangflowError:
    import httpx

    if isinstance(exc, httpx.TimeoutException):
        message = f"Langflow did not answer {method} {path} in time ({type(exc).__name__})."
        return LangflowError(message, hint="Raise timeout_s, or look at the server's log.")
    return LangflowError(f"Langflow cannot be reached for {method} {path} ({type(exc).__name__}).")


def _checked(method: str, path: str, response: httpx.Response) -> Any:
    if response.status_code >= _FIRST_ERROR_STATUS:
        message = f"Langflow answered {method} {path} with {response.status_code}: {_detail(response)}"
        raise LangflowError(message, status=response.status_code)
    try:
        return response.json()
    except ValueError:
        message = f"Langflow answered {method} {path} with something that is not JSON."
        raise LangflowError(message, status=response.status_code) from None


def _detail(response: httpx.Response) -> str:
    """The server's own words; a failed run carries them as JSON inside the JSON."""
    detail: Any = response.text
    for _ in range(3):
        try:
            detail = json.loads(detail) if isinstance(detail, str) else detail
        except ValueError:
            break
        if isinstance(detail, dict):
            detail = detail.get("detail") or detail.get("message") or json.dumps(detail)
    return str(detail)[:_LONGEST_DETAIL]
