"""Where each row of each weight comes from; every tensor of the checkpoint is accounted for."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pygpukit.core import Device, TensorMap, TensorView
from pygpukit.llm.config import ModelConfig
from pygpukit.llm.errors import WeightsError
from pygpukit.llm.models.names import Names, Sources
from pygpukit.llm.weights.dtypes import (
    attention_dtype,
    block_dtype,
    check_activations,
    held_dtype,
    is_matrix,
    is_of_attention,
    nbytes,
)
from pygpukit.llm.weights.slots import Slot, slots

__all__ = ["Placement", "Plan", "Scales", "Source", "plan"]

_SCALES = ("weight_scale_inv", "weight_scale")
"""What an FP8 weight's factors are called beside it; those with "inv" are factors all the same."""

_ACTIVATION_SCALES = r".*\.(input|output|activation|q|k|v)_scale"
"""Factors that FP8 checkpoints have for quantising activations, which stay as they are."""

_BLOCKS, _EXPONENTS = "_blocks", "_scales"
"""What the names of an MXFP4 weight's two tensors end in."""

_MXFP4_BLOCK = 32
"""Elements that share an exponent; two are in a byte."""

_COMPARED = 2**20
"""Bytes that are compared at a time."""

_LISTED = 10
"""How many tensors an error names before it only counts them."""


class Scales(NamedTuple):
    """The factors of an FP8 matrix.

    Attributes:
        tensor: The name of the tensor that has one for each block.
        block: Rows and columns of a block.
    """

    tensor: str
    block: tuple[int, int]


class Source(NamedTuple):
    """Rows of a weight and the tensor of the file that fills them.

    Attributes:
        tensor: The tensor's name.
        rows: How many rows it fills.
        transposed: Whether the file has it as (inputs, outputs).
        order: For each row which of the file's it is, where they are in another order.
        member: The index into the tensor's first dimension, where that counts experts or heads.
        members: How many of them it counts.
        scales: What its elements are multiplied with.
        exponents: The name of the tensor with the exponents of its blocks, where it is MXFP4.
    """

    tensor: str
    rows: int
    transposed: bool = False
    order: Sequence[int] | None = None
    member: int | None = None
    members: int = 1
    scales: Scales | None = None
    exponents: str | None = None

    def shape(self, slot: Slot) -> tuple[int, ...]:
        """The shape in the file of the rows for `slot`."""
        if slot.columns is None:
            return (self.rows,)
        if self.exponents is not None:
            return (self.rows, slot.columns // _MXFP4_BLOCK, _MXFP4_BLOCK // 2)
        return (slot.columns, self.rows) if self.transposed else (self.rows, slot.columns)


class Placement(NamedTuple):
    """Where one weight comes from, and the type that it is held in.

    Attributes:
        slot: The weight.
        sources: What fills its rows, in their order.
        dtype: The type that it is held in.
        blocks: The quantised type that it can be held in as stored, where operations read that.
    """

    slot: Slot
    sources: tuple[Source, ...]
    dtype: str
    blocks: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the weight as it is held."""
        return nbytes(self.dtype, math.prod(self.slot.shape))

    def held(self, dtype: str) -> Placement:
        """The same weight held in another type, if it is a matrix."""
        return self if self.slot.columns is None else self._replace(dtype=dtype, blocks=None)


@dataclass(frozen=True, slots=True)
class Plan:
    """Where every weight of a model comes from.

    Attributes:
        config: What the model computes.
        placements: Its weights.
        dtype: Of the activations that go with them.
        attention_dtype: Of those inside the attention: queries, keys and values.
    """

    config: ModelConfig
    placements: tuple[Placement, ...]
    dtype: str = "float32"
    attention_dtype: str = "float32"

    def on(self, device: Device, dtype: str | None = None) -> Plan:
        """The plan for a device: 16-bit activations go with matrices of their type.

        Args:
            device: Where the weights go.
            dtype: Of activations; None is float32 on the CPU, where matrices of quantised blocks
                then stay as stored, and on a GPU the type that most of the matrices' numbers are
                held in.

        Raises:
            DtypeError: The device has no activations of that type.
        """
        check_activations(dtype, device)
        if dtype == "float32":
            return self
        if dtype is None and device.name == "cpu":
            as_stored = (
                placement if placement.blocks is None else placement.held(placement.blocks)
                for placement in self.placements
            )
            return replace(self, placements=tuple(as_stored))
        chosen = dtype or self._commonest_dtype()
        attention, normalised = attention_dtype(chosen, device), self.config.pre_norm
        placements = tuple(
            placement.held(
                attention if is_of_attention(placement.slot, normalised=normalised) else chosen
            )
            for placement in self.placements
        )
        return Plan(self.config, placements, chosen, attention)

    def _commonest_dtype(self) -> str:
        """The type that most of the matrices' numbers are held in."""
        numbers: Counter[str] = Counter()
        for placement in self.placements:
            if is_matrix(placement.slot):
                numbers[placement.dtype] += math.prod(placement.slot.shape)
        return numbers.most_common(1)[0][0]

    @property
    def parameters(self) -> int:
        """Numbers in all weights."""
        return sum(math.prod(placement.slot.shape) for placement in self.placements)

    @property
    def nbytes(self) -> int:
        """Bytes of all weights as they are held."""
        return sum(placement.nbytes for placement in self.placements)


def plan(config: ModelConfig, tensors: TensorMap, names: Names) -> Plan:
    """Settles where each weight comes from.

    Args:
        config: What the model computes, and so which weights it has.
        tensors: The checkpoint.
        names: What it calls them.

    Raises:
        WeightsError: Tensors are missing, left over or of the wrong shape; the error lists all.
    """
    return _Planner(config, tensors, names).plan()


class _Planner:
    def __init__(self, config: ModelConfig, tensors: TensorMap, names: Names) -> None:
        self._tensors = tensors
        self._names = names
        bare = not any(name.startswith(names.prefix) for name in tensors)
        self._prefix = names.prefix if bare else ""
        self._used: set[str] = set()
        self._missing: list[str] = []
        self._misshapen: list[str] = []
        self._config = config
        if config.tied_embeddings:
            self._tie()

    def _tie(self) -> None:
        """Settles which tensor is both embedding and output matrix; two that differ aren't tied."""
        embedding, head = self._stored("embedding"), self._stored("lm_head")
        if head is None:
            return
        if embedding is None:
            ways = {**self._names.slots, "embedding": self._names.slots["lm_head"]}
            self._names = replace(self._names, slots=ways)
        elif _same(self._tensors[embedding], self._tensors[head]):
            self._used.add(head)
        else:
            self._config = replace(self._config, tied_embeddings=False)

    def _stored(self, key: str) -> str | None:
        """The file's name of a matrix beside the layers, if the file has it."""
        ways = self._names.slots[key]
        names = (f"{name}.weight".removeprefix(self._prefix) for way in ways for name in way)
        return next((name for name in names if name in self._tensors), None)

    def plan(self) -> Plan:
        placements = tuple(self._place(slot) for slot in slots(self._config))
        ignored = re.compile("|".join((*self._names.ignored, _ACTIVATION_SCALES)))
        left_over = [
            name for name in self._tensors if name not in self._used and not ignored.fullmatch(name)
        ]
        problems = [
            f"{len(found)} {what}: {_listing(found)}"
            for what, found in (
                ("missing", list(dict.fromkeys(self._missing))),
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
        present = [
            source._replace(scales=self._scales(source, slot))
            for source in self._sources(slot)
            if self._check(source, slot)
        ]
        views = [self._tensors[source.tensor] for source in present]
        stored = {view.dtype for view in views}
        whole = not any(source.transposed or source.scales for source in present)
        return Placement(
            slot,
            tuple(present),
            held_dtype(slot, stored),
            block_dtype(slot, stored) if whole else None,
        )

    def _sources(self, slot: Slot) -> Iterator[Source]:
        """The tensors that fill a slot: the first of the alternatives that the file has whole."""
        alternatives = [
            [_with_kind(source, slot) for source in alternative] for alternative in self._ways(slot)
        ]
        whole = [names for names in alternatives if self._has(slot, names)]
        chosen = whole[0] if whole else alternatives[0]
        parts = slot.parts if len(chosen) == len(slot.parts) else (sum(slot.parts),)
        order_of = self._names.orders.get(slot.key)
        for expert in range(slot.experts):
            for index, (template, rows) in enumerate(zip(chosen, parts, strict=True)):
                name = self._name(slot, template, expert)
                if template.removesuffix(".weight") in self._names.by_head:
                    yield from self._by_head(name, template.removesuffix(".weight"), rows)
                    continue
                stacked = slot.experts > 1 and "{expert}" not in template
                exponents = _exponents(name)
                yield Source(
                    name,
                    rows,
                    exponents is None and self._transposed(slot, name, rows),
                    order_of(self._config, index, rows) if order_of else None,
                    expert if stacked else None,
                    slot.experts,
                    exponents=exponents,
                )

    def _ways(self, slot: Slot) -> Sources:
        """Where a slot may come from; its kind may have names of its own."""
        ways = self._names.slots.get(f"{slot.key}.{slot.kind}")
        return self._names.slots.get(slot.key, ()) if ways is None else ways

    def _transposed(self, slot: Slot, name: str, rows: int) -> bool:
        if slot.columns is None:
            return False
        if slot.key in self._names.either_way and name in self._tensors:
            found = tuple(self._tensors[name].shape[-2:])
            return found == (slot.columns, rows) != (rows, slot.columns)
        return slot.key in self._names.transposed

    def _by_head(self, name: str, template: str, rows: int) -> Iterator[Source]:
        heads = self._config.num_heads
        transposed = self._names.by_head[template]
        for head in range(heads):
            yield Source(name, rows // heads, transposed, None, head, heads)

    def _has(self, slot: Slot, templates: Sequence[str]) -> bool:
        """Whether the file has all tensors of an alternative, by those of the first expert."""
        return all(self._name(slot, template, 0) in self._tensors for template in templates)

    def _name(self, slot: Slot, template: str, expert: int) -> str:
        return template.format(layer=slot.layer, expert=expert).removeprefix(self._prefix)

    def _check(self, source: Source, slot: Slot) -> bool:
        if source.tensor not in self._tensors:
            self._missing.append(source.tensor)
            return False
        expected = source.shape(slot)
        if source.member is not None:
            expected = (source.members, *expected)
        if source.exponents is not None:
            self._check_exponents(source.exponents, expected[:-1])
        found = tuple(self._tensors[source.tensor].shape)
        vector = slot.columns is None or source.rows == 1
        flat = vector and math.prod(found) == math.prod(expected)
        if found != expected and not flat and source.tensor not in self._used:
            self._misshapen.append(f"{source.tensor} is {found}, expected {expected}")
        self._used.add(source.tensor)
        return True

    def _check_exponents(self, name: str, expected: tuple[int, ...]) -> None:
        if name not in self._tensors:
            self._missing.append(name)
            return
        found = tuple(self._tensors[name].shape)
        if found != expected and name not in self._used:
            self._misshapen.append(f"{name} is {found}, expected {expected}")
        self._used.add(name)

    def _scales(self, source: Source, slot: Slot) -> Scales | None:
        """The factors beside an FP8 matrix: one for all, for each row, or for each block."""
        if slot.columns is None or not self._tensors[source.tensor].dtype.startswith("float8"):
            return None
        stem = source.tensor.removesuffix("weight")
        name = next((stem + kind for kind in _SCALES if stem + kind in self._tensors), None)
        if name is None:
            self._missing.append(f"{stem}{_SCALES[0]}")
            return None
        self._used.add(name)
        rows, columns = source.shape(slot)
        count, block = math.prod(self._tensors[name].shape), self._config.scale_block
        if count == 1:
            block = (rows, columns)
        elif count == rows:
            block = (1, columns)
        if block is None or count != math.ceil(rows / block[0]) * math.ceil(columns / block[1]):
            self._misshapen.append(
                f"{name} has {count} factors for {source.tensor} of shape {(rows, columns)}"
            )
            return None
        return Scales(name, block)


def _same(a: TensorView, b: TensorView) -> bool:
    """Whether two tensors are stored alike, bit by bit."""
    if (a.dtype, tuple(a.shape)) != (b.dtype, tuple(b.shape)):
        return False
    one, other = a.raw(), b.raw()
    return all(
        bytes(one[start : start + _COMPARED]) == bytes(other[start : start + _COMPARED])
        for start in range(0, len(one), _COMPARED)
    )


def _exponents(name: str) -> str | None:
    """What the exponents of an MXFP4 tensor's blocks are called; None of one that has none."""
    stem = name.removesuffix(_BLOCKS)
    return None if stem == name else stem + _EXPONENTS


def _with_kind(name: str, slot: Slot) -> str:
    """The whole name of a tensor for a slot."""
    return name.removesuffix(".") if name.endswith(".") else f"{name}.{slot.kind}".removesuffix(".")


def _listing(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
