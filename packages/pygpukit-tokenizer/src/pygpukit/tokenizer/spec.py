"""Reading the parts of a tokenizer.json with their place in the file at hand for errors."""

from __future__ import annotations

from importlib import import_module

from pygpukit.tokenizer.errors import TokenizerLoadError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, TypeVar

    T = TypeVar("T")

_REQUIRED: Any = object()
_ABSENT: Any = object()


class Spec:
    """A JSON value and its path, such as ``pre_tokenizer.pretokenizers[1]``."""

    __slots__ = ("path", "value")

    def __init__(self, path: str, value: Any) -> None:
        self.path = path
        self.value = value

    def error(self, message: str) -> TokenizerLoadError:
        """An error that names this place."""
        return TokenizerLoadError(f"{self.path}: {message}")

    def mapping(self) -> Mapping[str, Any]:
        """This value as an object."""
        if not isinstance(self.value, dict):
            raise self.error(f"expected an object, found {_kind(self.value)}")
        return self.value

    def child(self, key: str) -> Spec:
        """The value under ``key``; null where there is none."""
        return Spec(f"{self.path}.{key}" if self.path else key, self.mapping().get(key))

    def items(self, key: str) -> list[Spec]:
        """The elements of the list under ``key``."""
        child = self.child(key)
        values = child.as_type(list)
        return [Spec(f"{child.path}[{i}]", value) for i, value in enumerate(values)]

    def as_type(self, kind: type[T]) -> T:
        """This value, which must be of the given JSON type."""
        value = self.value
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(f"expected {kind.__name__}, found {_kind(value)}")
        return value

    def get(self, key: str, kind: type[T], default: T = _REQUIRED) -> T:
        """The value under ``key``; ``default`` where the key is absent (null isn't absent)."""
        value = self.mapping().get(key, _ABSENT)
        if type(value) is kind:
            return value
        if value is _ABSENT:
            if default is _REQUIRED:
                raise self.error(f'missing field "{key}"')
            return default
        return self.child(key).as_type(kind)

    def optional(self, key: str, kind: type[T]) -> T | None:
        """The value under ``key``, or None where it is absent or null."""
        child = self.child(key)
        return None if child.value is None else child.as_type(kind)

    def natural(self, key: str, default: int = _REQUIRED) -> int:
        """A number that isn't negative."""
        value = self.get(key, int, default)
        if value < 0:
            raise self.error(f"{key}: expected a number from 0 on, found {value}")
        return value

    def character(self, key: str) -> str:
        """A text of one character."""
        value = self.get(key, str)
        if len(value) != 1:
            raise self.error(f"{key}: expected one character, found {value!r}")
        return value

    def choice(self, key: str, options: tuple[str, ...], default: str = _REQUIRED) -> str:
        """A string out of a few."""
        value = self.get(key, str, default)
        if value not in options:
            raise self.error(
                f'{key}: unknown value "{value}", expected one of {", ".join(options)}'
            )
        return value


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


class Component:
    """Something that a file names by its type. Subclasses carry the format's own names."""

    __slots__ = ()

    @classmethod
    def from_spec(cls: type[T], spec: Spec) -> T:
        """Build the component that ``spec`` describes; here one without fields.

        Raises:
            TokenizerLoadError: a field is missing, of the wrong type or not supported.
        """
        return cls()


def build(modules: Mapping[str, str], spec: Spec, default: str | None = None) -> Any:
    """The one registry: build the component that ``spec`` names.

    ``modules`` has the module of each type's class, which is imported only now: most files need
    few. ``default`` is the type of a legacy file that names none.

    Raises:
        TokenizerLoadError: no such type, or its own fields are wrong.
    """
    name = spec.mapping().get("type", default)
    if not isinstance(name, str):
        raise spec.error("no type given")
    module = modules.get(name)
    if module is None:
        raise spec.error(f'unknown type "{name}"')
    return getattr(import_module(module), name).from_spec(spec)
