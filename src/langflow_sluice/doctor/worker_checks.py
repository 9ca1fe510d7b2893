"""Langflow's workers: the queue they share, how they start, and timeouts that contradict each other."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from langflow_sluice.doctor.findings import Finding, Fix

if TYPE_CHECKING:
    from langflow_sluice.doctor.deployment import Deployment
    from langflow_sluice.doctor.facts import Facts

NODE_TIMEOUT_S = 300.0
"""The default of total_timeout of the model nodes."""

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_QUEUE = "LANGFLOW_JOB_QUEUE_TYPE"
_IGNORED_ARGUMENTS = re.compile(r"--(preload|timeout|workers|bind)\b|(?<!\S)-[wtb]\b")


def worker_findings(deployment: Deployment, facts: Facts) -> list[Finding]:
    """What is wrong with workers and timeouts."""
    return [
        *_queue(deployment, facts),
        *_events(deployment),
        *_preload(deployment),
        *_gunicorn(deployment),
        *_timeouts(deployment, facts),
        *_prometheus(deployment),
    ]


def _queue(deployment: Deployment, facts: Facts) -> list[Finding]:
    workers = deployment.worker_count
    if deployment.job_queue.value == "redis":
        if facts.queue_problem:
            observed = f"The shared queue ({_QUEUE}=redis) does not serve: {facts.queue_problem}."
            return [Finding("queue_unreachable", "error", observed, "Mend LANGFLOW_REDIS_QUEUE_URL.")]
        host = urlsplit(deployment.queue_url.value).hostname
        if deployment.expected.machines > 1 and host in _LOOPBACK:
            observed = (
                f"The shared queue is on {host}: each of the {deployment.expected.machines} machines has its own."
            )
            return [Finding("queue_local", "warning", observed, "Point LANGFLOW_REDIS_QUEUE_URL to one Redis for all.")]
        return []
    if workers > 1 and not deployment.queue_bypassed.value:
        observed = (
            f"{deployment.workers} gives {workers} workers, and their queue is not shared: Langflow does not start."
        )
        advice = f"Set {_QUEUE}=redis with LANGFLOW_REDIS_QUEUE_URL, or run one worker on each machine."
        why = "Several workers need a queue that they share; for them set LANGFLOW_JOB_QUEUE_TYPE=redis instead"
        return [
            Finding("workers_without_queue", "error", observed, advice, (Fix(deployment.workers.variable, 1, why),))
        ]
    if workers > 1:
        observed = (
            f"{workers} workers without a shared queue ({deployment.queue_bypassed.variable}): runs on the canvas "
        )
        observed += "and in the playground fail with 'Job queue not found' whenever another worker is asked."
        return [Finding("workers_queue_bypassed", "warning", observed, f"Set {_QUEUE}=redis.")]
    return []


def _events(deployment: Deployment) -> list[Finding]:
    shared = deployment.job_queue.value == "redis"
    if deployment.worker_count == 1 or shared or deployment.event_delivery.value == "direct":
        return []
    observed = f"{deployment.event_delivery} is overruled: without a shared queue several workers deliver directly."
    return [Finding("event_delivery_forced", "info", observed, f"Set {_QUEUE}=redis to keep it.")]


def _preload(deployment: Deployment) -> list[Finding]:
    if deployment.preload.value and deployment.worker_count > 1:
        observed = (
            "gunicorn preloads: what other packs and nodes open while they are imported (clients, threads, pools) "
        )
        observed += "is copied into every worker and works in none. Sluice makes its own after the fork."
        advice = "Look for 'Ghost threads' and 'Ghost TCP connections' in the log; if there are any, turn it off."
        return [Finding("gunicorn_preload", "info", observed, advice)]
    return []


def _gunicorn(deployment: Deployment) -> list[Finding]:
    ignored = sorted({match.group().strip() for match in _IGNORED_ARGUMENTS.finditer(deployment.gunicorn_args.value)})
    if not ignored:
        return []
    observed = f"GUNICORN_CMD_ARGS sets {', '.join(ignored)}, which Langflow overrides with settings of its own."
    advice = "Use LANGFLOW_GUNICORN_PRELOAD=true, LANGFLOW_WORKER_TIMEOUT, LANGFLOW_WORKERS, LANGFLOW_HOST and _PORT."
    return [Finding("gunicorn_args_ignored", "warning", observed, advice)]


def _timeouts(deployment: Deployment, facts: Facts) -> list[Finding]:
    longest = facts.flows.longest_s if facts.flows else 0.0
    node = longest or NODE_TIMEOUT_S
    whose = "the longest total_timeout of the flows" if longest else "the default total_timeout of model nodes"
    findings = []
    worker, execution = deployment.worker_timeout_s, deployment.execution_timeout_s
    if 0 < worker.value < node:
        observed = (
            f"{worker}: a node that holds the event loop gets its worker killed, with all other runs in it, after "
        )
        observed += f"{worker.value:g} s; nodes may take {node:g} s ({whose})."
        why = f"A killed worker loses all its runs; nodes may take {node:g} s"
        advice = f"Set {worker.variable} to {node:g} or more, or lower the nodes' total_timeout."
        findings.append(
            Finding("worker_timeout", "warning", observed, advice, (Fix(worker.variable, f"{node:g}", why),))
        )
    if 0 < execution.value < node:
        observed = (
            f"{execution}: runs on the canvas and through the v2 API end at {execution.value:g} s, but nodes may take "
        )
        observed += f"{node:g} s ({whose}), with their waiting and retries."
        why = f"Nodes may take {node:g} s"
        advice = f"Set {execution.variable} to {node:g} or more, or lower the nodes' total_timeout."
        fix = Fix(execution.variable, f"{node:g}", why)
        findings.append(Finding("execution_timeout", "warning", observed, advice, (fix,)))
    proxy = deployment.expected.proxy_timeout_s
    if 0 < proxy < node:
        observed = (
            f"What stands in front gives up after {proxy:g} s (504), but nodes may take {node:g} s ({whose}): the run "
        )
        observed += "goes on to its end unseen, and is paid for."
        advice = (
            f"Raise its read timeout above {node:g} s (nginx: proxy_read_timeout), or lower the nodes' total_timeout."
        )
        findings.append(Finding("proxy_timeout", "warning", observed, advice))
    if not proxy:
        observed = "What stands in front of Langflow was not looked at; nginx and many others give up after 60 s (504)."
        findings.append(Finding("proxy_not_checked", "info", observed, "Say with --proxy-timeout how long it waits."))
    return findings


def _prometheus(deployment: Deployment) -> list[Finding]:
    if not (deployment.prometheus.value and deployment.worker_count > 1):
        return []
    observed = (
        f"Langflow's own metrics come from one of the {deployment.worker_count} workers: the one that got the port."
    )
    return [Finding("prometheus_one_worker", "info", observed, "Read Sluice's metrics, which cover all of them.")]
