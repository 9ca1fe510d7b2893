"""The chat model inside what a node hands over as one, and what has been bound to it on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableBinding

from langflow_sluice.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONFIGURABLE = ("tags", "metadata", "callbacks")


def unbound(model: object, field: str = "model") -> tuple[BaseChatModel, dict[str, Any]]:
    """Takes a bound model apart: ``model.bind(...)``, ``bind_tools``, ``with_config``, in any depth.

    Args:
        model: A chat model, or bindings around one.
        field: The input that it came from, for the error.

    Returns:
        The model, with tags, metadata and callbacks of the bindings, and the options bound to its calls; what was
        bound last counts.

    Raises:
        InvalidInput: There is no chat model inside.
    """
    options: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    inner: Any = model
    while isinstance(inner, RunnableBinding):
        options = {**inner.kwargs, **options}
        settings = _merged(inner.config, settings)
        inner = inner.bound
    if not isinstance(inner, BaseChatModel):
        kind = type(inner).__name__
        fix = f"Connect {field} to the Language Model output of a model node."
        raise InvalidInput.of(field, kind, "it is no chat model", fix=fix)
    if settings:
        own = {name: getattr(inner, name) for name in _CONFIGURABLE}
        inner = inner.model_copy(update=_merged(own, settings))
    return inner, options


def options_of(model: BaseChatModel, bound: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one call: what the model was bound to, and the call's own, which count more."""
    merged = {**bound, **options}
    format_ = bound.get("response_format")
    if "response_format" in options or not isinstance(format_, dict) or not merged.get("tools"):
        return merged
    if "extra_body" not in type(model).model_fields or getattr(model, "use_responses_api", None):
        return merged
    # OpenAI's client parses an answer whose format it knows of, and then refuses tools that are not strict.
    del merged["response_format"]
    body = merged.get("extra_body") or getattr(model, "extra_body", None) or {}
    return {**merged, "extra_body": {**body, "response_format": format_}}


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Both configurations; where they cannot be added up, the second counts."""
    tags = [*(first.get("tags") or []), *(second.get("tags") or [])]
    metadata = {**(first.get("metadata") or {}), **(second.get("metadata") or {})}
    callbacks, further = first.get("callbacks"), second.get("callbacks")
    if isinstance(callbacks, list) and isinstance(further, list):  # a manager cannot be added to another one
        further = [*callbacks, *further]
    return {"tags": tags or None, "metadata": metadata or None, "callbacks": further or callbacks}
