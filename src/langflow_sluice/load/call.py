"""One call of a flow through Langflow's API, and whether it brought a result."""

from __future__ import annotations

import itertools
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from langflow_sluice.load.causes import Hidden

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from langflow_sluice.load.plan import Asked
    from langflow_sluice.load.target import Address, FlowTarget

Kind = Literal["error", "no_result", "client_timeout", "unreachable", "broke_off", "cut_off"]

_OK = 200
# Servers close a connection that was idle for 5 s; a call that is sent at that moment would be lost.
_KEEP_IDLE_S = 2.0
_LONGEST_TEXT = 8000
# Of longer ones nobody looks at the middle at all, since that takes time in which no other call goes on.
_MOST_READ = 4 * _LONGEST_TEXT
_NESTED = 3


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call brought no result.

    Attributes:
        kind: ``error`` if Langflow has told one, which stands in ``text``; else what became of the call.
        text: The server's own words; many of them are shortened, and then hold nothing any more that is to be hidden.
        status: HTTP status; 0 where there was no answer.
    """

    kind: Kind
    text: str = ""
    status: int = 0


CUT_OFF: Final = Failure("cut_off")
_NOTHING: Final = Hidden(())


class Caller:
    """Calls one flow; an async context manager, bound to the loop that enters it. Redirects are not followed.

    Each call has a session of its own, as different people have.

    Args:
        address: The server.
        key: A key of its API.
        flow: The flow.
        what: What calls carry.
        timeout_s: Seconds for one call.
        connections: Most calls at once.
    """

    def __init__(
        self, address: Address, key: str, flow: FlowTarget, what: Asked, *, timeout_s: float, connections: int
    ) -> None:
        import httpx

        self._path = f"/api/v1/run/{flow.id}"
        self._inputs = itertools.cycle(what.inputs)
        self._tweaks = dict(what.tweaks)
        self._hidden = Hidden.of(what, key)
        self._session = f"sluice-load-{secrets.token_hex(4)}"
        self._sent = 0
        limits = httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=_KEEP_IDLE_S
        )
        self._http = httpx.AsyncClient(
            base_url=address.url,
            headers={"x-api-key": key},
            limits=limits,
            timeout=timeout_s,
            # What goes to this machine must not pass a proxy elsewhere.
            trust_env=not address.is_local,
            follow_redirects=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def send(self) -> Failure | None:
        """Makes one call; returns why it failed, or None. Cancelled, it closes its connection and the run goes on."""
        import httpx

        self._sent += 1
        payload: dict[str, Any] = {
            "input_value": next(self._inputs),
            "input_type": "chat",
            "output_type": "any",
            "session_id": f"{self._session}-{self._sent}",
        }
        if self._tweaks:
            payload["tweaks"] = self._tweaks
        try:
            response = await self._http.post(self._path, json=payload)
        except httpx.TimeoutException:
            return Failure("client_timeout")
        except httpx.ConnectError:
            return Failure("unreachable")
        except httpx.HTTPError:
            return Failure("broke_off")
        return judged(response.status_code, response.content, self._hidden)


def judged(status: int, body: bytes, hidden: Hidden = _NOTHING) -> Failure | None:
    """What an answer of ``POST /api/v1/run`` comes to: None for a result, else why it is none.

    An answer with status 200 fails too if it holds no result, or a message that is marked as an error: some nodes
    answer with one instead of failing.

    Args:
        status: HTTP status.
        body: The answer.
        hidden: What must not be shown.
    """
    if status != _OK:
        return Failure("error", _cut(_told(body), hidden), status)
    try:
        answer = json.loads(body)
    except ValueError:
        return Failure("no_result", status=status)
    results = list(_results(answer))
    for each in results:
        if isinstance(each, dict) and _is_error(each):
            return Failure("error", _cut(str(each.get("text") or _inner(each).get("text") or ""), hidden), status)
    return None if any(_holds_something(each) for each in results) else Failure("no_result", status=status)


def _results(answer: Any) -> list[Any]:
    found: list[Any] = []
    runs = answer.get("outputs") if isinstance(answer, dict) else None
    for run in runs if isinstance(runs, list) else []:
        nodes = run.get("outputs") if isinstance(run, dict) else None
        for node in nodes if isinstance(nodes, list) else []:
            results = node.get("results") if isinstance(node, dict) else None
            found += results.values() if isinstance(results, dict) else [results]
    return found


def _inner(result: dict[str, Any]) -> dict[str, Any]:
    data = result.get("data")
    return data if isinstance(data, dict) else {}


def _is_error(result: dict[str, Any]) -> bool:
    return any(each.get("error") is True or each.get("category") == "error" for each in (result, _inner(result)))


def _holds_something(result: Any) -> bool:
    if not isinstance(result, dict):
        return bool(result.strip() if isinstance(result, str) else result)
    inner = _inner(result)
    # A message has a text, also an empty one; Data and tables have what they have.
    texts = [each["text"] for each in (result, inner) if isinstance(each.get("text"), str)]
    return any(text.strip() for text in texts) if texts else bool(inner if "data" in result else result)


def _told(body: bytes) -> str:
    """The server's own words; of a failed run they are JSON within JSON."""
    text = body.decode("utf-8", "replace")
    told: Any = text
    for _ in range(_NESTED):
        try:
            told = json.loads(told) if isinstance(told, str) else told
        except ValueError:
            break
        if isinstance(told, dict):
            told = told.get("detail") or told.get("message") or ""
    return told if isinstance(told, str) and told else text


def _cut(text: str, hidden: Hidden) -> str:
    if len(text) <= _LONGEST_TEXT:
        return text
    # Before it is cut: of half a key nobody knows any more that it is one.
    return _ends(hidden.out_of(_ends(text, _MOST_READ)), _LONGEST_TEXT)


def _ends(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}\n{text[-most // 2 :]}"
