"""The errors Sluice raises, under one base.

Every error carries a stable ``code``, a ``message`` that names the resource and the value observed, and a ``hint``
that names the setting to change. None of them may hold a credential, a prompt or a URL with a password: whoever
raises one from a foreign error that could carry such text raises it ``from None``.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar


class SluiceError(Exception):
    """Base of all errors raised by Sluice.

    Args:
        message: What happened, with the name of the resource and the value observed.
        hint: What to change, naming the setting.

    Attributes:
        code: Stable identifier of the kind of error, in snake case.
    """

    code: ClassVar[str] = "sluice_error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        # With the hint: of an error that has a code, Langflow's chat shows the first argument alone.
        super().__init__(f"{message} {hint}".rstrip())
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments do not survive pickle and copy by themselves.
        return (_rebuild, (type(self), self.message, self.hint), self.__dict__)


def _rebuild(kind: type[SluiceError], message: str, hint: str) -> SluiceError:
    return kind(message, hint=hint)


class InvalidInput(SluiceError):
    """An input of a node or a setting of a guard is wrong; said before any work starts."""

    code = "invalid_input"

    @classmethod
    def of(cls, field: str, value: object, problem: str, *, fix: str) -> InvalidInput:
        """Builds the error for one field.

        Args:
            field: Name of the input or setting.
            value: The value given; must not be a secret.
            problem: What is wrong with it, as the rest of a sentence that starts with the field.
            fix: What to enter instead.
        """
        message = f"{field} is {value!r}: {problem}."
        return cls(message, hint=fix)


def checked_amount(field: str, value: Any, problem: str, *, fix: str) -> float:
    """A finite number of 0 or more, as times and limits are.

    Raises:
        InvalidInput: It is anything else; made of ``problem`` and ``fix``.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise InvalidInput.of(field, value, problem, fix=fix)
    return value


class Rejected(SluiceError):
    """A guard turned the caller away; the call never left for the service.

    Attributes:
        retry_in_s: Seconds after which another try makes sense, estimated; 0 where nobody can tell.
    """

    code = "rejected"

    def __init__(self, message: str, *, hint: str = "", retry_in_s: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_in_s = retry_in_s

    # Langflow logs a failed call five times, most of them as the cause of an error of its own, and renders the source
    # around each frame: seconds of CPU for each caller turned away, when there is least of it. A refusal says all there
    # is to say in its message; whoever catches it himself has the frames still, from the interpreter.
    @property
    def __traceback__(self) -> None:
        return None

    @__traceback__.setter
    def __traceback__(self, traceback: object) -> None:
        """Takes what contextlib sets."""


class BulkheadFull(Rejected):
    """The guard's queue is full."""

    code = "bulkhead_full"


class QueueTimeout(Rejected):
    """The caller waited in the guard's queue for longer than it was prepared to."""

    code = "queue_timeout"


class CircuitOpen(Rejected):
    """The guard's breaker is open: the service has failed, and nobody is let through for a while."""

    code = "circuit_open"


class ClusterUnavailable(Rejected):
    """A guard that all workers share cannot ask Redis, and was told to turn callers away meanwhile."""

    code = "cluster_unavailable"


class DeadlineExceeded(SluiceError):
    """A call did not finish, waiting and retries included, before its ``total_timeout``."""

    code = "deadline_exceeded"


class WouldBlockLoop(SluiceError):
    """A synchronous caller would have to wait on a thread that runs an event loop."""

    code = "would_block_loop"


class UpstreamError(SluiceError):
    """The service behind a guard failed; the subclasses say how."""

    code = "upstream_error"


class UpstreamThrottled(UpstreamError):
    """The service answered 429 (or 503 with ``Retry-After``) until the attempts ran out."""

    code = "upstream_throttled"


class UpstreamUnavailable(UpstreamError):
    """The service cannot be reached, or answered with a server error."""

    code = "upstream_unavailable"


class UpstreamTimeout(UpstreamError):
    """The service did not answer within the timeout of a phase (connect, read, write, pool)."""

    code = "upstream_timeout"


class UpstreamRefused(UpstreamError):
    """The service refused this very request: credentials, parameters or an unknown model.

    Attributes:
        status: The HTTP status of its answer; 0 where there is none.
    """

    code = "upstream_refused"

    def __init__(self, message: str, *, hint: str = "", status: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class DatabaseError(SluiceError):
    """PostgreSQL failed or is not set up as the node needs it."""

    code = "database_error"


class PoolTimeout(DatabaseError):
    """No connection of the pool came free in time."""

    code = "pool_timeout"


class SectionError(SluiceError):
    """The part of the canvas between a node's body output and the edge that comes back cannot be run."""

    code = "section_error"


class NoResult(SectionError):
    """The end of a section did not run for this item, so there is no result to keep."""

    code = "no_result"
