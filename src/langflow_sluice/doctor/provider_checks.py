"""What all workers' guards let through together, against what the model provider allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langflow_sluice.doctor.findings import Arithmetic, Finding, Fix, Term
from langflow_sluice.guard.settings import GuardSettings

if TYPE_CHECKING:
    from langflow_sluice.doctor.deployment import Deployment
    from langflow_sluice.doctor.facts import Facts

_VARIABLE = "SLUICE_REQUESTS_PER_MINUTE"


def guard_sums(deployment: Deployment, facts: Facts) -> list[Arithmetic]:
    """Calls in flight and requests a minute, over all processes; each worker has guards of its own."""
    allowed, how = _allowed(deployment, facts)
    rate, rate_how = _rate(deployment, facts)
    concurrency, concurrency_how = _concurrency(deployment, facts)
    processes = deployment.processes
    in_flight = Term("one guard of each worker", processes, concurrency, concurrency_how)
    requests = Term("one guard of each worker", processes, rate, rate_how)
    return [
        Arithmetic("Calls in flight at one model provider", (in_flight,), None, "not told by providers"),
        Arithmetic("Requests a minute at one model provider", (requests,), allowed, how),
    ]


def provider_findings(deployment: Deployment, facts: Facts) -> list[Finding]:
    """Whether the guards keep below the provider's limit."""
    findings = []
    provider = facts.provider
    if provider is not None and provider.problem:
        observed = f"The provider {provider.where} was asked for its limits, but {provider.problem}."
        advice = "Mend --provider-url or OPENAI_API_KEY, or say the limit with --provider-rpm."
        findings.append(Finding("provider_unreachable", "warning", observed, advice))
    _, requests = guard_sums(deployment, facts)
    if requests.limit is None:
        if provider is None:
            observed = "The provider's limits were not looked at: nobody asked to."
        elif provider.problem:
            return findings
        else:
            observed = f"The provider {provider.where} tells no limit in its headers."
        advice = "Give --provider-url (with OPENAI_API_KEY), or the limit with --provider-rpm."
        return [*findings, Finding("provider_not_checked", "info", observed, advice)]
    if requests.fits:
        return findings
    share = requests.limit // deployment.processes
    term = requests.terms[0]
    sums = "any number" if term.total is None else f"{term.processes} x {term.each} = {term.total}"
    observed = (
        f"The guards of all workers together let {sums} requests a minute through, but {requests.limit} are allowed "
    )
    observed += f"({requests.limit_how}): the rest is answered 429."
    if share < 1:
        advice = "Run fewer workers, or ask the provider for more: less than one request a minute is left for each."
        return [*findings, Finding("provider_limit", "warning", observed, advice)]
    why = f"{deployment.processes} workers share the provider's {requests.limit} requests a minute"
    advice = f"Set {_VARIABLE}={share}, or requests_per_minute of the nodes."
    return [*findings, Finding("provider_limit", "warning", observed, advice, (Fix(_VARIABLE, share, why),))]


def _allowed(deployment: Deployment, facts: Facts) -> tuple[int | None, str]:
    told = deployment.expected.provider_requests_per_minute
    if told:
        return int(told), "--provider-rpm"
    if facts.provider is not None and facts.provider.requests_per_minute:
        return int(facts.provider.requests_per_minute), f"headers of {facts.provider.where}"
    return None, "not known"


def _rate(deployment: Deployment, facts: Facts) -> tuple[int | None, str]:
    most = deployment.limits.everywhere.requests_per_minute
    asked = facts.flows.requests_per_minute if facts.flows else 0
    rate = min(filter(None, (most, asked)), default=0)
    if not rate:
        return None, "requests_per_minute is off"
    return int(rate), _VARIABLE if rate == most else "the nodes of the flows"


def _concurrency(deployment: Deployment, facts: Facts) -> tuple[int | None, str]:
    most = deployment.limits.everywhere.max_concurrency
    asked = facts.flows.model_concurrency if facts.flows else 0
    seen = {0: GuardSettings().max_concurrency, -1: 0}.get(asked, asked)
    cap = min(filter(None, (most, seen)), default=0)
    if not cap:
        return None, "max_concurrency is off"
    how = "the nodes of the flows" if asked > 0 else "the nodes' default"
    return cap, "SLUICE_MAX_CONCURRENCY" if cap == most else how
