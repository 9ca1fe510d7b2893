"""Embeddings behind a guard, in batches that the provider takes; what was embedded lately is not embedded again."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from langchain_core.embeddings import Embeddings

from langflow_sluice.errors import DeadlineExceeded, InvalidInput, UpstreamError, checked_amount
from langflow_sluice.models.tokens import estimate_text
from langflow_sluice.models.vector_cache import VectorSpace, key_of
from langflow_sluice.side_by_side import side_by_side
from langflow_sluice.single_flight import Ask
from langflow_sluice.single_flight_caller import FlightTimeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from langflow_sluice.guard import Slot
    from langflow_sluice.guard.retry import CallPolicy
    from langflow_sluice.models.protection import Protection

Vector = list[float]

# OpenAI takes 2,048 texts and 300,000 tokens a request (API reference, "Create embeddings"). Our estimate counts four
# characters a token, which is what English has; some scripts have one, hence a quarter.
MAX_TEXTS = 2048
MAX_TOKENS = 75_000

# Batches under way at once for one call, where the guard has no cap of its own.
_BATCHES_AT_ONCE = 16

# What vector stores read from embeddings to name what they store: OpenSearch names its fields after the model.
_DESCRIPTIVE = frozenset({"deployment", "dimensions", "model", "model_id", "model_name"})


class GuardedEmbeddings(Embeddings):
    """Any embeddings, with each batch a guarded call; from any thread or loop, and itself under ``deepcopy``.

    Questions, and documents that fit into one batch, are looked up in the cache and kept there, and callers who want
    the same text at the same time share one request. Documents go before all others where the cache is full, and more
    of them than one batch pass it by: an ingestion does not push the questions out.

    A batch that fails after its retries ends the call; the caller has none of its vectors then.

    Args:
        inner: The embeddings to guard; their client's own retries should be off.
        protection: What stands in front of them.
        batch_size: Texts a request; at least 1.
        space: The vectors that may stand for each other; None for no cache.
        available_models: Langflow's ``EmbeddingsWithModels`` have such: other models by name, for stores that search
            with several; guarded, too.

    Raises:
        InvalidInput: A setting is wrong, or the embeddings are behind a guard already.
    """

    def __init__(
        self,
        inner: Embeddings,
        protection: Protection,
        batch_size: int,
        *,
        space: VectorSpace | None = None,
        available_models: Mapping[str, Embeddings] | None = None,
    ) -> None:
        self.inner = inner
        self.protection = protection
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InvalidInput.of(
                "batch_size", batch_size, "a request holds texts", fix="Set batch_size to 1 or above."
            )
        if isinstance(inner, GuardedEmbeddings):
            msg = f"These embeddings stand behind guard {inner.protection.guard.name!r} already."
            hint = "Connect the embeddings themselves, or set the limits at the node that they come from."
            raise InvalidInput(msg, hint=hint)
        self.space = space or VectorSpace(None, 0.0)
        fix = "Set cache_ttl to 0 or above; 0 is off."
        checked_amount("cache_ttl", self.space.ttl_s, "it is a number of seconds", fix=fix)
        self.batch_size = batch_size
        self.available_models = dict(available_models or {})

    def embed_documents(self, texts: list[str]) -> list[Vector]:
        """Vectors of the texts, in their order; batch after batch, equal texts once."""
        distinct = list(dict.fromkeys(texts))
        batches = list(self._batches(distinct))
        if len(batches) > 1:
            vectors = [vector for batch in batches for vector in self._call(self.inner.embed_documents, batch)]
        else:
            vectors = self._look_up_blocking(distinct, self._ask(spare=True), "document", self.inner.embed_documents)
        return _in_order_of(texts, distinct, vectors)

    def embed_query(self, text: str) -> Vector:
        """The vector of one text."""

        def embed(texts: list[str]) -> list[Vector]:
            return [self.inner.embed_query(text) for text in texts]

        [vector] = self._look_up_blocking([text], self._ask(spare=False), "query", embed)
        return vector

    async def aembed_documents(self, texts: list[str]) -> list[Vector]:
        """Vectors of the texts, in their order; batches side by side as far as the guard admits, equal texts once."""
        distinct = list(dict.fromkeys(texts))
        batches = list(self._batches(distinct))
        if len(batches) > 1:
            vectors = await self._side_by_side(batches)
        else:
            vectors = await self._look_up(distinct, self._ask(spare=True), "document", self.inner.aembed_documents)
        return _in_order_of(texts, distinct, vectors)

    async def aembed_query(self, text: str) -> Vector:
        """The vector of one text."""

        async def embed(texts: list[str]) -> list[Vector]:
            return [await self.inner.aembed_query(text) for text in texts]

        [vector] = await self._look_up([text], self._ask(spare=False), "query", embed)
        return vector

    def _batches(self, texts: list[str]) -> Iterator[list[str]]:
        # A batch of more tokens than the guard admits in a minute would never go.
        most = min(MAX_TOKENS, self.protection.guard.settings.tokens_per_minute or MAX_TOKENS)
        batch: list[str] = []
        tokens = 0
        for text in texts:
            estimate = estimate_text(text)
            if batch and (len(batch) == self.batch_size or tokens + estimate > most):
                yield batch
                batch, tokens = [], 0
            batch.append(text)
            tokens += estimate
        if batch:
            yield batch

    async def _side_by_side(self, batches: list[list[str]]) -> list[Vector]:
        found: list[list[Vector]] = [[] for _ in batches]
        numbered = enumerate(batches)

        async def work() -> None:
            for index, batch in numbered:
                found[index] = await self._acall(self.inner.aembed_documents, batch)

        cap = self.protection.guard.settings.max_concurrency or _BATCHES_AT_ONCE
        await side_by_side(work() for _ in range(min(cap, len(batches))))
        return [vector for vectors in found for vector in vectors]

    def _ask(self, *, spare: bool) -> Ask:
        policy = self.protection.policy
        # Whoever shares a request shares its place in the queue and its retries, so these have to be the same.
        terms = (self.protection.guard, policy)
        return Ask(self.space.identity, self.space.ttl_s, terms, policy.total_timeout_s, spare=spare)

    async def _look_up(
        self, texts: list[str], ask: Ask, purpose: Any, embed: Callable[[list[str]], Awaitable[list[Vector]]]
    ) -> list[Vector]:
        if not texts:
            return []
        by_key = {key_of(text, purpose): text for text in texts}
        started = self._now()

        async def compute(keys: list[Any]) -> list[Vector]:
            return await self._acall(embed, [by_key[key] for key in keys], self._rest_since(started))

        try:
            return await self.space.cache.get_many(ask, list(by_key), compute)
        except FlightTimeout:
            raise self._too_late() from None

    def _look_up_blocking(
        self, texts: list[str], ask: Ask, purpose: Any, embed: Callable[[list[str]], list[Vector]]
    ) -> list[Vector]:
        if not texts:
            return []
        by_key = {key_of(text, purpose): text for text in texts}
        started = self._now()

        def compute(keys: list[Any]) -> list[Vector]:
            return self._call(embed, [by_key[key] for key in keys], self._rest_since(started))

        try:
            return self.space.cache.get_many_blocking(ask, list(by_key), compute)
        except FlightTimeout:
            raise self._too_late() from None

    def _call(
        self, embed: Callable[[list[str]], list[Vector]], texts: list[str], policy: CallPolicy | None = None
    ) -> list[Vector]:
        def attempt(_: Slot) -> list[Vector]:
            return embed(texts)

        return self._one_each(self.protection.call_blocking(attempt, self._tokens(texts), policy=policy), texts)

    async def _acall(
        self, embed: Callable[[list[str]], Awaitable[list[Vector]]], texts: list[str], policy: CallPolicy | None = None
    ) -> list[Vector]:
        async def attempt(_: Slot) -> list[Vector]:
            return await embed(texts)

        return self._one_each(await self.protection.call(attempt, self._tokens(texts), policy=policy), texts)

    def _one_each(self, vectors: list[Vector], texts: list[str]) -> list[Vector]:
        if len(vectors) == len(texts):
            return vectors
        # Never passed on: the vectors would be stored with the wrong texts.
        name = self.protection.guard.name
        msg = f"The service behind guard {name!r} sent {len(vectors)} vectors for {len(texts)} texts."
        raise UpstreamError(msg, hint="Check that base_url and model_name are those of an embeddings model.")

    def _now(self) -> float:
        return self.protection.guard.clock.now()

    def _rest_since(self, started: float) -> CallPolicy:
        """The policy for what is left of the call's time, after waiting for somebody else who gave up."""
        policy = self.protection.policy
        waited_s = self._now() - started
        if not policy.total_timeout_s or not waited_s:
            return policy
        if waited_s >= policy.total_timeout_s:
            raise self._too_late()
        return dataclasses.replace(policy, total_timeout_s=policy.total_timeout_s - waited_s)

    def _too_late(self) -> DeadlineExceeded:
        msg = (
            f"A call through guard {self.protection.guard.name!r} did not finish within "
            f"{self.protection.policy.total_timeout_s:g} s (total_timeout), waiting for another call that embeds the "
            f"same text included."
        )
        return DeadlineExceeded(msg, hint="Raise total_timeout, or lower the load on the service behind the guard.")

    def _tokens(self, texts: Sequence[str]) -> float:
        if not self.protection.guard.settings.tokens_per_minute:
            return 0.0
        return sum(estimate_text(text) for text in texts)

    def __getattr__(self, name: str) -> Any:
        if name in _DESCRIPTIVE:
            return getattr(self.inner, name)
        msg = f"{type(self).__name__!r} object has no attribute {name!r}"
        raise AttributeError(msg)

    def __deepcopy__(self, memo: dict[int, object]) -> GuardedEmbeddings:
        return self


def _in_order_of(texts: list[str], distinct: list[str], vectors: list[Vector]) -> list[Vector]:
    if len(distinct) == len(texts):
        return vectors
    found = dict(zip(distinct, vectors, strict=True))
    return [list(found[text]) for text in texts]
