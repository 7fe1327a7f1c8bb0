"""What each attack finds alone, beside AutoAttack's: our PGD against APGD, and Square without gradients.

    python -m benchmarks.attacks MODEL... --shards DIR [--epsilon 2/255 --epsilon 8/255] [--images 500] [-o RESULT.json]

Every attack meets the same images, at the same radius, with nothing known from the others; times are of this machine.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from attack import ImageSet, apgd, autoattack, choose_images, load_image_set, open_model, pgd, share, square
from attack.attacks import Attacked
from stylize.console import console
from stylize.console.settings import parse_epsilon

Attack = Callable[[nn.Module, Tensor, Tensor], Attacked]


def attacks(epsilon: float, batch_size: int) -> dict[str, Attack]:
    """Return the attacks by name: ours as `attack run` plans them, and the library's with its own constants."""
    ours = partial(pgd, norm="linf", epsilon=epsilon, seed=0, batch_size=batch_size)
    theirs = partial(apgd, norm="linf", epsilon=epsilon, seed=0, batch_size=batch_size)
    return {
        "PGD, CE, 20 steps": partial(ours, loss="ce", steps=20, step_size=epsilon / 8, restarts=1),
        "PGD, CE, 100 steps": partial(ours, loss="ce", steps=100, step_size=epsilon / 40, restarts=1),
        "APGD, CE": partial(theirs, loss="ce"),
        "PGD, DLR, 20 steps": partial(ours, loss="dlr", steps=20, step_size=epsilon / 8, restarts=1),
        "PGD, DLR, 100 steps": partial(ours, loss="dlr", steps=100, step_size=epsilon / 40, restarts=1),
        "APGD, DLR": partial(theirs, loss="dlr"),
        "Square, 1,000 queries": partial(square, epsilon=epsilon, queries=1000, seed=0, batch_size=batch_size),
        "AutoAttack": partial(autoattack, norm="linf", epsilon=epsilon, seed=0, batch_size=batch_size),
    }


def measure(attack: Attack, model: nn.Module, images: ImageSet, batch_size: int) -> dict[str, Any]:
    """Attack the images and return the share that stays right, its interval, passes and seconds."""
    started = time.perf_counter()
    found = attack(model, images.pixels, images.labels)
    seconds = time.perf_counter() - started
    with torch.no_grad():
        predicted = torch.cat([model(batch).argmax(1) for batch in torch.split(found.images, batch_size)])
    left = share((predicted == images.labels).tolist())
    return {"robust": left.mean, "text": str(left), "passes": found.forwards + found.backwards, "seconds": seconds}


def main(
    models: list[str],
    shards: Annotated[Path, typer.Option(help="Shard folder; its test images are attacked.")],
    epsilon: Annotated[list[str], typer.Option(help="L∞ radius.")] = ["2/255", "8/255"],  # noqa: B006
    images: Annotated[int, typer.Option(help="Test images.")] = 500,
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 50,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write.")] = None,
) -> None:
    """Measure and print what stays right."""
    found = []
    for name in models:
        opened = open_model(name, shards)
        keys = choose_images(shards, images, seed=0)
        chosen = load_image_set(shards, opened.card.image_size, opened.card.image_preset, keys, opened.device)
        for radius in epsilon:
            for title, attack in attacks(parse_epsilon(radius), batch_size).items():
                row = measure(attack, opened.network, chosen, batch_size)
                found.append({"model": name, "epsilon": radius, "attack": title, **row})
                cost = f"{row['passes']:,} passes, {row['seconds']:.0f} s"
                console.print(f"{name} {radius} {title}: {row['text']}, {cost}")
    if output:
        output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
