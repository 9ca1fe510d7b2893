"""Finished values, kept for a while and within bounds; a plain structure without lock or clock."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")
V = TypeVar("V")
P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class _Kept(Generic[T]):
    value: T
    size: int
    kept_at: float


@dataclass(frozen=True, slots=True)
class Packing(Generic[V, P]):
    """How a value is kept, so that nobody can change it for the others.

    Attributes:
        pack: Makes what is kept of a value; not None.
        unpack: Makes a value of what is kept, a new one each time.
        size: Bytes of what is kept.
    """

    pack: Callable[[V], P]
    unpack: Callable[[P], V]
    size: Callable[[P], int]


class BoundedCache(Generic[T]):
    """Values by namespace and key; beyond a bound those used longest ago go first.

    How long a value is good for is not the cache's to say: each reader says how old a value it takes, so that readers
    with different wishes share one value.

    Args:
        max_entries: Values kept at most.
        max_bytes: Their sizes added up, at most; a single larger value is not kept.

    Attributes:
        size: Bytes of all values now.
        evicted: Values that had to go for others so far.
    """

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[Hashable, Hashable], _Kept[T]] = OrderedDict()
        self._spaces: dict[Hashable, set[Hashable]] = {}
        self.size = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, namespace: Hashable, key: Hashable, *, since: float) -> T | None:
        """The value kept at ``since`` or later, or None; a value found counts as used."""
        kept = self._entries.get((namespace, key))
        # An older one stays: a reader with more patience may still take it, and a newer one will replace it.
        if kept is None or kept.kept_at < since:
            return None
        self._entries.move_to_end((namespace, key))
        return kept.value

    def keep(self, namespace: Hashable, key: Hashable, value: T, size: int, *, now: float, spare: bool = False) -> None:
        """Keeps a value in the place of an older one.

        Args:
            namespace: What it is forgotten with.
            key: Tells it apart within its namespace.
            value: Must not be changed any more.
            size: Its bytes.
            now: The time from which its age counts.
            spare: Whether it goes before all others until it has been found once: so a bulk of values that nobody may
                ever ask for again pushes out only its own.
        """
        self._remove(namespace, key)
        if size > self._max_bytes:
            return
        # Before the new one is in: a spare one would be the first to go.
        while len(self._entries) >= self._max_entries or self.size + size > self._max_bytes:
            self._remove(*next(iter(self._entries)))
            self.evicted += 1
        self._entries[namespace, key] = _Kept(value, size, now)
        if spare:
            self._entries.move_to_end((namespace, key), last=False)
        self._spaces.setdefault(namespace, set()).add(key)
        self.size += size

    def drop(self, namespace: Hashable) -> None:
        """Forgets all values of a namespace."""
        for key in list(self._spaces.get(namespace, ())):
            self._remove(namespace, key)

    def _remove(self, namespace: Hashable, key: Hashable) -> None:
        kept = self._entries.pop((namespace, key), None)
        if kept is None:
            return
        self.size -= kept.size
        keys = self._spaces[namespace]
        keys.discard(key)
        if not keys:
            del self._spaces[namespace]
