"""What a running Langflow offers: its version, its palette, and what the flows on it ask for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import InvalidInput, SluiceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from langflow_sluice.canvas.server import FlowsServer

# The palette of a server that was just started is built on the first request.
_PALETTE_S = 60.0
_OURS = "ext:sluice:"
_POOLED = ("PooledPGRetrieverComponent", "PooledPGWriterComponent")
_MODELS = ("RateLimitedLLMComponent", "GuardedModelComponent")
_STOCK_PGVECTOR = ("pgvector", "PGVectorStoreComponent")


@dataclass(frozen=True, slots=True)
class FlowFacts:
    """What the flows of the key's owner ask for.

    Attributes:
        flows: How many there are.
        pools: Connections of each pool that their nodes share, in each worker.
        model_concurrency: The largest cap of a model node; 0 for none seen, -1 for one without a cap.
        requests_per_minute: The largest rate of a model node; 0 where one has none.
        longest_s: The longest total timeout of a node; 0 for none seen.
        stock_pgvector: Names of flows with Langflow's own PGVector node.
    """

    flows: int = 0
    pools: tuple[int, ...] = ()
    model_concurrency: int = 0
    requests_per_minute: float = 0.0
    longest_s: float = 0.0
    stock_pgvector: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What was seen of a running Langflow.

    Attributes:
        where: Its address.
        problem: Why nothing was seen; empty if it answered.
        hint: What to do about that.
        version: Of Langflow.
        pack_version: Of the pack in its palette; empty where it has none.
        pack_types: The pack's nodes in its palette.
        flows: What its flows ask for; ``None`` where they could not be read.
    """

    where: str
    problem: str = ""
    hint: str = ""
    version: str = ""
    pack_version: str = ""
    pack_types: tuple[str, ...] = ()
    flows: FlowFacts | None = None


def look_at_server(url: str, api_key: str, *, timeout_s: float) -> ServerFacts:
    """Asks a running Langflow, changing nothing; never raises for the server.

    Args:
        url: Its address.
        api_key: A key for its API; without one its auto login is used.
        timeout_s: Seconds for a request; the palette may take a minute.

    Raises:
        InvalidInput: The address is none, or carries a password.
    """
    from langflow_sluice.canvas.server import FlowsServer

    def asked(server: FlowsServer) -> ServerFacts:
        get = server._request  # noqa: SLF001 - of our own client, for paths that only the doctor asks for
        version = str(get("GET", "/api/v1/version").get("version", ""))
        palette = get("GET", "/api/v1/all", timeout=max(timeout_s, _PALETTE_S))
        nodes = {name: node for group in palette.values() for name, node in group.items()}
        types = tuple(name for name in nodes if name.startswith(_OURS))
        versions = sorted({str(nodes[name].get("extension_version") or "") for name in types})
        try:
            found = get("GET", "/api/v1/flows/", params={"get_all": "true", "remove_example_flows": "true"})
        except SluiceError:
            found = None
        flows = facts_of_flows(found) if isinstance(found, list) else None
        return ServerFacts(url, "", "", version, versions[-1] if versions else "", types, flows)

    try:
        with FlowsServer(url, api_key or None, timeout_s=timeout_s) as server:
            return asked(server)
    except InvalidInput:
        raise
    except SluiceError as exc:
        return ServerFacts(url, exc.message.rstrip("."), exc.hint)
    except (AttributeError, KeyError, TypeError):
        return ServerFacts(url, "what answers there is no Langflow", "Give Langflow's own address.")


def facts_of_flows(flows: Iterable[Mapping[str, Any]]) -> FlowFacts:
    """What a list of flows, as the API gives them, asks for."""
    count, stock, pools = 0, [], {}
    caps, rates, timeouts = [], [], [0.0]
    for flow in flows:
        count += 1
        for node in ((flow.get("data") or {}).get("nodes")) or ():
            kind, values = _node(node)
            if kind in _STOCK_PGVECTOR and flow.get("name") not in stock:
                stock.append(str(flow.get("name")))
            if kind in _POOLED:
                size, overflow = _number(values, "pool_size", 5), _number(values, "max_overflow", 5)
                pools[_pool_key(values)] = int(size + overflow)
            if kind in _MODELS:
                caps.append(int(_number(values, "max_concurrency", 8)))
                rates.append(_number(values, "requests_per_minute", 0))
            timeouts.append(_number(values, "total_timeout", 0))
    return FlowFacts(
        flows=count,
        pools=tuple(pools.values()),
        model_concurrency=0 if not caps else -1 if 0 in caps else max(caps),
        requests_per_minute=0 if not rates or 0 in rates else max(rates),
        longest_s=max(timeouts),
        stock_pgvector=tuple(stock),
    )


def _node(node: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    data = node.get("data") or {}
    kind = str(data.get("type") or "").split("@")[0].rsplit(":", 1)[-1]
    template = (data.get("node") or {}).get("template") or {}
    return kind, {name: field.get("value") for name, field in template.items() if isinstance(field, dict)}


def _pool_key(values: Mapping[str, Any]) -> str:
    # By database and settings, as nodes share their pools; an address may hold a password, so only its digest is kept.
    names = ("database_url", "pool_size", "max_overflow", "pool_timeout", "pool_recycle", "statement_timeout")
    text = repr([values.get(name) for name in (*names, "pool_pre_ping", "pgbouncer")])
    return hashlib.sha256(text.encode()).hexdigest()


def _number(values: Mapping[str, Any], name: str, default: float) -> float:
    value = values.get(name, default)
    try:
        return float(value or 0)
    except (TypeError, ValueError):
        return default
