"""A chat model behind a guard that is still the same chat model to everyone who uses it."""

from __future__ import annotations

import contextlib
import functools
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar, cast

from langchain_core.language_models import BaseChatModel
from pydantic import PrivateAttr

from langflow_sluice.errors import InvalidInput
from langflow_sluice.guard.retry import Attempts, Tally, call, call_blocking, deadline, sleep, sleep_blocking
from langflow_sluice.models.tokens import estimate_messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import ChatGenerationChunk, ChatResult
    from typing_extensions import Self

    from langflow_sluice.failures import Failure
    from langflow_sluice.guard import Guard, Slot
    from langflow_sluice.guard.retry import CallPolicy

ModelT = TypeVar("ModelT", bound=BaseChatModel)
T = TypeVar("T")

# The protection whose permit the running call already holds. LangChain's methods call each other: _agenerate falls
# back to _generate in a thread, and langchain-openai's _agenerate calls _astream when ``streaming`` is set. A second
# permit for the same request is a deadlock at a cap of 1.
_inside: ContextVar[int | None] = ContextVar("sluice_inside_model", default=None)


class Protection:
    """What stands in front of a model: shared by its copies, and itself under ``deepcopy``.

    Args:
        guard: The gate that every request passes.
        policy: Retries, deadline and priority.
        diagnose: Tells what an error of the provider's client means.
    """

    def __init__(self, guard: Guard, policy: CallPolicy, diagnose: Callable[[Exception], Failure | None]) -> None:
        self.guard = guard
        self.policy = policy
        self.diagnose = diagnose
        self.tally = Tally()

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """While entered, requests of the running call are part of the one that holds the permit."""
        token = _inside.set(id(self))
        try:
            yield
        finally:
            _inside.reset(token)

    def is_inside(self) -> bool:
        """Whether the running call holds a permit already."""
        return _inside.get() == id(self)

    async def call(self, attempt: Callable[[Slot], Awaitable[T]], tokens: float) -> T:
        """Makes one guarded call; see ``langflow_sluice.guard.retry.call``."""
        return await call(self.guard, self.policy, attempt, self.diagnose, tokens=tokens, tally=self.tally)

    def call_blocking(self, attempt: Callable[[Slot], T], tokens: float) -> T:
        """``call`` for a thread without a running event loop."""
        return call_blocking(self.guard, self.policy, attempt, self.diagnose, tokens=tokens, tally=self.tally)

    def attempts(self) -> Attempts:
        """The attempts of a new call."""
        return Attempts(self.guard, self.policy, self.diagnose, self.tally)

    def __copy__(self) -> Protection:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Protection:
        return self


class _Guarded(BaseChatModel):
    """Mixed in front of a chat model's own class: each request takes a slot, until its last byte has come."""

    _protection: Protection = PrivateAttr()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        # An agent deep-copies its tools with all they hold for each call; the limit must hold over all of them.
        return self

    def _estimate(self, messages: list[BaseMessage], options: dict[str, Any]) -> float:
        if not self._protection.guard.settings.tokens_per_minute:
            return 0.0
        limit = options.get("max_tokens") or options.get("max_completion_tokens") or getattr(self, "max_tokens", None)
        return estimate_messages(messages, limit)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        protection = self._protection
        generate = super()._agenerate
        if protection.is_inside():
            return await generate(messages, stop=stop, run_manager=run_manager, **kwargs)

        async def attempt(slot: Slot) -> ChatResult:
            with protection.inside():
                result = await generate(messages, stop=stop, run_manager=run_manager, **kwargs)
            _settle(slot, result)
            return result

        tokens = self._estimate(messages, kwargs)
        return await protection.call(attempt, tokens)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        protection = self._protection
        generate = super()._generate  # type: ignore[safe-super]
        if protection.is_inside():
            return generate(messages, stop=stop, run_manager=run_manager, **kwargs)

        def attempt(slot: Slot) -> ChatResult:
            with protection.inside():
                result = generate(messages, stop=stop, run_manager=run_manager, **kwargs)
            _settle(slot, result)
            return result

        tokens = self._estimate(messages, kwargs)
        return protection.call_blocking(attempt, tokens)


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
        stream = functools.partial(super()._astream, messages, stop=stop, run_manager=run_manager, **kwargs)
        if protection.is_inside():
            async for part in stream():
                yield part
            return
        tokens = self._estimate(messages, kwargs)
        attempts = protection.attempts()
        begun = False
        while True:
            try:
                async with attempts.slot(tokens) as slot, contextlib.aclosing(cast("Any", stream())) as chunks:
                    usage = _Usage(slot)
                    with attempts.within(slot):
                        while (chunk := await _next_inside(chunks, protection, attempts.time_left())) is not None:
                            begun = True
                            usage.add(chunk)
                            yield chunk
            except Exception as error:  # noqa: BLE001 - wait_after raises what is not retried
                wait_s = attempts.wait_after(error, final=begun)
            else:
                return
            await sleep(protection.guard.clock, wait_s)


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
        stream = functools.partial(super()._stream, messages, stop=stop, run_manager=run_manager, **kwargs)
        if protection.is_inside():
            yield from stream()
            return
        tokens = self._estimate(messages, kwargs)
        attempts = protection.attempts()
        begun = False
        while True:
            try:
                with attempts.slot(tokens) as slot, contextlib.closing(cast("Any", stream())) as chunks:
                    usage = _Usage(slot)
                    with attempts.within(slot):
                        while (chunk := _next_inside_blocking(chunks, protection)) is not None:
                            begun = True
                            usage.add(chunk)
                            yield chunk
                            attempts.check_deadline()
            except Exception as error:  # noqa: BLE001 - wait_after raises what is not retried
                wait_s = attempts.wait_after(error, final=begun)
            else:
                return
            sleep_blocking(wait_s)


class _Streaming(_AsyncStreaming, _BlockingStreaming):
    """For models that stream in both ways."""


def guarded(model: ModelT, protection: Protection) -> ModelT:
    """A copy of a chat model whose every request passes a guard.

    The copy is an instance of the model's own class, so that whatever accepts the model accepts the copy: agents,
    batches, structured output, tool calling. The model itself stays as it was.

    Args:
        model: Any chat model; its client's own retries should be off, since they would pass the guard by.
        protection: What to put in front of it.

    Raises:
        InvalidInput: The model is behind a guard already; a request would hold two permits.
    """
    if isinstance(model, _Guarded):
        msg = f"This model stands behind guard {model._protection.guard.name!r} already."  # noqa: SLF001
        raise InvalidInput(msg, hint="Connect the model itself, or set the limits at the node that it comes from.")
    copy = model.model_copy()
    private = dict(copy.__pydantic_private__ or {})
    # Private attributes are kept beside the fields; the class is changed afterwards, so they are set by hand.
    object.__setattr__(copy, "__pydantic_private__", {**private, "_protection": protection})
    object.__setattr__(copy, "__class__", _guarded_class(type(model)))
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

    def add(self, chunk: ChatGenerationChunk) -> None:
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
