"""A thread that runs an engine, for coroutines that wait for their requests."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from pygpukit.llm.engine import Engine
from pygpukit.llm.errors import RequestCancelledError
from pygpukit.llm.output import Output

__all__ = ["Driver", "Steps"]


class Steps(Protocol):
    """What runs steps: an `Engine`, or several on a `SharedDevice`."""

    @property
    def busy(self) -> bool:
        """Whether requests have not ended."""
        ...

    def advance(self) -> None:
        """Runs a step."""
        ...


class Driver:
    """Runs the steps of engines in a thread of its own.

    It belongs to the event loop in which it is entered: `async with Driver(engine) as driver`.

    Args:
        steps: An engine, or the device that several share.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._waiting: set[_Waiter] = set()
        self._work = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="pygpukit-engine", daemon=True)

    async def __aenter__(self) -> Driver:
        """Starts the thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Ends what is under way, and the thread."""
        for waiter in list(self._waiting):
            waiter.end(RequestCancelledError("the engine is closing"))
        with self._work:
            self._closing = True
            self._work.notify()
        await asyncio.to_thread(self._thread.join)

    async def run(self, engine: Engine, outputs: Sequence[Output]) -> AsyncGenerator[None, None]:
        """Runs requests to their end; yields whenever one has something new.

        Leaving the iterator early cancels them.

        Args:
            engine: The driver's, or the one of its engines that the requests are for.
            outputs: What becomes of the requests.

        Raises:
            RequestCancelledError: The driver has been left meanwhile.
            QueueFullError: As many are waiting as may.
            RequestRefusedError: One can never run.
            RequestExpiredError: The deadline of one has passed.
            LogitsError: A logit of one was NaN or infinite.
        """
        waiter = _Waiter(engine, [output for output in outputs if output.has_room])
        try:
            for output in waiter.outputs:
                engine.submit(output.request)
            with self._work:
                self._waiting.add(waiter)
                self._work.notify()
            done = not waiter.outputs
            while not done:
                await waiter.changed.wait()
                waiter.changed.clear()
                waiter.check()
                done = waiter.done  # before what came with it is looked at
                yield
        finally:
            self._waiting.discard(waiter)
            waiter.end()

    def _run(self) -> None:
        while True:
            with self._work:
                self._work.wait_for(lambda: self._closing or self._steps.busy)
                if self._closing:
                    return
            # Whoever waits finds the error at its request.
            with contextlib.suppress(Exception):
                self._steps.advance()
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for waiter in self._waiting:
            waiter.look()


class _Waiter:
    """What one coroutine waits for."""

    def __init__(self, engine: Engine, outputs: Sequence[Output]) -> None:
        self._engine = engine
        self.outputs = outputs
        self.changed = asyncio.Event()
        self._seen = 0

    @property
    def done(self) -> bool:
        return all(output.request.done for output in self.outputs)

    def look(self) -> None:
        """Wakes the coroutine if there is something new."""
        count = sum(len(output.request.ids) for output in self.outputs)
        if count > self._seen or self.done:
            self._seen = count
            self.changed.set()

    def check(self) -> None:
        for output in self.outputs:
            if output.request.error is not None:
                raise output.request.error

    def end(self, error: Exception | None = None) -> None:
        for output in self.outputs:
            if not output.request.done:
                output.request.error = error
            self._engine.cancel(output.request)
        self.changed.set()
