"""The sum of all connections that a deployment may open, against what each server and pooler takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from langflow_sluice.doctor.deployment import DB_SETTINGS
from langflow_sluice.doctor.findings import Arithmetic, Finding, Fix, Term
from langflow_sluice.postgres.settings import PoolSettings

if TYPE_CHECKING:
    from langflow_sluice.doctor.database import DatabaseFacts
    from langflow_sluice.doctor.deployment import Deployment
    from langflow_sluice.doctor.facts import Facts

LEAST_POOL = 5
"""Connections below which a worker's own pool is short even for a handful of calls: a run holds some side by side."""

_SPARE = 2  # for whoever looks at the server by hand
_LANGFLOW, _SLUICE = "Langflow's own pool", "Sluice's pools"


@dataclass(frozen=True, slots=True)
class _Use:
    """One pool of each worker process, and the database that it leads to."""

    label: str
    database: DatabaseFacts
    each: int | None
    how: str


def arithmetic(deployment: Deployment, facts: Facts) -> list[Arithmetic]:
    """One sum for each server that was reached, and one for each pooler whose settings were seen."""
    uses = [use for use in _uses(deployment, facts) if use.database.reached]
    sums = []
    for server in dict.fromkeys(use.database.server for use in uses):
        # What a pooler opens to the server it alone can tell.
        mine = [use for use in uses if use.database.server == server and not _is_unknown(use.database)]
        if mine:
            sums.append(_server_sum(deployment, mine))
    for where in dict.fromkeys(use.database.where for use in uses if use.database.pooler):
        behind = [use for use in uses if use.database.where == where]
        pooler = behind[0].database.pooler
        if pooler is not None and pooler.settings:
            terms = tuple(Term(use.label, deployment.processes, use.each, use.how) for use in behind)
            most = int(pooler.number("max_client_conn") or 0) or None
            sums.append(Arithmetic(f"Clients of the pooler {where}", terms, most, "its max_client_conn"))
    return sums


def connection_findings(deployment: Deployment, facts: Facts) -> list[Finding]:
    """Whether the sums fit."""
    findings: list[Finding] = []
    for one in arithmetic(deployment, facts):
        if one.fits:
            if one.limit is not None and one.total is not None and one.limit - one.total < _SPARE:
                observed = f"{one.title}: {one.total} of {one.limit} may be taken."
                advice = "Leave some for migrations, backups and whoever has to look."
                findings.append(Finding("connections_tight", "info", observed, advice))
            continue
        observed = f"{one.title}: {_formula(one)}, but {one.limit} are to be had ({one.limit_how})."
        if one.title.startswith("Clients"):
            advice = "Raise max_client_conn of the pooler, or make the pools smaller."
            findings.append(Finding("pgbouncer_clients_exceeded", "error", observed, advice))
        else:
            findings.append(_exceeded(deployment, one, observed))
    return findings


def _uses(deployment: Deployment, facts: Facts) -> list[_Use]:
    uses = []
    if facts.database is not None:
        pool = deployment.pool.in_force
        how = f"pool_size {pool['pool_size']} + max_overflow {pool['max_overflow']}, {deployment.pool.source}"
        uses.append(_Use(_LANGFLOW, facts.database, deployment.pool.capacity, how))
    of_nodes = facts.nodes_database or facts.database
    if of_nodes is not None:
        each, how = _of_sluice(deployment, facts)
        # Where nobody has told, the cautious reading: it is one server.
        label = _SLUICE if facts.nodes_database else f"{_SLUICE} (if they are here)"
        uses.append(_Use(label, of_nodes, each, how))
    return uses


def _of_sluice(deployment: Deployment, facts: Facts) -> tuple[int, str]:
    if facts.flows is not None and facts.flows.pools:
        each, how = sum(facts.flows.pools), f"{len(facts.flows.pools)} pools in the flows of the server"
    else:
        each, how = PoolSettings().capacity, "one pool with the nodes' defaults"
    most = deployment.limits.db_connections
    return (most, "SLUICE_MAX_DB_CONNECTIONS") if 0 < most < each else (each, how)


def _is_unknown(database: DatabaseFacts) -> bool:
    return database.pooler is not None and not database.pooler.server_connections


def _server_sum(deployment: Deployment, uses: list[_Use]) -> Arithmetic:
    terms = []
    pooled: set[tuple[object, ...]] = set()
    for use in uses:
        pooler = use.database.pooler
        if pooler is None:
            terms.append(Term(use.label, deployment.processes, use.each, use.how))
        elif use.database.key not in pooled:
            # Whoever comes through the pooler as the same role shares its connections to the server.
            pooled.add(use.database.key)
            how = "its pool size and reserve for this database and role"
            terms.append(Term(f"The pooler {use.database.where}", 1, pooler.server_connections, how))
    limit, how = _limit(uses)
    names = ", ".join(dict.fromkeys(use.database.where for use in uses))
    return Arithmetic(f"Connections to the server of {names}", tuple(terms), limit, how)


def _limit(uses: list[_Use]) -> tuple[int, str]:
    server = uses[0].database
    usable = server.max_connections - server.reserved
    best = (usable, f"max_connections {server.max_connections} less {server.reserved} reserved")
    for use in uses:
        for most, whose in ((use.database.role_limit, "role"), (use.database.database_limit, "database")):
            if 0 <= most < best[0]:
                best = (most, f"CONNECTION LIMIT of the {whose}")
    return best


def _formula(one: Arithmetic) -> str:
    parts = [f"{term.processes} x {'any number' if term.each is None else term.each}" for term in one.terms]
    total = "no bound" if one.total is None else str(one.total)
    return f"{' + '.join(parts)} = {total}"


def _exceeded(deployment: Deployment, one: Arithmetic, observed: str) -> Finding:
    direct = [term for term in one.terms if not term.label.startswith("The pooler")]
    through_pooler = sum(term.total or 0 for term in one.terms if term not in direct)
    usable = (one.limit or 0) - through_pooler - _SPARE
    has_langflow = any(term.label == _LANGFLOW for term in direct)
    ours = next((term.each or 0 for term in direct if term.label.startswith(_SLUICE)), 0)
    least = (LEAST_POOL if has_langflow else 0) + (1 if ours else 0)
    machines = deployment.expected.machines
    workers = min(deployment.worker_count, usable // (machines * least)) if direct and least else 0
    if workers < 1:
        advice = "Raise max_connections, or put PgBouncer in transaction mode in front: there are too few to share out."
        return Finding("connections_exceeded", "error", observed, advice)
    budget = usable // (machines * workers)
    processes = machines * workers
    why = f"The server has {usable} connections for {processes} worker processes: {budget} for each"
    fixes = []
    if workers < deployment.worker_count:
        few = f"{deployment.worker_count} workers leave each too few of the {usable} connections"
        fixes.append(Fix(deployment.workers.variable, workers, few))
    if has_langflow:
        our_share = min(ours, max(1, budget // 3)) if ours else 0
        capacity = deployment.pool.capacity
        share = min(capacity or budget, budget - our_share)
        kept = -(-share * 2 // 3)
        fixes += [Fix(DB_SETTINGS, kept, why, "pool_size"), Fix(DB_SETTINGS, share - kept, why, "max_overflow")]
    else:
        our_share = budget
    if ours > our_share:
        fixes.append(Fix("SLUICE_MAX_DB_CONNECTIONS", our_share, why))
    settings = ", ".join(dict.fromkeys(fix.key or fix.variable for fix in fixes))
    advice = f"Make the pools smaller ({settings}), raise max_connections, or put PgBouncer in front."
    return Finding("connections_exceeded", "error", observed, advice, tuple(fixes))
