"""Coroutines of Langflow's loader, run from synchronous code."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


def wait_for(work: Coroutine[object, object, T]) -> T:
    """Runs a coroutine to its end on a loop of its own, in a thread of its own where this one runs a loop already.

    Only for work that leaves nothing behind on its loop, as building templates does: the loop is closed afterwards.
    Blocks the calling thread.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(asyncio.run, work).result()
