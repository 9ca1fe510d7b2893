"""A chat model behind a guard that is still the same chat model to everyone who uses it."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, TypeVar, cast

from langchain_core.language_models import BaseChatModel
from pydantic import PrivateAttr

from langflow_sluice.errors import InvalidInput
from langflow_sluice.guard.retry import deadline, sleep, sleep_blocking
from langflow_sluice.models.binding import options_of
from langflow_sluice.models.fallback import REASONS, Turn
from langflow_sluice.models.tokens import estimate_messages, estimate_tools

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import ChatGenerationChunk, ChatResult
    from typing_extensions import Self

    from langflow_sluice.guard import Slot
    from langflow_sluice.models.protection import Protection

ModelT = TypeVar("ModelT", bound=BaseChatModel)


class _Guarded(BaseChatModel):
    """Mixed in front of a chat model's own class: each request takes a slot, until its last byte has come."""

    _protection: Protection = PrivateAttr()
    _bound: dict[str, Any] = PrivateAttr(default_factory=dict)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:  # noqa: ARG002
        """A copy behind the same guard; never a deep one, which would be the model itself (see ``__deepcopy__``)."""
        return super().model_copy(update=update)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        # An agent deep-copies its tools with all they hold for each call; the limit must hold over all of them.
        return self

    def _estimate(self, messages: list[BaseMessage], options: dict[str, Any]) -> float:
        if not self._protection.guard.settings.tokens_per_minute:
            return 0.0
        limit = options.get("max_tokens") or options.get("max_completion_tokens") or getattr(self, "max_tokens", None)
        return estimate_messages(messages, limit) + estimate_tools(options.get("tools"))

    def _bound_to(self, stop: list[str] | None, options: dict[str, Any]) -> tuple[list[str] | None, dict[str, Any]]:
        """The options of a call with those that the model was bound to before it was guarded."""
        if not self._bound:
            return stop, options
        options = options_of(self, self._bound, options)
        bound_stop = options.pop("stop", None)
        return (bound_stop if stop is None else stop), options

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        protection = self._protection
        generate = super()._agenerate
        stop, kwargs = self._bound_to(stop, kwargs)
        if protection.is_inside():
            return await generate(messages, stop=stop, run_manager=run_manager, **kwargs)

        async def attempt(slot: Slot) -> ChatResult:
            with protection.inside():
                result = await generate(messages, stop=stop, run_manager=run_manager, **kwargs)
            _settle(slot, result)
            return result

        tokens = self._estimate(messages, kwargs)
        turn = Turn(protection, self, kwargs)
        try:
            return await protection.call(attempt, tokens, policy=turn.policy)
        except REASONS as reason:
            turn.pass_on(reason)
        return await turn.answer(messages, stop, run_manager)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        protection = self._protection
        generate = super()._generate  # type: ignore[safe-super]
        stop, kwargs = self._bound_to(stop, kwargs)
        if protection.is_inside():
            return generate(messages, stop=stop, run_manager=run_manager, **kwargs)

        def attempt(slot: Slot) -> ChatResult:
            with protection.inside():
                result = generate(messages, stop=stop, run_manager=run_manager, **kwargs)
            _settle(slot, result)
            return result

        tokens = self._estimate(messages, kwargs)
        turn = Turn(protection, self, kwargs)
        try:
            return protection.call_blocking(attempt, tokens, policy=turn.policy)
        except REASONS as reason:
            turn.pass_on(reason)
        return turn.answer_blocking(messages, stop, run_manager)


class _AsyncStreaming(_Guarded):
    """For models that stream asynchronously by themselves."""

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        protection = self._protection
        stop, kwargs = self._bound_to(stop, kwargs)
        stream = functools.partial(super()._astream, messages, stop=stop, run_manager=run_manager, **kwargs)
        if protection.is_inside():
            async for part in stream():
                yield part
            return
        tokens = self._estimate(messages, kwargs)
        turn = Turn(protection, self, kwargs)
        attempts = protection.attempts(turn.policy)
        begun = False
        while True:
            try:
                async with attempts.slot(tokens) as slot, contextlib.aclosing(cast("Any", stream())) as chunks:
                    usage = _Usage(slot)
                    with attempts.within(slot):
                        while (chunk := await _next_inside(chunks, protection, attempts.time_left())) is not None:
                            begun = True
                            attempts.change_limit(protection.policy.total_timeout_s)
                            usage.add(chunk)
                            yield chunk
                        usage.check(protection)
            except Exception as error:  # noqa: BLE001 - wait_after raises what is not retried
                try:
                    wait_s = attempts.wait_after(error, final=begun)
                except REASONS as reason:
                    turn.pass_on(reason, begun=begun)
                    break
            else:
                return
            await sleep(protection.guard.clock, wait_s)
        async with contextlib.aclosing(turn.stream(messages, stop, run_manager)) as parts:
            async for part in parts:
                yield part


class _BlockingStreaming(_Guarded):
    """For models that stream synchronously by themselves."""

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        protection = self._protection
        stop, kwargs = self._bound_to(stop, kwargs)
        stream = functools.partial(super()._stream, messages, stop=stop, run_manager=run_manager, **kwargs)
        if protection.is_inside():
            yield from stream()
            return
        tokens = self._estimate(messages, kwargs)
        turn = Turn(protection, self, kwargs)
        attempts = protection.attempts(turn.policy)
        begun = False
        while True:
            try:
                with attempts.slot(tokens) as slot, contextlib.closing(cast("Any", stream())) as chunks:
                    usage = _Usage(slot)
                    with attempts.within(slot):
                        while (chunk := _next_inside_blocking(chunks, protection)) is not None:
                            begun = True
                            attempts.change_limit(protection.policy.total_timeout_s)
                            usage.add(chunk)
                            yield chunk
                            attempts.check_deadline()
                        usage.check(protection)
            except Exception as error:  # noqa: BLE001 - wait_after raises what is not retried
                try:
                    wait_s = attempts.wait_after(error, final=begun)
                except REASONS as reason:
                    turn.pass_on(reason, begun=begun)
                    break
            else:
                return
            sleep_blocking(wait_s)
        yield from turn.stream_blocking(messages, stop, run_manager)


class _Streaming(_AsyncStreaming, _BlockingStreaming):
    """For models that stream in both ways."""


def guarded(model: ModelT, protection: Protection, bound: Mapping[str, Any] | None = None) -> ModelT:
    """A copy of a chat model whose every request passes a guard.

    The copy is an instance of the model's own class, so that whatever accepts the model accepts the copy: agents,
    batches, structured output, tool calling. The model itself stays as it was.

    Args:
        model: Any chat model; its client's own retries should be off, since they would pass the guard by.
        protection: What to put in front of it.
        bound: Options for each of its calls, which the call's own options override.

    Raises:
        InvalidInput: The model is behind a guard already; a request would hold two permits.
    """
    known = protection_of(model)
    if known is not None:
        msg = f"This model stands behind guard {known.guard.name!r} already."
        raise InvalidInput(msg, hint="Connect the model itself, or set the limits at the node that it comes from.")
    copy = model.model_copy()
    private = dict(copy.__pydantic_private__ or {})
    # Private attributes are kept beside the fields; the class is changed afterwards, so they are set by hand.
    object.__setattr__(
        copy, "__pydantic_private__", {**private, "_protection": protection, "_bound": dict(bound or {})}
    )
    object.__setattr__(copy, "__class__", _guarded_class(type(model)))
    return copy


def protection_of(model: object) -> Protection | None:
    """What stands in front of a model, or None if nothing does."""
    return model._protection if isinstance(model, _Guarded) else None  # noqa: SLF001 - no field of the model's own


def bound_to(model: ModelT, options: Mapping[str, Any]) -> ModelT:
    """A copy of a guarded model with further options for each of its calls."""
    copy = model.model_copy()
    private = dict(copy.__pydantic_private__ or {})
    object.__setattr__(copy, "__pydantic_private__", {**private, "_bound": {**private["_bound"], **options}})
    return copy


# Bounded: a custom node's source is executed afresh for each build, and with it any model's class in it.
@functools.lru_cache(maxsize=128)
def _guarded_class(kind: type[BaseChatModel]) -> type[BaseChatModel]:
    """The model's class with the guard in front; one for each class, since making one takes milliseconds."""
    # LangChain asks whether a class overrides _stream and _astream to know whether the model can stream.
    asynchronous = kind._astream is not BaseChatModel._astream  # noqa: SLF001
    blocking = kind._stream is not BaseChatModel._stream  # noqa: SLF001
    mixin = {(True, True): _Streaming, (True, False): _AsyncStreaming, (False, True): _BlockingStreaming}.get(
        (asynchronous, blocking), _Guarded
    )
    metaclass: Any = type(kind)
    made: type[BaseChatModel] = metaclass(kind.__name__, (mixin, kind), {"__module__": kind.__module__})
    return made


def _settle(slot: Slot, result: ChatResult) -> None:
    usages = [getattr(generation.message, "usage_metadata", None) for generation in result.generations]
    used = sum(usage["total_tokens"] for usage in usages if usage)
    if used:
        slot.settle_tokens(used)


class _Usage:
    """Adds up what a stream's chunks report: some providers tell the prompt's share first and the answer's last."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._used = 0
        self._empty = True

    def check(self, protection: Protection) -> None:
        """Raises ``UpstreamError`` if nothing came."""
        if self._empty:
            raise protection.no_answer()

    def add(self, chunk: ChatGenerationChunk) -> None:
        self._empty = False
        usage = getattr(chunk.message, "usage_metadata", None)
        if usage and usage.get("total_tokens"):
            self._used += usage["total_tokens"]
            self._slot.settle_tokens(self._used)


# A generator's steps run in the context of whoever asks for them: what is set around each step does not leak.
async def _next_inside(
    chunks: AsyncIterator[ChatGenerationChunk], protection: Protection, time_left_s: float | None
) -> ChatGenerationChunk | None:
    async with deadline(time_left_s):
        with protection.inside():
            return await anext(chunks, None)


def _next_inside_blocking(chunks: Iterator[ChatGenerationChunk], protection: Protection) -> ChatGenerationChunk | None:
    with protection.inside():
        return next(chunks, None)
