"""A strict reader of key-value configurations: every key is read, ignorable, or an error."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Final, TypeVar

from pygpukit.llm.errors import ConfigError

_T = TypeVar("_T")


class _Required:
    """The default of a key that must be there."""


REQUIRED: Final = _Required()


class Keys:
    """The keys of one configuration, each to be asked for by the type of its value.

    Args:
        values: The configuration.
        source: What error messages call it: the file's name, or the file's and the object's.
        aliases: For a key asked for under one name, the name that it has in `values`.
    """

    def __init__(
        self,
        values: Mapping[str, object],
        source: str,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self.source = source
        self._values = values
        self._aliases = aliases or {}
        self._read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return self._aliases.get(key, key) in self._values

    def get(self, key: str) -> object:
        """The raw value, or None where the key is absent; the key counts as read."""
        name = self._aliases.get(key, key)
        self._read.add(name)
        return self._values.get(name)

    def integer(self, key: str, default: int | _Required = REQUIRED, *, minimum: int = 1) -> int:
        """A whole number of at least `minimum`; a null counts as absent."""
        value = self.optional_integer(key, minimum=minimum)
        return self._or_default(key, value, default)

    def optional_integer(self, key: str, *, minimum: int = 1) -> int | None:
        """A whole number of at least `minimum`, or None where the key is absent or null."""
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self._mistyped(key, f"a whole number of at least {minimum}")
        return value

    def number(self, key: str, default: float | _Required = REQUIRED) -> float:
        """A finite number; a null counts as absent."""
        return self._or_default(key, self.optional_number(key), default)

    def optional_number(self, key: str) -> float | None:
        """A finite number, or None where the key is absent or null."""
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._mistyped(key, "a number")
        if not math.isfinite(value):
            raise self._mistyped(key, "a finite number")
        return float(value)

    def positive(self, key: str, default: float | _Required = REQUIRED) -> float:
        """A finite number above zero; a null counts as absent."""
        value = self.number(key, default)
        if value <= 0:
            raise self._mistyped(key, "a number above 0")
        return value

    def numbers(self, key: str, count: int) -> list[float]:
        """A list of `count` finite numbers, none of them 0."""
        value = self.get(key)
        items = value if isinstance(value, list) else []
        numbers = [item for item in items if type(item) in (int, float) and math.isfinite(item)]
        if len(items) != count or len(numbers) < count or not all(numbers):
            raise self._mistyped(key, f"a list of {count} numbers other than 0")
        return [float(number) for number in numbers]

    def boolean(self, key: str, default: bool | _Required = REQUIRED) -> bool:
        """True or false; a null is false, as it is in transformers."""
        value = self.get(key)
        if value is None and key in self:
            return False
        if value is not None and not isinstance(value, bool):
            raise self._mistyped(key, "true or false")
        return self._or_default(key, value, default)

    def text(self, key: str, default: str | _Required = REQUIRED) -> str:
        """A string; a null counts as absent."""
        value = self.get(key)
        if value is not None and not isinstance(value, str):
            raise self._mistyped(key, "a string")
        return self._or_default(key, value, default)

    def choice(
        self, key: str, choices: Mapping[str, _T], default: str | _Required = REQUIRED
    ) -> _T:
        """What `choices` has for the string found."""
        name = self.text(key, default)
        if name not in choices:
            raise self._mistyped(key, f"one of {', '.join(choices)}")
        return choices[name]

    def ids(self, key: str) -> tuple[int, ...]:
        """Token ids: one whole number, a list of them, or none where the key is absent or null."""
        value = self.get(key)
        if value is None:
            return ()
        ids: list[object] = value if isinstance(value, list) else [value]
        whole = [id_ for id_ in ids if isinstance(id_, int) and not isinstance(id_, bool)]
        if len(whole) < len(ids):
            raise self._mistyped(key, "a token id or a list of them")
        return tuple(id_ for id_ in whole if id_ >= 0)

    def nested(
        self, key: str, more: Mapping[str, object], aliases: Mapping[str, str] | None = None
    ) -> Keys:
        """The object under `key` as keys of their own, with those of `more` that it lacks."""
        value = self.get(key)
        if not isinstance(value, dict):
            raise self._mistyped(key, "an object")
        return Keys({**more, **value}, f"{self.source}, {self._aliases.get(key, key)}", aliases)

    def rename(self, old: str, new: str) -> None:
        """Lets an older key stand for a newer one that is absent."""
        self._read.add(old)
        if old in self._values:
            self._values = {new: self._values[old], **self._values}

    def default(self, key: str, value: object) -> None:
        """Lets `value` stand where the key is absent or null."""
        if self.get(key) is None:
            self._values = {**self._values, self._aliases.get(key, key): value}

    def integers(self, key: str) -> list[int] | None:
        """A list of whole numbers of at least 0; None where the key is absent or null."""
        value = self.get(key)
        if value is None:
            return None
        items = value if isinstance(value, list) else [None]
        numbers = [item for item in items if type(item) is int and item >= 0]
        if len(numbers) < len(items):
            raise self._mistyped(key, "a list of whole numbers")
        return numbers

    def expect(self, key: str, supported: object) -> None:
        """Refuses any value but the one that is supported; absent and null mean that one."""
        value = self.get(key)
        if value is not None and value != supported:
            raise ConfigError(
                f"{self._where(key)}: {value!r} isn't supported; the only supported value is "
                f"{'null' if supported is None else repr(supported)}"
            )

    def finish(self, ignored: Collection[str] = (), prefixes: Iterable[str] = ()) -> None:
        """Refuses every key that was neither read nor is known to change nothing.

        Args:
            ignored: Keys that don't change what the model computes.
            prefixes: What further such keys start with.
        """
        unknown = [
            key
            for key in self._values
            if key not in self._read
            and key not in ignored
            and not any(key.startswith(prefix) for prefix in prefixes)
        ]
        if unknown:
            raise ConfigError(
                f"{self.source}: {', '.join(map(repr, unknown))} not understood; it may change "
                f"what the model computes, so the model isn't run without it"
            )

    def _or_default(self, key: str, value: _T | None, default: _T | _Required) -> _T:
        if value is not None:
            return value
        if isinstance(default, _Required):
            raise ConfigError(f"{self._where(key)} is missing")
        return default

    def _where(self, key: str) -> str:
        return f"{self.source}: key {self._aliases.get(key, key)!r}"

    def _mistyped(self, key: str, expected: str) -> ConfigError:
        found = self._values.get(self._aliases.get(key, key))
        return ConfigError(f"{self._where(key)} must be {expected}, found {found!r}")
