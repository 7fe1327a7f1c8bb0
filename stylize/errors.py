"""The one exception for mistakes a user can mend."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class InputError(Exception):
    """What was wrong, where, and what to do, in one sentence; command lines exit with code 2."""


def plain_errors(batches: Iterable[T]) -> Iterator[T]:
    """Yield a data loader's batches; a worker's `InputError` loses the loader's traceback, its death is one too."""
    try:
        yield from batches
    except InputError as error:
        raise InputError(str(error).rpartition("stylize.errors.InputError: ")[2].rstrip()) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            "A process that loads images was killed, as happens where memory runs out: lower --workers, and run again."
        ) from None
