"""What keeps one item from finding traces of the item before it: fresh containers, and a node's source as it began."""

from __future__ import annotations

import ast
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from functools import lru_cache
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CONTAINERS = (list, dict, set, bytearray, deque, defaultdict, OrderedDict, Counter)
_DISPLAYS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
_CONSTRUCTORS = frozenset(kind.__name__ for kind in _CONTAINERS)


def isolated(value: Any) -> Any:
    """A copy of plain containers and of those within them; anything else is handed on as it is."""
    kind = type(value)
    if kind is list:
        return [isolated(each) for each in value]
    if kind is dict:
        return {key: isolated(each) for key, each in value.items()}
    return value.copy() if kind in _CONTAINERS else value


class SourceState:
    """Puts back what a node has left in the namespace of its own source: class attributes and globals.

    Langflow executes the source of a node afresh for each build, so nodes are written as if class attributes and
    globals were new. A section executes it once for each of its copies, and puts back for each item what the source
    itself assigns: plain containers as they were at the start, anything else the same object again. Objects of other
    kinds keep what a node has done to them as long as the copy lives. What was imported is shared and left alone.

    Args:
        component_class: Made by Langflow from ``code``; a class from an installed module is left alone.
        code: The node's source.
    """

    def __init__(self, component_class: type, code: str) -> None:
        self._namespaces: list[_Namespace] = []
        namespace = _namespace_of(component_class)
        if namespace is None:
            return
        assigned = _assignments(code)
        self._namespaces.append(_Namespace(namespace, namespace.__setitem__, namespace.__delitem__, assigned.get("")))
        for name, names in assigned.items():
            owner = namespace.get(name)
            if isinstance(owner, type):
                self._namespaces.append(_Namespace(vars(owner), _setter(owner), _deleter(owner), names))

    def restore(self) -> None:
        """Makes the source's namespace what it was when this object was made."""
        for namespace in self._namespaces:
            namespace.restore()


class _Namespace:
    def __init__(
        self,
        live: Any,
        put: Callable[[str, Any], None],
        remove: Callable[[str], None],
        assigned: dict[str, bool] | None,
    ) -> None:
        self._live, self._put, self._remove = live, put, remove
        self._names = set(live)
        self._kept: dict[str, tuple[Any, bool]] = {}
        for name, made in (assigned or {}).items():
            if name in live:
                # A container that the source makes is copied; one that it only names belongs to somebody else.
                copied = made and type(live[name]) in _CONTAINERS
                self._kept[name] = (isolated(live[name]) if copied else live[name], copied)

    def restore(self) -> None:
        if self._live.keys() != self._names:
            for name in [each for each in self._live if each not in self._names and not _is_internal(each)]:
                self._remove(name)
        for name, (value, copied) in self._kept.items():
            if copied:
                self._put(name, isolated(value))
            elif self._live.get(name, self) is not value:
                self._put(name, value)


def _namespace_of(component_class: type) -> dict[str, Any] | None:
    method = next((each for each in vars(component_class).values() if isinstance(each, FunctionType)), None)
    if method is None:
        return None
    namespace = method.__globals__
    module = sys.modules.get(namespace.get("__name__", ""))
    return None if module is not None and vars(module) is namespace else namespace


def _setter(owner: type) -> Callable[[str, Any], None]:
    return lambda name, value: setattr(owner, name, value)


def _deleter(owner: type) -> Callable[[str], None]:
    return lambda name: delattr(owner, name)


@lru_cache(maxsize=256)
def _assignments(code: str) -> dict[str, dict[str, bool]]:
    """The names that a source assigns, and whether it makes the container itself: under "" its own, by class theirs."""
    try:
        module = ast.parse(code)
    except SyntaxError:
        return {}
    found = {"": dict(_assigned(module.body))}
    found.update({each.name: dict(_assigned(each.body)) for each in module.body if isinstance(each, ast.ClassDef)})
    return found


def _assigned(body: list[ast.stmt]) -> Iterator[tuple[str, bool]]:
    for statement in body:
        if isinstance(statement, ast.Assign):
            targets, value = statement.targets, statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets, value = [statement.target], statement.value
        else:
            continue
        made = isinstance(value, _DISPLAYS) or (isinstance(value, ast.Call) and _called(value) in _CONSTRUCTORS)
        for target in targets:
            if isinstance(target, ast.Name) and not _is_internal(target.id):
                yield target.id, made


def _called(call: ast.Call) -> str:
    function = call.func
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def _is_internal(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")
