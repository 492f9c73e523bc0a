"""Several models on one device: each has its quota of pages, and their steps take turns."""

from __future__ import annotations

from collections.abc import Sequence

from pygpukit.core import SchedulerShare
from pygpukit.llm.cache import page_bytes
from pygpukit.llm.engine import Engine, EngineConfig
from pygpukit.llm.llm import LLM

__all__ = ["SharedDevice"]


class SharedDevice:
    """Runs the engines of several models, which it configures; `Driver` runs it as it runs one.

    Next is the model that has computed the fewest tokens, among those with something to run, so
    that the requests of one don't hold up another's.

    Args:
        models: Each model, with how much of it runs at once; the number of its pages is given.

    Raises:
        ValueError: They are on different devices, one is there twice, or has no number of pages.
        OutOfMemoryError: The device can't hold the pages.
    """

    def __init__(self, models: Sequence[tuple[LLM, EngineConfig]]) -> None:
        devices = {llm.device.name for llm, _ in models}
        if len(devices) > 1:
            raise ValueError(f"models: expected all on one device, found {sorted(devices)}")
        if len({id(llm) for llm, _ in models}) < len(models):
            raise ValueError("models: each has one engine, but one is there twice")
        quotas = [(config.pages or 0) * page_bytes(llm.config, llm.dtype) for llm, config in models]
        self._share = SchedulerShare(sum(quotas))
        for llm, config in models:
            llm.configure(config, share=self._share)
        self._engines: list[Engine] = [llm.engine for llm, _ in models]

    @property
    def busy(self) -> bool:
        """Whether requests have not ended."""
        return any(engine.busy for engine in self._engines)

    def advance(self) -> None:
        """Runs a step of the model whose turn it is, if any has something to run.

        Raises:
            Exception: The step has failed; so have the requests of that model.
        """
        turn = self._share.turn()
        if turn is not None:
            self._engines[turn].advance()
