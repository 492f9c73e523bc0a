"""Tensors of a checkpoint: all accounted for, whatever their layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from pygpukit.core import load_safetensors
from pygpukit.llm import LLM, WeightsError

Arrays = dict[str, npt.NDArray[np.generic]]
Arrange = Callable[..., Path]
IDS = [5, 9, 200, 31, 7]


@pytest.fixture
def arrays(reference_models: Path) -> Callable[[str], Arrays]:
    """The tensors of a reference model as float32."""

    def arrays(name: str) -> Arrays:
        tensors = load_safetensors(reference_models / name / "model.safetensors")
        return {key: view.cast("float32").numpy().copy() for key, view in tensors.items()}

    return arrays


@pytest.fixture
def arranged(
    copied_model: Arrange, write_safetensors: Callable[[Path, Mapping[str, object]], None]
) -> Arrange:
    """The folder of a reference model with other tensors and changes to its config."""

    def arranged(name: str, tensors: Arrays, **config: object) -> Path:
        folder = copied_model(name, **config)
        write_safetensors(folder / "model.safetensors", tensors)
        return folder

    return arranged


def logits(folder: Path) -> npt.NDArray[np.float32]:
    return LLM.from_pretrained(folder, device="cpu").logits(IDS)


@pytest.mark.parametrize("name", ["llama2", "gpt2", "qwen2"])
def test_float32_weights(
    arrays: Callable[[str], Arrays], arranged: Arrange, reference_models: Path, name: str
) -> None:
    found = logits(arranged(name, arrays(name)))
    expected = logits(reference_models / name)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.std())


def test_float16_weights(
    arrays: Callable[[str], Arrays], arranged: Arrange, reference_models: Path
) -> None:
    narrow = {name: array.astype(np.float16) for name, array in arrays("llama2").items()}
    expected = logits(reference_models / "llama2")
    np.testing.assert_allclose(
        logits(arranged("llama2", narrow)), expected, rtol=0, atol=1e-3 * expected.std()
    )


@pytest.mark.parametrize(("name", "prefix"), [("llama2", "model."), ("gpt2", "transformer.")])
def test_names_without_their_prefix(
    arrays: Callable[[str], Arrays],
    arranged: Arrange,
    reference_models: Path,
    name: str,
    prefix: str,
) -> None:
    bare = {key.removeprefix(prefix): array for key, array in arrays(name).items()}
    expected = logits(reference_models / name)
    found = logits(arranged(name, bare))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.std())


def test_fused_tensors(
    arrays: Callable[[str], Arrays], arranged: Arrange, reference_models: Path
) -> None:
    tensors = arrays("llama2")
    for layer in range(3):
        attention, mlp = f"model.layers.{layer}.self_attn.", f"model.layers.{layer}.mlp."
        parts = [tensors.pop(f"{attention}{part}_proj.weight") for part in "qkv"]
        tensors[f"{attention}qkv_proj.weight"] = np.concatenate(parts)
        parts = [tensors.pop(f"{mlp}{part}_proj.weight") for part in ("gate", "up")]
        tensors[f"{mlp}gate_up_proj.weight"] = np.concatenate(parts)
    expected = logits(reference_models / "llama2")
    found = logits(arranged("llama2", tensors))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.std())


@pytest.mark.parametrize("left_out", [(), ("lm_head",), ("model.embed_tokens",)], ids=str)
def test_tied_embeddings(
    arrays: Callable[[str], Arrays], arranged: Arrange, left_out: tuple[str, ...]
) -> None:
    """The file has the matrix once, under either name, or twice."""
    tensors = arrays("llama2")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    expected = logits(arranged("llama2", tensors))
    for name in left_out:
        del tensors[f"{name}.weight"]
    tied = LLM.from_pretrained(arranged("llama2", tensors, tie_word_embeddings=True), device="cpu")
    np.testing.assert_array_equal(tied.logits(IDS), expected)
    assert tied.config.tied_embeddings


def test_two_matrices_that_differ_are_not_tied(
    arrays: Callable[[str], Arrays], arranged: Arrange
) -> None:
    """Whatever the config says, as in transformers."""
    tensors = arrays("llama2")
    expected = logits(arranged("llama2", tensors))
    llm = LLM.from_pretrained(arranged("llama2", tensors, tie_word_embeddings=True), device="cpu")
    np.testing.assert_array_equal(llm.logits(IDS), expected)
    assert not llm.config.tied_embeddings


@pytest.mark.parametrize(
    ("name", "parallel", "problem"),
    [("stablelm", True, "left over"), ("stablelm-parallel", False, "missing")],
)
def test_one_norm_in_front_of_both_is_what_the_config_says(
    copied_model: Arrange, name: str, parallel: bool, problem: str
) -> None:
    folder = copied_model(f"variants/{name}", use_parallel_residual=parallel)
    with pytest.raises(WeightsError, match=rf"\d {problem}: model\.layers\.0\.post_attention_"):
        logits(folder)


def test_a_missing_output_matrix(arrays: Callable[[str], Arrays], arranged: Arrange) -> None:
    tensors = arrays("llama2")
    del tensors["lm_head.weight"]
    with pytest.raises(WeightsError, match=r"1 missing: lm_head\.weight"):
        logits(arranged("llama2", tensors))


def test_all_problems_are_listed(arrays: Callable[[str], Arrays], arranged: Arrange) -> None:
    tensors = arrays("llama2")
    del tensors["model.norm.weight"]
    tensors["model.layers.0.mlp.down_proj.weight"] = np.zeros((64, 8), np.float32)
    tensors["model.layers.3.mlp.up_proj.weight"] = np.zeros((160, 64), np.float32)
    folder = arranged("llama2", tensors)
    with pytest.raises(WeightsError) as caught:
        logits(folder)
    message = str(caught.value)
    assert str(folder / "model.safetensors") in message
    assert "don't fit a llama model" in message
    assert "1 missing: model.norm.weight" in message
    assert "1 left over: model.layers.3.mlp.up_proj.weight" in message
    assert "1 of the wrong shape: model.layers.0.mlp.down_proj.weight is (64, 8), expected" in (
        message
    )


def test_long_lists_are_cut(arrays: Callable[[str], Arrays], arranged: Arrange) -> None:
    tensors = arrays("llama2")
    kept = {name: array for name, array in tensors.items() if ".layers.0." in name}
    with pytest.raises(WeightsError, match=r"21 missing: .* and 11 more"):
        logits(arranged("llama2", kept))


def test_a_tensor_of_numbers_that_are_no_weights(
    arrays: Callable[[str], Arrays], arranged: Arrange
) -> None:
    tensors = arrays("llama2")
    tensors["model.norm.weight"] = np.ones(64, np.int32)
    with pytest.raises(ValueError, match=r"model\.norm\.weight"):
        logits(arranged("llama2", tensors))


@pytest.fixture
def sharded(
    arrays: Callable[[str], Arrays],
    copied_model: Arrange,
    write_safetensors: Callable[[Path, Mapping[str, object]], None],
) -> Path:
    """The llama2 model in two shards with an index."""
    folder = copied_model("llama2")
    (folder / "model.safetensors").unlink()
    tensors = arrays("llama2")
    names = sorted(tensors)
    shards = {"model-00001-of-00002": names[:10], "model-00002-of-00002": names[10:]}
    weight_map = {}
    for shard, held in shards.items():
        write_safetensors(folder / f"{shard}.safetensors", {name: tensors[name] for name in held})
        weight_map |= dict.fromkeys(held, f"{shard}.safetensors")
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_shards(sharded: Path, arrays: Callable[[str], Arrays], reference_models: Path) -> None:
    expected = logits(reference_models / "llama2")
    np.testing.assert_allclose(logits(sharded), expected, rtol=0, atol=1e-4 * expected.std())


def test_a_stray_file_beside_the_index(
    sharded: Path, write_safetensors: Callable[[Path, Mapping[str, object]], None]
) -> None:
    expected = logits(sharded)
    stray = {"model.norm.weight": np.zeros(64, np.float32)}
    write_safetensors(sharded / "model-00003-of-00003.safetensors", stray)
    np.testing.assert_array_equal(logits(sharded), expected)


def test_a_missing_shard(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00002\.safetensors"):
        logits(sharded)
