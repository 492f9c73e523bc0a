"""Models: turn a pre-token into token ids."""

from __future__ import annotations

from pygpukit.tokenizer.models.base import Model
from pygpukit.tokenizer.models.bpe import BPE
from pygpukit.tokenizer.spec import build

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pygpukit.tokenizer.spec import Spec

__all__ = ["BPE", "MODELS", "Model", "build_model"]

MODELS: dict[str, type[Model]] = {"BPE": BPE}
"""The models by their names in the format."""


def build_model(spec: Spec) -> Model:
    """The model that ``spec`` describes; old files don't say which one it is.

    Raises:
        TokenizerLoadError: unknown or wrong.
    """
    legacy = "BPE" if {"vocab", "merges"} <= spec.mapping().keys() else None
    return build(MODELS, spec, legacy)
