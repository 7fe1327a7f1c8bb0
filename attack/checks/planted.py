"""Adversarial images planted inside the ball: an attack that works must find them (Zimmermann et al. 2022)."""

from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor, nn

from attack.attacks import Attacked, Averaged, Norm, size, steepest
from attack.checks import Check, Failure, could_not_run
from attack.checks.gradients import logits_of
from attack.checks.robustness import wilson

PLANTED_IMAGES = 8
FEWEST = 4
INNER, INNER_POINTS = 0.75, 32  # of ε: how far the noise that keeps answer 0 reaches
CLOSE = 0.05  # of the gap between planted and inner points: how far the threshold lies from the planted one
CHANCE_POINTS, CHANCE = 16, 0.1
FOUND = 0.95
SHRINKAGE = 1e-2  # towards the mean variance, where there are fewer points than features

NAME = "planted examples are found"
MEANING = "An attack that misses a weakness that is there for certain proves nothing where it finds none."

AttackImages = Callable[[nn.Module, Tensor, Tensor], Attacked]


class _Readout(nn.Module):
    """The features of a model, and a linear decision (weight (F,), threshold) with logits of about -1 to 1."""

    def __init__(self, features: nn.Module, weight: Tensor, threshold: Tensor) -> None:
        super().__init__()
        self.features, self.weight, self.threshold = features, weight, threshold

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, 2)."""
        score = self.features(images) @ self.weight - self.threshold
        return torch.stack([-score, score], 1)


class _Features(nn.Module):
    """What goes into the last linear layer that a model calls (N, F); its logits where it calls none."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.linear = [module for module in model.modules() if isinstance(module, nn.Linear)]

    def forward(self, images: Tensor) -> Tensor:
        """Return the features (N, F)."""
        seen: list[Tensor] = []
        handles = [layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for layer in self.linear]
        try:
            logits: Tensor = self.model(images)
        finally:
            for handle in handles:
                handle.remove()
        return (seen[-1] if seen else logits).flatten(1).float()


def check_planted(
    model: nn.Module, images: Tensor, attack: AttackImages, *, epsilon: float, norm: Norm = "linf", seed: int = 0
) -> Check:
    """Plant a point of another answer in the ball about each of the first images, and see whether the attack finds one.

    Args:
        model: in eval mode.
        images: (N, C, H, W), float32 in [0, 1].
        attack: from a model, one image and its label to the attacked image, as strong as the evaluation's; it must
            take two classes (the losses `ce` or `margin`) and stay within `epsilon`.
        epsilon: radius of the ball in units of the [0, 1] range.
        norm: `linf` or `l2`.
        seed: of the planted points and the noise.
    """
    try:
        found, planted = _search(model, images, attack, epsilon, norm, seed)
    except Exception as error:  # of a foreign model
        return Check(NAME, False, could_not_run(error), MEANING, norm=norm, epsilon=epsilon)
    enough = planted >= FEWEST
    says = "" if enough else "; too few for the test to say anything"
    failure: Failure = "inconclusive" if isinstance(model, Averaged) else "masking"  # draws may hide the example
    passed, numbers = wilson(found, planted)[1] >= FOUND, {"found": found, "planted": planted, "images": len(images)}
    detail = f"the attack finds {found} of {planted} examples planted in {len(images)} images{says}"
    return Check(NAME, enough and passed, detail, MEANING, numbers, failure if enough else "note", norm, epsilon)


def _search(
    model: nn.Module, images: Tensor, attack: AttackImages, epsilon: float, norm: Norm, seed: int
) -> tuple[int, int]:
    """Return how many planted points were found, of how many."""
    generator = torch.Generator().manual_seed(seed)
    features: nn.Module = _Features(model)
    if isinstance(model, Averaged):
        features = Averaged(_Features(model.model), model.draws)
    plants = (_plant(features.eval(), image, epsilon, norm, generator) for image in images)
    planted = list(islice((plant for plant in plants if plant is not None), PLANTED_IMAGES))
    return sum(_finds(readout, image, attack, epsilon, norm) for readout, image in planted), len(planted)


def _plant(
    features: nn.Module, image: Tensor, epsilon: float, norm: Norm, generator: torch.Generator
) -> tuple[_Readout, Tensor] | None:
    """Return a readout that answers 1 at one end of the ball about an image (C, H, W), and the image as a batch."""
    far = torch.sign if norm == "linf" else torch.clone
    corners = _around(image, epsilon, 1 + CHANCE_POINTS, norm, generator, far)
    inner = _around(image, INNER * epsilon, INNER_POINTS, norm, generator)
    outputs = logits_of(features, torch.cat([corners, image[None], inner]), 0).double()
    planted, chance, kept = outputs[0], outputs[1 : len(corners)], outputs[len(corners) :]
    weight = _discriminant(planted, kept)
    gap = planted @ weight - (kept @ weight).amax()
    threshold = planted @ weight - CLOSE * gap
    by_chance = (chance @ weight > threshold).double().mean()
    if not (gap > 0 and by_chance <= CHANCE):
        return None
    return _Readout(features, (weight / gap).float(), (threshold / gap).float()).eval(), image[None]


def _around(
    image: Tensor,
    radius: float,
    count: int,
    norm: Norm,
    generator: torch.Generator,
    shape: Callable[[Tensor], Tensor] = torch.clone,
) -> Tensor:
    """Return images (count, C, H, W) with uniform noise of a radius, or with its signs; for L2 it is as long."""
    noise = shape(2 * torch.rand((count, *image.shape), generator=generator) - 1)
    noise = noise if norm == "linf" else steepest(noise, norm)
    return (image + radius * noise.to(image.device)).clamp(0, 1)


def _discriminant(planted: Tensor, inner: Tensor) -> Tensor:
    """Return w = (XᵀX / n + λI)⁻¹ (planted - mean) for features (F,) and (n, F), X the centred inner ones.

    Solved in n dimensions (Woodbury), up to a factor: w ∝ d - Xᵀ (XXᵀ + nλI)⁻¹ X d.
    """
    centred, count = inner - inner.mean(0), len(inner)
    silent = (centred == 0).all(0)  # units that only the planted point wakes: no attack could feel them from x
    difference = (planted - inner.mean(0)).masked_fill(silent, 0)
    shrinkage = SHRINKAGE * centred.square().mean().clamp_min(1e-30) * count
    inside = centred @ centred.T + shrinkage * torch.eye(count).to(centred)
    explained: Tensor = centred.T @ torch.linalg.solve(inside, centred @ difference)
    return difference - explained


def _finds(readout: _Readout, image: Tensor, attack: AttackImages, epsilon: float, norm: Norm) -> bool:
    attacked = attack(readout, image, torch.zeros(1, dtype=torch.int64, device=image.device)).images
    near = float(size(attacked - image, norm)) <= epsilon * (1 + 1e-3)
    pixels = 0 <= float(attacked.amin()) <= float(attacked.amax()) <= 1
    return near and pixels and bool(logits_of(readout, attacked, 0).argmax(1) == 1)
