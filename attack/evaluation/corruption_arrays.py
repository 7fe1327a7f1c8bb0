"""Published corrupted images in CIFAR-10-C's layout (Hendrycks and Dietterich 2019), mapped and never unpickled."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylize.errors import InputError

SEVERITIES = 5


@dataclass(frozen=True)
class CorruptionArray:
    """One corruption: its file, and uint8 images (5 N, H, W, 3), the N of severity 1 first."""

    path: Path
    images: NDArray[Any]

    @property
    def name(self) -> str:
        """The corruption, as its file is called."""
        return self.path.stem.replace("_", " ")


def open_arrays(paths: Sequence[Path], labels: Path, classes: int) -> tuple[list[CorruptionArray], NDArray[np.int64]]:
    """Open arrays of corrupted images and their labels (5 N,), of which the first N are returned.

    Raises `InputError` where a file is missing, not such an array, or does not fit the others or the classes.
    """
    arrays = [CorruptionArray(path, _open(path)) for path in paths]
    for array in arrays:
        shape = array.images.shape
        if array.images.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or shape[0] % SEVERITIES or not shape[0]:
            raise InputError(f"{array.path} holds {array.images.dtype} {shape}, not uint8 (5 N, H, W, 3): {_MEND}")
    given = _open(labels)
    if given.ndim != 1 or not np.issubdtype(given.dtype, np.integer):
        raise InputError(f"{labels} holds {given.dtype} {given.shape}, not integer labels (5 N,): {_MEND}")
    for array in arrays:
        if len(array.images) != len(given):
            raise InputError(f"{array.path} has {len(array.images)} images but {labels} {len(given)} labels: {_MEND}")
    blocks = np.asarray(given, np.int64).reshape(SEVERITIES, -1)
    if (blocks != blocks[0]).any() or blocks.min() < 0 or blocks.max() >= classes:
        raise InputError(f"{labels} does not hold five equal blocks of labels below {classes}: {_MEND}")
    return arrays, blocks[0]


_MEND = "give files in the layout of CIFAR-10-C."


def _open(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "no NumPy array, or one of Python objects"
        raise InputError(f"{path} cannot be read ({reason}): {_MEND}") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} is an archive of arrays: {_MEND}")
    return array
