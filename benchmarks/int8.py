"""What int8 shards cost: pictures beside float32's, and classifiers trained on both.

    python -m benchmarks.int8 pictures --photos FOLDER_OR_ZIP --style STYLE [--style …] -o SHEET.jpg
    python -m benchmarks.int8 classifiers [--seeds 3] [--epochs 4] [-o RESULT.json]

Both need the extra `dev`, and `openvino` with a CPU that multiplies int8 exactly; without such a CPU, `pictures`
computes in float32 what int8 gives. `classifiers` uses the embedded data set, one style and one architecture.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import stats
from torch import Tensor, nn

from stylize.cli.sheet import contact_sheet
from stylize.fitting import HOLD_OUT_FRACTION
from stylize.fitting.evaluate import held_out_photos
from stylize.jobs.job import open_job
from stylize.jobs.run import make_shards
from stylize.jobs.spec import ShardOptions
from stylize.networks.adain import AdaINNetwork, Layer
from stylize.networks.devices import sums_int8_exactly
from stylize.networks.openvino import QuantisedConvolution, quantise_pair
from stylize.networks.styles import Style, load_styles
from stylize.networks.stylizer import Pixels, Stylizer, psnr
from stylize.networks.weights import Pair, load_pair
from stylize.shards.decode import decode_picture
from train.config import TrainConfig
from train.run import train_model

BACKENDS = {"float32": "torch", "int8": "openvino"}  # by dtype
SHOWN_PHOTOS = 4

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def pictures(
    photos: Annotated[Path, typer.Option(help="Folder or zip.")],
    style: Annotated[list[str], typer.Option(help="As for `stylize shards`; repeat for more.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The side by side pictures.")],
    held_out_fraction: Annotated[float, typer.Option(help="As for `stylize evaluate-decoder`.")] = HOLD_OUT_FRACTION,
    count: Annotated[int, typer.Option(help="Photos.")] = 8,
    size: Annotated[int, typer.Option(help="Side of the pictures, in pixels.")] = 224,
) -> None:
    """Print int8's PSNR against float32 and write both side by side."""
    contents, pair = _read_photos(photos, held_out_fraction, count, size), load_pair()
    styles = load_styles(style, pair.decoder_sha256)
    stylizers = [Stylizer(pair.encoder.network, pair.decoder, styles, "float32"), _int8_stylizer(pair, styles)]
    rows, values = [], []
    for index, one in enumerate(styles):
        exact, rounded = (stylizer(contents, [index] * len(contents), 1.0) for stylizer in stylizers)
        found = [psnr(first, second) for first, second in zip(exact, rounded, strict=True)]
        print(f"{one.name}: mean {np.mean(found):.1f} dB, worst {min(found):.1f} dB")
        values += found
        sides = np.stack([exact, rounded], axis=1)[:SHOWN_PHOTOS].reshape(-1, *exact.shape[1:])
        rows.append([Image.fromarray(side) for side in sides])
    print(f"all {len(values)}: mean {np.mean(values):.1f} dB, worst {min(values):.1f} dB")
    contact_sheet(rows, [one.name for one in styles], list(BACKENDS) * SHOWN_PHOTOS, size).save(output)


class ExactChain(nn.Module):
    """Quantised layers on any CPU: rounded as for int8, and summed in float32."""

    def __init__(self, layers: Sequence[Layer], quantised: Sequence[QuantisedConvolution]) -> None:
        super().__init__()
        self._pairs = list(zip(layers, quantised, strict=True))

    def forward(self, activations: Tensor) -> Tensor:
        """Run the chain on (B, C, H, W)."""
        for layer, convolution in self._pairs:
            activations = convolution(layer.resample(activations))
            activations = activations.relu() if layer.rectified else activations
        return activations


def _int8_stylizer(pair: Pair, styles: Sequence[Style]) -> Stylizer:
    encoder, decoder = pair.encoder.network, pair.decoder
    if sums_int8_exactly():
        return Stylizer(encoder, decoder, styles, "int8", "openvino")
    print("This CPU does not multiply int8 exactly: what follows is computed in float32.")
    stylizer = Stylizer(encoder, decoder, styles, "float32")
    encoder_chain, decoder_chain = quantise_pair(encoder, decoder, stylizer.means, stylizer.stds)
    first, *following = decoder.chain
    decoding = nn.Sequential(first.convolution, nn.ReLU(), ExactChain(following, decoder_chain))
    stylizer.network = AdaINNetwork(ExactChain(encoder.chain, encoder_chain), decoding)
    return stylizer


def _read_photos(photos: Path, fraction: float, count: int, size: int) -> Pixels:
    files = held_out_photos(photos, fraction, count)
    return np.stack([np.asarray(ImageOps.fit(decode_picture(file.read()), (size, size))) for file in files])


@app.command()
def classifiers(
    seeds: Annotated[int, typer.Option(min=2, help="Trainings on either kind of shards.")] = 3,
    epochs: Annotated[int, typer.Option(help="Of every training.")] = 4,
    method: Annotated[str, typer.Option(help="As for `train run`.")] = "pairing",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write.")] = None,
) -> None:
    """Print test accuracies and the 95 % interval of their difference, paired by seed."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        accuracy = {name: _accuracies(Path(folder) / name, name, seeds, epochs, method) for name in BACKENDS}
    difference = accuracy["int8"] - accuracy["float32"]
    half = stats.t.ppf(0.975, seeds - 1) * difference.std(ddof=1) / seeds**0.5
    document: dict[str, Any] = {name: values.tolist() for name, values in accuracy.items()}
    document |= {"method": method, "epochs": epochs, "difference": difference.mean(), "half_interval": half}
    print(json.dumps(document, indent=2))
    if output:
        output.write_text(json.dumps(document, indent=2) + "\n")


def _accuracies(folder: Path, name: str, seeds: int, epochs: int, method: str) -> NDArray[np.float64]:
    """Make shards by a backend, train on them once a seed, and return the test accuracies."""
    make_shards(open_job(ShardOptions(size=64, dtype=name, backend=BACKENDS[name])), folder / "shards")
    found = []
    for seed in range(seeds):
        config = TrainConfig(
            shards=folder / "shards", arch="mobilenet_v3_small", method=method, out=folder / str(seed),
            epochs=epochs, seed=seed,
        )  # fmt: skip
        found.append(train_model(config)["test_accuracy"])
        print(f"{name}, seed {seed}: {found[-1]}")
    return np.array(found)


if __name__ == "__main__":
    app()
