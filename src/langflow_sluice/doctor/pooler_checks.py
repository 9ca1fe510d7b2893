"""A pooler between Langflow or the nodes and their database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langflow_sluice.doctor.deployment import DRIVER_SETTINGS
from langflow_sluice.doctor.findings import Finding, Fix
from langflow_sluice.doctor.pooler import LANGFLOW_OPTIONS

if TYPE_CHECKING:
    from langflow_sluice.doctor.deployment import Deployment
    from langflow_sluice.doctor.facts import Facts
    from langflow_sluice.doctor.findings import Arithmetic, Severity
    from langflow_sluice.doctor.pooler import PoolerFacts

SHORTEST_QUERY_WAIT_S = 10.0
LONGEST_QUERY_WAIT_S = 120.0
"""PgBouncer's own default."""


def pooler_findings(deployment: Deployment, facts: Facts, sums: list[Arithmetic]) -> list[Finding]:
    """What a pooler does that Langflow, the nodes or their callers do not bear."""
    findings: list[Finding] = []
    seen: set[tuple[object, ...]] = set()
    for database in (facts.database, facts.nodes_database):
        if database is None or database.pooler is None or database.key in seen:
            continue
        seen.add(database.key)
        pooler, where = database.pooler, database.where
        clients = next((one.total for one in sums if one.title == f"Clients of the pooler {where}"), None)
        findings += _mode(pooler, where, clients)
        if database is facts.database:
            findings += _langflow(deployment, pooler, where)
        findings += _query_wait(pooler, where)
        if pooler.problem:
            observed = f"The settings of the pooler {where} were not seen: {pooler.problem}."
            advice = "Add the role to its stats_users, or look at query_wait_timeout, default_pool_size and "
            findings.append(Finding("pgbouncer_not_checked", "info", observed, f"{advice}max_client_conn by hand."))
    return findings


def _mode(pooler: PoolerFacts, where: str, clients: int | None) -> list[Finding]:
    advice = "Set pool_mode = transaction."
    version = f" (PgBouncer {pooler.version})" if pooler.version else ""
    if pooler.mode == "statement":
        observed = f"The pooler {where}{version} is in statement mode, which refuses transactions; Langflow needs them."
        return [Finding("pgbouncer_statement_mode", "error", observed, advice)]
    if pooler.mode == "transaction":
        return [Finding("pgbouncer_found", "info", f"A pooler{version} in transaction mode stands at {where}.")]
    if pooler.mode == "":
        observed = f"A pooler{version} stands at {where}; its mode could not be told."
        return [Finding("pgbouncer_mode_not_checked", "info", observed, "Look at its pool_mode: transaction is right.")]
    connections = pooler.server_connections
    observed = f"The pooler {where}{version} is in session mode: each client keeps a connection to the server"
    if connections and clients is not None and clients > connections:
        wait = pooler.number("query_wait_timeout")
        observed += f", {clients} clients may come, and it has {connections}. The others wait"
        observed += f" and are cut off after {wait:g} s." if wait else "."
        return [Finding("pgbouncer_session_mode", "error", observed, advice)]
    return [Finding("pgbouncer_session_mode", "warning", f"{observed}, so that it spares the server nothing.", advice)]


def _langflow(deployment: Deployment, pooler: PoolerFacts, where: str) -> list[Finding]:
    findings = []
    told = deployment.driver_settings.value
    if pooler.refuses_options and (told is None or "options" in told):
        observed = (
            f"The pooler {where} refuses what Langflow says at connect ({LANGFLOW_OPTIONS}): Langflow does not start."
        )
        advice = "Set ignore_startup_parameters = options in pgbouncer.ini."
        findings.append(Finding("pgbouncer_refuses_options", "error", observed, advice))
    prepares = told is not None and told.get("prepare_threshold", 0) is not None
    if prepares and pooler.mode != "session":
        kept = pooler.number("max_prepared_statements") or 0
        observed = (
            f"{DRIVER_SETTINGS} ({deployment.driver_settings.source}) replaces what Langflow tells the driver, and "
            f"leaves out prepare_threshold: statements are prepared in sessions that {where} gives to others too."
        )
        advice = 'Add "prepare_threshold": null to it.'
        if kept:
            observed += f" PgBouncer keeps {kept:g} of them; the driver needs libpq 17 for that."
        why = "The pooler gives each transaction another session: nothing may be prepared"
        fix = Fix(DRIVER_SETTINGS, None, why, "prepare_threshold")
        severity: Severity = "warning" if kept else "error"
        findings.append(Finding("pgbouncer_prepared_statements", severity, observed, advice, (fix,)))
    return findings


def _query_wait(pooler: PoolerFacts, where: str) -> list[Finding]:
    wait = pooler.number("query_wait_timeout")
    if wait is None or SHORTEST_QUERY_WAIT_S <= wait <= LONGEST_QUERY_WAIT_S:
        return []
    if wait == 0:
        observed = f"query_wait_timeout of the pooler {where} is 0: callers wait for a server connection for ever."
    elif wait < SHORTEST_QUERY_WAIT_S:
        observed = f"query_wait_timeout of the pooler {where} is {wait:g} s: a short burst is already cut off."
    else:
        observed = f"query_wait_timeout of the pooler {where} is {wait:g} s: callers wait longer than they stay."
    advice = f"Set it between {SHORTEST_QUERY_WAIT_S:g} and {LONGEST_QUERY_WAIT_S:g} s; above pool_timeout is best."
    return [Finding("query_wait_timeout", "warning", observed, advice)]
