"""Coroutines side by side, none of which outlives the call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable


async def side_by_side(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs coroutines at once; the first error, or the caller's cancellation, ends the others, which are waited for."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
