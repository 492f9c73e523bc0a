"""The text models within models that see images as well; what sees images isn't read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pygpukit.llm.config import IGNORED, IGNORED_PREFIXES, ModelConfig
from pygpukit.llm.errors import ConfigError
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.models.gemma import GEMMA3
from pygpukit.llm.models.llama import MINISTRAL3, MISTRAL
from pygpukit.llm.models.names import within
from pygpukit.llm.models.qwen import QWEN2, QWEN3, QWEN3_MOE

__all__ = [
    "GEMMA3_WITH_IMAGES",
    "MISTRAL3",
    "QWEN2_5_VL",
    "QWEN2_VL",
    "QWEN3_VL",
    "QWEN3_VL_MOE",
]

_WHERE = {
    "model.": ("language_model.model.", "model.language_model."),
    "lm_head": ("language_model.lm_head", "lm_head"),
}
_WHERE_IN_QWEN = {"model.": ("model.language_model.", "model."), "lm_head": ("lm_head", "lm_head")}
"""In place of a beginning of the text model's names, any of several."""


def _with_images(
    architecture: str,
    texts: Mapping[str, Family],
    *,
    where: Mapping[str, Sequence[str]],
    sees: str,
    ignored_keys: Sequence[str],
    gguf: Gguf | None = None,
) -> Family:
    """A family whose config has that of a text model within, and whose tensors begin otherwise.

    Args:
        architecture: `model_type` of config.json.
        texts: By their `model_type` there the text models, whose tensors are named alike. Where
            there is no config within, the keys are those of the first.
        where: See `names.within`.
        sees: A pattern of the beginnings of the tensors that see images.
        ignored_keys: What else the config has.
        gguf: How GGUF files have the text model, where that differs from one on its own.
    """
    first = next(iter(texts.values()))

    def read_config(keys: Keys) -> ModelConfig:
        if keys.get("text_config") is None:
            return replace(first.read_config(keys), architecture=architecture)
        inner = keys.nested("text_config", {}, first.config_keys)
        name = inner.text("model_type", next(iter(texts)))
        text = texts.get(name)
        if text is None:
            raise ConfigError(
                f"{inner.source}: {name!r} isn't supported; supported are {', '.join(texts)}"
            )
        if keys.get("tie_word_embeddings") is not None:
            inner.default("tie_word_embeddings", keys.boolean("tie_word_embeddings"))
        config = text.read_config(inner)
        inner.finish(IGNORED | text.ignored_keys | set(ignored_keys), IGNORED_PREFIXES)
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
        names=within(first.names, where, ignored=(rf"(model\.)?({sees})\..*",)),
        ignored_keys=first.ignored_keys
        | {"image_token_id", "image_token_index", "vision_config", *ignored_keys},
        gguf=gguf,
    )


GEMMA3_WITH_IMAGES = _with_images(
    "gemma3",
    {"gemma3_text": GEMMA3},
    where=_WHERE,
    sees="vision_tower|multi_modal_projector",
    ignored_keys=(
        *("boi_token_id", "boi_token_index", "eoi_token_id", "eoi_token_index"),
        "mm_tokens_per_image",
    ),
)

MISTRAL3 = _with_images(
    "mistral3",
    {"mistral": MISTRAL, "ministral3": MINISTRAL3},
    where=_WHERE,
    sees="vision_tower|multi_modal_projector",
    ignored_keys=(
        *("multimodal_projector_bias", "projector_hidden_act", "spatial_merge_size"),
        "vision_feature_layer",
    ),
)


def _qwen(architecture: str, text: Family, gguf: Gguf | None) -> Family:
    return _with_images(
        architecture,
        {f"{architecture}_text": text},
        where=_WHERE_IN_QWEN,
        sees="visual",
        ignored_keys=(
            *("video_token_id", "vision_start_token_id", "vision_end_token_id"),
            *("vision_token_id", "image_token_id"),
        ),
        gguf=gguf,
    )


QWEN2_VL = _qwen("qwen2_vl", QWEN2, Gguf(architecture="qwen2vl"))
QWEN2_5_VL = _qwen("qwen2_5_vl", QWEN2, None)  # in GGUF files it is the same as Qwen2-VL
QWEN3_VL = _qwen("qwen3_vl", QWEN3, Gguf(architecture="qwen3vl"))


def _qwen3_moe(keys: Keys) -> ModelConfig:
    """The weights of the chosen experts always sum to 1."""
    keys.default("norm_topk_prob", True)
    keys.default("tie_word_embeddings", True)
    return QWEN3_MOE.read_config(keys)


_STACKED = {
    "layers.experts_up": "model.layers.{layer}.mlp.experts.gate_up_proj.",
    "layers.experts_down": "model.layers.{layer}.mlp.experts.down_proj.",
}
_NAMES_OF_STACKED = replace(
    QWEN3_MOE.names,
    slots={
        **QWEN3_MOE.names.slots,
        **{slot: (*QWEN3_MOE.names.slots[slot], (name,)) for slot, name in _STACKED.items()},
    },
    either_way=frozenset(_STACKED),
)

QWEN3_VL_MOE = _qwen(
    "qwen3_vl_moe",
    replace(QWEN3_MOE, read_config=_qwen3_moe, names=_NAMES_OF_STACKED),
    Gguf(architecture="qwen3vlmoe"),
)
