"""How well stylized copies of small images can still be recognised, by the size at which they are stylized.

    python -m benchmarks.recognisability --model MODEL --data CIFAR_OR_FOLDER --style STYLE
                                         [--size 32 --size 64] [--work-size 64 …] [--images 1000] [-o RESULT.json]

Images are stored at `--size` and stylized at every `--work-size` that is not smaller.

The judge is a classifier that was trained on originals only (`train run --method normal`). *Agreement* is the share of
test images whose stylized copy it gives the same class as the original; images of another size are resized for it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn

from stylize.engine.engine import Engine, Pixels
from stylize.engine.styles import load_styles
from stylize.networks.pair import load_pair
from stylize.runs.codec import Codec
from stylize.shards.format import file_sha256
from stylize.sources.source import Source, open_source
from train.augmentation import resize_square
from train.checkpoint import load_model

BATCH = 250


@dataclass(frozen=True)
class Row:
    """One setting: stored side, side while stylizing, and shares of images in [0, 1] with a standard error."""

    size: int
    work_size: int
    agreement: float
    accuracy_stylized: float
    accuracy_original: float
    standard_error: float
    images: int


@torch.inference_mode()
def classes(model: nn.Module, side: int, pictures: Pixels) -> Tensor:
    """Return the predicted classes of pictures (N, H, W, 3), resized for the classifier."""
    batches = torch.split(torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(), BATCH)
    return torch.cat([model(resize_square(batch, side).float() / 255).argmax(1) for batch in batches])


def read_pictures(source: Source, size: int, images: int) -> tuple[Pixels, Tensor]:
    """Return test images spread over the data set, at a size, and their labels; at most as many as there are."""
    count = source.count("test")
    indices = np.linspace(0, count - 1, min(images, count)).round().astype(int).tolist()
    codec = Codec("png", 95)
    pictures = [codec.read_content(source.read("test", index), size)[1] for index in indices]
    return np.stack(pictures), torch.tensor([source.label("test", index) for index in indices])


def judge(
    engine: Engine, model: nn.Module, classifier_side: int, pictures: Pixels, labels: Tensor, work_size: int
) -> Row:
    """Stylize pictures at a working size, store them at their own, and classify both."""
    stylized = [
        engine.stylize(part, [0] * len(part), 1.0, work_size)
        for part in np.split(pictures, range(BATCH, len(pictures), BATCH))
    ]
    original, copy = (classes(model, classifier_side, images) for images in (pictures, np.concatenate(stylized)))
    agreement = (original == copy).float().mean().item()
    return Row(
        size=pictures.shape[1],
        work_size=work_size,
        agreement=agreement,
        accuracy_stylized=(copy == labels).float().mean().item(),
        accuracy_original=(original == labels).float().mean().item(),
        standard_error=(agreement * (1 - agreement) / len(labels)) ** 0.5,
        images=len(labels),
    )


def main(
    model: Annotated[Path, typer.Option(help="Classifier trained on originals.")],
    data: Annotated[str, typer.Option(help="As for `stylize shards`.")],
    style: Annotated[str, typer.Option(help="One style.")],
    size: Annotated[list[int], typer.Option(help="Stored sides.")] = [32, 64, 96],  # noqa: B006
    work_size: Annotated[list[int], typer.Option(help="Sides while stylizing.")] = [32, 64, 96, 128],  # noqa: B006
    images: Annotated[int, typer.Option(help="Test images.")] = 1000,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write.")] = None,
) -> None:
    """Measure and print every setting."""
    classifier, card = load_model(model)
    pair = load_pair()
    (chosen,) = load_styles([style], pair.decoder_sha256)
    engine = Engine(pair.encoder.network, pair.decoder, [chosen])
    source = open_source(data, test_fraction=0.1)
    if list(source.class_names) != card.class_names:
        raise SystemExit(f"{model} was trained on other classes than those of {data}.")
    rows = []
    for stored in size:
        pictures, labels = read_pictures(source, stored, images)
        for side in (side for side in work_size if side >= stored):
            rows.append(judge(engine, classifier, card.image_size, pictures, labels, side))
            print(rows[-1])
    if output:
        document: dict[str, Any] = {"style": chosen.name, "dtype": engine.dtype_name, "model": file_sha256(model)}
        document |= {"decoder": pair.decoder_sha256, "rows": [vars(row) for row in rows]}
        output.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
