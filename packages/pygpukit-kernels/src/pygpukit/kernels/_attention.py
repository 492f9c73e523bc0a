"""Rotary positions, the paged cache of keys and values, and attention over it.

A cache is two tensors, (pages, KV, page_size, D) each. `block_tables[s, p // page_size]` is the
page of position `p` of sequence `s` (Kwon et al. 2023, arXiv:2309.06180); `sequences[t]` is the row
of `block_tables` that token `t` belongs to.
"""

from __future__ import annotations

from pygpukit.core import Tensor

from ._launch import launch, result
from ._norm import Norm, norm_arguments


def rope_angles(
    positions: Tensor, inv_freq: Tensor, *, scale: float = 1.0, out: Tensor | None = None
) -> Tensor:
    """Cosines and sines of `positions · inv_freq`, times `scale` (Su et al., arXiv:2104.09864).

    Args:
        positions: (T,) int32.
        inv_freq: (rotary_dim / 2,) float32, radians a position.
        scale: Of cosines and sines: the attention factor of YaRN, for example.
        out: (T, 2, rotary_dim / 2) float32.

    Returns:
        (T, 2, rotary_dim / 2) float32: the cosines of a token, then its sines.
    """
    out = result(out, (positions.shape[0], 2, inv_freq.shape[0]), inv_freq)
    launch("rope_angles", positions, positions, inv_freq, out, float(scale))
    return out


def append_kv(
    qkv: Tensor,
    angles: Tensor | None,
    positions: Tensor,
    sequences: Tensor,
    block_tables: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    *,
    num_heads: int,
    interleaved: bool = False,
    q_norm: Norm | None = None,
    k_norm: Norm | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Write the keys and values of T tokens into their pages; return their queries.

    Queries and keys are normalised for each head where a norm is given, then the first rotary_dim
    of their D dimensions are rotated. A token whose position has no page leaves the cache alone.

    Args:
        qkv: (T, (H + 2 KV) · D): all queries, then keys, then values.
        angles: (T, 2, rotary_dim / 2), as `rope_angles` gives them; None rotates nothing.
        positions: (T,) int32, in their sequences.
        sequences: (T,) int32, rows of `block_tables`.
        block_tables: (S, P) int32, pages.
        k_cache: (pages, KV, page_size, D).
        v_cache: (pages, KV, page_size, D).
        num_heads: H.
        interleaved: Whether dimensions 2i and 2i + 1 are a pair, not i and i + rotary_dim / 2.
        q_norm: Of each query head, (D,).
        k_norm: Of each key head, (D,).
        out: (T, H, D).

    Returns:
        The queries, (T, H, D).
    """
    out = result(out, (qkv.shape[0], num_heads, k_cache.shape[3]), qkv)
    launch(
        "append_kv",
        qkv,
        *(qkv, angles, positions, sequences, block_tables, k_cache, v_cache),
        *(*norm_arguments(q_norm), *norm_arguments(k_norm), out, num_heads, int(interleaved)),
    )
    return out


def attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    positions: Tensor,
    sequences: Tensor,
    *,
    scale: float,
    window: int = 0,
    soft_cap: float = 0.0,
    sinks: Tensor | None = None,
    alone: int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Softmax attention of each token to the positions of its sequence up to its own.

    Query heads share key/value heads in groups of H / KV (Ainslie et al. 2023, arXiv:2305.13245).

    Args:
        q: (T, H, D).
        k_cache: (pages, KV, page_size, D), the tokens' own keys included.
        v_cache: (pages, KV, page_size, D).
        block_tables: (S, P) int32, pages.
        positions: (T,) int32, in their sequences.
        sequences: (T,) int32, rows of `block_tables`.
        scale: Of the scores `q · k`.
        window: How many positions a token sees, its own included; 0 is all.
        soft_cap: Scores become `soft_cap · tanh(score / soft_cap)`; 0.0 leaves them.
        sinks: (H,) float32: for each head a score, as it is, that joins the softmax without a value
            of its own (Xiao et al. 2023, arXiv:2309.17453, as gpt-oss has learnt them).
        alone: How many tokens at the front are the only ones of their sequences, if that is known:
            a GPU has a kernel for those and one for prompts. It changes no bit.
        out: (T, H · D).

    Returns:
        (T, H · D).
    """
    tokens, heads, head_dim = q.shape
    out = result(out, (tokens, heads * head_dim), q)
    launch(
        "attention",
        q,
        *(q, k_cache, v_cache, block_tables, positions, sequences, out),
        *(float(scale), window, float(soft_cap), sinks, -1 if alone is None else alone),
    )
    return out
