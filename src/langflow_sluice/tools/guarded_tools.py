"""A tool behind a guard that is still the same tool to every agent, and never ends an agent's run by an error."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any, TypeVar, cast

from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool, StructuredTool, Tool
from pydantic import PrivateAttr

from langflow_sluice.errors import InvalidInput
from langflow_sluice.tools import error_texts
from langflow_sluice.tools.tool_calls import GuardedCall, ToolProtection, ToolTimeout, in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from langchain_core.runnables import RunnableConfig
    from typing_extensions import Self

    from langflow_sluice.guard import Guard
    from langflow_sluice.tools.tool_calls import ToolPolicy

    _Front = BaseTool
else:
    # Not a tool itself: pydantic would take its fields for those of the tool's class behind it.
    _Front = object

ToolT = TypeVar("ToolT", bound=BaseTool)


class _Guarded(_Front):
    """Mixed in front of a tool's own class: calls answer, whatever becomes of them."""

    _protection: ToolProtection

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        # An agent deep-copies its tools with all they hold for each call; the limit must hold over all of them.
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:  # noqa: ARG002
        # A deep copy is the tool itself, which an update must not change.
        return super().model_copy(update=update)

    def run(self, tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        call = GuardedCall(self._protection)
        with call.entered():
            try:
                return super().run(tool_input, *args, **kwargs)
            except Exception as error:  # noqa: BLE001 - _told raises what is no failure
                return _told(self, call, error, kwargs.get("tool_call_id"))

    async def arun(self, tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        call = GuardedCall(self._protection)
        with call.entered():
            try:
                return await super().arun(tool_input, *args, **kwargs)
            except Exception as error:  # noqa: BLE001 - as above
                return _told(self, call, error, kwargs.get("tool_call_id"))


class _GuardedFunction(_Guarded):
    """For tools made of a function.

    Without a coroutine theirs would hand the whole call to a thread of the loop's executor, to wait there for its slot.
    """

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        return await BaseTool.ainvoke(self, input, config, **kwargs)


class _Fallback(BaseTool):
    """Mixed in between a tool's own classes and ``BaseTool``, which runs synchronous tools on the loop's executor."""

    _protection: ToolProtection = PrivateAttr()

    async def _arun(self, *args: Any, **kwargs: Any) -> Any:
        manager = kwargs.get("run_manager")
        if manager is not None:
            kwargs["run_manager"] = manager.get_sync()
        return await in_thread(functools.partial(self._run, *args, **kwargs))


def guarded_tools(
    tools: Sequence[BaseTool], guard_for: Callable[[BaseTool], Guard], policy: ToolPolicy
) -> list[BaseTool]:
    """``guarded_tool`` for each of them, after a look at all.

    Args:
        tools: Any LangChain tools.
        guard_for: The guard for a tool; several may share one.
        policy: Timeout and priority.

    Raises:
        InvalidInput: As ``guarded_tool`` does, before the first guard is asked for.
    """
    for tool in tools:
        _check(tool)
    return [guarded_tool(tool, guard_for(tool), policy) for tool in tools]


def guarded_tool(tool: ToolT, guard: Guard, policy: ToolPolicy) -> ToolT:
    """A copy of a tool whose every call takes a slot of a guard.

    The copy is an instance of the tool's own class with all its fields, so that whatever accepts the tool accepts the
    copy. A call that fails, is late or turned away is answered with a text for the model, in a ``ToolMessage`` of
    status ``error`` where the call came with an id; only cancellation and the interrupts of LangGraph and Langflow
    get through. What the tool's author wants of its errors (``handle_tool_error``, ``handle_validation_error``) goes
    first. Arguments that do not fit the schema cost no slot. The tool itself stays as it was.

    May be called and used from any thread and any event loop. A tool that calls another one behind the same guard
    waits for a slot while it holds one: give such tools different guards.

    Args:
        tool: Any LangChain tool.
        guard: The gate that every call passes.
        policy: Timeout and priority.

    Raises:
        InvalidInput: It is no tool, or one behind a guard already; a call would hold two slots.
    """
    _check(tool)
    copy = tool.model_copy()
    protection = ToolProtection(guard, policy, error_texts.diagnose_tool)
    private = dict(copy.__pydantic_private__ or {})
    # Private attributes are kept beside the fields; the class is changed afterwards, so they are set by hand.
    object.__setattr__(copy, "__pydantic_private__", {**private, "_protection": protection})
    object.__setattr__(copy, "__class__", _guarded_class(type(tool)))
    return copy


def _check(tool: object) -> None:
    if not isinstance(tool, BaseTool):
        raise InvalidInput.of("tools", type(tool).__name__, "it is no tool", fix="Connect outputs of the type Tool.")
    if isinstance(tool, _Guarded):
        name = tool._protection.guard.name  # noqa: SLF001
        msg = f"Tool {tool.name!r} stands behind guard {name!r} already."
        raise InvalidInput(msg, hint="Connect the tool itself, or set the limits at the node that it comes from.")


def guard_of_tool(tool: BaseTool) -> Guard:
    """The guard in front of a guarded tool."""
    return cast("_Guarded", tool)._protection.guard  # noqa: SLF001 - no attribute of ours shows among a tool's fields


# Bounded: a custom node's source is executed afresh for each build, and with it any tool's class in it.
@functools.lru_cache(maxsize=256)
def _guarded_class(kind: type[BaseTool]) -> type[BaseTool]:
    """The tool's class with the guard in front; one for each class, since making one takes milliseconds."""
    functions = {StructuredTool.ainvoke, Tool.ainvoke}
    plain = kind.ainvoke in functions and kind.invoke is BaseTool.invoke and kind.run is BaseTool.run
    front = _GuardedFunction if plain else _Guarded
    run, arun = kind._run, kind._arun  # noqa: SLF001
    synchronous = arun is BaseTool._arun  # noqa: SLF001
    methods = {
        "_run": _guarded_run(run),
        "_arun": _guarded_arun(run, _Fallback._arun) if synchronous else _guarded_arun(arun, arun),  # noqa: SLF001
    }
    metaclass: Any = type(kind)
    made: type[BaseTool] = metaclass(
        kind.__name__, (front, kind, _Fallback), {"__module__": kind.__module__, "__doc__": kind.__doc__, **methods}
    )
    return made


# LangChain inspects the signatures of both methods for a run manager, a config and injected arguments, so each shows
# the one of the method that does the work.
def _guarded_run(run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def _run(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self._protection.call_blocking(self.name, functools.partial(run, self, *args, **kwargs))

    return _run


def _guarded_arun(shown: Callable[..., Any], work: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(shown)
    async def _arun(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._protection.call(self.name, functools.partial(work, self, *args, **kwargs))

    return _arun


def _told(tool: BaseTool, call: GuardedCall, error: Exception, tool_call_id: str | None) -> Any:
    """The answer to a call that failed.

    Raises:
        Exception: ``error`` itself, where it is no failure but the way in which a graph is paused.
    """
    if _is_interrupt(error):
        raise error
    protection = call.protection
    if error is call.turned_away:
        text = error_texts.turned_away(tool.name, protection.guard, call.turned_away)
    elif isinstance(error, ToolTimeout):
        text = error_texts.too_late(tool.name, protection.policy.timeout_s)
    elif not call.admitted and type(error).__name__ == "ValidationError":
        text = error_texts.wrong_arguments(tool.name, error, tool.args if isinstance(tool.args_schema, type) else ())
    else:
        text = error_texts.failed(tool.name, error)
    if tool_call_id is None:
        return text
    return ToolMessage(text, name=tool.name, tool_call_id=tool_call_id, status="error")


def _is_interrupt(error: Exception) -> bool:
    """Whether an error pauses the graph around the tool; LangGraph and Langflow need not be there."""
    interrupts = (
        ("langgraph.errors", "GraphBubbleUp"),
        ("lfx.graph.exceptions", "GraphPausedException"),
        ("lfx.base.agents.events", "AgentPausedError"),
    )
    names = {(kind.__module__, kind.__name__) for kind in type(error).__mro__}
    if names.intersection(interrupts):
        return True
    is_invalid_resume = getattr(sys.modules.get("langgraph.errors"), "is_invalid_resume", None)
    return is_invalid_resume is not None and bool(is_invalid_resume(error))
