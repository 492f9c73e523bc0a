"""Running the steps that the scheduler plans: prompts and tokens together, or a captured step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeAlias

import pygpukit.kernels as kernels
from pygpukit.core import Device, Graph, Tensor
from pygpukit.llm.cache import PagedCache
from pygpukit.llm.decoder import Decoder
from pygpukit.llm.mixed import MixedSteps, alone
from pygpukit.llm.request import Request
from pygpukit.llm.sampler import Chosen, Kind, Sampler
from pygpukit.llm.slots import Slots, table
from pygpukit.llm.step_inputs import Extent, Part, StepInputs
from pygpukit.llm.tensors import ints

__all__ = ["Runner", "padded"]

KEPT_ROWS = 512
"""Rows of captured steps that are kept, all steps together: a graph holds a step's activations."""

_Result: TypeAlias = tuple[Tensor, tuple[Tensor, Tensor] | None]


def padded(rows: int) -> int:
    """For how many rows the step of that many is captured: not for each number one."""
    step = 1 if rows <= 8 else 8 if rows <= 64 else 32
    return -(-rows // step) * step


class Runner:
    """Runs steps of a decoder.

    Args:
        decoder: The model.
        device: Where it runs.
        capture: Whether steps are captured and replayed.
        captured_tokens: Of a step that isn't one in which all sequences decode, at most.
    """

    def __init__(
        self, decoder: Decoder, device: Device, *, capture: bool, captured_tokens: int
    ) -> None:
        self._decoder = decoder
        self._device = device
        self._capture = capture
        self._stretch = decoder.config.stretch_length
        self._graphs: OrderedDict[tuple[int, Kind, tuple[bool, ...]], tuple[Graph, _Result]]
        self._graphs = OrderedDict()
        self._mixed = MixedSteps(decoder, device, captured_tokens if capture else 0)

    def forget(self) -> None:
        """Drops the captured steps: the cache is to be replaced."""
        self.forget_slots()
        self._mixed.forget()

    def forget_slots(self) -> None:
        """Drops the captured steps that know the slots, which are to be replaced."""
        self._graphs.clear()

    def compute(self, parts: Sequence[Part], cache: PagedCache) -> Chosen | None:
        """Runs prompts and tokens together; returns what is chosen behind those that sample."""
        requests = [part.request for part in parts if part.samples]
        extent = Extent.of(parts)
        stretched = None
        if self._stretch is not None:
            lengths = [len(part.request.ids) for part in parts for _ in range(part.length)]
            stretched = self._decoder.stretched_rows(lengths)
        hidden = self._mixed.forward(parts, extent, cache) if stretched is None else None
        if hidden is None:
            numbers = ints(extent.numbers(parts), self._device)
            inputs = StepInputs.within(numbers, extent)
            wanted = inputs.wanted if extent.wanted < extent.tokens else None
            hidden = self._decoder.forward(
                *inputs[:4], cache, stretched, wanted, alone(parts) or None
            )
        if not requests:
            return None
        return Chosen(*self._choose(self._decoder.logits(hidden), requests))

    def decode(self, slots: Slots, cache: PagedCache) -> Chosen:
        """Runs one step of all sequences in the slots, which then stand at their next ids."""
        rows = padded(len(slots.requests))
        slots.constrain()
        if not self._capture:
            return Chosen(*self._launch(slots, cache, rows))
        key = rows, slots.kind, self._long(slots.requests)
        if key not in self._graphs:
            with self._device.controller.capture() as graph:
                result = self._launch(slots, cache, rows)
            self._graphs[key] = graph, result
        self._graphs.move_to_end(key)
        while len(self._graphs) > 1 and sum(key[0] for key in self._graphs) > KEPT_ROWS:
            self._graphs.popitem(last=False)
        graph, result = self._graphs[key]
        graph.replay()
        return Chosen(*result)

    def _launch(self, slots: Slots, cache: PagedCache, rows: int) -> _Result:
        lengths = [len(request.ids) for request in slots.requests]
        hidden = self._decoder.forward(
            slots.token_ids[:rows],
            slots.positions[:rows],
            slots.sequences[:rows],
            slots.block_tables,
            cache,
            self._decoder.stretched_rows(lengths + [0] * (rows - len(lengths))),
            alone=rows,
        )
        return slots.choose(self._decoder.logits(hidden))

    def _choose(self, logits: Tensor, requests: Sequence[Request]) -> _Result:
        """Chooses the ids behind all that the requests have."""
        vocab_size = self._decoder.config.vocab_size
        kind = Kind.of(requests, vocab_size)
        if kind.plain:
            return kernels.argmax(logits), None
        sampler = Sampler(len(requests), self._device, vocab_size if kind.constrained else 0)
        sampler.set(requests, kind)
        sampler.constrain(requests)
        width = max(len(request.ids) for request in requests) if kind.penalized else 1
        history = table([request.ids[:width] for request in requests], width)
        positions = ints([len(request.ids) - 1 for request in requests], self._device)
        return sampler.choose(
            logits, kind, positions, ints(history, self._device).reshape(len(requests), width)
        )

    def _long(self, requests: Sequence[Request]) -> tuple[bool, ...]:
        """Which of the requests are rotated as long sequences; empty where none is."""
        if self._stretch is None:
            return ()
        long = tuple(len(request.ids) > self._stretch for request in requests)
        return long if any(long) else ()
