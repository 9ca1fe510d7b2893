"""What stands in front of a model: its guard, how calls are made through it, and what they came to."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

from langflow_sluice.errors import UpstreamError
from langflow_sluice.guard.retry import Attempts, Tally, call, call_blocking

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from langflow_sluice.failures import Failure
    from langflow_sluice.guard import Guard, Slot
    from langflow_sluice.guard.retry import CallPolicy
    from langflow_sluice.models.fallback import Fallback

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
        fallback: Answers what the model cannot; chat models only.
    """

    def __init__(
        self,
        guard: Guard,
        policy: CallPolicy,
        diagnose: Callable[[Exception], Failure | None],
        fallback: Fallback | None = None,
    ) -> None:
        self.guard = guard
        self.policy = policy
        self.diagnose = diagnose
        self.fallback = fallback
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

    async def call(
        self, attempt: Callable[[Slot], Awaitable[T]], tokens: float, *, policy: CallPolicy | None = None
    ) -> T:
        """Makes one guarded call; see ``langflow_sluice.guard.retry.call``."""
        policy = policy or self.policy
        return await call(self.guard, policy, attempt, self.diagnose, tokens=tokens, tally=self.tally)

    def call_blocking(self, attempt: Callable[[Slot], T], tokens: float, *, policy: CallPolicy | None = None) -> T:
        """``call`` for a thread without a running event loop."""
        policy = policy or self.policy
        return call_blocking(self.guard, policy, attempt, self.diagnose, tokens=tokens, tally=self.tally)

    def attempts(self, policy: CallPolicy) -> Attempts:
        """The attempts of a new call."""
        return Attempts(self.guard, policy, self.diagnose, self.tally)

    def no_answer(self) -> UpstreamError:
        """The error for a stream that held nothing."""
        msg = f"The service behind guard {self.guard.name!r} ended its stream without an answer."
        return UpstreamError(msg, hint="Check that base_url is the API's root (it usually ends in /v1).")

    def __copy__(self) -> Protection:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Protection:
        return self
