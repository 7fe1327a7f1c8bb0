"""What attacks return, and what an evaluation keeps of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

Norm = Literal["l2", "linf"]
Kind = Literal["white-box", "black-box", "transfer", "noise", "single-step", "minimal-norm", "unbounded"]


@dataclass(frozen=True)
class Attacked:
    """Attacked images (N, C, H, W) in [0, 1], the passes counted in images, and what the attack itself found out.

    `forwards` and `backwards` count an image once for every time it goes through the model in that direction.
    `last_losses` (N, K), where an attack has steps, is the loss of its best restart over the last K steps.
    """

    images: Tensor
    forwards: int
    backwards: int
    last_losses: Tensor | None = None


@dataclass(frozen=True)
class Attempt:
    """One attack on the N images of an evaluation, in the form in which the result file keeps it.

    `robust` is true where an image is classified correctly as it is and as attacked, judged by a pass of its own over
    the attacked images in float32. `distance` is the attacked image's distance in `norm`. `epsilon`, in pixels of
    [0, 1], is None for minimal-norm attacks, whose `distance` is infinite where they found nothing and 0 where the
    clean image is wrong. `losses` summarises what checks need of a steepest-ascent attack.
    """

    name: str
    kind: Kind
    norm: Norm
    epsilon: float | None
    robust: tuple[bool, ...]
    distance: tuple[float, ...]
    forwards: int
    backwards: int
    seconds: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
