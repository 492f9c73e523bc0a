"""From a checkpoint's tensors to the model's weights, each in its final fused layout.

`plan` settles where every row comes from and accounts for every tensor of the file; `load`
allocates the weights and has the transfer engine fill their slices. Nothing is held twice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pygpukit.core import Device, Tensor, TensorMap, TensorView
from pygpukit.llm.config import ModelConfig
from pygpukit.llm.errors import WeightsError
from pygpukit.llm.layers import (
    AttentionWeights,
    BlockWeights,
    LinearWeights,
    MLPWeights,
    NormWeights,
)
from pygpukit.llm.models.family import Names

__all__ = ["ModelWeights", "Placement", "Plan", "load", "plan"]

MATRIX_DTYPES = ("float32", "float16", "bfloat16")
"""Types that matrices are held in as stored; all others become bfloat16."""

_ALIGNMENT = 64
"""Elements that a weight begins at a multiple of: cache lines, and the widest vectors."""

_LISTED = 10
"""How many tensors an error names before it only counts them."""


class Slot(NamedTuple):
    """One weight of the model.

    Attributes:
        name: Such as "layers.3.qkv.weight".
        parts: Rows of the parts that it is fused from.
        columns: Its width; None for a vector.
    """

    name: str
    parts: tuple[int, ...]
    columns: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole weight."""
        return (sum(self.parts),) if self.columns is None else (sum(self.parts), self.columns)


class Source(NamedTuple):
    """Rows of a weight and the tensor of the file that fills them.

    Attributes:
        tensor: The tensor's name.
        rows: How many rows it fills.
        transposed: Whether the file has it as (inputs, outputs).
        permuted: Whether the rows of each head are interleaved in the file.
    """

    tensor: str
    rows: int
    transposed: bool
    permuted: bool


class Placement(NamedTuple):
    """Where one weight comes from, and the type that it is held in."""

    slot: Slot
    sources: tuple[Source, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Where every weight of a model comes from."""

    config: ModelConfig
    placements: tuple[Placement, ...]

    @property
    def parameters(self) -> int:
        """Numbers in all weights."""
        return sum(math.prod(placement.slot.shape) for placement in self.placements)

    @property
    def nbytes(self) -> int:
        """Bytes of all weights as they are held."""
        return sum(
            math.prod(placement.slot.shape) * (4 if placement.dtype == "float32" else 2)
            for placement in self.placements
        )


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


def _slots(config: ModelConfig) -> Iterator[Slot]:
    hidden = config.hidden_size
    yield Slot("embedding.weight", (config.vocab_size,), hidden)
    if config.rope is None:
        yield Slot("position_embedding.weight", (config.context_length,), hidden)
    for layer in range(config.num_layers):
        yield from _block_slots(config, f"layers.{layer}.")
    yield from _norm_slots(config, "norm")
    if not config.tied_embeddings:
        yield Slot("lm_head.weight", (config.vocab_size,), hidden)


def _block_slots(config: ModelConfig, prefix: str) -> Iterator[Slot]:
    hidden, inner = config.hidden_size, config.intermediate_size
    up = (inner, inner) if config.gated_mlp else (inner,)
    yield from _norm_slots(config, prefix + "attention_norm")
    yield from _linear_slots(prefix + "qkv", config.qkv_rows, hidden, bias=config.qkv_bias)
    if config.qk_norm:
        yield Slot(prefix + "q_norm.weight", (config.head_dim,), None)
        yield Slot(prefix + "k_norm.weight", (config.head_dim,), None)
    yield from _linear_slots(
        prefix + "output", (hidden,), config.qkv_rows[0], bias=config.output_bias
    )
    yield from _norm_slots(config, prefix + "mlp_norm")
    yield from _linear_slots(prefix + "up", up, hidden, bias=config.mlp_bias)
    yield from _linear_slots(prefix + "down", (hidden,), inner, bias=config.mlp_bias)


def _linear_slots(name: str, parts: tuple[int, ...], columns: int, *, bias: bool) -> Iterator[Slot]:
    yield Slot(name + ".weight", parts, columns)
    if bias:
        yield Slot(name + ".bias", parts, None)


def _norm_slots(config: ModelConfig, name: str) -> Iterator[Slot]:
    yield Slot(name + ".weight", (config.hidden_size,), None)
    if config.norm_kind == "layer":
        yield Slot(name + ".bias", (config.hidden_size,), None)


def plan(config: ModelConfig, tensors: TensorMap, names: Names, *, permuted: bool = False) -> Plan:
    """Settles where each weight comes from.

    Args:
        config: What the model computes, and so which weights it has.
        tensors: The checkpoint.
        names: What it calls them.
        permuted: Whether the query and key rows of each head are interleaved.

    Raises:
        WeightsError: Tensors are missing, left over or of the wrong shape; the error lists all.
    """
    return _Planner(config, tensors, names, permuted).plan()


class _Planner:
    def __init__(
        self, config: ModelConfig, tensors: TensorMap, names: Names, permuted: bool
    ) -> None:
        self._config = config
        self._tensors = tensors
        self._names = names
        self._permuted = permuted
        bare = not any(name.startswith(names.prefix) for name in tensors)
        self._prefix = names.prefix if bare else ""
        self._used: set[str] = set()
        self._missing: list[str] = []
        self._misshapen: list[str] = []

    def plan(self) -> Plan:
        placements = tuple(self._place(slot) for slot in _slots(self._config))
        if self._config.tied_embeddings:
            self._used |= {f"{name}.weight" for (name,) in self._names.slots["lm_head"]}
        ignored = re.compile("|".join(self._names.ignored) or r"(?!)")
        left_over = [
            name for name in self._tensors if name not in self._used and not ignored.fullmatch(name)
        ]
        problems = [
            f"{len(found)} {what}: {_listing(found)}"
            for what, found in (
                ("missing", self._missing),
                ("left over", left_over),
                ("of the wrong shape", self._misshapen),
            )
            if found
        ]
        if problems:
            raise WeightsError(
                f"{self._tensors.path}: tensors don't fit a {self._config.architecture} model of "
                f"this config; {'; '.join(problems)}"
            )
        return Plan(self._config, placements)

    def _place(self, slot: Slot) -> Placement:
        present = [source for source in self._sources(slot) if self._check(source, slot)]
        views = [self._tensors[source.tensor] for source in present]
        return Placement(slot, tuple(present), _held_dtype(slot, views))

    def _sources(self, slot: Slot) -> tuple[Source, ...]:
        """The tensors that fill a slot: the first of the alternatives that the file has whole."""
        name, kind = slot.name.rsplit(".", 1)
        layer = re.match(r"layers\.(\d+)\.", name)
        key = re.sub(r"^layers\.\d+\.", "layers.", name)
        number = layer.group(1) if layer else ""
        alternatives = [
            [
                f"{source.format(layer=number)}.{kind}".removeprefix(self._prefix)
                for source in alternative
            ]
            for alternative in self._names.slots[key]
        ]
        whole = [
            alternative
            for alternative in alternatives
            if all(tensor in self._tensors for tensor in alternative)
        ]
        chosen = whole[0] if whole else alternatives[0]
        rows = slot.parts if len(chosen) == len(slot.parts) else (sum(slot.parts),)
        transposed = key in self._names.transposed and slot.columns is not None
        permuted = self._permuted and key == "layers.qkv"
        return tuple(
            Source(tensor, count, transposed, permuted and index < 2)
            for index, (tensor, count) in enumerate(zip(chosen, rows, strict=True))
        )

    def _check(self, source: Source, slot: Slot) -> bool:
        if source.tensor not in self._tensors:
            self._missing.append(source.tensor)
            return False
        self._used.add(source.tensor)
        expected = (source.rows,) if slot.columns is None else (source.rows, slot.columns)
        if source.transposed:
            expected = expected[::-1]
        found = tuple(self._tensors[source.tensor].shape)
        if found != expected:
            self._misshapen.append(f"{source.tensor} is {found}, expected {expected}")
        return True


def _listing(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _held_dtype(slot: Slot, views: Sequence[TensorView]) -> str:
    """Matrices stay as stored where the operations can read that; vectors are float32."""
    stored = {view.dtype for view in views}
    if slot.columns is None or "float64" in stored:
        return "float32"
    held = stored & set(MATRIX_DTYPES)
    if not held:
        return "bfloat16"
    return held.pop() if len(stored) == 1 else "float32"


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
        _fill(weights[placement.slot.name], placement, tensors, plan.config.head_dim)
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


def _fill(weight: Tensor, placement: Placement, tensors: TensorMap, head_dim: int) -> None:
    """Starts filling the rows of a weight from their sources."""
    row = 0
    for source in placement.sources:
        view = tensors[source.tensor].cast(placement.dtype)
        if source.transposed:
            view = view.transpose()
        if source.permuted:
            view = view.permute_rows(_uninterleaved(source.rows, head_dim))
        weight[row : row + source.rows].copy_(view)
        row += source.rows


def _uninterleaved(rows: int, head_dim: int) -> list[int]:
    """For each row of a projection the row of the GGUF file, which pairs the halves of a head.

    The inverse of `permute` in llama.cpp's convert_hf_to_gguf.py.
    """
    return [
        head + 2 * pair + half
        for head in range(0, rows, head_dim)
        for half in range(2)
        for pair in range(head_dim // 2)
    ]


def _assemble(config: ModelConfig, weights: Mapping[str, Tensor]) -> ModelWeights:
    embedding = weights["embedding.weight"]
    return ModelWeights(
        embedding=embedding,
        position_embedding=weights.get("position_embedding.weight"),
        blocks=tuple(_block(weights, f"layers.{layer}.") for layer in range(config.num_layers)),
        norm=NormWeights(weights["norm.weight"], weights.get("norm.bias")),
        lm_head=LinearWeights(weights.get("lm_head.weight", embedding)),
    )


def _block(weights: Mapping[str, Tensor], prefix: str) -> BlockWeights:
    def linear(name: str) -> LinearWeights:
        return LinearWeights(weights[f"{prefix}{name}.weight"], weights.get(f"{prefix}{name}.bias"))

    def norm(name: str) -> NormWeights:
        return NormWeights(*linear(name))

    return BlockWeights(
        mlp_norm=norm("mlp_norm"),
        mlp=MLPWeights(up=linear("up"), down=linear("down")),
        attention_norm=norm("attention_norm"),
        attention=AttentionWeights(
            qkv=linear("qkv"),
            output=linear("output"),
            q_norm=weights.get(prefix + "q_norm.weight"),
            k_norm=weights.get(prefix + "k_norm.weight"),
        ),
    )
