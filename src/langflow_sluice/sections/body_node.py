"""One node in a copy of a section's body: made new for each item, and built."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, cast

from langflow_sluice.sections.isolation import SourceState, isolated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lfx.custom.custom_component.component import Component
    from lfx.graph.vertex.base import Vertex

    from langflow_sluice.sections.records import Records


class BodyNode:
    """A vertex of our own copy of the graph, with what it takes to use it again for another item.

    Args:
        vertex: Belongs to the copy, with all of its edges, and with the component that Langflow has made.
        outer: The vertex that it is a copy of. Tweaks of the run reach only that one: Langflow writes them into the
            built graph, not into the flow's data.
    """

    def __init__(self, vertex: Vertex, outer: Vertex) -> None:
        self.vertex = vertex
        vertex.build_params()
        component: Any = vertex.custom_component
        template = vertex.data["node"]["template"]
        self._class: Any = type(component)
        self._source = SourceState(self._class, str(template.get("code", {}).get("value", "")))
        told = {name: each for name, each in outer.raw_params.items() if not _has_vertex(each)}
        self._raw_params: dict[str, Any] = isolated(vertex.raw_params | told)
        self._load_from_db_fields = list(outer.load_from_db_fields)
        fields = [each for each in template.values() if isinstance(each, dict)]
        self._values = [
            (field, isolated(field["value"])) for field in fields if isinstance(field.get("value"), (list, dict))
        ]
        self._is_new = True
        self._set_params()

    def renew(self) -> None:
        """Takes the traces of the last item off the vertex."""
        vertex = self.vertex
        vertex.built = False
        vertex.results = {}
        vertex.result = None
        vertex.logs = {}
        vertex.outputs_logs = {}
        vertex.artifacts = {}
        vertex.artifacts_raw = {}
        vertex.artifacts_type = {}
        vertex._upstream_secret_values = set()  # noqa: SLF001 - of the last item

    async def build(self, options: dict[str, Any], records: Records) -> None:
        """Builds the node for the current item.

        Raises:
            ComponentBuildError: What the node raised is its cause; with Langflow's own words around it.
        """
        component = self._component()
        _hand_over_failure(component)
        # What fails here is told by the section's owner, as one failed item; not as an error message in the chat.
        component.__dict__["send_error"] = _say_nothing
        records.apply_to(self.vertex, component)
        try:
            await self.vertex.build(**options)
        except _Failed as failed:
            error = failed.error
        else:
            return
        raise await self._told(error) from error

    def _component(self) -> Component:
        if self._is_new:
            self._is_new = False
        else:
            self._source.restore()
            for field, value in self._values:
                field["value"] = isolated(value)
            self._set_params()
            self.vertex.custom_component = self._class(
                _user_id=self.vertex.graph.user_id,
                _parameters={name: value for name, value in self.vertex.params.items() if name != "code"},
                _vertex=self.vertex,
                _tracing_service=None,
                _id=self.vertex.id,
            )
        return cast("Component", self.vertex.custom_component)

    def _set_params(self) -> None:
        vertex = self.vertex
        vertex.raw_params = isolated(self._raw_params)
        vertex.params = vertex.raw_params.copy()
        vertex.load_from_db_fields = list(self._load_from_db_fields)
        # Tells Langflow not to work them out of the template again, and to take them all.
        vertex.updated_raw_params = True

    async def _told(self, error: Exception) -> Exception:
        from lfx.exceptions.component import ComponentBuildError
        from lfx.utils.flow_validation import explain_restricted_component_mismatch

        vertex = self.vertex
        if vertex.graph.flow_id:
            await vertex._log_transaction_async(  # noqa: SLF001 - as Langflow does where a build fails
                str(vertex.graph.flow_id), source=vertex, target=None, status="error", error=str(error)
            )
        msg = f"Error building Component {vertex.display_name}: \n\n{error}"
        if mismatch := explain_restricted_component_mismatch(vertex.data.get("type"), vertex.data.get("node")):
            msg = f"{msg}\n\n{mismatch}"
        return ComponentBuildError(msg, "".join(traceback.format_exception_only(type(error), error)))


class _Failed(BaseException):
    """Carries what a node raised past Langflow's own handling, which renders it into the server's log.

    With its default logs that costs seconds of CPU, for each item that fails and may be tried again or collected.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def _hand_over_failure(component: Component) -> None:
    # Langflow calls each of the two once, to set the inputs and to compute the outputs; what a node itself does with
    # them later is its own.
    attributes: dict[str, Any] = component.__dict__
    set_attributes: Callable[..., Any] = component.set_attributes
    build_results: Callable[..., Awaitable[Any]] | None = getattr(component, "build_results", None)

    def set_once(params: dict[str, Any]) -> Any:
        attributes.pop("set_attributes", None)
        try:
            return set_attributes(params)
        except Exception as error:  # noqa: BLE001 - whatever a node raises
            raise _Failed(error) from None

    async def build_once() -> Any:
        attributes.pop("build_results", None)
        try:
            return await build_results()  # type: ignore[misc] # only where there is one
        except Exception as error:  # noqa: BLE001 - whatever a node raises
            raise _Failed(error) from None

    if build_results is not None:
        attributes["set_attributes"] = set_once
        attributes["build_results"] = build_once


def _has_vertex(value: Any) -> bool:
    from lfx.graph.vertex.base import Vertex

    if isinstance(value, dict):
        return any(_has_vertex(each) for each in value.values())
    if isinstance(value, list):
        return any(_has_vertex(each) for each in value)
    return isinstance(value, Vertex)


async def _say_nothing(**_: Any) -> None:
    """In place of a component's ``send_error``."""
