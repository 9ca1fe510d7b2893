"""The inputs that every guarded node has, and what they mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

from lfx.io import BoolInput, DropdownInput, FloatInput, IntInput, StrInput

from langflow_sluice.guard import PRIORITIES, Guard, GuardSettings, disagreement, guard_registry
from langflow_sluice.guard.operator_limits import operator_limits
from langflow_sluice.guard.settings import REDIS_LOSSES, SCOPES
from langflow_sluice.metrics.publisher import publisher

if TYPE_CHECKING:
    from lfx.custom.custom_component.component import Component
    from lfx.inputs.inputs import InputTypes

    from langflow_sluice.cluster.standing import ClusterStatistics
    from langflow_sluice.guard import Priority
    from langflow_sluice.guard.retry import Tally

NAMED_BY_CREDENTIAL = "everyone who uses the same service and credential shares one guard"
NAMED_BY_NODE = "this node has a guard of its own, shared by all runs of the flow"


def guard_inputs(
    *, blank_name: str, max_concurrency: int = 8, queue_timeout: float = 60.0, model: bool = False
) -> list[InputTypes]:
    """The advanced inputs of a guarded node.

    Args:
        blank_name: What a blank name means for this node, as the end of a sentence.
        max_concurrency: Default cap.
        queue_timeout: Default seconds in the queue.
        model: Whether the node calls a model provider, whose calls are counted in tokens too and whose refusals tell
            how much it takes.
    """
    inputs = [
        StrInput(
            name="guard_name",
            display_name="Guard Name",
            advanced=True,
            info=f"Nodes that name the same guard share its limits, in all your flows. Blank: {blank_name}.",
        ),
        IntInput(
            name="max_concurrency",
            display_name="Max Concurrency",
            value=max_concurrency,
            advanced=True,
            info="Calls in flight at once, over all flows of this server. 0: no limit.",
        ),
        FloatInput(
            name="requests_per_minute",
            display_name="Requests per Minute",
            value=0,
            advanced=True,
            info="Calls started a minute, spread evenly. 0: no limit.",
        ),
    ]
    if model:
        inputs += [
            FloatInput(
                name="tokens_per_minute",
                display_name="Tokens per Minute",
                value=0,
                advanced=True,
                info="Tokens a minute, estimated before a call and corrected by the usage reported. 0: no limit.",
            ),
            BoolInput(
                name="adaptive",
                display_name="Adaptive",
                value=False,
                advanced=True,
                info="Find out how much of Max Concurrency the service really takes: fewer calls at once after 429s "
                "and timeouts, more while all goes well.",
            ),
        ]
    inputs += [
        IntInput(
            name="max_queue",
            display_name="Max Queue",
            value=1000,
            advanced=True,
            info="Calls that may wait; the next one is turned away at once. 0: no limit.",
        ),
        FloatInput(
            name="queue_timeout",
            display_name="Queue Timeout",
            value=queue_timeout,
            advanced=True,
            info="Seconds that a call waits for its turn before it gives up. 0: no limit.",
        ),
        DropdownInput(
            name="priority",
            display_name="Priority",
            options=list(PRIORITIES),
            value="normal",
            advanced=True,
            info="Interactive goes before normal before batch; batch is delayed, never starved.",
        ),
        DropdownInput(
            name="scope",
            display_name="Scope",
            options=list(SCOPES),
            value="process",
            advanced=True,
            info="Process: the limits hold in each worker of the server. Cluster: they hold over all workers and "
            "machines together, through the Redis that SLUICE_REDIS_URL names.",
        ),
        DropdownInput(
            name="redis_loss",
            display_name="Redis Loss",
            options=list(REDIS_LOSSES),
            value="fail_closed",
            advanced=True,
            info="What a guard of the cluster does while Redis is away. Fail closed: turn calls away. Local share: go "
            "on with the limits divided by the workers.",
        ),
    ]
    return cast("list[InputTypes]", inputs)


def guard_settings(component: Component) -> GuardSettings:
    """The limits that a node's inputs ask for.

    Raises:
        InvalidInput: One of them is not a limit; names it.
    """
    values: dict[str, Any] = {
        "max_concurrency": component.max_concurrency,
        "requests_per_minute": component.requests_per_minute,
        "tokens_per_minute": getattr(component, "tokens_per_minute", 0),
        "max_queue": component.max_queue,
        "queue_timeout_s": component.queue_timeout,
    }
    filled: dict[str, Any] = {name: number(value) for name, value in values.items()}
    return GuardSettings(
        **filled,
        adaptive=bool(getattr(component, "adaptive", False)),
        scope=component.scope or "process",
        redis_loss=component.redis_loss or "fail_closed",
    )


def number(value: Any) -> Any:
    """A number field's value: emptied on the canvas, it arrives as None or as an empty text and means 0."""
    return 0 if value is None or value == "" else value


def guard_of(component: Component, blank_name: str) -> Guard:
    """The guard that a node's inputs name.

    Args:
        component: The node.
        blank_name: The guard's name where the node leaves it blank: tells the service and credential, or the node.
    """
    settings = guard_settings(component)
    name = (component.guard_name or "").strip()
    # An explicit name is private to its Langflow user, unless the operator declares it shared: nobody can slow down
    # another one's flows by guessing names.
    owner = "all users" if operator_limits().is_shared(name) else _user(component)
    key = f"{owner}/{name}" if name else blank_name
    guard = guard_registry().guard(key, settings, asked_by=node_identity(component), name=name)
    publisher.start()
    warning = disagreement(guard, settings)
    if warning:
        component.log(warning, name="Guard")
    return guard


def priority_of(component: Component) -> Priority:
    """The lane that a node's inputs name."""
    # Langflow's base class has an attribute of that name, always None, which hides the input's value from a plain
    # look-up; its own way to inputs is what it falls back to for names that it does not know.
    return cast("Priority", component.__getattr__("priority") or "normal")


def node_identity(component: Component) -> str:
    """Tells a node from all others, the same in each run: its flow and its id on the canvas."""
    vertex = component._vertex  # noqa: SLF001 - a component knows its place in the graph by no other name
    flow = vertex.graph.flow_id if vertex is not None else None
    return f"{flow or 'no flow'}:{component.get_id()}"


def _user(component: Component) -> str:
    try:
        return str(component.user_id or "")
    except (AttributeError, ValueError):
        return ""


def report(guard: Guard, tally: Tally | None = None) -> str:
    """One line for a node's status: what its calls went through, and the guard as it stands."""
    statistics = guard.statistics()
    cap = f" of {guard.settings.max_concurrency}" if guard.settings.max_concurrency else ""
    parts = (
        [] if tally is None else [f"{tally.calls} calls", f"waited {tally.waited_s:.2f} s", f"{tally.retries} retries"]
    )
    if tally is not None and tally.fallbacks:
        parts.append(f"{tally.fallbacks} answered by the fallback")
    parts += [
        f"{statistics.in_flight}{cap} in flight",
        f"{sum(statistics.waiting.values())} waiting",
        f"{statistics.refused + statistics.expired + statistics.cut_off} turned away so far",
    ]
    if statistics.cluster is not None:
        parts.append(_standing(statistics.cluster, guard.settings.max_concurrency))
    line = f"Guard {guard.name}: {', '.join(parts)}."
    if guard.contested:
        names = ", ".join(sorted(name.removesuffix("_s") for name in guard.contested))
        line += f" Warning: nodes or the operator ask for different limits of it ({names}); the tightest count."
    return line


def _standing(cluster: ClusterStatistics, cap: int) -> str:
    told = {
        "cluster": f"{cluster.in_flight} in flight in all {cluster.members} workers",
        "unreached": "waiting for Redis",
        "cut_off": "turning calls away since Redis is away",
        "local_share": f"on its share for one of {cluster.members} workers since Redis is away",
    }[cluster.mode]
    if cluster.mode == "cluster" and 0 < cluster.cap < (cap or math.inf):
        told += f", where one still asks for {cluster.cap} at once"
    lost = f", {cluster.leases_lost} leases lost" if cluster.leases_lost else ""
    return told + lost


def report_of(model: Any) -> str:
    """``report`` for the guard in front of a guarded model, with what its calls went through in this run."""
    from langflow_sluice.models.guarded_chat import protection_of

    protection = protection_of(model)
    return "" if protection is None else report(protection.guard, protection.tally)
