"""When a run pauses to save its state: on a signal, to stop, and now and then, to lose little to a power cut."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

LARGEST_COST = 0.01  # of the time, that saving may take


class SaveClock:
    """Tells when the next state is due: every so many minutes, and less often where saving takes 1 % of the time."""

    def __init__(self, minutes: float) -> None:
        self._seconds = 60 * minutes
        self._next = time.monotonic() + self._seconds

    def due(self) -> bool:
        """Return whether a state should be saved now."""
        return time.monotonic() >= self._next

    def saved(self, seconds: float) -> None:
        """Take note that a state was saved just now, which took so many seconds."""
        self._next = time.monotonic() + max(self._seconds, seconds / LARGEST_COST)


@contextmanager
def received_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of stopping at once (only a main thread may)."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
