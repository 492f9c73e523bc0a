"""Reading the JSON object of a request, strictly: what isn't understood is an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pygpukit.llm.serve.errors import ApiError

__all__ = ["Body"]


class Body:
    """The keys of a request, each taken once; `finish` refuses what nobody took.

    Args:
        values: The object.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    @classmethod
    def parse(cls, content: bytes) -> Body:
        """Reads an object.

        Raises:
            ApiError: It is no JSON object.
        """
        try:
            text = content.decode()
            values = json.loads(text)
            if "\\u" in text:  # only so can a text have halves of characters
                json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            message = "the body has half of a pair of surrogates, a text that nothing can encode"
            raise ApiError(400, message) from error
        except (ValueError, RecursionError) as error:
            raise ApiError(400, f"the body is no JSON: {error}") from error
        if not isinstance(values, dict):
            raise ApiError(400, f"the body must be a JSON object, found {values!r:.80}")
        return cls(values)

    def take(self, key: str) -> Any:
        """The value of a key, whatever it is; None where there is none."""
        return self._values.pop(key, None)

    def text(self, key: str) -> str | None:
        """A text."""
        value: str | None = self._typed(key, str, "a text")
        return value

    def flag(self, key: str) -> bool:
        """True or false, which is also what it is without the key."""
        return self._typed(key, bool, "true or false") or False

    def integer(self, key: str, *, minimum: int, maximum: int) -> int | None:
        """A whole number within bounds."""
        value: int | None = self._typed(key, int, "a whole number")
        if value is not None and not minimum <= value <= maximum:
            raise _wrong(key, f"a whole number from {minimum} to {maximum}", value)
        return value

    def number(self, key: str, *, minimum: float, maximum: float) -> float | None:
        """A number within bounds."""
        value: float | None = self._typed(key, (int, float), "a number")
        if value is not None and not minimum <= value <= maximum:
            raise _wrong(key, f"a number from {minimum:g} to {maximum:g}", value)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A text or a list of texts, none of them empty."""
        value = self.take(key)
        texts = [value] if isinstance(value, str) else value or []
        if not isinstance(texts, list) or not all(isinstance(t, str) and t for t in texts):
            raise _wrong(key, "a text or a list of texts", value)
        return tuple(texts)

    def objects(self, key: str) -> list[dict[str, Any]] | None:
        """A list of objects."""
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise _wrong(key, "a list of objects", value)
        return value

    def object(self, key: str) -> Body | None:
        """An object, with keys of its own to take."""
        value = self._typed(key, dict, "an object")
        return None if value is None else Body(value)

    def ignore(self, *keys: str) -> None:
        """Drops keys that change nothing here."""
        for key in keys:
            self._values.pop(key, None)

    def finish(self) -> None:
        """Refuses the keys that nobody took, but for null.

        Raises:
            ApiError: There are some.
        """
        left = sorted(key for key, value in self._values.items() if value is not None)
        if left:
            raise ApiError(400, f"{left[0]}: isn't supported; leave it out", param=left[0])

    def _typed(self, key: str, kind: type | tuple[type, ...], name: str) -> Any:
        value = self.take(key)
        wrong = not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
        if value is not None and wrong:
            raise _wrong(key, name, value)
        return value


def _wrong(key: str, expected: str, found: object) -> ApiError:
    return ApiError(400, f"{key}: expected {expected}, found {found!r:.80}", param=key)
