"""Allocates a model's weights and has them filled as they were planned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pygpukit.kernels as kernels
from pygpukit.core import Device, Tensor, TensorMap, TensorView
from pygpukit.llm.config import Latent, ModelConfig
from pygpukit.llm.layers import (
    AttentionWeights,
    BlockWeights,
    LatentAttentionWeights,
    LinearWeights,
    MLPWeights,
    MoEWeights,
    NormWeights,
)
from pygpukit.llm.tensors import floats, ints
from pygpukit.llm.weights.plan import Placement, Plan, Source

__all__ = ["ModelWeights", "load"]

_ALIGNMENT = 64
"""Elements that a weight begins at a multiple of: cache lines, and the widest vectors."""


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """All weights of a model, on a device.

    Attributes:
        embedding: (vocab_size, hidden).
        position_embedding: (context, hidden) where positions are learned.
        blocks: One for each layer.
        norm: The norm behind the last layer.
        lm_head: (vocab_size, hidden); the embedding itself where they are tied.
    """

    embedding: Tensor
    position_embedding: Tensor | None
    blocks: tuple[BlockWeights, ...]
    norm: NormWeights
    lm_head: LinearWeights


def load(
    plan: Plan,
    tensors: TensorMap,
    device: Device,
    progress: Callable[[int, int], None] | None = None,
) -> ModelWeights:
    """Allocates the weights and starts filling them.

    Copies go on after it returns; whatever reads a weight waits for it.

    Args:
        plan: Where the weights come from.
        tensors: The checkpoint.
        device: Where they go.
        progress: Called with bytes done and bytes in all; then `load` returns only at the end.
    """
    weights = _allocate(plan.placements, device)
    for placement in plan.placements:
        _fill(weights[placement.slot.name], placement, tensors)
    if progress is not None:
        done, total = 0, plan.nbytes
        for weight in weights.values():
            weight.wait()
            done += weight.nbytes
            progress(done, total)
    return _assemble(plan, weights)


def _allocate(placements: Sequence[Placement], device: Device) -> dict[str, Tensor]:
    """All weights of a dtype in one block: out of memory shows at once, and pages can be large.

    A step reads every weight once; through 4 KB pages that would be half as fast.
    """
    starts: dict[str, int] = {}
    lengths = dict.fromkeys((placement.dtype for placement in placements), 0)
    for slot, _, dtype, _ in placements:
        starts[slot.name] = lengths[dtype]
        lengths[dtype] += -(-math.prod(slot.shape) // _ALIGNMENT) * _ALIGNMENT
    blocks = {
        dtype: Tensor.empty(length, dtype, device=device) for dtype, length in lengths.items()
    }
    return {
        slot.name: blocks[dtype]
        .narrow(0, starts[slot.name], math.prod(slot.shape))
        .reshape(slot.shape)
        for slot, _, dtype, _ in placements
    }


def _fill(weight: Tensor, placement: Placement, tensors: TensorMap) -> None:
    """Starts filling the rows of a weight from their sources."""
    row = 0
    for source in placement.sources:
        view = _stored(source, placement, tensors).cast(placement.dtype)
        if source.transposed:
            view = view.transpose()
        if source.order is not None:
            view = view.permute_rows(source.order)
        weight[row : row + source.rows].copy_(view)
        row += source.rows


def _stored(source: Source, placement: Placement, tensors: TensorMap) -> TensorView:
    """What a source has for its rows, in the tensor's own type unless scales are beside it."""
    view = _rows(source, tensors[source.tensor], source.shape(placement.slot))
    if source.exponents is not None:
        return view.mxfp4(_rows(source, tensors[source.exponents], view.shape[:-1]))
    if source.scales is not None:
        scales = tensors[source.scales.tensor]
        view = view.scaled(scales, source.scales.block)
    return view


def _rows(source: Source, view: TensorView, shape: tuple[int, ...]) -> TensorView:
    """The part of a tensor that is a source's, in a shape."""
    if source.member is not None:
        view = view[source.member : source.member + 1]
    return view if tuple(view.shape) == shape else view.reshape(shape)


def _assemble(plan: Plan, weights: Mapping[str, Tensor]) -> ModelWeights:
    embedding = weights["embedding.weight"]
    return ModelWeights(
        embedding=embedding,
        position_embedding=weights.get("position_embedding.weight"),
        blocks=tuple(
            _block(_Layer(plan.config, weights, f"layers.{layer}.", plan.attention_dtype))
            for layer in range(plan.config.num_layers)
        ),
        norm=NormWeights(weights["norm.weight"], weights.get("norm.bias")),
        lm_head=LinearWeights(
            weights.get("lm_head.weight", embedding), weights.get("lm_head.bias")
        ),
    )


def _block(layer: _Layer) -> BlockWeights:
    config, attention_norm = layer.config, layer.norm("attention_norm")
    return BlockWeights(
        mlp_norm=attention_norm if config.shared_norm else layer.norm("mlp_norm"),
        mlp=layer.mlp(),
        attention_norm=attention_norm,
        attention=layer.attention() if config.latent is None else layer.latent(config.latent),
        post_attention_norm=layer.norm("post_attention_norm"),
        post_mlp_norm=layer.norm("post_mlp_norm"),
    )


@dataclass(frozen=True, slots=True)
class _Layer:
    """The weights of one layer, by their slots."""

    config: ModelConfig
    weights: Mapping[str, Tensor]
    prefix: str
    attention_dtype: str

    def linear(self, name: str) -> LinearWeights:
        return LinearWeights(self.weights[f"{self.prefix}{name}.weight"], self.get(f"{name}.bias"))

    def get(self, name: str) -> Tensor | None:
        return self.weights.get(self.prefix + name)

    def norm(self, name: str) -> NormWeights | None:
        return None if self.get(f"{name}.weight") is None else NormWeights(*self.linear(name))

    def attention(self) -> AttentionWeights:
        qkv, output = self.linear("qkv"), self.linear("output")
        norms = self._head_norm("q_norm.weight"), self._head_norm("k_norm.weight")
        if self.config.qk_norm == "rotated" and norms[0] is not None and norms[1] is not None:
            # Rotations leave the mean square as it is, so the norms may as well come first, but for
            # their weights. Those of both are on the queries: their products are what scores see.
            ones = floats([1.0] * self.config.head_dim, output.weight.device)
            rescale = _diagonal(norms[0], norms[1], self.attention_dtype)
            return AttentionWeights(qkv, output, ones, ones, rescale)
        return AttentionWeights(qkv, output, *norms, sinks=self.get("sinks"))

    def _head_norm(self, name: str) -> Tensor | None:
        gamma = self.get(name)
        if gamma is None or self.config.qk_norm != "heads":
            return gamma
        return gamma.reshape(-1, self.config.head_dim)

    def latent(self, latent: Latent) -> LatentAttentionWeights:
        up = self.linear("kv_up").weight
        keys = self.config.num_heads * latent.plain
        direct = latent.q_rank is None
        return LatentAttentionWeights(
            q=self.linear("q" if direct else "q_down"),
            kv_down=self.linear("kv_down"),
            kv_norm=self.linear("kv_norm").weight,
            k_up=LinearWeights(up[:keys]),
            v_up=LinearWeights(up[keys:]),
            output=self.linear("output"),
            q_norm=self.get("q_norm.weight"),
            q_up=None if direct else self.linear("q_up"),
        )

    def mlp(self) -> MLPWeights | MoEWeights:
        if self.get("router.weight") is None:
            return MLPWeights(up=self.linear("up"), down=self.linear("down"))
        shared = None
        if self.get("shared_up.weight") is not None:
            shared = MLPWeights(up=self.linear("shared_up"), down=self.linear("shared_down"))
        (up, up_bias), (down, down_bias) = map(self._experts, ("experts_up", "experts_down"))
        return MoEWeights(
            router=self.linear("router"),
            up=up,
            down=down,
            shared=shared,
            shared_gate=self.get("shared_gate.weight"),
            correction=self.get("correction"),
            up_bias=up_bias,
            down_bias=down_bias,
        )

    def _experts(self, name: str) -> tuple[Tensor, Tensor | None]:
        """The weights of all experts, and their biases, if there are any."""
        weight, bias = self.linear(name)
        count = self.config.experts.count if self.config.experts else 1
        weight = weight.reshape(count, weight.shape[0] // count, weight.shape[1])
        return weight, None if bias is None else bias.reshape(count, -1)


def _diagonal(a: Tensor, b: Tensor, dtype: str) -> Tensor:
    """The matrix with the products of two vectors' elements on its diagonal."""
    products = [x * y for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    width = len(products)
    elements = [0.0] * (width * width)
    elements[:: width + 1] = products
    matrix = floats(elements, a.device).reshape(width, width)
    if dtype == "float32":
        return matrix
    return kernels.embedding(ints(range(width), a.device), matrix, dtype=dtype)
