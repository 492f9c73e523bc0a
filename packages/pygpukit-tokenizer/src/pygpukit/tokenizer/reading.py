"""Reading JSON text into plain objects."""

from __future__ import annotations

from pygpukit.tokenizer.errors import TokenizerLoadError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


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
