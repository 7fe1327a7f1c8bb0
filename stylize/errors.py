"""The one exception for mistakes a user can mend, and how a command line ends."""

import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

INTERRUPTED = 130  # the exit code of a program that Ctrl-C ended


class InputError(Exception):
    """What was wrong, where, and what to do, in one sentence; command lines exit with code 2."""


def plain_errors(batches: Iterable[T]) -> Iterator[T]:
    """Yield a data loader's batches; a worker's `InputError` loses the traceback that the loader writes around it."""
    try:
        yield from batches
    except InputError as error:
        last_line = str(error).rstrip().splitlines()[-1]
        raise InputError(last_line.removeprefix("stylize.errors.InputError: ")) from None


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _is_interruption(error: BaseException | None) -> bool:
    """Tell whether an error is an interruption or followed one, as where the same signal stopped a worker process."""
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def run_command_line(app: Callable[[], None]) -> None:
    """Run a Typer application; an `InputError` becomes one line on standard error and exit code 2.

    SIGTERM ends the work as Ctrl-C does: temporary files are removed and finished work is kept.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BaseException as end:
        typer_exits = isinstance(end, SystemExit) and end.code == INTERRUPTED  # as Typer ends an interruption
        if not typer_exits and not _is_interruption(end):
            raise
        print("Interrupted: run the same command to go on.", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
