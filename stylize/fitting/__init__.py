"""Decoders and styles in training, and how well they do; here the settings of a decoder's training, checked."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from stylize.console import InputError

WARM_UP_STEPS = 50
HOLD_OUT_FRACTION = 0.1  # of the photos, by hash
LOSSES = ("reconstruction", "style")


@dataclass(frozen=True)
class Phase:
    """A part of a training: its loss, "reconstruction" or "style", the side of its crops in pixels, and its steps.

    Styles are crops of `style_side` pixels, where given: the statistics of whole pictures are what users ask for.
    With `restart` the learning rates warm up to that share of the recipe's and fall again (warm restart, Loshchilov &
    Hutter 2017).
    """

    loss: str
    side: int
    steps: int
    restart: float = 0.0
    style_side: int | None = None


@dataclass(frozen=True)
class FitSettings:
    """A recipe: phases, loss weights, optimiser, and shares of styles; every batch is used for `pairings` updates.

    `photo_share` of the styles are photos, `painted_share` of these painted; `texture_share` of the others are drawn
    textures, `pattern_share` of what is left are built-in patterns. `recoloured_share` of painted photos, patterns and
    pictures get other colours, `combined_share` of all are made of two.
    """

    phases: tuple[Phase, ...]
    batch_size: int = 8
    pairings: int = 2
    style_weight: float = 5.0
    identity_weight: float = 3.0
    learning_rate: float = 5e-4
    muon_rate: float = 1.5e-3
    averaging: float = 0.998
    photo_share: float = 0.3
    painted_share: float = 0.6
    texture_share: float = 0.3
    pattern_share: float = 0.4
    recoloured_share: float = 0.65
    combined_share: float = 0.35
    seed: int = 0

    def __post_init__(self) -> None:
        for phase in self.phases:
            if phase.loss not in LOSSES:
                raise InputError(f"There is no loss {phase.loss!r}: choose one of {', '.join(LOSSES)}.")
            if not 0 <= phase.restart <= 1:
                raise InputError(f"A phase restarts at {phase.restart} of the rates: give 0 to 1.")
            for side in (phase.side, phase.side if phase.style_side is None else phase.style_side):
                if side % 8 or side < 16:
                    raise InputError(f"A phase's crops have a side of {side}: give a multiple of 8, at least 16.")
        if self.steps < 1 or min(self.batch_size, self.pairings) < 1:
            raise InputError("Steps, batch size and pairings of a decoder's training must be at least 1.")

    @property
    def steps(self) -> int:
        """Steps of all phases; a step takes one batch."""
        return sum(phase.steps for phase in self.phases)

    def _cycles(self) -> Iterator[tuple[int, int, float]]:
        """Yield the first step, the number of steps and the peak of every cycle of the learning rate."""
        first, steps, peak = 0, 0, 1.0
        for phase in self.phases:
            if phase.restart:
                if steps:
                    yield first, steps, peak
                first, steps, peak = first + steps, 0, phase.restart
            steps += phase.steps
        yield first, steps, peak

    def rate_factor(self, step: int) -> float:
        """Return what a step multiplies the learning rates with: a short warm-up, then a cosine down to 0."""
        first, steps, peak = next(cycle for cycle in self._cycles() if step < sum(cycle[:2]))
        position = step - first
        return peak * min(1.0, (position + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * position / steps))


REFINE = "refine"
REFINEMENT = (Phase("style", 96, 850, restart=0.2, style_side=160),)
PRESETS = {
    "shipped": FitSettings(
        (
            Phase("reconstruction", 64, 400),
            Phase("style", 64, 2400),
            Phase("style", 96, 1200),
            Phase("style", 64, 1800, restart=1.0),
            Phase("style", 96, 1400),
            *REFINEMENT,
        )
    ),
    REFINE: FitSettings(REFINEMENT),
    "gpu": FitSettings((Phase("reconstruction", 256, 1000), Phase("style", 256, 25_000)), pairings=4, averaging=0.999),
    "quick": FitSettings((Phase("reconstruction", 64, 100), Phase("style", 64, 200))),
}
