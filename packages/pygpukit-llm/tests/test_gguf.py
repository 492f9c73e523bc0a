"""GGUF files: the reference models written as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from gguf_files import F32, NVFP4, Array, converted, write_gguf
from pygpukit.core import LoadError
from pygpukit.llm import LLM, ConfigError, WeightsError

Write = Callable[..., Path]
IDS = [5, 9, 20, 31, 7, 5, 12]


@pytest.fixture
def gguf(reference_models: Path, tmp_path: Path) -> Write:
    """Writes a reference model as GGUF, with changes to its metadata and its tensors."""

    def gguf(
        name: str,
        metadata: Mapping[str, object] | None = None,
        tensors: Mapping[str, tuple[int, Array]] | None = None,
    ) -> Path:
        values, arrays = converted(reference_models / name)
        values |= dict(metadata or {})
        kept = {key: value for key, value in values.items() if value is not ...}
        file = tmp_path / f"{Path(name).name}.gguf"
        write_gguf(file, kept, arrays | dict(tensors or {}))
        return file

    return gguf


def logits(model: Path) -> Array:
    return LLM.from_pretrained(model, device="cpu").logits(IDS)


@pytest.mark.parametrize("name", ["llama2", "qwen2", "qwen3", "gpt2"])
def test_the_same_bits_as_in_a_folder(gguf: Write, reference_models: Path, name: str) -> None:
    np.testing.assert_array_equal(logits(gguf(name)), logits(reference_models / name))


FAMILIES = [
    "gemma3",
    "mistral-sliding-window",
    "mixtral",
    "olmo2",
    "phi3",
    "qwen3-moe",
    "variants/arcee",
    "variants/cohere",
    "variants/cohere-qk-norm",
    "variants/cohere2",
    "variants/ernie4-5",
    "variants/ernie4-5-moe",
    "variants/exaone4",
    "variants/exaone4-full",
    "variants/gemma",
    "variants/gemma2-capped",
    "variants/glm4",
    "variants/gpt-neox",
    "variants/granite",
    "variants/granite-biases",
    "variants/granite-moe",
    "variants/granite-moe-shared",
    "variants/ministral3",
    "variants/olmoe",
    "variants/phi",
    "variants/phi3-longrope-crossed",
    "variants/phi3-longrope-long",
    "variants/phi3-longrope-short",
    "variants/qwen2-moe-all",
    "variants/seed-oss",
    "variants/smollm3",
    "variants/stablelm",
    "variants/stablelm-parallel",
    "variants/starcoder2-no-bias",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_model_as_in_a_folder(
    gguf: Write,
    reference_models: Path,
    reference: Callable[[str], dict[str, Array]],
    name: str,
) -> None:
    ids = reference(name)["prompt_ids"].tolist()
    expected = LLM.from_pretrained(reference_models / name, device="cpu").logits(ids)
    found = LLM.from_pretrained(gguf(name), device="cpu").logits(ids)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.std())


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_the_text_model_of_one_that_sees_images(
    reference_models: Path, tmp_path: Path, name: str
) -> None:
    values, arrays = converted(reference_models / name)
    values = {key.replace(f"{name}.", f"{name}vl."): value for key, value in values.items()}
    values |= {"general.architecture": f"{name}vl", f"{name}vl.rope.dimension_sections": [1, 1, 2]}
    write_gguf(tmp_path / "model.gguf", values, arrays)
    expected = logits(reference_models / name)
    np.testing.assert_array_equal(logits(tmp_path / "model.gguf"), expected)


def test_frequency_divisors(gguf: Write, reference_models: Path) -> None:
    """Llama 3's scaling is a tensor in GGUF."""
    folder = reference_models / "llama3-rope-scaled"
    scaled = LLM.from_pretrained(folder, device="cpu").config.rope
    assert scaled is not None
    exponents = -np.arange(len(scaled.inv_freq)) / len(scaled.inv_freq)
    factors = (scaled.theta**exponents / np.array(scaled.inv_freq)).astype(np.float32)
    assert factors.max() > 2
    file = gguf("llama3-rope-scaled", tensors={"rope_freqs.weight": (F32, factors)})
    expected = logits(folder)
    np.testing.assert_allclose(logits(file), expected, rtol=0, atol=1e-4 * expected.std())


def test_facts_that_only_the_file_has(gguf: Write) -> None:
    llm = LLM.from_pretrained(
        gguf(
            "llama2",
            {
                "tokenizer.ggml.bos_token_id": 1,
                "tokenizer.ggml.eot_token_id": 7,
                "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}",
                "tokenizer.chat_template.tool_use": "{{ tools[0] }}",
                "tokenizer.chat_templates": ["tool_use"],
            },
        ),
        device="cpu",
    )
    assert llm.config.bos_token_id == 1
    assert llm.config.eos_token_ids == (2, 7)
    assert llm.apply_chat_template([{"role": "user", "content": "x"}]) == "\u0101x"
    assert llm.apply_chat_template([{"role": "user", "content": "x"}], tools=[{}]) == "{}"
    assert llm.tokenizer is not None
    assert llm.tokenizer.token_to_id("\u0105") == 5


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general.architecture": "mamba"}, "architecture 'mamba' isn't supported"),
        ({"general.architecture": ...}, "architecture None isn't supported"),
        ({"llama.block_count": ...}, "'block_count' is missing"),
        ({"llama.block_count": "3"}, "'block_count' must be a whole number"),
        ({"llama.attention.layer_norm_rms_epsilon": 0.0}, "'attention.layer_norm_rms_epsilon'"),
        ({"llama.expert_count": 8}, "'expert_count' is 8, but no layer has experts"),
        ({"llama.expert_gating_func": 3}, "'expert_gating_func': 3 isn't supported"),
        ({"llama.attention.value_length": 8}, "'attention.value_length': 8 isn't supported"),
        ({"llama.logit_scale": 0.5}, "'logit_scale' not understood"),
        ({"llama.rope.scaling.type": "spiral"}, "rope type 'spiral'"),
        ({"llama.rope.scaling.factor": 4.0}, "rope.scaling.factor 4.0 without a scaling type"),
    ],
    ids=str,
)
def test_metadata_is_read_strictly(gguf: Write, metadata: dict[str, object], message: str) -> None:
    file = gguf("llama2", metadata)
    with pytest.raises(ConfigError, match=message) as caught:
        logits(file)
    assert str(caught.value).startswith(str(file))


def test_linear_scaling(gguf: Write) -> None:
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    rope = LLM.from_pretrained(gguf("llama2", scaling), device="cpu").config.rope
    assert rope is not None
    assert (rope.type, rope.inv_freq[0]) == ("linear", 0.25)


def test_tensors_that_do_not_fit(gguf: Write) -> None:
    more = {"blk.0.attn_norm_2.weight": (F32, np.zeros(64, np.float32))}
    file = gguf("llama2", tensors=more)
    with pytest.raises(WeightsError, match=r"1 left over: blk\.0\.attn_norm_2\.weight"):
        logits(file)


def test_a_quantisation_that_is_not_supported(gguf: Write) -> None:
    file = gguf("llama2", tensors={"output.weight": (NVFP4, np.zeros((320, 64), np.float32))})
    with pytest.raises(LoadError, match=r"output\.weight.*nvfp4"):
        logits(file)
