"""Oniguruma regular expressions, run exactly on the standard library's ``re``.

``parser`` reads the syntax into the nodes of ``nodes``; ``pattern`` compiles these and matches.
"""

from __future__ import annotations

from pygpukit.tokenizer.errors import PatternError
from pygpukit.tokenizer.onig.pattern import Literal, Pattern

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pygpukit.tokenizer.spec import Spec

__all__ = ["Literal", "Pattern", "pattern_from_spec"]


def pattern_from_spec(spec: Spec) -> Pattern:
    """The pattern of a ``{"Regex": ...}`` or ``{"String": ...}``."""
    keys = list(spec.mapping())
    if keys == ["String"]:
        return Pattern.from_literal(spec.get("String", str))
    if keys != ["Regex"]:
        raise spec.error(f'expected one of "String" and "Regex", found {keys}')
    try:
        return Pattern.from_source(spec.get("Regex", str))
    except PatternError as error:
        raise spec.error(str(error)) from None
