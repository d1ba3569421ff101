"""coverable: a program that has a `stats` or a `limiter` of its own keeps it when its base class changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Class = TypeVar("_Class", bound=type[Any])


class _View:
    """A property that an attribute of the instance may cover, since it has no `__set__`."""

    def __init__(self, prop: property) -> None:
        assert prop.fget is not None
        self._read: Callable[[Any], Any] = prop.fget
        self.__doc__ = prop.__doc__

    def __get__(self, instance: object | None, owner: type[Any]) -> Any:
        return self if instance is None else self._read(instance)


def coverable(cls: _Class) -> _Class:
    """Let the read-only properties that a class defines be covered by attributes of its instances.

    Example:
        >>> @coverable
        ... class Node:
        ...     @property
        ...     def stats(self):
        ...         return "ours"
        >>> node = Node()
        >>> node.stats
        'ours'
        >>> node.stats = "its own"
        >>> node.stats
        'its own'
    """
    for name, value in list(vars(cls).items()):
        if isinstance(value, property) and value.fset is None:
            setattr(cls, name, _View(value))
    return cls
