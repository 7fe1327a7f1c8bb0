"""How a model is attacked: the numbers of one run, checked once."""

import math
from dataclasses import dataclass

from stylize.errors import InputError
from stylize.wording import option_name

# What an element with a zero gradient does: `stay` where it is (sign(0) = 0), or step by -1 as in the authors' code.
ZERO_GRADIENT = ("stay", "minus-one")


@dataclass(frozen=True)
class Protocol:
    """The paper's protocol by default: 100 images, 100 steps of 1e-4 of the pixel range.

    `zero_gradient` is one of `ZERO_GRADIENT`; `seed` chooses the hash order of the candidates; `batch_size` images are
    attacked at a time.  Raises `InputError` for a value out of range.
    """

    images: int = 100
    steps: int = 100
    step_size: float = 1e-4
    zero_gradient: str = "stay"
    batch_size: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("images", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{option_name(name)} is {getattr(self, name)}: give 1 or more.")
        if not (math.isfinite(self.step_size) and 0 < self.step_size <= 1):
            raise InputError(f"--step-size is {self.step_size}: give a number above 0 and at most 1.")
        if self.zero_gradient not in ZERO_GRADIENT:
            choices = " or ".join(ZERO_GRADIENT)
            raise InputError(f"--zero-gradient is {self.zero_gradient!r}: give {choices}.")

    @property
    def largest_linf(self) -> float:
        """The L∞ distance that the whole path can reach."""
        return self.steps * self.step_size
