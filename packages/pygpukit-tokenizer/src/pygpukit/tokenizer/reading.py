"""Reading JSON text into plain objects."""

from __future__ import annotations

import gc

from pygpukit.tokenizer.errors import TokenizerLoadError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class CollectionPaused:
    """A context without cyclic garbage collection.

    Loading a vocabulary makes hundreds of thousands of objects, all of them to stay. Looking for
    garbage among them again and again takes a third of the time.
    """

    __slots__ = ("_enabled",)

    def __enter__(self) -> None:
        self._enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self._enabled:
            gc.enable()


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        TokenizerLoadError: not JSON.
    """
    import json

    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        lfs = text.startswith("version https://git-lfs")
        hint = " (this is a Git LFS pointer, not the file itself)" if lfs else ""
        raise TokenizerLoadError(f"not valid JSON: {error}{hint}") from None
    except RecursionError:
        raise TokenizerLoadError("not valid JSON: nested too deeply") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")
