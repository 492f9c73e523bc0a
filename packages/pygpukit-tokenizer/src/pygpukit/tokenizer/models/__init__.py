"""Models: turn a pre-token into token ids."""

from __future__ import annotations

from pygpukit.tokenizer.models.base import Model
from pygpukit.tokenizer.spec import build

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pygpukit.tokenizer.spec import Spec

__all__ = ["MODELS", "Model", "build_model"]

MODELS = {
    "BPE": f"{__name__}.bpe",
    "Unigram": f"{__name__}.unigram",
    "WordLevel": f"{__name__}.wordlevel",
    "WordPiece": f"{__name__}.wordpiece",
}
"""The modules of models by their names in the format."""

_FIELDS = {
    "BPE": {"vocab", "merges"},
    "WordPiece": {
        "vocab",
        "unk_token",
        "continuing_subword_prefix",
        "max_input_chars_per_word",
    },
    "WordLevel": {"vocab", "unk_token"},
}


def build_model(spec: Spec) -> Model:
    """The model that ``spec`` describes; old files don't say which one it is.

    Raises:
        TokenizerLoadError: unknown or wrong.
    """
    model: Model = build(MODELS, spec, _untold(spec.mapping()))
    return model


def _untold(fields: Mapping[str, Any]) -> str | None:
    """The type of a model by the fields it has, tried in the reference's order."""
    for name, needed in _FIELDS.items():
        if needed <= fields.keys():
            return name
    return "Unigram" if isinstance(fields.get("vocab"), list) else None
