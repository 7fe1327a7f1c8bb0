"""What ends processes: Ctrl-C, SIGTERM, their parent's end; and what a command settles before imports of seconds."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import FrameType
from typing import Any

# OpenMP threads that spin long burn processor time, and stall each other where cores are shared; those that never spin
# waste idle ones.
SPIN_COUNT = "1000"
INTERRUPTED = 130  # the exit code of a program that Ctrl-C ended
INTERRUPTION = "Interrupted: run the same command to go on."


def _leave(_signal: int, _frame: FrameType | None) -> None:
    os.write(2, f"{INTERRUPTION}\n".encode())
    os._exit(INTERRUPTED)


@contextmanager
def answered_in_one_line() -> Iterator[None]:
    """Answer Ctrl-C and SIGTERM as `run_command_line` does, for the imports before it, while nothing is half-written.

    An exception would do no good there: imports run callbacks in which Python ignores it, and the work would go on.
    PyTorch's OpenMP looks at its environment while it is imported, so here its threads learn to wait briefly.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heeded = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}  # nohup
    try:
        for number in heeded:
            signal.signal(number, _leave)
        yield
    finally:
        for number, handler in heeded.items():
            signal.signal(number, handler)


@contextmanager
def answered_by(answer: Callable[[int, FrameType | None], Any] | signal.Handlers | None) -> Iterator[None]:
    """Answer SIGINT and SIGTERM so in here, None for as before; put back what was before (in a main thread only)."""
    main, numbers = threading.current_thread() is threading.main_thread(), (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers if main}
    try:
        for number in before if answer is not None else ():  # SIG_DFL is 0
            signal.signal(number, answer)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """Let this process end when its parent is killed, which could not end it."""
    from multiprocessing import parent_process

    def wait() -> None:
        if parent := parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def imports_torch(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command: PyTorch is imported, which takes seconds, when it runs, and not when its help is shown."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        with answered_in_one_line():
            import torch  # noqa: F401
        command(*arguments, **options)

    return run
