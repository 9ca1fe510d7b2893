"""The model of a batch, behind a guard in any case."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from langflow_sluice.nodes.foreign_models import guarded_model

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from lfx.custom.custom_component.component import Component

    from langflow_sluice.models.protection import Protection


def batch_model(component: Component) -> tuple[BaseChatModel, Protection]:
    """The model that is connected to a node, and what stands in front of it.

    A model that comes guarded keeps its guard, with the limits of the node that it comes from; any other is put behind
    the guard that this node's inputs ask for. Either way a call takes one permit.

    Raises:
        InvalidInput: What is connected is no chat model, or a limit is none.
    """
    from langflow_sluice.models.binding import unbound
    from langflow_sluice.models.guarded_chat import bound_to, protection_of

    model, options = unbound(component.model)
    model = guarded_model(component) if protection_of(model) is None else bound_to(model, options)
    return model, cast("Protection", protection_of(model))
