"""Immutable values: ``class Gpu(Value, kw_only=True)`` instead of a frozen dataclass, at a fortieth of its price.

A dataclass compiles its methods when its module is imported: 0.8 ms and 23 kB for each, and a node service has a
hundred of them, a quarter of its start. Here all classes share the methods below; making an instance costs about
a microsecond more. Type checkers see dataclasses (PEP 681). See docs/decisions/0007-values.md.

Called by every module of ``nvdra_core`` and ``nvdra_node`` that is imported when a service starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[type], type]:
        """Python 3.11's, which does nothing at run time."""
        return lambda cls: cls


class _Field:
    """What ``field`` said of one field."""

    __slots__ = ("default", "factory", "is_shown")

    def __init__(self, default: Any, factory: Callable[[], Any] | None, is_shown: bool) -> None:
        self.default = default
        self.factory = factory
        self.is_shown = is_shown


_NOTHING: Any = object()


def field(
    *, default: Any = _NOTHING, default_factory: Callable[[], Any] | None = None, repr: bool = True
) -> Any:
    """A field with a default made anew for each instance, or one that is not shown in ``repr``."""
    return _Field(default, default_factory, repr)


class _ValueType(type):
    """Makes slots of the annotations, and remembers defaults and what is not to be shown."""

    _names: tuple[str, ...]
    _known: frozenset[str]
    _defaults: dict[str, Any]
    _factories: dict[str, Callable[[], Any]]
    _hidden: frozenset[str]
    _kw_only: bool

    def __new__(
        cls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        kw_only: bool = False,
        order: bool = False,
    ) -> _ValueType:
        annotations: Mapping[str, Any] = namespace.get("__annotations__", {})
        names = tuple(
            key for key, text in annotations.items() if not str(text).startswith("ClassVar")
        )
        given = {key: namespace.pop(key) for key in names if key in namespace}
        told = {key: value for key, value in given.items() if isinstance(value, _Field)}
        plain = {key: value for key, value in given.items() if key not in told}
        if order:
            namespace.update(_ORDER)
        made = super().__new__(cls, name, bases, {**namespace, "__slots__": names})
        made._names = names
        made._known = frozenset(names)
        made._defaults = plain | {
            key: value.default for key, value in told.items() if value.default is not _NOTHING
        }
        made._factories = {
            key: value.factory for key, value in told.items() if value.factory is not None
        }
        made._hidden = frozenset(key for key, value in told.items() if not value.is_shown)
        made._kw_only = kw_only
        return made

    def __init__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any], **_: bool) -> None:
        super().__init__(name, bases, space)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Value(metaclass=_ValueType):
    """Base of immutable values: equal by their fields, hashable when these are, without subclasses of their own.

    Class options: ``kw_only``, ``order`` (by the fields, as tuples are). A field without a default must be given.
    """

    def __init__(self, *args: Any, **given: Any) -> None:
        kind = type(self)
        if args:
            if kind._kw_only or len(args) > len(kind._names):
                raise TypeError(f"{kind.__name__}: too many positional arguments")
            for name, value in zip(kind._names, args, strict=False):
                if name in given:
                    raise TypeError(f"{kind.__name__}: {name} is given twice")
                given[name] = value
        values = kind._defaults | given if kind._defaults else given
        for name, make in kind._factories.items():
            if name not in values:
                values[name] = make()
        if values.keys() != kind._known:
            missing, unknown = kind._known - values.keys(), values.keys() - kind._known
            raise TypeError(
                f"{kind.__name__}: missing fields {sorted(missing)}, unknown ones {sorted(unknown)}"
            )
        for name, value in values.items():
            _set(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Refuse what cannot be, where a class has to."""

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: cannot set {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: cannot delete {name}")

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return _content(self) == _content(other) if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(_content(self))

    def __repr__(self) -> str:
        kind = type(self)
        shown = (name for name in kind._names if name not in kind._hidden)
        return f"{kind.__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (type(self), {name: getattr(self, name) for name in type(self)._names})


_set = object.__setattr__
AnyValue = TypeVar("AnyValue", bound=Value)


def _content(value: Any) -> tuple[Any, ...]:
    return tuple([getattr(value, name) for name in type(value)._names])


def _remake(kind: type[AnyValue], values: dict[str, Any]) -> AnyValue:
    return kind(**values)


def _compare(name: str) -> Callable[[Any, Any], Any]:
    def compared(self: Value, other: object) -> Any:
        if type(other) is not type(self):
            return NotImplemented
        return getattr(_content(self), name)(_content(other))

    return compared


_ORDER = {name: _compare(name) for name in ("__lt__", "__le__", "__gt__", "__ge__")}


def replace(value: AnyValue, **changes: Any) -> AnyValue:
    """A copy with some fields changed. Raises TypeError for an unknown one."""
    return type(value)(**{name: getattr(value, name) for name in type(value)._names} | changes)


def fields(kind: type[Value]) -> tuple[str, ...]:
    """The names of the fields, in their order."""
    return kind._names


def required(kind: type[Value]) -> frozenset[str]:
    """The names of the fields that have no default."""
    return kind._known - kind._defaults.keys() - kind._factories.keys()


def asdict(value: Value) -> dict[str, Any]:
    """The fields by name; values, lists, tuples and mappings inside them likewise."""
    return {name: _plain(getattr(value, name)) for name in type(value)._names}


def _plain(content: Any) -> Any:
    if isinstance(content, Value):
        return asdict(content)
    if isinstance(content, (list, tuple)):
        return type(content)(_plain(item) for item in content)
    if isinstance(content, dict):
        return {key: _plain(item) for key, item in content.items()}
    return content
