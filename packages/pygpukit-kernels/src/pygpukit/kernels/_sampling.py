"""From logits to the next token."""

from __future__ import annotations

from pygpukit.core import Tensor

from ._launch import launch, result


def argmax(logits: Tensor, out: Tensor | None = None) -> Tensor:
    """The index of the largest of each row, the first of equals; -1 for unsound rows.

    A row is unsound that has a NaN or +Inf, or nothing but -Inf.

    Args:
        logits: (S, V) float32.
        out: (S,) int32.

    Returns:
        (S,) int32.
    """
    out = result(out, logits.shape[:1], logits, "int32")
    launch("argmax", logits, logits, out)
    return out


def penalize(
    logits: Tensor,
    history: Tensor,
    positions: Tensor,
    prompt_lengths: Tensor,
    penalties: Tensor,
) -> None:
    """Lower, in place, the logits of tokens that a sequence has already.

    The repetition penalty (Keskar et al. 2019, arXiv:1909.05858) divides positive logits and
    multiplies negative ones, of tokens of prompt and output alike. Presence is subtracted once and
    frequency once for each occurrence, of tokens of the output only.

    Args:
        logits: (S, V) float32.
        history: (S, C) int32: the ids of each sequence from its first on.
        positions: (S,) int32: the last position of `history` that counts.
        prompt_lengths: (S,) int32: how many of them are the prompt.
        penalties: (S, 3) float32: repetition (1.0: none), presence and frequency (0.0: none).
    """
    launch("penalize", logits, logits, history, positions, prompt_lengths, penalties)


def sample(
    logits: Tensor,
    positions: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    out: Tensor | None = None,
) -> Tensor:
    """Draw an index of each row from softmax(logits / temperature), filtered.

    The draw depends on the row, its seed and its position only. The filters apply in the order
    top_k, top_p (Holtzman et al. 2019, arXiv:1904.09751), min_p (Nguyen et al., arXiv:2407.01082).

    Args:
        logits: (S, V) float32.
        positions: (S,) int32: the position that the token is drawn at.
        temperature: (S,) float32; 0 takes the largest.
        top_k: (S,) int32: how many of the largest are left; 0 leaves all.
        top_p: (S,) float32: the fewest of the largest whose probabilities reach it are left.
        min_p: (S,) float32: those at least that share of the largest probability are left.
        seeds: (S,) int64.
        out: (S,) int32.

    Returns:
        (S,) int32; -1 for a row that has a NaN or +Inf, or nothing but -Inf.
    """
    out = result(out, logits.shape[:1], logits, "int32")
    launch("sample", logits, logits, positions, temperature, top_k, top_p, min_p, seeds, out)
    return out


def top_logprobs(logits: Tensor, ids: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities of given ids and of the k likeliest.

    Args:
        logits: (S, V) float32.
        ids: (S,) int32.
        k: How many besides the given one, at most V.

    Returns:
        Values, (S, k + 1) float32, and indices, (S, k + 1) int32: the first column is that of
        `ids`, the others go from the likeliest down.
    """
    shape = (logits.shape[0], k + 1)
    values, indices = result(None, shape, logits), result(None, shape, logits, "int32")
    launch("top_logprobs", logits, logits, ids, values, indices)
    return values, indices


def advance(ids: Tensor, token_ids: Tensor, positions: Tensor, history: Tensor) -> None:
    """Move each sequence on to its new token: what the next step reads.

    `token_ids = ids; positions += 1; history[s, positions[s]] = ids[s]`, the last where there is
    such a column.

    Args:
        ids: (S,) int32.
        token_ids: (S,) int32.
        positions: (S,) int32.
        history: (S, C) int32.
    """
    launch("advance", ids, ids, token_ids, positions, history)
