"""What the operations compute, in float64, and a cache of keys and values to test with."""

from __future__ import annotations

import math

import numpy as np

erf = np.vectorize(math.erf, otypes=[np.float64])
ACTIVATIONS = {
    "identity": lambda x: x,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu_quick": lambda x: x / (1 + np.exp(-1.702 * x)),
    "relu": lambda x: np.maximum(x, 0),
    "relu_squared": lambda x: np.maximum(x, 0) ** 2,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def clamped_swiglu(gate, other, alpha=1.702, limit=7.0):
    gate, other = np.minimum(gate, limit), np.clip(other, -limit, limit)
    return gate / (1 + np.exp(-alpha * gate)) * (other + 1)


PAGE = 16


def ints(values):
    return np.array(values, np.int32)


def rotate(x, positions, inv_freq, interleaved=False):
    """The rotary embedding of x, (T, heads, D), in float64."""
    angles = positions[:, None].astype(np.float64) * inv_freq
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    half = len(inv_freq)
    y = x.astype(np.float64).copy()
    pairs = (
        (slice(0, 2 * half, 2), slice(1, 2 * half, 2))
        if interleaved
        else (slice(0, half), slice(half, 2 * half))
    )
    a, b = x[..., pairs[0]], x[..., pairs[1]]
    y[..., pairs[0]], y[..., pairs[1]] = a * cos - b * sin, b * cos + a * sin
    return y


def attend(q, k, v, positions, scale, window=0, soft_cap=0.0, sinks=None):
    """Attention of one sequence in float64: q (T,H,D); k, v (C,KV,D); sinks (H,)."""
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x.astype(np.float64), group, axis=1) for x in (k, v))
    scores = np.einsum("thd,chd->htc", q.astype(np.float64), k) * scale
    if soft_cap:
        scores = soft_cap * np.tanh(scores / soft_cap)
    past = np.arange(len(k))
    visible = past <= positions[:, None]
    if window:
        visible &= past > positions[:, None] - window
    scores = np.where(visible, scores, -np.inf)
    largest = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - largest)
    total = weights.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sinks.astype(np.float64)[:, None, None] - largest)
    return np.einsum("htc,chd->thd", weights / total, v).reshape(len(q), -1)


class Cache:
    """Pages of keys and values of `lengths` positions, scattered over more pages than needed."""

    def __init__(self, put, rng, lengths, kv_heads, head_dim, page_size=PAGE, dtype=None):
        counts = [-(-length // page_size) for length in lengths]
        order = rng.permutation(sum(counts) + 3)
        tables = np.full((len(lengths), max(counts)), -1)
        for row, count in enumerate(counts):
            tables[row, :count], order = order[:count], order[count:]
        shape = (sum(counts) + 3, kv_heads, page_size, head_dim)
        self.block_tables = put(ints(tables))
        # NaN wherever nothing was written: whoever reads it shows it.
        self.keys = put(np.full(shape, np.nan, np.float32), dtype)
        self.values = put(np.full(shape, np.nan, np.float32), dtype)

    def __iter__(self):
        return iter((self.keys, self.values))
