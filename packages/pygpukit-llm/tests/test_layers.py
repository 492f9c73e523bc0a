"""Layers on their own, against NumPy in float64."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from pygpukit.core import Device, Tensor
from pygpukit.llm.layers import (
    MLP,
    Attention,
    AttentionWeights,
    BlockWeights,
    Embedding,
    LayerCache,
    LayerNorm,
    Linear,
    LinearWeights,
    MLPWeights,
    MoE,
    MoEWeights,
    NormWeights,
    RMSNorm,
    Step,
    TransformerBlock,
)

Array = npt.NDArray[np.float64]
HIDDEN, INNER, TOKENS = 48, 80, 5


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32).astype(np.float64)


def put(array: npt.ArrayLike, dtype: str = "float32") -> Tensor:
    return Tensor.from_numpy(np.asarray(array, dtype), device=Device("cpu"))


def close(found: Tensor, expected: Array) -> None:
    assert found.dtype == "float32"
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-5 * expected.std())


def layer_norm(x: Array, gamma: Array, beta: Array, eps: float = 1e-5) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * gamma + beta


def rms_norm(x: Array, gamma: Array, eps: float = 1e-6) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * gamma


def gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def test_linear(rng: np.random.Generator) -> None:
    x, weight, bias = normal(rng, TOKENS, HIDDEN), normal(rng, 7, HIDDEN), normal(rng, 7)
    expected = x @ weight.T + bias
    close(Linear().forward(put(x), put(weight), put(bias)), expected)
    close(Linear(put(weight), put(bias)).forward(put(x)), expected)
    close(Linear(activation="silu").forward(put(x), put(weight), put(bias)), silu(expected))


def test_norms(rng: np.random.Generator) -> None:
    x, gamma, beta = normal(rng, TOKENS, HIDDEN), normal(rng, HIDDEN), normal(rng, HIDDEN)
    close(LayerNorm().forward(put(x), put(gamma), put(beta)), layer_norm(x, gamma, beta))
    close(LayerNorm(gamma=put(gamma), beta=put(beta)).forward(put(x)), layer_norm(x, gamma, beta))
    close(RMSNorm().forward(put(x), put(gamma)), rms_norm(x, gamma))
    close(RMSNorm(0.5, gamma=put(gamma)).forward(put(x)), rms_norm(x, gamma, 0.5))


def test_embedding(rng: np.random.Generator) -> None:
    table, positions = normal(rng, 20, HIDDEN), normal(rng, 8, HIDDEN)
    ids, at = [3, 19, 0], [1, 7, 2]
    close(Embedding(put(table)).forward(put(ids, "int32")), table[ids])
    found = Embedding().forward(
        put(ids, "int32"), put(table), positions=put(at, "int32"), position_weight=put(positions)
    )
    close(found, table[ids] + positions[at])


def test_a_block_without_attention(rng: np.random.Generator) -> None:
    x = normal(rng, TOKENS, HIDDEN)
    gamma, beta = normal(rng, HIDDEN), normal(rng, HIDDEN)
    up, up_bias = normal(rng, INNER, HIDDEN), normal(rng, INNER)
    down, down_bias = normal(rng, HIDDEN, INNER), normal(rng, HIDDEN)
    weights = BlockWeights(
        NormWeights(put(gamma), put(beta)),
        MLPWeights(LinearWeights(put(up), put(up_bias)), LinearWeights(put(down), put(down_bias))),
    )
    inner = gelu(layer_norm(x, gamma, beta) @ up.T + up_bias)
    expected = x + inner @ down.T + down_bias
    close(TransformerBlock(LayerNorm(), MLP("gelu")).forward(put(x), weights), expected)
    bound = TransformerBlock(LayerNorm(), MLP("gelu"), weights=weights)
    close(bound.forward(put(x)), expected)


def test_a_gated_mlp(rng: np.random.Generator) -> None:
    x = normal(rng, TOKENS, HIDDEN)
    gate, up, down = (normal(rng, *s) for s in [(INNER, HIDDEN), (INNER, HIDDEN), (HIDDEN, INNER)])
    weights = MLPWeights(LinearWeights(put(np.concatenate([gate, up]))), LinearWeights(put(down)))
    expected = (silu(x @ gate.T) * (x @ up.T)) @ down.T
    close(MLP("silu", gated=True).forward(put(x), weights), expected)
    close(MLP("silu", gated=True, weights=weights).forward(put(x)), expected)


def test_a_mixture_of_experts(rng: np.random.Generator) -> None:
    experts, chosen = 5, 2
    x, gamma = normal(rng, TOKENS, HIDDEN), normal(rng, HIDDEN)
    router = normal(rng, experts, HIDDEN)
    up, down = normal(rng, experts, 2 * INNER, HIDDEN), normal(rng, experts, HIDDEN, INNER)
    shared_up, shared_down = normal(rng, 2 * INNER, HIDDEN), normal(rng, HIDDEN, INNER)
    h = rms_norm(x, gamma)
    shares = np.exp(h @ router.T)
    shares /= shares.sum(-1, keepdims=True)
    mixed = np.zeros_like(x)
    for token in range(TOKENS):
        best = np.argsort(-shares[token])[:chosen]
        for expert in best:
            gate, other = np.split(up[expert] @ h[token], 2)
            inner = np.maximum(gate, 0) * other
            mixed[token] += shares[token, expert] / shares[token, best].sum() * down[expert] @ inner
    gate, other = np.split(h @ shared_up.T, 2, axis=1)
    shared = np.maximum(gate, 0) * other @ shared_down.T
    weights = MoEWeights(
        LinearWeights(put(router)),
        put(up),
        put(down),
        MLPWeights(LinearWeights(put(shared_up)), LinearWeights(put(shared_down))),
    )
    layer = MoE("relu", chosen=chosen, scale=2.0, weights=weights)
    norm = RMSNorm().fused(NormWeights(put(gamma)))
    found = layer.forward(put(x), norm=norm, residual=put(x), scale=0.5)
    close(found, x + 0.5 * (2 * mixed + shared))


def test_norms_behind_and_side_by_side(rng: np.random.Generator) -> None:
    x, gamma = normal(rng, TOKENS, HIDDEN), normal(rng, HIDDEN)
    up, down = normal(rng, INNER, HIDDEN), normal(rng, HIDDEN, INNER)
    inner = np.maximum(x @ up.T, 0) @ down.T
    mlp = MLPWeights(LinearWeights(put(up)), LinearWeights(put(down)))
    block = TransformerBlock(RMSNorm(offset=1.0), MLP("relu"), residual_scale=0.5)
    weights = BlockWeights(None, mlp, post_mlp_norm=NormWeights(put(gamma)))
    close(block.forward(put(x), weights), x + 0.5 * rms_norm(inner, gamma + 1))


def test_a_whole_block(rng: np.random.Generator) -> None:
    heads, kv_heads, width, window = 4, 2, 12, 3
    x = normal(rng, TOKENS, HIDDEN)
    attention_gamma, mlp_gamma = normal(rng, HIDDEN), normal(rng, HIDDEN)
    qkv, output = normal(rng, (heads + 2 * kv_heads) * width, HIDDEN), normal(rng, HIDDEN, HIDDEN)
    up, down = normal(rng, INNER, HIDDEN), normal(rng, HIDDEN, INNER)

    projected = (rms_norm(x, attention_gamma) @ qkv.T).reshape(TOKENS, -1, width)
    queries, keys, values = np.split(projected, [heads, heads + kv_heads], axis=1)
    keys, values = (np.repeat(part, heads // kv_heads, axis=1) for part in (keys, values))
    scores = np.einsum("qhd,khd->hqk", queries, keys) * 0.3
    distance = np.arange(TOKENS)[:, None] - np.arange(TOKENS)
    scores = np.where((distance >= 0) & (distance < window), scores, -np.inf)
    probabilities = np.exp(scores - scores.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    mixed = np.einsum("hqk,khd->qhd", probabilities, values).reshape(TOKENS, -1)
    attended = x + mixed @ output.T
    inner = np.maximum(rms_norm(attended, mlp_gamma) @ up.T, 0)
    expected = attended + inner @ down.T

    block = TransformerBlock(RMSNorm(), MLP("relu"), Attention(heads, scale=0.3, window=window))
    weights = BlockWeights(
        NormWeights(put(mlp_gamma)),
        MLPWeights(LinearWeights(put(up)), LinearWeights(put(down))),
        NormWeights(put(attention_gamma)),
        AttentionWeights(LinearWeights(put(qkv)), LinearWeights(put(output))),
    )
    pages = np.zeros((3, kv_heads, 4, width))
    step = Step(
        positions=put(range(TOKENS), "int32"),
        sequences=put([0] * TOKENS, "int32"),
        block_tables=put([[2, 0]], "int32"),
    )
    close(block.forward(put(x), weights, step, LayerCache(put(pages), put(pages))), expected)


def test_what_is_absent_is_named(rng: np.random.Generator) -> None:
    x = put(normal(rng, TOKENS, HIDDEN))
    for layer, forward in {
        "Linear": Linear().forward,
        "LayerNorm": LayerNorm().forward,
        "RMSNorm": RMSNorm().forward,
        "Embedding": Embedding().forward,
        "MLP": MLP("silu").forward,
        "MoE": MoE("silu", chosen=1).forward,
        "TransformerBlock": TransformerBlock(RMSNorm(), MLP("silu")).forward,
    }.items():
        with pytest.raises(TypeError, match=f"{layer} has no bound"):
            forward(x)
    gamma, matrix = put(np.ones(HIDDEN)), put(np.zeros((HIDDEN, HIDDEN)))
    mlp = MLPWeights(LinearWeights(matrix), LinearWeights(matrix))
    block = TransformerBlock(RMSNorm(), MLP("silu"), Attention(4, scale=1.0))
    with pytest.raises(TypeError, match="needs attention weights"):
        block.forward(x, BlockWeights(NormWeights(gamma), mlp))
    attention = AttentionWeights(LinearWeights(matrix), LinearWeights(matrix))
    weights = BlockWeights(NormWeights(gamma), mlp, NormWeights(gamma), attention)
    with pytest.raises(TypeError, match="needs a step and a cache"):
        block.forward(x, weights)
