"""Oniguruma regular expressions, run exactly on the standard library's ``re``.

``parser`` reads the syntax into the nodes of ``nodes``; ``pattern`` compiles these and matches.
"""

from pygpukit.tokenizer.onig.pattern import Pattern

__all__ = ["Pattern"]
