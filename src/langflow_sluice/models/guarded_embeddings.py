"""Embeddings behind a guard, in batches that the provider takes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_core.embeddings import Embeddings

from langflow_sluice.errors import InvalidInput
from langflow_sluice.models.tokens import estimate_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from langflow_sluice.guard import Slot
    from langflow_sluice.models.guarded_chat import Protection

T = TypeVar("T")

# Batches under way at once for one call, where the guard has no cap of its own.
_BATCHES_AT_ONCE = 16


class GuardedEmbeddings(Embeddings):
    """Any embeddings, with each batch a guarded call; from any thread or loop, and itself under ``deepcopy``.

    Args:
        inner: The embeddings to guard; their client's own retries should be off.
        protection: What stands in front of them.
        batch_size: Texts a request; at least 1.
    """

    def __init__(self, inner: Embeddings, protection: Protection, batch_size: int) -> None:
        if batch_size < 1:
            raise InvalidInput.of(
                "batch_size", batch_size, "a request holds texts", fix="Set batch_size to 1 or above."
            )
        self.inner = inner
        self.protection = protection
        self.batch_size = batch_size

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of the texts, in their order; batch after batch."""
        vectors: list[list[float]] = []
        for batch in _batches(texts, self.batch_size):
            vectors += self._call(lambda batch=batch: self.inner.embed_documents(batch), batch)  # type: ignore[misc]
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """The vector of one text."""
        return self._call(lambda: self.inner.embed_query(text), [text])

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of the texts, in their order; batches side by side as far as the guard admits."""
        batches = list(_batches(texts, self.batch_size))
        found: list[list[list[float]]] = [[] for _ in batches]
        numbered = enumerate(batches)

        async def work() -> None:
            for index, batch in numbered:
                found[index] = await self._acall(self.inner.aembed_documents, batch, batch)

        cap = self.protection.guard.settings.max_concurrency or _BATCHES_AT_ONCE
        await _gather(work() for _ in range(min(cap, len(batches))))
        return [vector for vectors in found for vector in vectors]

    async def aembed_query(self, text: str) -> list[float]:
        """The vector of one text."""
        return await self._acall(self.inner.aembed_query, text, [text])

    def _call(self, request: Callable[[], T], texts: Sequence[str]) -> T:
        def attempt(_: Slot) -> T:
            return request()

        return self.protection.call_blocking(attempt, self._tokens(texts))

    async def _acall(self, request: Callable[[Any], Awaitable[T]], argument: object, texts: Sequence[str]) -> T:
        async def attempt(_: Slot) -> T:
            return await request(argument)

        return await self.protection.call(attempt, self._tokens(texts))

    def _tokens(self, texts: Sequence[str]) -> float:
        if not self.protection.guard.settings.tokens_per_minute:
            return 0.0
        return sum(estimate_text(text) for text in texts)

    def __deepcopy__(self, memo: dict[int, object]) -> GuardedEmbeddings:
        return self


def _batches(texts: list[str], size: int) -> Iterable[list[str]]:
    return (texts[start : start + size] for start in range(0, len(texts), size))


async def _gather(work: Iterable[Any]) -> None:
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
