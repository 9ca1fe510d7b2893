"""Guards in front of models that other nodes have made."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from langflow_sluice.failures import diagnose_http
from langflow_sluice.guard import guard_registry
from langflow_sluice.nodes.guard_inputs import guard_of, guard_settings, node_identity, number
from langflow_sluice.nodes.upstream_inputs import call_policy

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from lfx.custom.custom_component.component import Component

    from langflow_sluice.guard import Guard
    from langflow_sluice.models.fallback import Fallback
    from langflow_sluice.models.protection import Protection
    from langflow_sluice.models.services import Service


def guarded_model(component: Component) -> BaseChatModel:
    """The model that is connected to a node, behind the guard that the node's inputs ask for.

    Raises:
        InvalidInput: What is connected is no chat model or is guarded already, or a limit is none.
    """
    from langflow_sluice.models.binding import unbound
    from langflow_sluice.models.guarded_chat import guarded
    from langflow_sluice.models.services import service_of
    from langflow_sluice.models.unretried import without_retries

    model, options = unbound(component.model)
    service = service_of(model)
    guard = guard_of(component, service.guard_name or node_identity(component))
    fallback = _fallback(component, guard.name)
    return guarded(without_retries(model), protection_in_front_of(service, guard, component, fallback), options)


def protection_in_front_of(
    service: Service, guard: Guard, component: Component, fallback: Fallback | None = None
) -> Protection:
    """What stands in front of a service that a node's model or embeddings call.

    Args:
        service: For the errors.
        guard: The gate.
        component: Its inputs tell how calls are made.
        fallback: Answers what the service does not.
    """
    from langflow_sluice.models.protection import Protection

    return Protection(guard, call_policy(component), functools.partial(diagnose_http, resource=service.host), fallback)


def _fallback(component: Component, first: str) -> Fallback | None:
    """The second model, behind a guard too: its own, or one with the node's limits in front of its service."""
    connected = getattr(component, "fallback", None)  # not every node that guards a model has one
    if connected is None or connected == "":
        return None
    from langflow_sluice.models.binding import unbound
    from langflow_sluice.models.fallback import Fallback
    from langflow_sluice.models.guarded_chat import bound_to, guarded, protection_of
    from langflow_sluice.models.services import service_of
    from langflow_sluice.models.unretried import without_retries

    model, options = unbound(connected, field="fallback")
    if protection_of(model) is not None:
        model = bound_to(model, options)
    else:
        service = service_of(model)
        identity = f"{node_identity(component)} fallback"
        # Never the first model's guard: that is the one which is open or full when the fallback is asked.
        name = service.guard_name if service.guard_name not in {"", first} else identity
        guard = guard_registry().guard(name, guard_settings(component), asked_by=identity)
        model = guarded(without_retries(model), protection_in_front_of(service, guard, component), options)
    return Fallback(model, number(component.fallback_after))
