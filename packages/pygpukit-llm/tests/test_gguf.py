"""GGUF files: the reference models written as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import F32, NVFP4, Array, converted, write_gguf
from pygpukit.core import LoadError, load_safetensors
from pygpukit.llm import LLM, ConfigError, WeightsError
from pygpukit.llm.config import read_json

Write = Callable[..., Path]
IDS = [5, 9, 20, 31, 7, 5, 12]


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
    "variants/deepseek-v2",
    "variants/deepseek-v3",
    "variants/ernie4-5",
    "variants/ernie4-5-moe",
    "variants/exaone4",
    "variants/exaone4-full",
    "variants/gemma",
    "variants/gemma2-capped",
    "variants/glm",
    "variants/glm4",
    "variants/glm4-moe",
    "variants/glm4-moe-lite",
    "variants/glm4-moe-plain",
    "variants/gpt-neox",
    "variants/gpt-oss",
    "variants/granite",
    "variants/granite-biases",
    "variants/granite-moe",
    "variants/granite-moe-shared",
    "variants/hunyuan-biases",
    "variants/ministral3",
    "variants/olmo3",
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
    "variants/youtu",
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


def fused(tensors: Mapping[str, tuple[int, Array]], parts: str, whole: str) -> dict[str, Any]:
    """The tensors, of each layer those of `parts` in one; the old ones as `...`."""
    first = parts.split()[0]
    changed: dict[str, Any] = {}
    for name in [name for name in tensors if name.endswith(f".{first}.weight")]:
        names = [name.replace(first, part) for part in parts.split()]
        arrays = [tensors[part][1] for part in names]
        rows = np.concatenate(arrays, axis=-2 if arrays[0].ndim == 3 else 0)
        changed |= dict.fromkeys(names, ...)
        changed[name.replace(first, whole)] = (tensors[name][0], rows)
    return changed


@pytest.mark.parametrize(
    ("name", "parts", "whole"),
    [
        ("llama2", "attn_q attn_k attn_v", "attn_qkv"),
        ("llama2", "ffn_gate ffn_up", "ffn_up"),
        ("qwen3-moe", "ffn_gate_exps ffn_up_exps", "ffn_gate_up_exps"),
    ],
)
def test_parts_in_one_tensor(
    gguf: Write, reference_models: Path, name: str, parts: str, whole: str
) -> None:
    """As the converter writes them where it is asked to."""
    _, tensors = converted(reference_models / name)
    expected = logits(reference_models / name)
    found = logits(gguf(name, tensors=fused(tensors, parts, whole)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.std())


def test_keys_and_values_of_heads_in_one_tensor(gguf: Write, reference_models: Path) -> None:
    """As DeepSeek's files were before attention went from the narrow vector."""
    folder = reference_models / "variants/deepseek-v2"
    whole: dict[str, Any] = {}
    for layer in range(3):
        rows = load_safetensors(folder / "model.safetensors")[
            f"model.layers.{layer}.self_attn.kv_b_proj.weight"
        ]
        whole[f"blk.{layer}.attn_kv_b.weight"] = (F32, np.array(rows.cast("float32").numpy()))
        whole |= dict.fromkeys((f"blk.{layer}.attn_{part}_b.weight" for part in "kv"), ...)
    lengths = {"attention.key_length": 24, "attention.value_length": 16}
    lengths |= {"attention.head_count_kv": 4}
    absent = dict.fromkeys(("attention.key_length_mla", "attention.value_length_mla"), ...)
    keys = {f"deepseek2.{key}": value for key, value in {**lengths, **absent}.items()}
    expected = logits(folder)
    found = logits(gguf("variants/deepseek-v2", keys, whole))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.std())


def test_a_layer_that_predicts_the_token_after_the_next(
    gguf: Write, reference_models: Path
) -> None:
    """It is one of the file's blocks, behind those of the model."""
    folder = reference_models / "variants/glm4-moe"
    metadata = {"glm4moe.block_count": 4, "glm4moe.nextn_predict_layers": 1}
    more = {"blk.3.nextn.eh_proj.weight": (F32, np.zeros((32, 64), np.float32))}
    expected = logits(folder)
    found = logits(gguf("variants/glm4-moe", metadata, more))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.std())


def test_the_magnitude_of_yarn_in_deepseek(
    gguf: Write, copied_model: Write, reference_models: Path
) -> None:
    """The file has one multiplier, which stands for both."""
    name = "variants/deepseek-v2-groups"
    parameters = read_json(reference_models / name / "config.json")["rope_parameters"]
    folder = copied_model(name, rope_parameters={**parameters, "mscale": 0.7})
    expected = logits(folder)
    found = logits(gguf(str(folder)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.std())


def test_minicpm(gguf: Write, copied_model: Write) -> None:
    """Its multipliers are the architecture's."""
    folder = copied_model("variants/minicpm3", scale_emb=12, scale_depth=1.4, dim_model_base=256)
    expected = logits(folder)
    found = logits(gguf("variants/minicpm3"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.std())


def test_experts_of_one_that_sees_images(reference_models: Path, tmp_path: Path) -> None:
    values, arrays = converted(reference_models / "qwen3-moe")
    values = {key.replace("qwen3moe.", "qwen3vlmoe."): value for key, value in values.items()}
    values |= {"general.architecture": "qwen3vlmoe", "qwen3vlmoe.n_deepstack_layers": 3}
    write_gguf(tmp_path / "model.gguf", values, arrays)
    expected = logits(reference_models / "qwen3-moe")
    found = logits(tmp_path / "model.gguf")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.std())


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


def test_heads_for_each_layer(gguf: Write, reference_models: Path) -> None:
    """The same for all, they are those of the model."""
    expected = logits(reference_models / "llama2")
    same = gguf("llama2", {"llama.attention.head_count_kv": [2, 2, 2]})
    np.testing.assert_array_equal(logits(same), expected)
    with pytest.raises(ConfigError, match=r"'attention\.head_count_kv' must be a whole"):
        logits(gguf("llama2", {"llama.attention.head_count_kv": [2, 4, 2]}))


def test_granite_4(gguf: Write, reference_models: Path) -> None:
    """Its files have keys about state spaces, and say whether there are positions."""
    about_state_spaces = {"granite.ssm.conv_kernel": 4, "granite.ssm.time_step_rank": 4}
    expected = logits(reference_models / "variants/granite")
    found = logits(gguf("variants/granite", about_state_spaces))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.std())
    turned = LLM.from_pretrained(gguf("variants/granite"), device="cpu").config
    still = {"granite.rope.scaling.finetuned": False}
    assert turned.rope is not None
    assert LLM.from_pretrained(gguf("variants/granite", still), device="cpu").config.rope is None


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
