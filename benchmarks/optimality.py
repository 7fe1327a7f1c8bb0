"""How near attacks come to the nearest error that any of them found: AttackBench's local optimality, 1 at best.

    python -m benchmarks.optimality MODEL... --shards DIR [--norm linf --norm l2] [--images 32] [-o RESULT.json]

The images are the first that the model gets right. PGD and APGD, whose radius is fixed, search for it in 12 steps.
"""

import importlib
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from torch import Tensor, nn

from attack import apgd, choose_images, load_image_set, minimal_norm, open_model, pgd, targeted
from attack.attacks import Attacked, Norm, counting, misclassified, size
from stylize.console import console

SEARCH_STEPS = 12
FIRST_RADIUS: dict[Norm, float] = {"linf": 1 / 255, "l2": 1.0}
Found = tuple[Tensor, float]  # distances (N,), infinite where nothing was found, and passes an image
Attack = Callable[[nn.Module, Tensor, Tensor, Norm], Found]


def optimality(distances: Tensor, nearest: Tensor) -> float:
    """Return the local optimality of distances (N,) of right images, beside the nearest of all attacks (N,).

    Cinà et al. (2025), eq. 5: the area between an attack's curve of robust accuracy and 1, up to the radius at which
    nothing is left of the best curve, as a share of that of the best.
    """
    end = nearest[nearest.isfinite()].amax()
    return float((end - distances).clamp_min(0).sum() / (end - nearest).clamp_min(0).sum())


def distances(model: nn.Module, images: Tensor, attacked: Tensor, labels: Tensor, norm: Norm) -> Tensor:
    """Return how far attacked images (N, C, H, W) lie, infinite where they are right."""
    with torch.no_grad():
        wrong = misclassified(model(attacked), labels)
    return size(attacked.double() - images.double(), norm).where(wrong, math.inf)


def nearest_error(model: nn.Module, images: Tensor, labels: Tensor, norm: Norm) -> Found:
    """Run our minimal-norm attack."""
    found = minimal_norm(model, images, labels, norm=norm)
    return distances(model, images, found.images, labels, norm), (found.forwards + found.backwards) / len(images)


def fab(model: nn.Module, images: Tensor, labels: Tensor, norm: Norm) -> Found:
    """Run FAB, 100 steps, untargeted, by AutoAttack's code."""
    library = importlib.import_module("pyautoattack.fab_pt")
    with counting(model) as counted:
        attack = library.FABAttack_PT(counted, norm=norm.capitalize(), n_iter=100, device=images.device)
        attacked = attack.attack_single_run(images.clone(), labels.clone())
    passes = (counted.forwards + counted.backwards) / len(images)
    return distances(model, images, attacked, labels, norm), passes


def searched(attack: Callable[..., Attacked], model: nn.Module, images: Tensor, labels: Tensor, norm: Norm) -> Found:
    """Double each image's radius until an attack finds an error within it, then halve the gap."""
    nearest = torch.full(labels.shape, math.inf, dtype=torch.float64)
    low, high, passes = torch.zeros_like(nearest), nearest.clone(), 0
    radius = torch.full_like(nearest, FIRST_RADIUS[norm])
    for _ in range(SEARCH_STEPS):
        reached = torch.full_like(nearest, math.inf)
        for epsilon in set(radius.tolist()):
            rows = radius == epsilon
            found = attack(model, images[rows], labels[rows], epsilon=epsilon, norm=norm)
            passes += found.forwards + found.backwards
            reached[rows] = distances(model, images[rows], found.images, labels[rows], norm)
        nearest, wrong = nearest.minimum(reached), reached.isfinite()
        low, high = low.where(wrong, radius), radius.where(wrong, high)
        radius = torch.where(high.isfinite(), (low + high) / 2, 2 * low)
    return nearest, passes / len(labels)


ATTACKS: dict[str, Attack] = {
    "minimal_norm, 100 steps": nearest_error,
    "FAB, 100 steps": fab,
    "APGD on cross-entropy, 100 steps": partial(searched, apgd),
    "PGD on cross-entropy, 40 steps": partial(searched, partial(pgd, loss="ce")),
    "PGD on the margin, 40 steps": partial(searched, partial(pgd, loss="margin")),
    "PGD towards three classes, 4 × 10 steps": partial(searched, partial(targeted, targets=3, steps=10)),
    "PGD towards nine classes, 10 × 20 steps": partial(searched, targeted),
}


def main(
    models: list[str],
    shards: Annotated[Path, typer.Option(help="Shard folder; its test images are attacked.")],
    norm: Annotated[list[str], typer.Option(help="linf or l2.")] = ["linf", "l2"],  # noqa: B006
    images: Annotated[int, typer.Option(help="Images that the model gets right.")] = 32,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write.")] = None,
) -> None:
    """Measure and print the optimality of each attack."""
    rows: list[dict[str, Any]] = []
    for name in models:
        opened = open_model(name, shards)
        keys = choose_images(shards, opened.test_images, seed=0)
        chosen = load_image_set(shards, *opened.sees, keys, opened.device)
        with torch.no_grad():
            right = (~misclassified(opened.network(chosen.pixels), chosen.labels)).nonzero()[:images, 0]
        pixels, labels = chosen.pixels[right], chosen.labels[right]
        for each in cast("list[Norm]", norm):
            found = {title: attack(opened.network, pixels, labels, each) for title, attack in ATTACKS.items()}
            nearest = torch.stack([far for far, _ in found.values()]).amin(0)
            for title, (far, passes) in found.items():
                row = {"model": name, "norm": each, "images": len(right), "attack": title, "passes": round(passes)}
                rows.append({**row, "optimality": optimality(far, nearest), "distances": far.tolist()})
                console.print(f"{name} {each} {title}: {rows[-1]['optimality']:.3f}, {passes:,.0f} passes an image")
    if output:
        output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
