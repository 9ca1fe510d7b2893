"""Many items through a section, a bounded number at a time."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from langflow_sluice.errors import DeadlineExceeded, InvalidInput, SectionError, SluiceError, checked_amount
from langflow_sluice.guard.retry import BACKOFF_BASE_S, BACKOFF_CAP_S, deadline, sleep

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from langflow_sluice.guard import Guard, Priority

    # Opens a place to work at; entering it gives what runs one item.
    OpenWorker = Callable[[], AbstractAsyncContextManager[Callable[[Any], Awaitable[Any]]]]

OnError = Literal["stop", "collect"]
# Workers beyond this many would only wait; a fan-out without a cap of its own still has this one.
MAX_WORKERS = 256


@dataclass(frozen=True, slots=True)
class FanOutPolicy:
    """How items are treated.

    Attributes:
        on_error: `stop` ends the run with the first item that fails; `collect` goes on and reports it.
        item_retries: Further attempts for an item that failed; 0 leaves retrying to the guards inside. What a guard
            inside has refused, or retried in vain, is not tried again in any case.
        item_timeout_s: Seconds for one attempt at one item; 0 turns it off.
        priority: The lane in the guard's queue.
    """

    on_error: OnError = "collect"
    item_retries: int = 0
    item_timeout_s: float = 0.0
    priority: Priority = "normal"

    def __post_init__(self) -> None:
        if self.on_error not in {"stop", "collect"}:
            raise InvalidInput.of("on_error", self.on_error, "there is no such choice", fix="Use stop or collect.")
        for name, field in (("item_retries", "item_retries"), ("item_timeout_s", "item_timeout")):
            value = getattr(self, name)
            checked_amount(field, value, "it is a number of 0 or more", fix=f"Set {field} to 0 or above.")
        if self.item_retries != int(self.item_retries):
            raise InvalidInput.of("item_retries", self.item_retries, "it counts attempts", fix="Enter a whole number.")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item.

    Attributes:
        index: The item's place in the input, from 0.
        value: What the section returned; None where it failed.
        error: Why it failed, in one line; None where it did not. Not the exception itself: its frames would keep alive
            all that the section held, for every item that fails.
        attempts: How often it was tried.
    """

    index: int
    value: Any
    error: str | None
    attempts: int


class ItemTimeout(DeadlineExceeded):
    """One attempt at an item took too long; another one may be made."""


async def fan_out(
    items: Iterable[Any],
    count: int,
    guard: Guard,
    policy: FanOutPolicy,
    open_worker: OpenWorker,
    report: Callable[[Outcome], None],
) -> list[Outcome]:
    """Runs a section for each item.

    A few workers pull from the items, so that a hundred thousand items are neither as many tasks nor as many copies of
    the section. Each item holds a slot of the guard while it runs, so that several runs at once share one cap.

    Args:
        items: Taken one at a time.
        count: How many there are.
        guard: The gate; its cap decides on the number of workers.
        policy: Errors, retries and timeout.
        open_worker: Opens one worker's copy of the section.
        report: Called with each outcome as it comes.

    Returns:
        One outcome for each item, in the order of the items.

    Raises:
        SectionError: With `stop`: an item failed; names it.
    """
    numbered = enumerate(items)
    outcomes: list[Outcome | None] = [None] * count
    workers = min(count, guard.settings.max_concurrency or MAX_WORKERS, MAX_WORKERS)
    tasks = [
        asyncio.ensure_future(_work(numbered, guard, policy, open_worker, outcomes, report)) for _ in range(workers)
    ]
    try:
        await _all_or_first_error(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [outcome for outcome in outcomes if outcome is not None]


async def _all_or_first_error(tasks: list[asyncio.Task[None]]) -> None:
    if not tasks:
        return
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()


async def _work(
    numbered: Iterator[tuple[int, Any]],
    guard: Guard,
    policy: FanOutPolicy,
    open_worker: OpenWorker,
    outcomes: list[Outcome | None],
    report: Callable[[Outcome], None],
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        run: Callable[[Any], Awaitable[Any]] | None = None
        for index, item in numbered:
            if run is None:
                # Opened for the first item only: workers that find nothing left to do need no copy of the section.
                run = await stack.enter_async_context(open_worker())
            outcome = await _run_item(index, item, guard, policy, run)
            outcomes[index] = outcome
            report(outcome)
            if outcome.error is not None and policy.on_error == "stop":
                raise _stopped(outcome) from None


async def _run_item(
    index: int, item: Any, guard: Guard, policy: FanOutPolicy, run: Callable[[Any], Awaitable[Any]]
) -> Outcome:
    attempt = 0
    while True:
        attempt += 1
        try:
            async with guard.slot(priority=policy.priority), _item_deadline(policy.item_timeout_s):
                return Outcome(index, await run(item), None, attempt)
        except Exception as error:  # noqa: BLE001 - whatever a node raises becomes this item's failure
            if attempt > policy.item_retries or _is_final(error):
                return Outcome(index, None, error_text(error), attempt)
        await sleep(guard.clock, min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(attempt - 1, 16)))


def _is_final(error: Exception) -> bool:
    """Whether another attempt would only repeat what has been retried or refused already.

    Guards raise errors of ours when their attempts are used up, when they turn a caller away and where an input is
    wrong; Langflow, and whichever node lies between, wrap them.
    """
    if isinstance(error, ItemTimeout):
        return False
    link: BaseException | None = error
    seen: set[BaseException] = set()
    while link is not None and link not in seen and not isinstance(link, SluiceError):
        seen.add(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return isinstance(link, SluiceError)


@contextlib.asynccontextmanager
async def _item_deadline(seconds: float) -> Any:
    if not seconds:
        yield
        return
    scope = deadline(seconds)
    try:
        async with scope:
            yield
    except asyncio.TimeoutError:
        expired: Any = scope.expired  # a method of asyncio's, a property of its backport
        if not (expired() if callable(expired) else expired):
            raise  # a timeout of the item's own
        msg = f"The item did not finish within {seconds:g} s (item_timeout)."
        raise ItemTimeout(msg, hint="Raise item_timeout, or find the slow node inside the section.") from None


def _stopped(outcome: Outcome) -> SectionError:
    attempts = f" after {outcome.attempts} attempts" if outcome.attempts > 1 else ""
    msg = f"Row {outcome.index} failed{attempts}: {outcome.error}"
    return SectionError(msg, hint="Set on_error to collect to keep the other rows and get the failed ones listed.")


def refuse_if_all_failed(outcomes: Sequence[Outcome]) -> None:
    """For a node whose failed rows lead nowhere: an empty table would look like a success with nothing to do.

    Raises:
        SectionError: No row has succeeded; holds the first one's error.
    """
    if not outcomes or any(outcome.error is None for outcome in outcomes):
        return
    which = "The only row failed:" if len(outcomes) == 1 else f"All {len(outcomes)} rows failed. Row 0:"
    msg = f"{which} {outcomes[0].error}"
    raise SectionError(msg, hint="Connect Failed to go on with the rows and their errors instead.")


def error_text(error: Exception) -> str:
    """An item's error in one line, without the frames that Langflow puts around a node's own message."""
    text = str(error).strip() or type(error).__name__
    while text.startswith("Error building Component"):
        rest = text.partition("\n\n")[2].strip()
        if not rest:
            break
        text = rest
    return " ".join(text.split())
