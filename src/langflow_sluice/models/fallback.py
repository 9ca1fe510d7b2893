"""The model that answers where the first one cannot be asked, or does not answer in time."""

from __future__ import annotations

# ruff: noqa: SLF001 - a model's own methods below its callbacks have no public names
import asyncio
import contextlib
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk

from langflow_sluice.errors import (
    DeadlineExceeded,
    Rejected,
    SluiceError,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
    checked_amount,
)
from langflow_sluice.guard.retry import deadline

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping

    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import ChatResult

    from langflow_sluice.models.protection import Protection

REASONS = (Rejected, DeadlineExceeded, UpstreamThrottled, UpstreamTimeout, UpstreamUnavailable)
"""What sends a call to the fallback: the first model was not asked, or its service failed; never a refusal (401, 400),
which the fallback would only hide."""

METADATA_KEY = "sluice"

_TOOL_CHOICES = {"required": "any", "any": "any", "auto": "auto", "none": "none"}


@dataclass(frozen=True, slots=True)
class Fallback:
    """A second model for the calls that the first one does not answer.

    Attributes:
        model: The second model.
        after_s: Seconds after which a call without an answer, or a stream without a first piece, goes to it; 0 leaves
            the first model all of its time.
    """

    model: BaseChatModel
    after_s: float = 0.0

    def __post_init__(self) -> None:
        fix = "Set fallback_after to 0 or above."
        checked_amount("fallback_after", self.after_s, "it is a number of seconds", fix=fix)

    def options(self, first: BaseChatModel, options: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was bound to a call of the first model, for a call of the second.

        Providers take tools in forms of their own, so those are bound anew.

        Returns:
            The options, or None if the second model cannot keep what the first was asked for, as a format that only
            the first model's provider knows.
        """
        if _family(first) == _family(self.model):
            return dict(options)
        if not options.keys() <= {"tools", "tool_choice", "ls_structured_output_format", "parallel_tool_calls"}:
            return None
        if not options.get("tools"):
            return {}
        from langchain_core.utils.function_calling import convert_to_openai_tool

        tools = [convert_to_openai_tool(tool) for tool in options["tools"]]
        chosen = _tool_choice(options.get("tool_choice"))
        if chosen == "none":  # not every bind_tools knows the word; some would take it for a tool's name
            return {}
        try:
            bound: Any = self.model.bind_tools(tools, **({"tool_choice": chosen} if chosen else {}))
        except NotImplementedError:  # the model knows no tools
            return None
        return dict(bound.kwargs)

    def mark(self, message: BaseMessage, because: SluiceError) -> None:
        """Says in an answer's metadata who gave it, and why."""
        name = next((value for each in ("model_name", "model") if (value := getattr(self.model, each, None))), None)
        message.response_metadata[METADATA_KEY] = {
            "fallback": name if isinstance(name, str) else type(self.model).__name__,
            "because": because.code,
        }


class Turn:
    """One call of a model that may have a fallback: how long the model itself has, and what comes after it.

    Args:
        protection: Of the model.
        model: The model.
        options: Of this call.

    Attributes:
        policy: For the model's own attempts.
    """

    def __init__(self, protection: Protection, model: BaseChatModel, options: dict[str, Any]) -> None:
        self._protection = protection
        self._started = protection.guard.clock.now()
        self._reason: SluiceError | None = None
        self.policy = protection.policy
        fallback = protection.fallback
        kept = fallback.options(model, options) if fallback is not None else None
        self._fallback = None if kept is None else fallback
        self._options = kept or {}
        if self._fallback is not None:
            limits = [limit for limit in (self._fallback.after_s, self.policy.total_timeout_s) if limit]
            first_s = min(limits, default=0.0)
            self.policy = dataclasses.replace(self.policy, total_timeout_s=first_s, wait_for_probe=False)

    def pass_on(self, reason: SluiceError, *, begun: bool = False) -> None:
        """Hands the call over to the fallback.

        Raises:
            SluiceError: ``reason``, where there is no fallback, no time, or part of an answer has been passed on.
        """
        left_s = self._time_left()
        if self._fallback is None or begun or (left_s is not None and left_s <= 0):
            raise reason
        self._reason = reason
        self._protection.tally.fallbacks += 1

    async def answer(self, messages: list[BaseMessage], stop: list[str] | None, run_manager: Any) -> ChatResult:
        """The fallback's answer; after ``pass_on``."""
        async with self._limited():
            result = await self._model._agenerate(messages, stop=stop, run_manager=run_manager, **self._options)
        self._mark(result.generations[0].message)
        return result

    def answer_blocking(self, messages: list[BaseMessage], stop: list[str] | None, run_manager: Any) -> ChatResult:
        """``answer`` for threads."""
        result = self._model._generate(messages, stop=stop, run_manager=run_manager, **self._options)
        self._mark(result.generations[0].message)
        return result

    async def stream(
        self, messages: list[BaseMessage], stop: list[str] | None, run_manager: Any
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        """The fallback's answer in pieces, or in one if it cannot stream; after ``pass_on``."""
        model, options = self._model, self._options
        if not model._should_stream(async_api=True, stream=True, **options):
            yield _as_chunk(await self.answer(messages, stop, run_manager))
            return
        first = True
        given: Any = model._astream(messages, stop=stop, run_manager=run_manager, **options)
        async with contextlib.aclosing(given) as chunks:
            while True:
                async with self._limited():
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
                if first:
                    self._mark(chunk.message)
                    first = False
                yield chunk

    def stream_blocking(
        self, messages: list[BaseMessage], stop: list[str] | None, run_manager: Any
    ) -> Iterator[ChatGenerationChunk]:
        """``stream`` for threads."""
        model, options = self._model, self._options
        if not model._should_stream(async_api=False, stream=True, **options):
            yield _as_chunk(self.answer_blocking(messages, stop, run_manager))
            return
        chunks = model._stream(messages, stop=stop, run_manager=run_manager, **options)
        for number, chunk in enumerate(chunks):
            if not number:
                self._mark(chunk.message)
            yield chunk

    @property
    def _model(self) -> BaseChatModel:
        if self._fallback is None:
            msg = "pass_on has not been called"
            raise RuntimeError(msg)
        return self._fallback.model

    def _mark(self, message: BaseMessage) -> None:
        if self._fallback is not None and self._reason is not None:
            self._fallback.mark(message, self._reason)

    def _time_left(self) -> float | None:
        total_s = self._protection.policy.total_timeout_s
        return total_s - (self._protection.guard.clock.now() - self._started) if total_s else None

    @contextlib.asynccontextmanager
    async def _limited(self) -> AsyncIterator[None]:
        """Around what the fallback does: what is left of the whole call's time."""
        try:
            async with deadline(self._time_left()):
                yield
        except (TimeoutError, asyncio.TimeoutError):
            total_s = self._protection.policy.total_timeout_s
            msg = f"Neither the model nor its fallback finished within {total_s:g} s (total_timeout)."
            raise DeadlineExceeded(msg, hint="Raise total_timeout, or lower fallback_after.") from None


def _as_chunk(result: ChatResult) -> ChatGenerationChunk:
    """A whole answer as the only chunk of a stream."""
    message = result.generations[0].message
    whole = AIMessageChunk(**message.model_dump(exclude={"type"}), chunk_position="last")
    return ChatGenerationChunk(message=whole)


def _family(model: BaseChatModel) -> str:
    """The LangChain package of a model's class, which decides on the form of its options."""
    kind = next(kind for kind in type(model).__mro__ if not kind.__module__.startswith("langflow_sluice"))
    return kind.__module__.partition(".")[0]


def _tool_choice(choice: Any) -> str | None:
    """The tool that a provider's form of a choice names, or a word that every ``bind_tools`` takes."""
    if isinstance(choice, dict):
        named = choice.get("function") or choice
        name = named.get("name")
        return str(name) if name else _TOOL_CHOICES.get(str(choice.get("type")))
    return _TOOL_CHOICES.get(choice, choice) if isinstance(choice, str) else None
