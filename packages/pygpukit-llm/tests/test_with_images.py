"""The text models within models that see images as well."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pygpukit.core import load_safetensors
from pygpukit.llm import LLM, ConfigError, WeightsError

IDS = [5, 9, 60, 31, 7, *range(10, 30)]

OUTER: dict[str, dict[str, object]] = {
    "gemma3": {
        "model_type": "gemma3",
        "architectures": ["Gemma3ForConditionalGeneration"],
        "mm_tokens_per_image": 256,
        "boi_token_index": 255,
        "eos_token_id": [2, 106],
    },
    "mistral-sliding-window": {
        "model_type": "mistral3",
        "architectures": ["Mistral3ForConditionalGeneration"],
        "image_token_index": 10,
        "multimodal_projector_bias": False,
        "spatial_merge_size": 2,
        "eos_token_id": [2, 106],
    },
    "variants/ministral3": {
        "model_type": "mistral3",
        "architectures": ["Mistral3ForConditionalGeneration"],
        "image_token_index": 10,
        "eos_token_id": [2, 106],
    },
}
QWEN: dict[str, tuple[str, dict[str, object]]] = {
    "qwen2_vl": ("qwen2", {"type": "mrope", "mrope_section": [1, 1, 2]}),
    "qwen2_5_vl": ("qwen2", {"rope_type": "default", "mrope_section": [1, 1, 2]}),
    "qwen3_vl": (
        "qwen3",
        {"rope_type": "default", "mrope_section": [1, 1, 2], "mrope_interleaved": True},
    ),
}
"""Of each family the text model, and how its config says which position turns what."""


@pytest.fixture
def with_images(
    reference_models: Path,
    tmp_path: Path,
    write_safetensors: Callable[[Path, Mapping[str, Any]], None],
) -> Callable[..., Path]:
    """A reference model as part of one that sees images."""

    def with_images(
        name: str, prefix: str, head: str = "lm_head", more: Mapping[str, object] | None = None
    ) -> Path:
        source = reference_models / name
        text = json.loads((source / "config.json").read_text()) | dict(more or {})
        config = OUTER[name] | {"text_config": text, "vision_config": {"hidden_size": 8}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        tensors = {
            name.replace("model.", prefix, 1).replace("lm_head", head): array.cast(
                "float32"
            ).numpy()
            for name, array in load_safetensors(source / "model.safetensors").items()
        }
        tensors["vision_tower.vision_model.post_layernorm.weight"] = np.ones(4, np.float32)
        tensors["multi_modal_projector.mm_soft_emb_norm.weight"] = np.ones(4, np.float32)
        write_safetensors(tmp_path / "model.safetensors", tensors)
        return tmp_path

    return with_images


@pytest.mark.parametrize("name", OUTER)
@pytest.mark.parametrize(
    ("prefix", "head"),
    [("language_model.model.", "language_model.lm_head"), ("model.language_model.", "lm_head")],
)
def test_the_text_model(
    with_images: Callable[..., Path], reference_models: Path, name: str, prefix: str, head: str
) -> None:
    llm = LLM.from_pretrained(with_images(name, prefix, head), device="cpu")
    expected = LLM.from_pretrained(reference_models / name, device="cpu").logits(IDS)
    np.testing.assert_allclose(llm.logits(IDS), expected, rtol=0, atol=1e-3 * expected.std())
    assert set(llm.config.eos_token_ids) == {2, 106}


@pytest.mark.parametrize("family", QWEN)
@pytest.mark.parametrize("nested", [True, False])
def test_the_text_model_of_qwen(
    reference_models: Path,
    tmp_path: Path,
    write_safetensors: Callable[[Path, Mapping[str, Any]], None],
    family: str,
    nested: bool,
) -> None:
    """Newer files have its config, and its tensors, apart from those of what sees images."""
    name, sections = QWEN[family]
    source = reference_models / name
    text = json.loads((source / "config.json").read_text())
    theta = text.pop("rope_parameters", {}).get("rope_theta", text.get("rope_theta"))
    text |= {"rope_theta": theta, "rope_scaling": sections, "model_type": f"{family}_text"}
    outer = {"image_token_id": 6, "vision_start_token_id": 8, "vision_config": {"depth": 1}}
    inner = {"text_config": text} if nested else text
    config = {**inner, **outer, "model_type": family}
    (tmp_path / "config.json").write_text(json.dumps(config))
    prefix = "model.language_model." if nested else "model."
    tensors = {
        tensor.replace("model.", prefix, 1): array.cast("float32").numpy()
        for tensor, array in load_safetensors(source / "model.safetensors").items()
    }
    visual = "model.visual" if nested else "visual"
    tensors[f"{visual}.patch_embed.proj.weight"] = np.ones((4, 3), np.float32)
    write_safetensors(tmp_path / "model.safetensors", tensors)
    llm = LLM.from_pretrained(tmp_path, device="cpu")
    expected = LLM.from_pretrained(source, device="cpu").logits(IDS)
    np.testing.assert_allclose(llm.logits(IDS), expected, rtol=0, atol=1e-3 * expected.std())
    assert llm.config.architecture == family


@pytest.mark.parametrize("turned", [True, False])
def test_the_text_model_of_qwen_with_experts(
    reference_models: Path,
    tmp_path: Path,
    write_safetensors: Callable[[Path, Mapping[str, Any]], None],
    turned: bool,
) -> None:
    """Experts are stacked, in published files (inputs, outputs); their weights sum to 1."""
    source = reference_models / "qwen3-moe"
    text = json.loads((source / "config.json").read_text())
    assert text.pop("norm_topk_prob")
    text |= {"model_type": "qwen3_vl_moe_text"}
    config = {"model_type": "qwen3_vl_moe", "text_config": text, "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = {
        name.replace("model.", "model.language_model.", 1): view.cast("float32").numpy()
        for name, view in load_safetensors(source / "model.safetensors").items()
    }
    for layer in range(text["num_hidden_layers"]):
        prefix = f"model.language_model.layers.{layer}.mlp.experts."
        parts = [
            np.stack([tensors.pop(f"{prefix}{expert}.{part}_proj.weight") for expert in range(8)])
            for part in ("gate", "up", "down")
        ]
        stacked = {"gate_up_proj": np.concatenate(parts[:2], axis=1), "down_proj": parts[2]}
        for name, array in stacked.items():
            tensors[prefix + name] = np.ascontiguousarray(array.swapaxes(1, 2) if turned else array)
    write_safetensors(tmp_path / "model.safetensors", tensors)
    expected = LLM.from_pretrained(source, device="cpu").logits(IDS)
    found = LLM.from_pretrained(tmp_path, device="cpu").logits(IDS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * expected.std())


@pytest.mark.parametrize(
    ("prefix", "more", "error", "message"),
    [
        (
            "language_model.model.",
            {"twist": 1},
            ConfigError,
            r"text_config: 'twist' not understood",
        ),
        ("language_model.model.", {"model_type": "llama"}, ConfigError, "'llama' isn't supported"),
        ("model.language_model.", {"model_type": 3}, ConfigError, "model_type' must be a string"),
        ("text_model.", {}, WeightsError, r"missing: language_model\.model\.embed_tokens"),
    ],
)
def test_it_is_read_as_strictly(
    with_images: Callable[..., Path],
    prefix: str,
    more: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        LLM.from_pretrained(with_images("gemma3", prefix, more=more), device="cpu")
