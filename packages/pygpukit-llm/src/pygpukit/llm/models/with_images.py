"""The text models within models that see images as well; what sees images isn't read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from pygpukit.llm.config import IGNORED, IGNORED_PREFIXES, ModelConfig
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family
from pygpukit.llm.models.gemma import GEMMA3
from pygpukit.llm.models.llama import MISTRAL
from pygpukit.llm.models.names import within

__all__ = ["GEMMA3_WITH_IMAGES", "MISTRAL3"]


def _with_images(architecture: str, text: Family, ignored_keys: Collection[str]) -> Family:
    """A family whose config has that of `text` within, and whose tensors begin otherwise."""

    def read_config(keys: Keys) -> ModelConfig:
        inner = keys.nested("text_config", {}, text.config_keys)
        inner.expect("model_type", text.architecture)
        if keys.get("tie_word_embeddings") is not None:
            inner.default("tie_word_embeddings", keys.boolean("tie_word_embeddings"))
        config = text.read_config(inner)
        inner.finish(IGNORED | text.ignored_keys, IGNORED_PREFIXES)
        bos = config.bos_token_id
        return replace(
            config,
            architecture=architecture,
            bos_token_id=next(iter(keys.ids("bos_token_id")), None) if bos is None else bos,
            eos_token_ids=(*config.eos_token_ids, *keys.ids("eos_token_id")),
        )

    return Family(
        architecture=architecture,
        read_config=read_config,
        names=within(
            text.names,
            {
                "model.": ("language_model.model.", "model.language_model."),
                "lm_head": ("language_model.lm_head", "lm_head"),
            },
            ignored=(r"(model\.)?(vision_tower|multi_modal_projector)\..*",),
        ),
        ignored_keys=frozenset({"image_token_id", "image_token_index", "vision_config"})
        | frozenset(ignored_keys),
    )


GEMMA3_WITH_IMAGES = _with_images(
    "gemma3",
    GEMMA3,
    (
        *("boi_token_id", "boi_token_index", "eoi_token_id", "eoi_token_index"),
        "mm_tokens_per_image",
    ),
)

MISTRAL3 = _with_images(
    "mistral3",
    MISTRAL,
    (
        *("multimodal_projector_bias", "projector_hidden_act", "spatial_merge_size"),
        "vision_feature_layer",
    ),
)
