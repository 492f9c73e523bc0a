"""A mixture of experts: which experts a token goes to, their layers, and the sum of the results.

Shazeer et al. 2017, arXiv:1701.06538; gated experts as in Jiang et al. 2024, arXiv:2401.04088.
"""

from __future__ import annotations

from typing import NamedTuple

from pygpukit.core import Tensor

from ._elementwise import activation_number
from ._launch import launch, result


def route(logits: Tensor, choices: int, *, normalize: bool = True) -> tuple[Tensor, Tensor]:
    """The likeliest experts of each token by the softmax of its scores.

    Args:
        logits: (T, E) float32.
        choices: C, how many experts a token goes to.
        normalize: Whether their probabilities are divided by their sum.

    Returns:
        Weights, (T, C) float32, largest first, and experts, (T, C) int32; of equal ones the first.
    """
    shape = (logits.shape[0], choices)
    weights, experts = result(None, shape, logits), result(None, shape, logits, "int32")
    launch("route", logits, logits, weights, experts, int(normalize))
    return weights, experts


def route_by_group(
    logits: Tensor,
    choices: int,
    *,
    groups: int,
    top_groups: int,
    correction: Tensor | None = None,
    sigmoid: bool = False,
    normalize: bool = True,
) -> tuple[Tensor, Tensor]:
    """The likeliest experts of each token among those of its best groups.

    A group counts by its best expert (DeepSeek-AI 2024, arXiv:2405.04434), with a correction by the
    sum of its two best (arXiv:2412.19437).

    Args:
        logits: (T, E) float32; groups are of E / groups neighbours.
        choices: C, how many experts a token goes to.
        groups: How many groups there are.
        top_groups: How many of them a token may go to.
        correction: (E,) float32, added to what experts and groups are chosen by.
        sigmoid: Whether scores are sigmoids of the logits, not their softmax.
        normalize: Whether the scores of the chosen are divided by their sum.

    Returns:
        Weights, (T, C) float32, and experts, (T, C) int32, the best first.
    """
    shape = (logits.shape[0], choices)
    weights, experts = result(None, shape, logits), result(None, shape, logits, "int32")
    launch(
        "route_by_group",
        logits,
        *(logits, correction, weights, experts, int(sigmoid), groups, top_groups, int(normalize)),
    )
    return weights, experts


class ClampedSwiGLU(NamedTuple):
    """A gated activation: `g · sigmoid(alpha · g) · (u + 1)` of a gate g and another number u.

    Attributes:
        alpha: See there.
        limit: The most that g is taken for, and u in either direction; above 0.
    """

    alpha: float
    limit: float


def expert_linear(
    x: Tensor,
    weight: Tensor,
    experts: Tensor,
    *,
    bias: Tensor | None = None,
    activation: str | ClampedSwiGLU | None = None,
    gated: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """`f(x · weight[expert]ᵀ + bias[expert])` of each row for each of its experts.

    `f` is the activation; gated, `f(y) = act(y[:, :N]) · y[:, N:]`. Where there is no such expert,
    the result is NaN. A row's result doesn't depend on what other rows go to the same expert.

    Args:
        x: (T, K), each row for all of its experts; or (T · C, K), a row for each.
        weight: (E, N, K); gated (E, 2N, K), the rows of the gate first.
        experts: (T, C) int32.
        bias: (E, N), gated (E, 2N), float32.
        activation: A name as `pygpukit.kernels.activation` takes it; None for identity; or a
            `ClampedSwiGLU`, where it is gated.
        gated: Whether the activation of one half of the rows scales the other.
        out: (T · C, N).

    Returns:
        (T · C, N): row `t · C + c` is that of token `t` and its expert `experts[t, c]`.

    Raises:
        ValueError: There is no activation of that name.
    """
    rows = experts.shape[0] * experts.shape[1]
    out = result(out, (rows, weight.shape[1] // (2 if gated else 1)), x)
    clamped = activation if isinstance(activation, ClampedSwiGLU) else ClampedSwiGLU(0.0, 0.0)
    number = 0 if isinstance(activation, ClampedSwiGLU) else activation_number(activation)
    launch(
        "expert_linear",
        x,
        *(x, weight, bias, experts, out, number, int(gated)),
        *(float(clamped.alpha), float(clamped.limit)),
    )
    return out


def combine_experts(
    x: Tensor,
    weights: Tensor,
    *,
    residual: Tensor | None = None,
    scale: float = 1.0,
    out: Tensor | None = None,
) -> Tensor:
    """`residual + scale · Σ weights · x` over the experts of each token, in their order.

    Args:
        x: (T · C, N), as `expert_linear` gives it.
        weights: (T, C) float32.
        residual: (T, N), added at the end.
        scale: Of the sum.
        out: (T, N), may be `residual`.

    Returns:
        (T, N).
    """
    out = result(out, (weights.shape[0], x.shape[1]), x)
    launch("combine_experts", x, x, weights, residual, out, float(scale))
    return out
