"""Metaspace: SentencePiece's way to write spaces as a visible character, in both directions."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pygpukit.tokenizer.spec import Spec

SCHEMES = ("always", "first", "never")


def read_metaspace(spec: Spec) -> tuple[str, str, bool]:
    """The fields of a Metaspace component: replacement, prepend_scheme, split.

    Old files say ``add_prefix_space`` instead of ``prepend_scheme``.

    Raises:
        TokenizerLoadError: a field is wrong, or the old one contradicts the new one.
    """
    scheme = spec.choice("prepend_scheme", SCHEMES, "always")
    if spec.optional("add_prefix_space", bool) is False:
        # The reference takes the default for a declaration.
        if scheme != "never":
            raise spec.error(f'add_prefix_space false contradicts prepend_scheme "{scheme}"')
        scheme = "never"
    spec.optional("str_rep", str)
    split = spec.optional("split", bool)
    return spec.character("replacement"), scheme, split is not False
