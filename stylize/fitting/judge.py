"""How good a decoder is: losses of its pictures relative to the photos' own, on pictures that it was not trained on."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from statistics import fmean, median, pstdev

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from stylize.engine.devices import best_device, best_dtype
from stylize.engine.styles import Style
from stylize.fitting.losses import (
    Targets,
    content_distance,
    statistics_of,
    style_distance,
    style_targets,
    style_transfer_losses,
)
from stylize.fitting.settings import FitSettings
from stylize.networks.adain import Decoder, Encoder, adain, pad_to_stride, unit_range

BATCH = 4
OPTIMISER_STEPS = 300


@dataclass(frozen=True)
class Scores:
    """What one picture scored; residuals are losses over those of the unstylized photo, 0 is perfect.

    `style_residual` is the style loss (relu1_1 … relu4_1), `content_residual` the content loss (relu4_1) against the
    AdaIN target, `colour_distance` the mean distance of the output's channel means and deviations, in [0, 1], to the
    style's.
    """

    style_residual: float
    content_residual: float
    colour_distance: float


@dataclass(frozen=True)
class Summary:
    """Median, mean, standard deviation and number of a quantity."""

    median: float
    mean: float
    deviation: float
    n: int


def summarise(values: Sequence[float]) -> Summary:
    """Summarise at least one value."""
    return Summary(median(values), fmean(values), pstdev(values), len(values))


def summarise_scores(scores: Sequence[Scores]) -> dict[str, Summary]:
    """Summarise every quantity of some pictures."""
    return {field.name: summarise([getattr(score, field.name) for score in scores]) for field in fields(Scores)}


class Judge:
    """An encoder and a decoder on the best device, and photos (N, 3, size, size) in [0, 1] to judge them with."""

    def __init__(self, encoder: Encoder, decoder: Decoder, photos: Sequence[Image.Image], size: int) -> None:
        self.device = best_device()
        self.dtype = best_dtype(self.device)
        place = {"device": self.device, "dtype": self.dtype, "memory_format": torch.channels_last}
        self.encoder: Encoder = copy.deepcopy(encoder).to(**place)  # type: ignore[call-overload]
        self.decoder: Decoder = copy.deepcopy(decoder).to(**place)  # type: ignore[call-overload]
        self.photos = torch.cat([self._pixels(ImageOps.fit(photo, (size, size))) for photo in photos])

    def _pixels(self, picture: Image.Image) -> Tensor:
        return unit_range(torch.from_numpy(np.array(picture)).to(self.device).permute(2, 0, 1)[None])

    def _layers(self, pixels: Tensor) -> list[Tensor]:
        return self.encoder.style_features(pixels.to(self.dtype))

    @torch.no_grad()
    def judge_style(self, style: Style) -> list[Scores]:
        """Stylize every photo and score the results."""
        style_pixels = self._pixels(style.picture)
        statistics = statistics_of(self._layers(pad_to_stride(style_pixels)))
        scores: list[Scores] = []
        for photos in torch.split(self.photos, BATCH):
            layers = self._layers(photos)
            targets = style_targets(layers[-1], statistics_of(layers), statistics)
            fitted = style.fitted and style.fitted.on(self.device)
            features = adain(layers[-1], *fitted) if fitted else targets.features
            output = self.decoder(features.to(self.dtype)).clamp(0, 1)
            scores += self._score(output, targets, style_pixels)
        return scores

    def _score(self, output: Tensor, targets: Targets, style_pixels: Tensor) -> list[Scores]:
        layers = self._layers(output)
        style = style_distance(statistics_of(layers), targets.statistics) / targets.style_scale
        content = content_distance(layers[-1], targets.features) / targets.content_scale
        columns = (style, content, _colour_distance(output.float(), style_pixels))
        return [Scores(*row) for row in torch.stack(columns, dim=1).tolist()]

    @torch.no_grad()
    def reconstruction_psnr(self) -> list[float]:
        """Return every photo's PSNR in decibels after encoding and decoding it without alignment."""
        values: list[float] = []
        for photos in torch.split(self.photos, BATCH):
            output = self.decoder(self.encoder(photos.to(self.dtype))).float().clamp(0, 1)
            values += (-10 * (output - photos).square().mean(dim=(1, 2, 3)).log10()).tolist()
        return values

    def lower_bound(self, style: Style, photos: int) -> list[Scores]:
        """Score pixels optimised directly for the decoder's objective, from the photo: the better of two optimisers.

        It does not always converge, and says what the objective allows, not what a decoder can reach.
        """
        style_pixels = self._pixels(style.picture)
        with torch.no_grad():
            statistics = statistics_of(self._layers(pad_to_stride(style_pixels)))
        scores: list[Scores] = []
        for photo in torch.split(self.photos[:photos], 1):
            with torch.no_grad():
                layers = self._layers(photo)
                targets = style_targets(layers[-1], statistics_of(layers), statistics)
            candidates = [optimise(self._objective(targets), photo) for optimise in (_by_adam, _by_lbfgs)]
            best, _ = min(candidates, key=lambda candidate: candidate[1])
            with torch.no_grad():
                scores += self._score(best, targets, style_pixels)
        return scores

    def _objective(self, targets: Targets) -> Callable[[Tensor], Tensor]:
        def objective(pixels: Tensor) -> Tensor:
            losses = style_transfer_losses(self.encoder, pixels.clamp(0, 1).to(self.dtype), targets)
            return losses["content"] + FitSettings.style_weight * losses["style"]

        return objective


def _colour_distance(output: Tensor, style: Tensor) -> Tensor:
    """Return the mean distance of channel means and deviations, (B,)."""
    found = torch.cat([output.mean(dim=(2, 3)), output.std(dim=(2, 3))], dim=1)
    wanted = torch.cat([style.mean(dim=(2, 3)), style.std(dim=(2, 3))], dim=1)
    return (found - wanted).abs().mean(dim=1)


def _by_adam(objective: Callable[[Tensor], Tensor], photo: Tensor) -> tuple[Tensor, float]:
    pixels = photo.clone().requires_grad_()
    optimiser = torch.optim.Adam([pixels], lr=0.02)
    for _ in range(OPTIMISER_STEPS):
        optimiser.zero_grad()
        objective(pixels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return _result(objective, pixels)


def _by_lbfgs(objective: Callable[[Tensor], Tensor], photo: Tensor) -> tuple[Tensor, float]:
    pixels = photo.clone(memory_format=torch.contiguous_format).requires_grad_()  # what LBFGS demands
    optimiser = torch.optim.LBFGS(
        [pixels], max_iter=OPTIMISER_STEPS, max_eval=OPTIMISER_STEPS, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimiser.zero_grad()
        loss = objective(pixels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return _result(objective, pixels)


@torch.no_grad()
def _result(objective: Callable[[Tensor], Tensor], pixels: Tensor) -> tuple[Tensor, float]:
    loss = objective(pixels).item()
    return pixels.clamp(0, 1), loss if np.isfinite(loss) else np.inf
