"""The databases themselves: reached or not, SQLite, idle transactions, pgvector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langflow_sluice.doctor.deployment import DATABASE_URL, NODES_DATABASE_URL
from langflow_sluice.doctor.findings import Finding, Fix

if TYPE_CHECKING:
    from langflow_sluice.doctor.database import DatabaseFacts
    from langflow_sluice.doctor.deployment import Deployment
    from langflow_sluice.doctor.facts import Facts
    from langflow_sluice.doctor.findings import Severity

LONGEST_IDLE_S = 60.0
GOOD_PGVECTOR = (0, 8, 4)
"""Before it, vacuum of HNSW indexes has bugs."""


def database_findings(deployment: Deployment, facts: Facts) -> list[Finding]:
    """What is wrong with the databases, whatever pools lead to them."""
    findings = _sqlite(deployment)
    servers: set[str] = set()
    for database in (facts.database, facts.nodes_database):
        if database is None:
            continue
        if not database.reached:
            findings.append(Finding("database_unreachable", "error", database.problem, database.hint))
        elif database.server not in servers:
            servers.add(database.server)
            findings += _idle(database)
    if facts.nodes_database is None:
        observed = (
            f"The database of the nodes is not known ({NODES_DATABASE_URL} is not set): pgvector was not looked at."
        )
        findings.append(Finding("pgvector_not_checked", "info", observed, "Give it with --database-url."))
    elif facts.nodes_database.reached:
        findings += _pgvector(facts.nodes_database)
    # One unreachable database under both names is one finding.
    return list({(finding.code, finding.observed): finding for finding in findings}.values())


def _sqlite(deployment: Deployment) -> list[Finding]:
    if deployment.database is not None or DATABASE_URL in deployment.problems:
        return []
    observed = f"Langflow keeps its own data in SQLite ({DATABASE_URL}: {deployment.database_source}): one writer at a "
    observed += "time, and every call writes"
    processes = deployment.processes
    severity: Severity = "error" if deployment.expected.machines > 1 else "warning"
    observed += f"; here {processes} processes do." if processes > 1 else "."
    example = "postgresql://user:password@host:5432/langflow?connect_timeout=10"
    fix = Fix(DATABASE_URL, example, "SQLite takes one writer at a time: put a PostgreSQL here", example=True)
    return [Finding("sqlite", severity, observed, f"Set {DATABASE_URL} to a PostgreSQL.", (fix,))]


def _idle(database: DatabaseFacts) -> list[Finding]:
    findings = []
    if database.idle_in_transaction:
        is_long = database.longest_idle_s >= LONGEST_IDLE_S
        observed = (
            f"{database.idle_in_transaction} sessions of {database.where} are idle in a transaction, the longest "
        )
        observed += (
            f"for {database.longest_idle_s:.0f} s: they hold connections and locks, and keep vacuum from its work."
        )
        advice = "Find them in pg_stat_activity, and set idle_in_transaction_session_timeout (60s) on the server."
        findings.append(Finding("idle_in_transaction", "warning" if is_long else "info", observed, advice))
    if not database.idle_timeout_ms:
        observed = f"The server of {database.where} never ends a session that stays idle in a transaction."
        advice = "ALTER DATABASE ... SET idle_in_transaction_session_timeout = '60s'."
        findings.append(Finding("idle_in_transaction_timeout", "info", observed, advice))
    return findings


def _pgvector(database: DatabaseFacts) -> list[Finding]:
    if not database.vector_installed:
        if database.vector_available:
            observed = (
                f"{database.where} lacks the extension vector; the server has {database.vector_available} at hand."
            )
            return [Finding("pgvector_missing", "warning", observed, "CREATE EXTENSION vector, as a superuser.")]
        observed = f"{database.where} lacks the extension vector, and its server has none to offer."
        return [Finding("pgvector_missing", "error", observed, "Install pgvector 0.8.4 or later on the server.")]
    if _version(database.vector_installed) < GOOD_PGVECTOR:
        observed = (
            f"{database.where} has pgvector {database.vector_installed}; before 0.8.4 vacuum of HNSW indexes has bugs."
        )
        advice = "Install a later one on the server, then ALTER EXTENSION vector UPDATE."
        return [Finding("pgvector_old", "warning", observed, advice)]
    return []


def _version(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(".") if part.isdigit())
    return numbers + (0,) * (len(GOOD_PGVECTOR) - len(numbers))
