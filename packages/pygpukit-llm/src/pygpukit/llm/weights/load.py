"""Allocates a model's weights and has them filled as they were planned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pygpukit.core import Device, Tensor, TensorMap, TensorView
from pygpukit.llm.config import ModelConfig
from pygpukit.llm.layers import (
    AttentionWeights,
    BlockWeights,
    LinearWeights,
    MLPWeights,
    MoEWeights,
    NormWeights,
)
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
    return _assemble(plan.config, weights)


def _allocate(placements: Sequence[Placement], device: Device) -> dict[str, Tensor]:
    """All weights of a dtype in one block: out of memory shows at once, and pages can be large.

    A step reads every weight once; through 4 KB pages that would be half as fast.
    """
    starts: dict[str, int] = {}
    lengths = dict.fromkeys((placement.dtype for placement in placements), 0)
    for slot, _, dtype in placements:
        starts[slot.name] = lengths[dtype]
        lengths[dtype] += -(-math.prod(slot.shape) // _ALIGNMENT) * _ALIGNMENT
    blocks = {
        dtype: Tensor.empty(length, dtype, device=device) for dtype, length in lengths.items()
    }
    return {
        slot.name: blocks[dtype]
        .narrow(0, starts[slot.name], math.prod(slot.shape))
        .reshape(slot.shape)
        for slot, _, dtype in placements
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
    """What a source has for its rows, in the tensor's own type unless that has scales."""
    view = tensors[source.tensor]
    slot = placement.slot
    if source.expert is not None:
        view = view[source.expert : source.expert + 1].reshape(source.shape(slot))
    elif tuple(view.shape) != source.shape(slot):
        view = view.reshape(source.shape(slot))
    if source.scales is not None:
        scales = tensors[source.scales.tensor]
        view = view.scaled(scales, source.scales.block)
    return view


def _assemble(config: ModelConfig, weights: Mapping[str, Tensor]) -> ModelWeights:
    embedding = weights["embedding.weight"]
    return ModelWeights(
        embedding=embedding,
        position_embedding=weights.get("position_embedding.weight"),
        blocks=tuple(
            _block(config, weights, f"layers.{layer}.") for layer in range(config.num_layers)
        ),
        norm=NormWeights(weights["norm.weight"], weights.get("norm.bias")),
        lm_head=LinearWeights(weights.get("lm_head.weight", embedding)),
    )


def _block(config: ModelConfig, weights: Mapping[str, Tensor], prefix: str) -> BlockWeights:
    def linear(name: str) -> LinearWeights:
        return LinearWeights(weights[f"{prefix}{name}.weight"], weights.get(f"{prefix}{name}.bias"))

    def norm(name: str) -> NormWeights | None:
        return NormWeights(*linear(name)) if f"{prefix}{name}.weight" in weights else None

    def head_norm(name: str) -> Tensor | None:
        gamma = weights.get(f"{prefix}{name}.weight")
        if gamma is None or config.qk_norm != "heads":
            return gamma
        return gamma.reshape(-1, config.head_dim)

    def experts(name: str) -> Tensor:
        weight = weights[f"{prefix}{name}.weight"]
        count = config.experts.count if config.experts else 1
        return weight.reshape(count, weight.shape[0] // count, weight.shape[1])

    mlp: MLPWeights | MoEWeights
    if f"{prefix}router.weight" in weights:
        mlp = MoEWeights(linear("router"), experts("experts_up"), experts("experts_down"))
    else:
        mlp = MLPWeights(up=linear("up"), down=linear("down"))
    return BlockWeights(
        mlp_norm=norm("mlp_norm"),
        mlp=mlp,
        attention_norm=norm("attention_norm"),
        attention=AttentionWeights(
            qkv=linear("qkv"),
            output=linear("output"),
            q_norm=head_norm("q_norm"),
            k_norm=head_norm("k_norm"),
        ),
        post_attention_norm=norm("post_attention_norm"),
        post_mlp_norm=norm("post_mlp_norm"),
    )
