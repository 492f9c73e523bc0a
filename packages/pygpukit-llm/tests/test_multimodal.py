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

IDS = [5, 9, 200, 31, 7]


@pytest.fixture
def with_images(
    reference_models: Path,
    tmp_path: Path,
    write_safetensors: Callable[[Path, Mapping[str, Any]], None],
) -> Callable[..., Path]:
    """Gemma 3 as Gemma3ForConditionalGeneration is stored."""

    def with_images(prefix: str, more: Mapping[str, object] | None = None) -> Path:
        source = reference_models / "gemma3"
        text = json.loads((source / "config.json").read_text())
        config = {
            "model_type": "gemma3",
            "architectures": ["Gemma3ForConditionalGeneration"],
            "text_config": text | dict(more or {}),
            "vision_config": {"model_type": "siglip_vision_model"},
            "mm_tokens_per_image": 256,
            "boi_token_index": 255,
            "eos_token_id": [2, 106],
        }
        (tmp_path / "config.json").write_text(json.dumps(config))
        tensors = {
            name.replace("model.", prefix, 1): view.cast("float32").numpy()
            for name, view in load_safetensors(source / "model.safetensors").items()
        }
        tensors["vision_tower.vision_model.post_layernorm.weight"] = np.ones(4, np.float32)
        tensors["multi_modal_projector.mm_soft_emb_norm.weight"] = np.ones(4, np.float32)
        write_safetensors(tmp_path / "model.safetensors", tensors)
        return tmp_path

    return with_images


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_gemma3(with_images: Callable[..., Path], reference_models: Path, prefix: str) -> None:
    llm = LLM.from_pretrained(with_images(prefix), device="cpu")
    expected = LLM.from_pretrained(reference_models / "gemma3", device="cpu").logits(IDS)
    np.testing.assert_allclose(llm.logits(IDS), expected, rtol=0, atol=1e-4 * expected.std())
    assert set(llm.config.eos_token_ids) == {2, 106}


def test_it_is_read_as_strictly(with_images: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"config\.json, text_config: 'twist' not understood"):
        LLM.from_pretrained(with_images("language_model.model.", {"twist": 1}), device="cpu")
    with pytest.raises(WeightsError, match=r"missing: language_model\.model\.embed_tokens"):
        LLM.from_pretrained(with_images("text_model."), device="cpu")
