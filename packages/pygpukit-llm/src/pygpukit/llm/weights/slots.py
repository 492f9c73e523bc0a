"""Which weights a model has, from its config alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from pygpukit.llm.config import Latent, ModelConfig

__all__ = ["Slot", "slots"]


class Slot(NamedTuple):
    """One weight of the model.

    Attributes:
        name: Such as "layers.3.qkv.weight".
        parts: Rows of the parts that it is fused from; those of one expert where it has several.
        columns: Its width; None for a vector.
        experts: How many experts' weights follow one another in it.
    """

    name: str
    parts: tuple[int, ...]
    columns: int | None = None
    experts: int = 1

    @property
    def rows(self) -> int:
        """Rows of the whole weight."""
        return self.experts * sum(self.parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole weight."""
        return (self.rows,) if self.columns is None else (self.rows, self.columns)

    @property
    def key(self) -> str:
        """Its name without the layer's number and without its kind: "layers.qkv"."""
        name = re.sub(r"^layers\.\d+\.", "layers.", self.name)
        return name.removesuffix(f".{self.kind}")

    @property
    def layer(self) -> str:
        """The number of its layer, or nothing."""
        found = re.match(r"layers\.(\d+)\.", self.name)
        return found.group(1) if found else ""

    @property
    def kind(self) -> str:
        """What its name ends in, here and in files: "weight", "bias", or nothing."""
        kind = self.name.rpartition(".")[2]
        return kind if kind in ("weight", "bias") else ""


def slots(config: ModelConfig) -> Iterator[Slot]:
    """The weights of a model of that config, in the order that it reads them."""
    hidden = config.hidden_size
    yield Slot("embedding.weight", (config.vocab_size,), hidden)
    if config.learned_positions:
        yield Slot("position_embedding.weight", (config.context_length,), hidden)
    for layer, sparse in enumerate(config.sparse):
        prefix = f"layers.{layer}."
        yield from _attention_slots(config, prefix)
        if config.pre_norm and not config.shared_norm:
            yield from _norm_slots(config, prefix + "mlp_norm")
        yield from (_expert_slots if sparse else _mlp_slots)(config, prefix)
        if config.post_norm:
            yield from _norm_slots(config, prefix + "post_mlp_norm")
    yield from _norm_slots(config, "norm")
    if not config.tied_embeddings:
        yield Slot("lm_head.weight", (config.vocab_size,), hidden)
    if config.head_bias:
        yield Slot("lm_head.bias", (config.vocab_size,))


def _attention_slots(config: ModelConfig, prefix: str) -> Iterator[Slot]:
    hidden, rows = config.hidden_size, config.qkv_rows
    if config.pre_norm:
        yield from _norm_slots(config, prefix + "attention_norm")
    if config.latent is not None:
        yield from _latent_slots(config, config.latent, prefix)
        return
    yield from _linear_slots(prefix + "qkv", rows, hidden, bias=config.qkv_bias)
    if config.qk_norm is not None:
        for name, length in zip(("q_norm", "k_norm"), rows, strict=False):
            width = config.head_dim if config.qk_norm in ("head", "rotated") else length
            yield Slot(f"{prefix}{name}.weight", (width,))
    if config.sinks:
        yield Slot(prefix + "sinks", (config.num_heads,))
    yield from _linear_slots(prefix + "output", (hidden,), rows[0], bias=config.output_bias)
    if config.post_norm:
        yield from _norm_slots(config, prefix + "post_attention_norm")


def _latent_slots(config: ModelConfig, latent: Latent, prefix: str) -> Iterator[Slot]:
    hidden, heads, bias = config.hidden_size, config.num_heads, config.qkv_bias
    queries = heads * latent.width
    if latent.q_rank is None:
        yield Slot(prefix + "q.weight", (queries,), hidden)
    else:
        yield from _linear_slots(prefix + "q_down", (latent.q_rank,), hidden, bias=bias)
        yield Slot(prefix + "q_norm.weight", (latent.q_rank,))
        yield Slot(prefix + "q_up.weight", (queries,), latent.q_rank)
    down = latent.kv_rank + latent.rotated
    yield from _linear_slots(prefix + "kv_down", (down,), hidden, bias=bias)
    yield Slot(prefix + "kv_norm.weight", (latent.kv_rank,))
    ups = (heads * latent.plain, heads * latent.value)
    yield Slot(prefix + "kv_up.weight", ups, latent.kv_rank)
    values = heads * latent.value
    yield from _linear_slots(prefix + "output", (hidden,), values, bias=config.output_bias)


def _mlp_slots(config: ModelConfig, prefix: str) -> Iterator[Slot]:
    hidden, inner = config.hidden_size, config.intermediate_size
    up = (inner, inner) if config.gated_mlp else (inner,)
    yield from _linear_slots(prefix + "up", up, hidden, bias=config.mlp_bias)
    yield from _linear_slots(prefix + "down", (hidden,), inner, bias=config.mlp_bias)


def _expert_slots(config: ModelConfig, prefix: str) -> Iterator[Slot]:
    hidden, experts = config.hidden_size, config.experts
    assert experts is not None
    inner = experts.intermediate_size
    yield from _linear_slots(prefix + "router", (experts.count,), hidden, bias=experts.biased)
    for name, parts, columns in (("up", (inner, inner), hidden), ("down", (hidden,), inner)):
        yield Slot(f"{prefix}experts_{name}.weight", parts, columns, experts.count)
        if experts.biased:
            yield Slot(f"{prefix}experts_{name}.bias", parts, None, experts.count)
    if experts.corrected:
        yield Slot(prefix + "correction", (experts.count,))
    if experts.shared_size:
        width = experts.shared_size
        yield Slot(prefix + "shared_up.weight", (width, width), hidden)
        yield Slot(prefix + "shared_down.weight", (hidden,), width)
    if experts.shared_gated:
        yield Slot(prefix + "shared_gate.weight", (1,), hidden)


def _linear_slots(name: str, parts: tuple[int, ...], columns: int, *, bias: bool) -> Iterator[Slot]:
    yield Slot(name + ".weight", parts, columns)
    if bias:
        yield Slot(name + ".bias", parts)


def _norm_slots(config: ModelConfig, name: str) -> Iterator[Slot]:
    yield Slot(name + ".weight", (config.hidden_size,))
    if config.norm_bias:
        yield Slot(name + ".bias", (config.hidden_size,))
