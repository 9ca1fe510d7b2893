"""The inputs of nodes that hand out guarded embeddings, and guards in front of what other nodes have made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from langchain_core.embeddings import Embeddings
from lfx.io import FloatInput, IntInput

from langflow_sluice.errors import InvalidInput
from langflow_sluice.nodes.foreign_models import protection_in_front_of
from langflow_sluice.nodes.guard_inputs import guard_of, node_identity, number, report

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lfx.custom.custom_component.component import Component
    from lfx.inputs.inputs import InputTypes

    from langflow_sluice.guard import Guard
    from langflow_sluice.models.guarded_embeddings import GuardedEmbeddings


def embedding_inputs() -> list[InputTypes]:
    """Size of the requests and age of the vectors."""
    inputs = [
        IntInput(
            name="batch_size",
            display_name="Batch Size",
            value=256,
            advanced=True,
            info="Texts sent in one request; fewer where they are long.",
        ),
        FloatInput(
            name="cache_ttl",
            display_name="Cache TTL",
            # On, since a model gives the same vector for the same text. Not for ever: a service may put another model
            # behind the name.
            value=300,
            advanced=True,
            info="Seconds for which a text that was embedded is not sent again, by any flow of this server that uses "
            "the same model and credential; who asks at the same time shares one request. 0: off.",
        ),
    ]
    return cast("list[InputTypes]", inputs)


def guarded_embeddings(component: Component) -> GuardedEmbeddings:
    """The embeddings that are connected to a node, behind the guard that the node's inputs ask for.

    Raises:
        InvalidInput: What is connected is no embeddings or is guarded already, or a setting is wrong.
    """
    from lfx.base.embeddings.embeddings_class import EmbeddingsWithModels

    connected: Any = component.embedding
    if not isinstance(connected, Embeddings):
        problem = "it is the handle of embeddings"
        raise InvalidInput.of(
            "embedding", type(connected).__name__, problem, fix="Connect the output of an embeddings node."
        )
    others: Mapping[str, Any] = {}
    if isinstance(connected, EmbeddingsWithModels):
        connected, others = connected.embeddings, connected.available_models
    guarded = _guarded(component, connected)
    # The model that is connected is among them.
    guarded.available_models = {
        name: guarded if other is connected else _guarded(component, other) for name, other in others.items()
    }
    return guarded


def _guarded(component: Component, embeddings: Embeddings) -> GuardedEmbeddings:
    from langflow_sluice.models.guarded_embeddings import GuardedEmbeddings
    from langflow_sluice.models.services import service_of
    from langflow_sluice.models.unretried import without_retries
    from langflow_sluice.models.vector_cache import VectorSpace, identity_of

    service = service_of(embeddings)
    guard = guard_of(component, service.guard_name or node_identity(component))
    protection = protection_in_front_of(service, guard, component)
    space = VectorSpace((service.guard_name, identity_of(embeddings)), number(component.cache_ttl))
    return GuardedEmbeddings(without_retries(embeddings), protection, number(component.batch_size), space=space)


def report_of_embeddings(guard: Guard) -> str:
    """One line for a node's status: the guard as it stands, and what the cache has saved."""
    from langflow_sluice.models.vector_cache import vector_cache

    told = vector_cache().statistics()
    return (
        f"{report(guard)} Cache of vectors: {told.hits} hits, {told.shared} shared a request, {told.misses} embedded, "
        f"{told.entries} kept ({told.size_bytes / 1e6:.1f} MB)."
    )
