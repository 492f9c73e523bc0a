"""Possessive quantifiers of groups in patterns for ``re``."""

from __future__ import annotations

import sys

_WORK = sys.version_info >= (3, 11, 5)


def possessive(group: str, quantifier: str) -> str:
    """The group as often as the quantifier lets it match, nothing of which is given back.

    Before Python 3.11.5 possessive quantifiers lose track of the place in the text where a group
    tries what then fails (python/cpython#106052, python/cpython#100061). Atomic groups, which are
    the same but take memory for every match of a long run, don't.
    """
    return f"{group}{quantifier}+" if _WORK else f"(?>{group}{quantifier})"
