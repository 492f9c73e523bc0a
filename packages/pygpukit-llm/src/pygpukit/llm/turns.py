"""Work that one thread at a time does for all that wait for it."""

from __future__ import annotations

import threading

__all__ = ["Turns"]


class Turns:
    """Who works: one thread, while others wait until it has done some."""

    def __init__(self) -> None:
        self._taken = threading.Lock()
        self._passed = 0
        self._changed = threading.Condition()

    def take(self) -> bool:
        """Takes the turn if nobody has it; returns whether that is so."""
        return self._taken.acquire(blocking=False)

    def take_or_wait(self) -> bool:
        """Takes the turn, or waits until whoever has it has passed it on; says which."""
        passed = self._passed  # before looking, so that no change is missed
        if self.take():
            return True
        with self._changed:
            self._changed.wait_for(lambda: self._passed != passed)
        return False

    def pass_on(self) -> None:
        """Gives the turn back and wakes everybody who waits."""
        self._taken.release()
        with self._changed:
            self._passed += 1
            self._changed.notify_all()
