"""What the paper's path recorded of each image, as arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attack.evaluation.interpolation import Array


@dataclass(frozen=True)
class Records:
    """What happened to P images at the start and after each of S steps: 0/1 `correct`, `l2` and `linf`, (P, S+1)."""

    keys: tuple[str, ...]
    correct: Array
    l2: Array
    linf: Array

    def chosen(self, keys: Sequence[str]) -> "Records":
        """Return the records of these images alone, in their order."""
        rows = [self.keys.index(key) for key in keys]
        return Records(tuple(keys), self.correct[rows], self.l2[rows], self.linf[rows])


def read_records(documents: Sequence[Mapping[str, Any]]) -> Records:
    """Stack the images' records; raise `ValueError` where their shapes or values make no sense."""
    columns = [np.array([record[name] for record in documents], float) for name in ("correct", "l2", "linf")]
    for array in columns:
        if documents and (array.ndim != 2 or array.shape != columns[0].shape or array.shape[1] < 2):
            raise ValueError("the records of the images do not fit together")
        if not np.isfinite(array).all():
            raise ValueError("a record holds a number that is not finite")
    return Records(tuple(record["key"] for record in documents), *columns)
