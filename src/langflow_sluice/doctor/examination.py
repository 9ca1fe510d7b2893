"""One visit of the doctor: read the settings, look at what they name, check, and recommend."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from langflow_sluice.doctor.connections import arithmetic, connection_findings
from langflow_sluice.doctor.cost_checks import cost_findings, unreadable_findings
from langflow_sluice.doctor.database_checks import database_findings
from langflow_sluice.doctor.deployment import DB_SETTINGS, DRIVER_SETTINGS, Deployment, Expectations, deployment_of
from langflow_sluice.doctor.env_file import EnvFile, parsed, read_env_file, recommended
from langflow_sluice.doctor.facts import Facts
from langflow_sluice.doctor.findings import Arithmetic, Finding, Fix, worst_first
from langflow_sluice.doctor.pack_checks import pack_findings
from langflow_sluice.doctor.pool_checks import connect_timeout_finding, pool_findings
from langflow_sluice.doctor.pooler_checks import pooler_findings
from langflow_sluice.doctor.provider_checks import guard_sums, provider_findings
from langflow_sluice.doctor.variables import Variables
from langflow_sluice.doctor.worker_checks import worker_findings

if TYPE_CHECKING:
    from collections.abc import Mapping

IMPORT_TIMEOUT_S = 120.0
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Options:
    """What to look at.

    Attributes:
        env_file: The server's environment file; over the environment.
        database_url: The nodes' database.
        langflow_url: A running Langflow.
        api_key: A key for its API.
        provider_url: A model provider to ask for its limits.
        expected: What is asked of the deployment.
        timeout_s: Seconds for each thing that is asked.
        with_import: Whether to import the pack's nodes.
    """

    env_file: Path | None = None
    database_url: str = field(default="", repr=False)
    langflow_url: str = ""
    api_key: str = field(default="", repr=False)
    provider_url: str = ""
    expected: Expectations = field(default_factory=Expectations)
    timeout_s: float = 10.0
    with_import: bool = True


@dataclass(frozen=True, slots=True)
class Examination:
    """What came of it.

    Attributes:
        options: What was looked at.
        environment: Of the process, below the file.
        file: The environment file; ``None`` without one.
        deployment: As its settings describe it.
        facts: What was seen of it.
        findings: The worst first.
        sums: The arithmetic.
    """

    options: Options
    environment: Mapping[str, str] = field(repr=False)
    file: EnvFile | None
    deployment: Deployment
    facts: Facts
    findings: list[Finding]
    sums: list[Arithmetic]


def examine(options: Options, environment: Mapping[str, str]) -> Examination:
    """Looks at a deployment, changing nothing; call it from a thread without a running loop.

    Args:
        options: What to look at.
        environment: The variables below those of the file; usually ``os.environ``.

    Raises:
        InvalidInput: An option is wrong. What is wrong with the deployment is never raised.
    """
    file = read_env_file(options.env_file) if options.env_file is not None else None
    variables = Variables.of(file, environment)
    deployment = deployment_of(variables, options.expected, nodes_database=options.database_url)
    facts = _look(deployment, options, variables)
    findings = _check(deployment, facts, file)
    sums = [*arithmetic(deployment, facts), *guard_sums(deployment, facts)]
    return Examination(options, environment, file, deployment, facts, findings, sums)


def recommended_env(examination: Examination) -> tuple[str, list[Finding]]:
    """The recommended environment file, and what the checks still find with it.

    What it recommends is checked again as if it stood there, until no setting is left to change: a pool that is raised
    for the calls may not fit the database any more. What the database takes has the last word.
    """
    file, findings, deployment = examination.file, examination.findings, examination.deployment
    path = file.path if file else Path(".env")
    fixes: dict[tuple[str, str], Fix] = {}
    pinned: set[tuple[str, str]] = set()
    text = recommended(file, (), {})
    for _ in range(_ROUNDS):
        fresh = _new_fixes(findings, fixes, pinned, Variables.of(file, examination.environment))
        if not fresh:
            break
        fixes |= fresh
        in_force = {
            DB_SETTINGS: {**examination.deployment.pool.in_force, **examination.deployment.pool.settings},
            DRIVER_SETTINGS: examination.deployment.driver_settings.value or {},
        }
        text = recommended(file, list(fixes.values()), in_force)
        variables = Variables.of(parsed(path, text), examination.environment)
        deployment = deployment_of(
            variables, examination.options.expected, nodes_database=examination.options.database_url
        )
        findings = _check(deployment, examination.facts, parsed(path, text))
    return text, findings


def _new_fixes(
    findings: list[Finding], known: dict[tuple[str, str], Fix], pinned: set[tuple[str, str]], variables: Variables
) -> dict[tuple[str, str], Fix]:
    fresh: dict[tuple[str, str], Fix] = {}
    # What makes the pools fit is worked out for the number of workers that is left after all else is mended.
    for fitting in (False, True):
        some = [finding for finding in findings if (finding.code == "connections_exceeded") is fitting]
        for fix in (fix for finding in some for fix in finding.fixes):
            old_name = f"LANGFLOW_{fix.key.upper()}"  # LANGFLOW_POOL_SIZE: deprecated, and it wins where it is set
            wins = fix.variable == DB_SETTINGS and variables.text(old_name).value
            made = Fix(old_name, fix.value, fix.why, example=fix.example) if wins else fix
            place = (made.variable, made.key)
            if (place in known and known[place].value == made.value) or (place in pinned and not fitting):
                continue
            fresh[place] = made
        if fresh:
            pinned.update(fresh if fitting else ())
            break
    return fresh


def _look(deployment: Deployment, options: Options, variables: Variables) -> Facts:
    from langflow_sluice.doctor.database import look_at_database
    from langflow_sluice.doctor.job_queue import queue_problem
    from langflow_sluice.doctor.pack import look_at_pack
    from langflow_sluice.doctor.provider import look_at_provider
    from langflow_sluice.doctor.server import look_at_server

    timeout_s = options.timeout_s
    # What may be refused as an option comes first, so that nobody waits for that.
    provider = server = None
    if options.provider_url:
        key = variables.text("OPENAI_API_KEY").value
        provider = look_at_provider(options.provider_url, key, timeout_s=timeout_s)
    if options.langflow_url:
        key = options.api_key or variables.text("LANGFLOW_API_KEY").value
        server = look_at_server(options.langflow_url, key, timeout_s=timeout_s)
    own, of_nodes = deployment.database, deployment.nodes_database
    database = look_at_database(own, timeout_s=timeout_s) if own is not None else None
    nodes_database = None
    if of_nodes is not None:
        nodes_database = database if of_nodes == own else look_at_database(of_nodes, timeout_s=timeout_s)
    queue = None
    if deployment.job_queue.value == "redis":
        queue = queue_problem(deployment.queue_url.value, timeout_s=timeout_s)
    with_import = options.with_import and (server is None or bool(server.problem))
    pack = look_at_pack(deployment.components_path.value, with_import=with_import, timeout_s=IMPORT_TIMEOUT_S)
    return Facts(database, nodes_database, queue, pack, server, provider)


def _check(deployment: Deployment, facts: Facts, file: EnvFile | None) -> list[Finding]:
    sums = arithmetic(deployment, facts)
    return worst_first(
        [
            *unreadable_findings(deployment, file.unreadable if file else (), file.path.name if file else ""),
            *database_findings(deployment, facts),
            *connection_findings(deployment, facts),
            *pooler_findings(deployment, facts, sums),
            *pool_findings(deployment),
            *connect_timeout_finding(deployment),
            *worker_findings(deployment, facts),
            *cost_findings(deployment),
            *pack_findings(deployment, facts),
            *provider_findings(deployment, facts),
        ]
    )
