"""How good a decoder is: losses and distances over held-out photos and styles."""

import copy
import platform
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.table import Table
from torch import Tensor

from stylize.console import InputError, Show, counted, silent
from stylize.fitting import HOLD_OUT_FRACTION, FitSettings
from stylize.fitting.data import is_held_out
from stylize.fitting.optimise import (
    Statistics,
    Targets,
    content_distance,
    statistics_of,
    style_distance,
    style_targets,
    style_transfer_losses,
)
from stylize.networks import MIN_SIDE
from stylize.networks.adain import Decoder, Encoder, adain, pad_to_stride, unit_range
from stylize.networks.devices import best_dtype, find_device
from stylize.networks.styles import Style, load_each, load_styles
from stylize.networks.stylizer import Pixels
from stylize.networks.weights import load_pair
from stylize.shards.decode import decode_picture
from stylize.sources.folder import PictureFile, list_pictures

# Of a stylized photo. Residuals are losses over those of the unstylized photo, 0 is perfect: the style loss (relu1_1 …
# relu4_1), and the content loss (relu4_1) against the AdaIN target. `colour_distance` is the mean distance, in [0, 1],
# of the output's channel means and standard deviations to the style's.
SCORES = ("style_residual", "content_residual", "colour_distance")
BATCH = 4
OPTIMISER_STEPS = 300
MakeOptimiser = Callable[[list[Tensor]], torch.optim.Optimizer]


def evaluate_decoder(
    content: Path,
    style: Sequence[str],
    decoder: Path | None = None,
    held_out_fraction: float = HOLD_OUT_FRACTION,
    photos: int = 50,
    size: int = 224,
    lower_bound: int = 0,
    report: Show = silent,
    encoder: str | None = None,
) -> dict[str, Any]:
    """Score a decoder (the shipped one if None) and its encoder on held-out photos × styles at size × size pixels.

    With `lower_bound`, the pixels of that many photos per style are optimised for the same objective.
    `report` receives the task, its finished styles and their number.
    Returns a document for JSON: per style and overall a summary of every one of `SCORES`, the reconstruction's PSNR,
    and what it was measured with. Raises `InputError` for pictures, styles or decoders that cannot be used.
    """
    if size < MIN_SIDE:
        raise InputError(f"--size is {size}: give at least {MIN_SIDE} pixels.")
    pair = load_pair(encoder, decoder)
    files = held_out_photos(content, held_out_fraction, photos)
    styles = load_styles(style, pair.decoder_sha256)
    if len({one.name for one in styles}) < len(styles):
        raise InputError("Two styles have the same name, by which results are stored: rename a file.")
    pictures = load_each([(f"{file.root}/{file.name}", partial(_decode, file)) for file in files], "photo")
    evaluator = Evaluator(pair.encoder.network, pair.decoder, pictures, size)
    scores, bounds = {}, {}
    for number, one in enumerate(styles):
        report("Scoring", number, len(styles))
        scores[one.name] = evaluator.score(one)
    for number, one in enumerate(styles if lower_bound else []):
        report("Optimising pixels", number, len(styles))
        bounds[one.name] = evaluator.lower_bound(one, lower_bound)
    return {
        "decoder_sha256": pair.decoder_sha256,
        "encoder_sha256": pair.encoder.sha256,
        "size": size,
        "photos": [file.name for file in files],
        "dtype": str(evaluator.dtype).removeprefix("torch."),
        "device": f"{evaluator.device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
        "reconstruction_psnr": summarise(evaluator.reconstruction_psnr()),
        **_summaries("styles", "overall", scores),
        **(_summaries("lower_bound_styles", "lower_bound", bounds) if bounds else {}),
    }


def _summaries(per_style: str, overall: str, scores: dict[str, Tensor]) -> dict[str, Any]:
    every = {name: _summarise_scores(of_style) for name, of_style in scores.items()}
    return {per_style: every, overall: _summarise_scores(torch.cat(list(scores.values())))}


def held_out_photos(content: Path, fraction: float, limit: int) -> list[PictureFile]:
    """Return at most `limit` photos that a training with this held-out fraction did not see, spread over their order.

    Raises `InputError` where there are none.
    """
    files = [file for file in list_pictures(content) if is_held_out(file.name, fraction)]
    if not files or limit < 1:
        raise InputError(f"{content} has no held-out photos: give more, or --held-out-fraction 1 for all of them.")
    count = min(limit, len(files))
    return [files[index * len(files) // count] for index in range(count)]


def _decode(file: PictureFile) -> Image.Image:
    return decode_picture(file.read())


def _summarise_scores(scores: Tensor) -> dict[str, Any]:
    """Summarise the `SCORES` of some photos, (N, 3)."""
    return {name: summarise(column) for name, column in zip(SCORES, scores.T.tolist(), strict=True)}


def summarise(values: Sequence[float]) -> dict[str, float]:
    """Return median, mean, standard deviation and number of at least one value."""
    return {"median": median(values), "mean": fmean(values), "std": pstdev(values), "n": len(values)}


class Evaluator:
    """An encoder and a decoder on the best device, and photos (N, 3, size, size) in [0, 1] to stylize."""

    def __init__(self, encoder: Encoder, decoder: Decoder, photos: Sequence[Image.Image], size: int) -> None:
        self.device = find_device()
        self.dtype = best_dtype(self.device)
        place = {"device": self.device, "dtype": self.dtype, "memory_format": torch.channels_last}
        self.encoder: Encoder = copy.deepcopy(encoder).to(**place)  # type: ignore[call-overload]
        self.decoder: Decoder = copy.deepcopy(decoder).to(**place)  # type: ignore[call-overload]
        self.photos = torch.cat([self._pixels(np.array(ImageOps.fit(photo, (size, size)))[None]) for photo in photos])

    def _pixels(self, images: Pixels) -> Tensor:
        return unit_range(torch.from_numpy(images.copy()).to(self.device).permute(0, 3, 1, 2))

    def _layers(self, pixels: Tensor) -> list[Tensor]:
        return self.encoder.style_features(pixels.to(self.dtype))

    @torch.no_grad()
    def score(self, style: Style) -> Tensor:
        """Stylize every photo and return the results' `SCORES`, (N, 3)."""
        style_pixels, rows = self._pixels(style.array), []
        wanted = statistics_of(self._layers(pad_to_stride(style_pixels)))
        for photos in torch.split(self.photos, BATCH):
            features, targets = self._targets(photos, wanted)
            aligned = adain(features, *style.fitted.on(self.device)) if style.fitted else targets.features
            output = self.decoder(aligned.to(self.dtype)).clamp(0, 1)
            rows.append(self._scores(output, targets, style_pixels))
        return torch.cat(rows)

    def _targets(self, photos: Tensor, wanted: list[Statistics]) -> tuple[Tensor, Targets]:
        """Return the photos' relu4_1, and what copies with these style statistics are compared with."""
        layers = self._layers(photos)
        return layers[-1], style_targets(layers[-1], statistics_of(layers), wanted)

    def _scores(self, output: Tensor, targets: Targets, style_pixels: Tensor) -> Tensor:
        layers = self._layers(output)
        style = style_distance(statistics_of(layers), targets.statistics) / targets.style_scale
        content = content_distance(layers[-1], targets.features) / targets.content_scale
        return torch.stack([style, content, _colour_distance(output.float(), style_pixels)], dim=1).cpu()

    @torch.no_grad()
    def reconstruction_psnr(self) -> list[float]:
        """Return every photo's PSNR in decibels after encoding and decoding it without alignment."""
        values: list[float] = []
        for photos in torch.split(self.photos, BATCH):
            output = self.decoder(self.encoder(photos.to(self.dtype))).float().clamp(0, 1)
            values += (-10 * (output - photos).square().mean(dim=(1, 2, 3)).log10()).tolist()
        return values

    def lower_bound(self, style: Style, photos: int) -> Tensor:
        """Score pixels optimised directly for the decoder's objective, from the photo: the better of two optimisers.

        It does not always converge, and says what the objective allows, not what a decoder can reach.
        """
        steps = OPTIMISER_STEPS
        lbfgs = partial(torch.optim.LBFGS, max_iter=steps, max_eval=steps, line_search_fn="strong_wolfe")
        optimisers: dict[MakeOptimiser, int] = {partial(torch.optim.Adam, lr=0.02): steps, lbfgs: 1}  # in one step
        style_pixels, rows = self._pixels(style.array), []
        for photo in torch.split(self.photos[:photos], 1):
            with torch.no_grad():
                _, targets = self._targets(photo, statistics_of(self._layers(pad_to_stride(style_pixels))))
            objective = partial(self._objective, targets)
            candidates = [_optimised(one, count, objective, photo) for one, count in optimisers.items()]
            best, _ = min(candidates, key=itemgetter(1))
            with torch.no_grad():
                rows.append(self._scores(best, targets, style_pixels))
        return torch.cat(rows)

    def _objective(self, targets: Targets, pixels: Tensor) -> Tensor:
        losses = style_transfer_losses(self.encoder, pixels.clamp(0, 1).to(self.dtype), targets)
        return losses["content"] + FitSettings.style_weight * losses["style"]


def _colour_distance(output: Tensor, style: Tensor) -> Tensor:
    """Return the mean distance of channel means and standard deviations, (B,)."""
    found = torch.cat([output.mean(dim=(2, 3)), output.std(dim=(2, 3))], dim=1)
    wanted = torch.cat([style.mean(dim=(2, 3)), style.std(dim=(2, 3))], dim=1)
    return (found - wanted).abs().mean(dim=1)


def _optimised(
    optimiser_of: MakeOptimiser, steps: int, objective: Callable[[Tensor], Tensor], photo: Tensor
) -> tuple[Tensor, float]:
    """Return pixels that were optimised from a photo on, and their loss."""
    pixels = photo.clone(memory_format=torch.contiguous_format).requires_grad_()  # what L-BFGS demands
    optimiser = optimiser_of([pixels])

    def closure() -> float:
        optimiser.zero_grad()
        loss = objective(pixels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    for _ in range(steps):
        optimiser.step(closure)
    with torch.no_grad():
        loss = objective(pixels).item()
        return pixels.clamp(0, 1), loss if np.isfinite(loss) else np.inf


def evaluation_table(document: dict[str, Any]) -> Table:
    """Lay out a document of `evaluate_decoder`: median (mean ± standard deviation) per style and overall."""
    psnr = document["reconstruction_psnr"]["mean"]
    title = f"{counted(len(document['photos']), 'photo')} at {document['size']} px, reconstruction {psnr:.1f} dB"
    table = Table("style", *(name.replace("_", " ") for name in SCORES), title=title)
    for rows, label in (("styles", "overall"), ("lower_bound_styles", "lower_bound")):
        for style, summaries in document.get(rows, {}).items():
            table.add_row(style, *(_cell(summaries[name]) for name in SCORES))
        if label in document:
            table.add_row(f"{label.replace('_', ' ')}, all", *(_cell(document[label][name]) for name in SCORES))
            worst = [max(s[name]["median"] for s in document[rows].values()) for name in SCORES]
            table.add_row("worst style's median", *(f"{value:.3f}" for value in worst), end_section=True)
    return table


def _cell(summary: dict[str, float]) -> str:
    return f"{summary['median']:.3f} ({summary['mean']:.3f} ± {summary['std']:.3f})"
