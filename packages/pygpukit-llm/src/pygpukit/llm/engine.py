"""Continuous batching: many requests at once, each step as the scheduler plans it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from heapq import nlargest
from typing import NamedTuple

from pygpukit.core import (
    Device,
    OutOfMemoryError,
    Scheduler,
    SchedulerConfig,
    SchedulerShare,
    StepRow,
)
from pygpukit.llm.cache import PAGE_SIZE, PagedCache, page_bytes, pages_for
from pygpukit.llm.decoder import Decoder
from pygpukit.llm.device import captured_tokens, step_tokens
from pygpukit.llm.errors import LogitsError, RequestExpiredError
from pygpukit.llm.generation import TokenLogprobs
from pygpukit.llm.request import Request
from pygpukit.llm.runner import Runner, padded
from pygpukit.llm.sampler import Chosen
from pygpukit.llm.slots import Slots
from pygpukit.llm.step_inputs import Part
from pygpukit.llm.turns import Turns

__all__ = ["Engine", "EngineConfig"]

GROWTH = 256
"""Positions that the cache begins with where an output's length is open; then it doubles."""

LEAST_LENGTH = 1024
"""Positions that captured steps are made for at least; kernels set aside memory for all of them."""

KEPT_BYTES = 256 << 20
"""What the cache of an idle model may take of a GPU's memory."""

MOST_PAGES = 2**31 - 1
"""Where the cache grows with the requests, memory is what bounds it."""


class EngineConfig(NamedTuple):
    """How much runs at once; it changes no bit of the results.

    Attributes:
        step_tokens: Tokens that go through the layers at once: bounds the memory of activations. By
            default what `device.step_tokens` says.
        max_running: Requests that run at once, at most `step_tokens`.
        max_waiting: Requests that wait at once; more are refused.
        pages: Pages of `PAGE_SIZE` positions that the cache has, and keeps for requests that begin
            alike. Without it the cache is as large as the requests under way need it, and emptied
            when they have ended.
        kept_bytes: How large such a cache may be to stay then, and with it the captured steps. By
            default `KEPT_BYTES` on a GPU, where capturing takes as long as twenty steps of a small
            model, and 0 on "cpu".
        steps_under_way: Steps that are launched before the first of them is looked at. By default
            two: while the host looks at what one has chosen, a GPU runs the next; and one on "cpu",
            which has no time for a step that turns out not to be wanted.
        captured_tokens: Of a step with prompts up to which it is captured when its like comes
            again. By default what `device.captured_tokens` says.
    """

    step_tokens: int | None = None
    max_running: int = 256
    max_waiting: int = 2**31 - 1
    pages: int | None = None
    kept_bytes: int | None = None
    steps_under_way: int | None = None
    captured_tokens: int | None = None


class _Step(NamedTuple):
    """A step that has been launched.

    Attributes:
        number: The scheduler's.
        requests: Those that it chooses ids for.
        chosen: The ids; None where there are none.
        ended: Of the plan's rows that sample, those whose requests had ended before the launch.
    """

    number: int
    requests: Sequence[Request]
    chosen: Chosen | None
    ended: Sequence[int] = ()


class Engine:
    """Runs requests on a device, as many at once as fit.

    Threads may share an engine: whoever waits for a request runs steps, for all requests, or waits
    for the thread that does.

    Args:
        decoder: The model.
        device: Where it runs.
        config: How much runs at once.
        capture: Whether steps are captured and replayed, which changes no bit of the results.
        share: What gives the pages of a fixed number their quota among other models' on the device.

    Raises:
        OutOfMemoryError: The device can't hold the pages that the cache is to have.
        ValueError: The share has no room for the pages, or they are to have no fixed number.
    """

    def __init__(
        self,
        decoder: Decoder,
        device: Device,
        config: EngineConfig | None = None,
        *,
        capture: bool = True,
        share: SchedulerShare | None = None,
    ) -> None:
        self.config = config or EngineConfig()
        self._decoder = decoder
        self._device = device
        on_cpu = device.name == "cpu"
        self._most_under_way = self.config.steps_under_way or (1 if on_cpu else 2)
        self._step_tokens = self.config.step_tokens or step_tokens(device)
        kept_bytes = self.config.kept_bytes
        self._kept_bytes = (0 if on_cpu else KEPT_BYTES) if kept_bytes is None else kept_bytes
        most = self.config.captured_tokens
        self._runner = Runner(
            decoder,
            device,
            capture=capture,
            captured_tokens=captured_tokens(device) if most is None else most,
        )
        self._under_way: deque[_Step] = deque()
        self._cache: PagedCache | None = None
        self._slots: Slots | None = None
        self._decoding = False  # whether the newest step was one of all that is in the slots
        self._requests: dict[int, Request] = {}
        self._resized = False
        self._scheduler = self._new_scheduler(share)
        if self.config.pages is not None:
            self._cache = self._new_cache(self.config.pages)
        self._lock = threading.RLock()  # of the three above
        self._turns = Turns()  # to run a step

    @property
    def scheduler(self) -> Scheduler:
        """What decides; for its counters."""
        return self._scheduler

    @property
    def longest(self) -> int:
        """How many ids a request can have: the context, or what the pages hold and one more."""
        context_length, pages = self._decoder.config.context_length, self.config.pages
        return context_length if pages is None else min(context_length, pages * PAGE_SIZE + 1)

    @property
    def busy(self) -> bool:
        """Whether requests have not ended."""
        return bool(self._requests)

    def submit(self, request: Request) -> None:
        """Takes a request, with room for a new id, which runs when somebody calls `advance`.

        Raises:
            QueueFullError: As many are waiting as may.
            RequestRefusedError: It can never run.
        """
        with self._lock:
            self._submit(request)

    def cancel(self, request: Request) -> None:
        """Ends a request, wherever it is; what it held is freed."""
        with self._lock:
            if not request.done and request.number is not None:
                self._end(request)
        if not self._requests and self._turns.take():
            try:
                self._rest()
            finally:
                self._turns.pass_on()

    def run(self, requests: Sequence[Request]) -> Iterator[None]:
        """Runs requests to their end; yields after each step. Closing the iterator cancels them.

        Raises:
            QueueFullError: As many are waiting as may.
            RequestRefusedError: One can never run.
            OutOfMemoryError: One needs more memory than there is.
            LogitsError: A logit of one was NaN or infinite.
        """
        try:
            for request in requests:
                self.submit(request)
            while not all(request.done for request in requests):
                self.advance()
                for request in requests:
                    if request.error is not None:
                        raise request.error
                yield
        finally:
            for request in requests:
                self.cancel(request)

    def advance(self) -> None:
        """Runs a step, or waits until the thread that runs one has done so."""
        if not self._turns.take_or_wait():
            return
        try:
            self._advance()
            if not self._requests:
                self._rest()
        except BaseException as error:
            self._abort(error)
            raise
        finally:
            self._turns.pass_on()

    def _advance(self) -> None:
        """Launches what can be, then takes in what the oldest step has chosen."""
        # What may come next, a grammar knows only once it has seen the token before.
        constrained = any(request.constraint for request in list(self._requests.values()))
        most = 1 if constrained else self._most_under_way
        while len(self._under_way) < most and self._launch():
            pass
        if self._under_way:
            self._complete()

    def _launch(self) -> bool:
        """Plans and launches a step, if there is anything to run.

        Returns:
            Whether another one may be launched before it has been looked at.
        """
        with self._lock:
            self._make_room()
            plan = self._scheduler.schedule(_now())
            for number in plan.expired:
                self._fail(self._requests[number], RequestExpiredError("its deadline has passed"))
        if not plan.tokens:
            return False
        grown = plan.grown
        if plan.repeats and self._decoding and all(map(self._state.has_columns, grown)):
            if grown:
                pages = self._scheduler.pages
                self._state.add_pages((row, had, pages(number)[had:]) for row, number, had in grown)
            chosen = self._runner.decode(self._state, self._pages)
            self._under_way.append(_Step(plan.step, self._state.requests, chosen))
        else:
            self._complete_all()
            self._start(plan.step, plan.rows)
        return self._decoding

    def _start(self, step: int, rows: Sequence[StepRow]) -> None:
        """Launches a step of other sequences than the one before; all ids are known."""
        parts: list[Part] = []
        ended: list[int] = []
        with self._lock:
            for row in rows:
                request = self._requests.get(row.request)
                if request is not None:
                    pages = self._scheduler.pages(row.request)
                    parts.append(Part(request, row.start, row.count, row.samples, pages))
                elif row.samples:
                    ended.append(sum(part.samples for part in parts) + len(ended))
        requests = [part.request for part in parts if part.samples]
        chosen: Chosen | None = None
        decoding = bool(parts) and all(part.length == 1 and part.samples for part in parts)
        if decoding:
            self._load(parts)
            chosen = self._runner.decode(self._state, self._pages)
        elif parts:
            chosen = self._runner.compute(parts, self._pages)
        self._decoding = decoding and len(parts) == len(rows)
        self._under_way.append(_Step(step, requests, chosen, ended))

    def _load(self, parts: Sequence[Part]) -> None:
        """Puts sequences into the slots."""
        requests = [part.request for part in parts]
        length = max(min(len(request.ids) + PAGE_SIZE, request.limit) for request in requests)
        penalized = any(request.params.penalized for request in requests)
        vocab_size = self._decoder.config.vocab_size
        bias_width = vocab_size if any(request.constraint for request in requests) else 0
        slots = self._slots
        if slots is None or not slots.fit(len(parts), length, penalized, bias_width):
            self._runner.forget_slots()
            capacity = padded(len(parts))
            length = max(LEAST_LENGTH, 2 * length)
            length = min(length, max(request.limit for request in requests))
            if slots is not None:
                # Whatever has been needed before is likely to be needed again.
                capacity = max(capacity, min(2 * slots.capacity, padded(self.config.max_running)))
                length = max(length, slots.length)
                penalized = penalized or slots.penalized
                bias_width = max(bias_width, slots.bias_width)
            slots = Slots(capacity, length, penalized, bias_width, self._device)
            self._slots = slots
        slots.load(requests, [part.pages for part in parts], vocab_size)

    def _complete_all(self) -> None:
        while self._under_way:
            self._complete()

    def _complete(self) -> None:
        """Takes in what the oldest step under way has chosen."""
        step = self._under_way.popleft()
        new = step.chosen.read(step.requests) if step.chosen is not None else []
        stops = [_take(request, *row) for request, row in zip(step.requests, new, strict=True)]
        tokens = [max(id_, 0) for id_, _ in new]
        for row in step.ended:
            stops.insert(row, True)
            tokens.insert(row, 0)
        with self._lock:
            for number, reason in self._scheduler.complete(step.number, tokens, stops):
                request = self._requests[number]
                self._forget(request)
                if reason == "length" and len(request.ids) < request.limit:
                    self._submit(request)  # it has become long and is rotated otherwise

    def _submit(self, request: Request) -> None:
        length, limit, variant = len(request.ids), request.limit, 0
        stretch = self._decoder.config.stretch_length
        if stretch is not None and length > stretch:
            variant = 1
        elif stretch is not None:
            limit = min(limit, stretch + 1)
        request.number = self._scheduler.submit(
            request.ids,
            limit - length,
            now=_now(),
            tenant=request.tenant,
            priority=request.priority,
            deadline=None if request.deadline is None else int(request.deadline * 1e6),
            variant=variant,
        )
        request.done = False
        self._requests[request.number] = request
        ahead = request.limit if request.params.max_new_tokens is not None else length + GROWTH
        request.reserved = min(ahead, request.limit - 1)
        self._resized = True

    def _end(self, request: Request) -> None:
        if request.number is not None:
            self._scheduler.cancel(request.number)
        self._forget(request)

    def _fail(self, request: Request, error: BaseException) -> None:
        request.error = error
        self._end(request)

    def _forget(self, request: Request) -> None:
        request.done = True
        self._requests.pop(request.number or 0, None)
        request.number = None

    def _make_room(self) -> None:
        """Sees to it that the cache has the pages that may be handed out."""
        if self.config.pages is not None:
            if self._cache is None:
                self._cache = self._new_cache(self.config.pages)
            return
        for request in self._requests.values():
            if len(request.ids) + self._most_under_way > request.reserved < request.limit - 1:
                request.reserved = min(2 * len(request.ids), request.limit - 1)
                self._resized = True
        while self._resized and self._requests:
            largest = max(self._requests.values(), key=lambda request: request.reserved)
            try:
                self._grow(pages_for(largest.reserved))
                self._resized = False
            except OutOfMemoryError as error:
                self._fail(largest, error)

    def _grow(self, least: int) -> None:
        """Grows the cache for all requests, or where that isn't possible for `least` pages."""
        needs = (pages_for(request.reserved) for request in self._requests.values())
        wanted = sum(nlargest(self.config.max_running, needs))
        present = 0 if self._cache is None else self._cache.pages
        if wanted <= present:
            return
        self._complete_all()
        self._runner.forget()
        try:
            self._extend(wanted)
        except OutOfMemoryError:
            if least > present:
                self._extend(least)

    def _extend(self, pages: int) -> None:
        if self._cache is None:
            self._cache = self._new_cache(pages)
        else:
            self._cache.grow(pages - self._cache.pages)
        self._scheduler.provide(pages)

    def _rest(self) -> None:
        """With nothing to run, gives back what isn't kept."""
        with self._lock:
            if self._requests:
                return
            if self.config.pages is not None:
                self._complete_all()
            elif self._cache is not None and self._cache.nbytes <= self._kept_bytes:
                self._begin_anew()
                self._scheduler.provide(self._cache.pages)
            else:
                self._reset()

    def _reset(self) -> None:
        self._begin_anew()
        self._runner.forget()
        self._cache = self._slots = None

    def _begin_anew(self) -> None:
        self._under_way.clear()
        self._decoding = False
        self._scheduler.clear()
        if self.config.pages is None:
            self._scheduler.provide(0)

    def _abort(self, error: BaseException) -> None:
        """Ends the requests that a step has failed for; if it was only interrupted, none."""
        with self._lock:
            requests = list(self._requests.values())
            self._requests.clear()
            self._reset()
            for request in requests:
                if isinstance(error, Exception):
                    request.error, request.done, request.number = error, True, None
                else:
                    self._submit(request)

    def _new_scheduler(self, share: SchedulerShare | None) -> Scheduler:
        config, pages = self.config, self.config.pages
        bounds = SchedulerConfig(
            pages=pages or MOST_PAGES,
            page_size=PAGE_SIZE,
            step_tokens=self._step_tokens,
            max_running=min(config.max_running, self._step_tokens),
            max_waiting=config.max_waiting,
            max_length=max(self._decoder.config.context_length, 2),
            reserved_pages=None if pages else 0,
        )
        if share is None:
            scheduler = Scheduler(bounds)
        elif pages is not None:
            scheduler = share.add(
                bounds, page_bytes(self._decoder.config, self._decoder.attention_dtype)
            )
        else:
            raise ValueError("pages: a model that shares its device needs a number of them")
        if pages is None:
            scheduler.provide(0)
        return scheduler

    def _new_cache(self, pages: int) -> PagedCache:
        return PagedCache(self._decoder.config, self._device, pages, self._decoder.attention_dtype)

    @property
    def _pages(self) -> PagedCache:
        assert self._cache is not None, "plans have rows only where there are pages"
        return self._cache

    @property
    def _state(self) -> Slots:
        assert self._slots is not None, "filled before the first step that decodes only"
        return self._slots


def _take(request: Request, id_: int, logprobs: TokenLogprobs | None) -> bool:
    """Gives a request its next id; returns whether that ends it."""
    if request.done:
        return True
    if id_ < 0:
        request.error = LogitsError()
        return True
    request.ids.append(id_)
    try:
        stop = request.accept(id_, logprobs)
        if request.constraint is not None and not stop:
            request.constraint.take(id_)
        return stop
    except Exception as error:
        request.error = error
        return True


def _now() -> int:
    """Microseconds of `time.monotonic`."""
    return time.monotonic_ns() // 1000
