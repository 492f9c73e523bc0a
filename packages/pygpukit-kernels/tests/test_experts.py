import numpy as np
import pytest
from pygpukit import kernels
from pygpukit.core import LaunchError
from reference import clamped_swiglu

EXPERTS, CHOICES = 6, 3


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("tokens", [1, 40])
def test_the_likeliest_experts_are_chosen(put, normal, tokens, normalize):
    logits = normal(tokens, EXPERTS)
    weights, experts = kernels.route(put(logits), CHOICES, normalize=normalize)
    probabilities = softmax(logits.astype(np.float64))
    order = np.argsort(-probabilities, axis=-1, kind="stable")[:, :CHOICES]
    chosen = np.take_along_axis(probabilities, order, -1)
    if normalize:
        chosen /= chosen.sum(-1, keepdims=True)
    np.testing.assert_array_equal(experts.numpy(), order)
    np.testing.assert_allclose(weights.numpy(), chosen, rtol=1e-5)


def test_of_equal_experts_the_first_is_chosen(put):
    logits = np.array([[1, 2, 2, 2, 0, 2]], np.float32)
    _, experts = kernels.route(put(logits), CHOICES)
    assert experts.tolist() == [[1, 2, 3]]


def test_more_choices_than_experts(put, normal):
    with pytest.raises(LaunchError, match=r"route.*at most the 6 experts"):
        kernels.route(put(normal(2, EXPERTS)), EXPERTS + 1)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_each_row_goes_through_its_expert(put, normal, rng, dtype, gated, shared):
    tokens, inputs, outputs = 23, 70, 37
    rows = outputs * (2 if gated else 1)
    x = normal(tokens if shared else tokens * CHOICES, inputs)
    weight = normal(EXPERTS, rows, inputs, dtype=dtype)
    experts = rng.integers(0, EXPERTS, (tokens, CHOICES)).astype(np.int32)
    y = kernels.expert_linear(
        put(x), put(weight, dtype), put(experts), activation="relu", gated=gated
    ).numpy()
    wide = (x.repeat(CHOICES, 0) if shared else x).astype(np.float64)
    sums = np.einsum("rk,rnk->rn", wide, weight[experts.reshape(-1)].astype(np.float64))
    expected = np.maximum(sums[:, :outputs], 0)
    if gated:
        expected = expected * sums[:, outputs:]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("clamped", [False, True])
def test_experts_have_biases(put, normal, rng, dtype, clamped):
    tokens, inputs, outputs = 12, 40, 19
    x, weight = 3 * normal(tokens, inputs), normal(EXPERTS, 2 * outputs, inputs, dtype=dtype)
    bias = normal(EXPERTS, 2 * outputs)
    experts = rng.integers(0, EXPERTS, (tokens, CHOICES)).astype(np.int32)
    y = kernels.expert_linear(
        *(put(x), put(weight, dtype), put(experts)),
        bias=put(bias),
        activation=kernels.ClampedSwiGLU(1.5, 4.0) if clamped else "silu",
        gated=True,
    ).numpy()
    chosen = experts.reshape(-1)
    wide = x.repeat(CHOICES, 0).astype(np.float64)
    sums = np.einsum("rk,rnk->rn", wide, weight[chosen].astype(np.float64)) + bias[chosen]
    gate, other = sums[:, :outputs], sums[:, outputs:]
    if clamped:
        assert (gate > 4).any()
        assert (np.abs(other) > 4).any()
        expected = clamped_swiglu(gate, other, 1.5, 4.0)
    else:
        expected = gate / (1 + np.exp(-gate)) * other
    # A CPU with AMX takes x to 16 bits.
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_biases_and_limits_must_fit(put, normal):
    x, weight = put(normal(2, 8)), put(normal(EXPERTS, 4, 8))
    experts = put(np.zeros((2, CHOICES), np.int32))
    with pytest.raises(LaunchError, match=r"expert_linear, argument bias"):
        kernels.expert_linear(x, weight, experts, bias=put(normal(EXPERTS, 5)))
    with pytest.raises(LaunchError, match=r"expert_linear, argument limit.*where nothing is gated"):
        kernels.expert_linear(x, weight, experts, activation=kernels.ClampedSwiGLU(1.0, 7.0))
    clamped = kernels.ClampedSwiGLU(1.0, -7.0)
    with pytest.raises(LaunchError, match=r"expert_linear, argument limit"):
        kernels.expert_linear(x, weight, experts, activation=clamped, gated=True)


def test_a_row_does_not_depend_on_the_others(put, normal, rng):
    x, weight = normal(30, 64), normal(EXPERTS, 48, 64, dtype="bfloat16")
    experts = rng.integers(0, EXPERTS, (30, CHOICES)).astype(np.int32)
    together = kernels.expert_linear(put(x), put(weight, "bfloat16"), put(experts)).numpy()
    for token in (0, 7, 29):
        rows = slice(token, token + 1)
        alone = kernels.expert_linear(put(x[rows]), put(weight, "bfloat16"), put(experts[rows]))
        expected = together[token * CHOICES : (token + 1) * CHOICES]
        np.testing.assert_array_equal(alone.numpy(), expected)


def test_an_expert_that_is_not_there_gives_nan(put, normal):
    experts = np.array([[0, EXPERTS], [-1, 1]], np.int32)
    y = kernels.expert_linear(put(normal(2, 8)), put(normal(EXPERTS, 4, 8)), put(experts)).numpy()
    assert np.isnan(y).all(1).tolist() == [False, True, True, False]


@pytest.mark.parametrize("with_residual", [False, True])
def test_results_are_summed_by_weight(put, normal, with_residual):
    x, weights, residual = normal(5 * CHOICES, 33), normal(5, CHOICES), normal(5, 33)
    y = kernels.combine_experts(
        put(x), put(weights), residual=put(residual) if with_residual else None, scale=0.5
    ).numpy()
    expected = 0.5 * np.einsum("tc,tcn->tn", weights, x.reshape(5, CHOICES, 33))
    expected = expected + residual if with_residual else expected
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_shapes_that_do_not_fit(put, normal):
    experts = put(np.zeros((2, CHOICES), np.int32))
    with pytest.raises(LaunchError, match=r"expert_linear.*x.*expected 2 or 6 rows, found 5"):
        kernels.expert_linear(put(normal(5, 8)), put(normal(EXPERTS, 4, 8)), experts)
    with pytest.raises(LaunchError, match=r"expert_linear.*weight"):
        kernels.expert_linear(put(normal(2, 9)), put(normal(EXPERTS, 4, 8)), experts)
    with pytest.raises(LaunchError, match=r"expert_linear.*gate rows"):
        kernels.expert_linear(put(normal(2, 8)), put(normal(EXPERTS, 3, 8)), experts, gated=True)
    with pytest.raises(LaunchError, match=r"combine_experts"):
        kernels.combine_experts(put(normal(5, 8)), put(normal(2, CHOICES)))


def reference_by_group(logits, groups, top_groups, correction, sigmoid, normalize):
    logits = logits.astype(np.float64)
    scores = 1 / (1 + np.exp(-logits)) if sigmoid else softmax(logits)
    ranks = scores if correction is None else scores + correction
    by_group = np.sort(ranks.reshape(len(logits), groups, -1), -1)[..., ::-1]
    group_ranks = by_group[..., 0] if correction is None else by_group[..., :2].sum(-1)
    kept = np.argsort(-group_ranks, -1, kind="stable")[:, :top_groups]
    mask = np.zeros_like(group_ranks, bool)
    np.put_along_axis(mask, kept, True, -1)
    ranks = np.where(mask.repeat(logits.shape[1] // groups, -1), ranks, -np.inf)
    order = np.argsort(-ranks, -1, kind="stable")[:, :CHOICES]
    weights = np.take_along_axis(scores, order, -1)
    return weights / weights.sum(-1, keepdims=True) if normalize else weights, order


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("groups", "top_groups"), [(1, 1), (4, 2), (3, 3)])
def test_experts_of_the_best_groups(put, normal, corrected, sigmoid, normalize, groups, top_groups):
    logits, correction = normal(21, 12), normal(12) / 4 if corrected else None
    weights, experts = kernels.route_by_group(
        put(logits),
        CHOICES,
        groups=groups,
        top_groups=top_groups,
        correction=put(correction) if corrected else None,
        sigmoid=sigmoid,
        normalize=normalize,
    )
    expected = reference_by_group(logits, groups, top_groups, correction, sigmoid, normalize)
    np.testing.assert_array_equal(experts.numpy(), expected[1])
    np.testing.assert_allclose(weights.numpy(), expected[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("groups", "top_groups", "message"),
    [(4, 1, "a divisor of 6 experts"), (3, 1, "at least 3 experts"), (3, 4, "1 to 3 groups")],
)
def test_groups_that_do_not_fit(put, normal, groups, top_groups, message):
    with pytest.raises(LaunchError, match=rf"route_by_group.*{message}"):
        kernels.route_by_group(
            put(normal(2, EXPERTS)), CHOICES, groups=groups, top_groups=top_groups
        )
