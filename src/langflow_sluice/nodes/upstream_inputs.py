"""The inputs of nodes that call an OpenAI-compatible service."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from lfx.io import FloatInput, IntInput, SecretStrInput, StrInput
from lfx.utils.secrets import secret_value_to_str

from langflow_sluice.guard.retry import CallPolicy
from langflow_sluice.http_clients import HttpTimeouts
from langflow_sluice.models.openai_compatible import Upstream
from langflow_sluice.nodes.guard_inputs import guard_of, number, priority_of

if TYPE_CHECKING:
    from lfx.custom.custom_component.component import Component
    from lfx.inputs.inputs import InputTypes

    from langflow_sluice.guard import Guard


def upstream_inputs(*, read_timeout: float, total_timeout: float) -> list[InputTypes]:
    """Key, address, retries and timeouts.

    Args:
        read_timeout: Default seconds between two pieces of an answer.
        total_timeout: Default seconds for a call with its waiting and retries.
    """
    max_retries, total_limit = call_inputs(total_timeout=total_timeout)
    return [
        SecretStrInput(
            name="api_key",
            display_name="API Key",
            value="OPENAI_API_KEY",
            required=True,
            info="The key, or the global variable that holds it.",
        ),
        StrInput(
            name="base_url",
            display_name="Base URL",
            advanced=True,
            info="Root of an OpenAI-compatible API, usually ending in /v1. Blank: OpenAI.",
        ),
        max_retries,
        FloatInput(
            name="connect_timeout",
            display_name="Connect Timeout",
            value=5,
            advanced=True,
            info="Seconds to open a connection. 0: no limit.",
        ),
        FloatInput(
            name="read_timeout",
            display_name="Read Timeout",
            value=read_timeout,
            advanced=True,
            info="Seconds without a byte from the service. 0: no limit.",
        ),
        FloatInput(
            name="write_timeout",
            display_name="Write Timeout",
            value=30,
            advanced=True,
            info="Seconds until the service takes the next piece of a request. 0: no limit.",
        ),
        total_limit,
    ]


def call_inputs(*, total_timeout: float) -> list[InputTypes]:
    """Retries and deadline of each call; see ``call_policy``.

    Args:
        total_timeout: Default seconds for a call with its waiting and retries.
    """
    inputs = [
        IntInput(
            name="max_retries",
            display_name="Max Retries",
            value=2,
            advanced=True,
            info="Further attempts after 429, server errors and timeouts; each waits for a slot of the guard again.",
        ),
        FloatInput(
            name="total_timeout",
            display_name="Total Timeout",
            value=total_timeout,
            advanced=True,
            info="Seconds for a call, with waiting and retries. 0: no limit.",
        ),
    ]
    return cast("list[InputTypes]", inputs)


def upstream_of(component: Component) -> Upstream:
    """The service and credential that a node's inputs name.

    Raises:
        InvalidInput: The key is empty, the address is none, or a timeout is negative.
    """
    return Upstream(
        base_url=(component.base_url or "").strip(),
        api_key=secret_value_to_str(component.api_key) or "",
        timeouts=HttpTimeouts(
            connect_s=number(component.connect_timeout),
            read_s=number(component.read_timeout),
            write_s=number(component.write_timeout),
        ),
    )


def guard_of_upstream(component: Component, upstream: Upstream) -> Guard:
    """The guard in front of a service: the one that the node names, or the one of all users of its credential."""
    return guard_of(component, upstream.guard_name)


def call_policy(component: Component) -> CallPolicy:
    """Retries, deadline and priority that a node's inputs ask for."""
    return CallPolicy(
        max_retries=number(component.max_retries),
        total_timeout_s=number(component.total_timeout),
        priority=priority_of(component),
    )
