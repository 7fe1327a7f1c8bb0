"""Fit a style's statistics so that the decoder's copies match the style better: `stylize fit-styles`."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stylize.console import InputError
from stylize.fitting import FitSettings
from stylize.fitting.optimise import Targets, statistics_of, style_targets, style_transfer_losses
from stylize.networks.adain import Decoder, Encoder, adain, pad_to_stride, unit_range
from stylize.networks.devices import find_device
from stylize.networks.openvino import calibration_pictures
from stylize.networks.styles import FITTED_SUFFIX, FittedStatistics, Style, read_fitted, write_fitted
from stylize.networks.weights import Pair
from stylize.shards.decode import PictureError

STEPS = 20
RATE = 0.1  # of Adam, falling linearly to 0
BATCH = 8  # drawn pictures a step
RECIPE = {"steps": STEPS, "rate": RATE, "batch": BATCH, "style_weight": FitSettings.style_weight}
STEM_BYTES = 100  # of a style's name in its file's, which file systems limit


@dataclass(frozen=True)
class FitResult:
    """A fitted style's file, and the losses (content, style) on the drawn pictures before and after, over their own.

    The losses are None where the file was there already.
    """

    path: Path
    before: tuple[float, float] | None = None
    after: tuple[float, float] | None = None


def fit_styles(pair: Pair, styles: Sequence[Style], out: Path = Path("data/styles")) -> Iterator[FitResult]:
    """Fit styles to a pair, one after the other, and write each to a file of its own in a folder.

    The pictures that they are fitted on are drawn, so that a style's file depends on the style and the pair only, on
    one kind of machine. A style whose file is there is passed over; one damaged or of another decoder is replaced.
    Raises `InputError` for styles that are fitted already or cannot be fitted, and where a file cannot be written.
    """
    for style in styles:
        if style.fitted:
            raise InputError(f"The style {style.name} is fitted already: give its picture.")
    encoder, decoder = copy.deepcopy((pair.encoder.network, pair.decoder))
    encoder.to(find_device())
    decoder.to(find_device())
    for style in styles:
        stem = PurePosixPath(style.name).stem.encode()[:STEM_BYTES].decode(errors="ignore")
        path = out / f"{stem}-{style.sha256[:8]}{FITTED_SUFFIX}"
        if _is_fitted_to(path, pair.decoder_sha256):
            yield FitResult(path)
            continue
        fit = StyleFit(encoder, decoder, style)
        before = fit.mean_losses()
        fit.train()
        after = fit.mean_losses()
        if not all(map(math.isfinite, after)):
            raise InputError(f"The style {style.name} cannot be fitted, a loss is not finite: give another --decoder.")
        write_fitted(path, style, FittedStatistics(*fit.statistics(), pair.decoder_sha256), RECIPE)
        yield FitResult(path, before, after)


def _is_fitted_to(path: Path, decoder_sha256: str) -> bool:
    try:
        fitted = read_fitted(path).fitted
    except PictureError:  # not there, or damaged
        return False
    return fitted is not None and fitted.decoder_sha256 == decoder_sha256


class StyleFit:
    """A style, a float32 encoder and decoder on one device, and drawn pictures to stylize, in batches.

    The style's mean becomes μ + m, its standard deviation σ · exp(d); m and d are trained for the decoder's objective.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, style: Style) -> None:
        self.encoder, self.decoder = encoder, decoder
        wanted = statistics_of(encoder.style_features(pad_to_stride(self._pixels(style.array))))
        layers = [encoder.style_features(batch) for batch in torch.split(self._pixels(calibration_pictures()), BATCH)]
        self.batches: list[tuple[Tensor, Targets]] = [
            (batch[-1], style_targets(batch[-1], statistics_of(batch), wanted)) for batch in layers
        ]
        self.mean, self.std = wanted[-1]
        self.shift = torch.zeros_like(self.mean, requires_grad=True)
        self.log_scale = torch.zeros_like(self.std, requires_grad=True)

    def _pixels(self, images: NDArray[np.uint8]) -> Tensor:
        device = next(self.decoder.parameters()).device
        return unit_range(torch.from_numpy(images.copy()).to(device).permute(0, 3, 1, 2))

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation as fitted so far, each (1, 512, 1, 1)."""
        mean, std = self._fitted()
        return mean.detach(), std.detach()

    def _fitted(self) -> tuple[Tensor, Tensor]:
        return self.mean + self.shift, self.std * self.log_scale.exp()

    def _losses(self, content: Tensor, targets: Targets) -> dict[str, Tensor]:
        output = self.decoder(adain(content, *self._fitted())).clamp(0, 1)
        return style_transfer_losses(self.encoder, output, targets)

    def train(self) -> None:
        """Take all steps of Adam."""
        optimiser = torch.optim.Adam([self.shift, self.log_scale], lr=RATE)
        schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0, STEPS)
        for step in range(STEPS):
            losses = self._losses(*self.batches[step % len(self.batches)])
            optimiser.zero_grad()
            objective = losses["content"] + FitSettings.style_weight * losses["style"]
            objective.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()

    @torch.no_grad()
    def mean_losses(self) -> tuple[float, float]:
        """Return content and style loss, means over all pictures."""
        losses = [self._losses(*batch) for batch in self.batches]
        content, style = (torch.stack([loss[name] for loss in losses]).mean().item() for name in ("content", "style"))
        return content, style
