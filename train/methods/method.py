"""What a training method is: what it is shown, and what it makes of it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from train.methods.distances import DISTANCES

Distance = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Settings:
    """What methods can be told: the distance of a pair's logits, and how strong the attacks in training are.

    `epsilon` is the greatest change of a pixel in [0, 1], found in `attack_steps` steps.
    """

    distance: Distance = DISTANCES["mse"]
    epsilon: float = 4 / 255
    attack_steps: int = 7


@dataclass(frozen=True)
class Losses:
    """The two parts of a loss, scalars: the cross-entropy, and the pairing loss that λ multiplies, if there is one."""

    cross_entropy: Tensor
    pairing: Tensor | None = None


# Takes the model, pixels (B, V, 3, H, W) in [0, 1] with the original at V = 0, labels (B,) or their
# probabilities (B, classes), and settings.
Loss = Callable[[nn.Module, Tensor, Tensor, Settings], Losses]


@dataclass(frozen=True)
class Method:
    """A loss, which views of a sample it is given (`train/views.py`), and its λ where none is given."""

    loss: Loss
    views: str
    pairing_weight: float = 1.0
    distance: str = "mse"
    epsilon: float = 4 / 255
