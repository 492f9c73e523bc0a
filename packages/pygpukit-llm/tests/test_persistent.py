"""Decoding of one sequence, whose steps Hopper GPUs run in one launch: the bits of steps alone.

Reference models are too narrow for that: these have random weights and heads of real sizes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from pygpukit.core import Device
from pygpukit.llm.checkpoint import open_checkpoint
from pygpukit.llm.decoder import Decoder
from pygpukit.llm.engine import Engine
from pygpukit.llm.generation import TokenLogprobs
from pygpukit.llm.request import Request
from pygpukit.llm.sampling import SamplingParams
from pygpukit.llm.weights import load, plan

pytestmark = pytest.mark.gpu

VOCABULARY = 300
LAYERS = 3
# So wide a layer leaves no place of their own to keys and values of 128.
WIDE = 14400
BASE = {
    "vocab_size": VOCABULARY,
    "num_hidden_layers": LAYERS,
    "hidden_size": 320,
    "intermediate_size": 1056,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
CONFIGS = {
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    "llama, heads of 128": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "head_dim": 128,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
    },
    "llama, all heads alike, tied": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "llama, 20 heads to a key": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "num_attention_heads": 20,
        "num_key_value_heads": 1,
    },
    "llama, 12 heads of 128 to a key": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "head_dim": 128,
        "num_attention_heads": 12,
        "num_key_value_heads": 1,
    },
    "llama, wide inside": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "intermediate_size": 8712,
    },
    "llama, so wide inside that keys and x take turns": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "head_dim": 128,
        "num_attention_heads": 16,
        "intermediate_size": WIDE,
    },
    "llama, of 2,048 values": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 1160,
    },
    "llama, of 3,072 values": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 3000,
        "head_dim": 128,
    },
    "llama, of 4,096 values": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 3080,
        "head_dim": 128,
    },
    "llama, wide": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4160,
    },
    "qwen3, half of each head rotated": {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "head_dim": 128,
        "num_attention_heads": 4,
        "partial_rotary_factor": 0.5,
    },
    "starcoder2, with norms of layers": {
        "model_type": "starcoder2",
        "architectures": ["Starcoder2ForCausalLM"],
        "norm_epsilon": 1e-5,
        "hidden_act": "gelu_pytorch_tanh",
    },
    "float16": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "torch_dtype": "float16",
    },
    "qwen2, with biases": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
    "qwen3, with norms of heads": {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "head_dim": 128,
        "num_attention_heads": 4,
    },
    "mistral, with a window": {
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "sliding_window": 300,
    },
    "mistral, all heads alike, with a long window": {
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "num_key_value_heads": 8,
        "sliding_window": 1100,
    },
}
# The likeliest ids and their rivals; sampled ones.
PARAMS = [SamplingParams(logprobs=5), SamplingParams(temperature=1.0, top_k=20, seed=3)]
# Up to a chunk's, a span's and two spans' end, and past them; more chunks than blocks for them.
PROMPTS = [3, 60, 250, 515, 1010, 1400]
# Of heads, of what is inside, of the vocabulary: in the last all blocks take part in the last step.
SHAPES = [(64, 1056, 300), (128, 1056, 300), (128, WIDE, 1100)]


def bits(array: np.ndarray, dtype: object) -> np.ndarray:
    """As it lies in a file; bfloat16 by cutting off, which is as random."""
    if dtype == "float16":
        return array.astype(np.float16)
    return (array.view(np.uint32) >> 16).astype(np.uint16)


def weights(config: dict[str, object]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    vocabulary = int(config["vocab_size"])
    dim, heads = int(config["head_dim"]), int(config["num_attention_heads"])
    kv_heads = int(config["num_key_value_heads"])

    def random(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    def near_one(size: int) -> np.ndarray:
        return (1 + 0.2 * rng.standard_normal(size)).astype(np.float32)

    tensors = {"model.embed_tokens.weight": 8 * random(vocabulary, hidden)}
    for layer in range(LAYERS):
        own = {
            "self_attn.q_proj.weight": random(heads * dim, hidden),
            "self_attn.k_proj.weight": random(kv_heads * dim, hidden),
            "self_attn.v_proj.weight": random(kv_heads * dim, hidden),
            "self_attn.o_proj.weight": random(hidden, heads * dim),
            "input_layernorm.weight": near_one(hidden),
            "post_attention_layernorm.weight": near_one(hidden),
        }
        if config["model_type"] == "starcoder2":
            own |= {"mlp.c_fc.weight": random(inner, hidden)}
            own |= {"mlp.c_proj.weight": random(hidden, inner)}
            biases = {f"{name.removesuffix('.weight')}.bias": len(own[name]) for name in own}
            own |= {name: 0.2 * random(size) for name, size in biases.items()}
        else:
            own |= {f"mlp.{part}_proj.weight": random(inner, hidden) for part in ("gate", "up")}
            own |= {"mlp.down_proj.weight": random(hidden, inner)}
        if config["model_type"] == "qwen2":
            for part, count in ("q", heads), ("k", kv_heads), ("v", kv_heads):
                own[f"self_attn.{part}_proj.bias"] = random(count * dim)
        if config["model_type"] == "qwen3":
            own |= {f"self_attn.{part}_norm.weight": near_one(dim) for part in "qk"}
        tensors |= {f"model.layers.{layer}.{name}": array for name, array in own.items()}
    tensors["model.norm.weight"] = near_one(hidden)
    if config["model_type"] == "starcoder2":
        tensors["model.norm.bias"] = 0.2 * random(hidden)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = random(vocabulary, hidden)
    return tensors


def decoded(
    engine: Engine, length: int, new: int, params: SamplingParams
) -> tuple[list[int], list[TokenLogprobs | None]]:
    logprobs: list[TokenLogprobs | None] = []

    def accept(_: int, entry: TokenLogprobs | None) -> bool:
        logprobs.append(entry)
        return False

    ids = [5 + 31 * position % (VOCABULARY - 10) for position in range(length)]
    request = Request(ids, length + new, params, accept)
    list(engine.run([request]))
    return request.ids, logprobs


@pytest.fixture
def compared(
    gpu: Device,
    tmp_path: Path,
    write_safetensors: Callable[[Path, Mapping[str, np.ndarray]], None],
) -> Callable[[Mapping[str, object], list[int], int], None]:
    """Decodes behind prompts of some lengths, with launches of their own and in one."""

    def compare(config: Mapping[str, object], prompts: list[int], new: int) -> None:
        (tmp_path / "config.json").write_text(json.dumps(config))
        arrays = {key: bits(array, config["torch_dtype"]) for key, array in weights(config).items()}
        write_safetensors(tmp_path / "model.safetensors", arrays)
        checkpoint = open_checkpoint(tmp_path)
        planned = plan(checkpoint.config, checkpoint.tensors, checkpoint.names).on(gpu)
        loaded = load(planned, checkpoint.tensors, gpu)
        decoder = Decoder(checkpoint.config, loaded, gpu, planned.dtype, planned.attention_dtype)
        alone, together = Engine(decoder, gpu, capture=False), Engine(decoder, gpu)
        for length in prompts:
            for params in PARAMS:
                expected = decoded(alone, length, new, params)
                assert decoded(together, length, new, params) == expected
                assert decoded(together, length, new, params) == expected
        if gpu.info().compute_capability == (9, 0):
            assert any(name.endswith("_persistent") for name in gpu.controller.images())

    return compare


@pytest.mark.parametrize(
    ("prompts", "new"), [([3, 60], 2), pytest.param(PROMPTS, 24, marks=pytest.mark.large)]
)
@pytest.mark.parametrize("name", CONFIGS)
def test_steps_in_one_launch_give_the_bits_of_steps_alone(
    compared: Callable[[Mapping[str, object], list[int], int], None],
    name: str,
    prompts: list[int],
    new: int,
) -> None:
    compared(BASE | CONFIGS[name], prompts, new)


@pytest.mark.large
@pytest.mark.parametrize(("dim", "inner", "vocabulary"), SHAPES)
def test_so_do_steps_behind_more_spans_than_blocks_share_at_a_time(
    compared: Callable[[Mapping[str, object], list[int], int], None],
    dim: int,
    inner: int,
    vocabulary: int,
) -> None:
    shape = {"head_dim": dim, "num_key_value_heads": 8}
    sizes = {"intermediate_size": inner, "vocab_size": vocabulary, "max_position_embeddings": 32768}
    compared(BASE | CONFIGS["llama"] | shape | sizes, [4090, 8190, 16500], 4)


@pytest.mark.parametrize(("dim", "inner", "vocabulary"), SHAPES)
def test_so_do_steps_whose_blocks_take_chunk_after_chunk(
    compared: Callable[[Mapping[str, object], list[int], int], None],
    dim: int,
    inner: int,
    vocabulary: int,
) -> None:
    shape = {"head_dim": dim, "num_attention_heads": 64, "num_key_value_heads": 64}
    sizes = {"intermediate_size": inner, "vocab_size": vocabulary}
    compared(BASE | CONFIGS["llama"] | shape | sizes, [150], 2)
