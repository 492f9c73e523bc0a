"""The errors of this package."""

from __future__ import annotations


class TokenizerLoadError(ValueError):
    """A tokenizer file can't be loaded exactly.

    The message names the component and its place in the file, such as
    ``normalizer.normalizers[1]: unknown type "Foo"``. A component that this package doesn't
    support is an error as well: nothing is skipped silently.
    """


class PatternError(ValueError):
    """A regular expression isn't valid Oniguruma syntax, or can't be translated exactly."""
