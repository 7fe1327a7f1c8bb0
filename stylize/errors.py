"""The one exception for mistakes a user can mend."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class InputError(Exception):
    """What was wrong, where, and what to do, in one sentence; command lines exit with code 2."""


_SIGNS_OF_DEATH = ("DataLoader worker", "ancdata")  # in what PyTorch raises where a loader's process is gone


def plain_errors(batches: Iterable[T]) -> Iterator[T]:
    """Yield a data loader's batches; a worker's `InputError` loses the loader's traceback, its death is one too."""
    try:
        yield from batches
    except InputError as error:
        raise InputError(str(error).rpartition("stylize.errors.InputError: ")[2].rstrip()) from None
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in _SIGNS_OF_DEATH):
            raise
        raise InputError(
            "A process that loads images was killed, as happens where memory runs out: lower --workers, and run again."
        ) from None
