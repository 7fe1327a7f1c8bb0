"""What one evaluation is asked to do: its numbers, checked once."""

import math
from dataclasses import dataclass

from attack.attacks.protocol import Protocol
from stylize.errors import InputError
from stylize.wording import option_name

SUITES = ("paper", "quick", "full")
PATH_IMAGES = 200  # the paper's path is walked by at most so many images: enough for its 100 correct ones


@dataclass(frozen=True)
class AttackConfig:
    """How a model is evaluated.

    Args:
        suite: `paper` (the path alone), `quick` (about a minute for a small model) or `full` (with AutoAttack, minimal
            norms, more steps and restarts).
        images: test images to evaluate on, right or wrong: the first by hash of (seed, key).
        strong_images: so many of these meet AutoAttack, Square and the minimal-norm attacks, which are slow.
        epsilons: L∞ radii of the attacks, growing, in units of the [0, 1] range.
        steps: steps of the paper's path.
        step_size: size of a step of the path (1 = the full pixel range).
        zero_gradient: what an element with zero gradient does on the path: `stay`, or `minus-one` (authors' code).
        batch_size: images attacked at a time; it changes results by float rounding only.
        seed: chooses another list of images, and the attacks' random points.

    Raises:
        InputError: a value is out of range.
    """

    suite: str = "quick"
    images: int = 200
    strong_images: int = 100
    epsilons: tuple[float, ...] = (2 / 255, 8 / 255)
    steps: int = 100
    step_size: float = 1e-4
    zero_gradient: str = "stay"
    batch_size: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        Protocol(self.steps, self.step_size, self.zero_gradient)  # checks the ranges
        if self.suite not in SUITES:
            raise InputError(f"--suite is {self.suite!r}: give {', '.join(SUITES[:-1])} or {SUITES[-1]}.")
        for name in ("images", "strong_images", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{option_name(name)} is {getattr(self, name)}: give 1 or more.")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed is {self.seed}: give 0 to {2**32 - 1}.")
        for epsilon in self.epsilons:
            if not (math.isfinite(epsilon) and 0 < epsilon < 1):
                raise InputError(f"--epsilon is {epsilon}: give numbers between 0 and 1, or fractions such as 8/255.")
        if not self.epsilons or list(self.epsilons) != sorted(set(self.epsilons)):
            given = ", ".join(map(epsilon_name, self.epsilons)) or "none"
            raise InputError(f"--epsilon is given as {given}: give different ones in growing order.")


def parse_epsilon(text: str) -> float:
    """Read `8/255` or `0.03`; raise `InputError` for anything else."""
    above, slash, below = text.partition("/")
    try:
        return float(above) / float(below if slash else 1)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"--epsilon is {text!r}: give a number or a fraction such as 8/255.") from None


def epsilon_name(epsilon: float) -> str:
    """Write a radius as it is spoken of: `8/255` where it is a whole number of levels, else its digits."""
    levels = 255 * epsilon
    return f"{levels:.0f}/255" if abs(levels - round(levels)) < 1e-6 else f"{epsilon:.4g}"
