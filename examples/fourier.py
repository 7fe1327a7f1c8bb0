"""Fourier amplitude mixing (Xu et al. 2021): the phase of an image with amplitudes between its own and a style's.

stylize shards --stylizer examples.fourier:AmplitudeMix --alpha 0:1 --data photos --style paintings
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


class AmplitudeMix:
    """A stylizer that mixes amplitudes over the whole spectrum; the paper draws the strength from 0 to 1."""

    name, version, batch_size = "fourier-amplitude-mix", "1", 32

    def __call__(self, images: Pixels, choice: list[int], styles: list[Pixels], alphas: list[float]) -> Pixels:
        """Return the images (N, H, W, 3), each mixed with the style of its choice, scaled to its size."""
        _, height, width, _ = images.shape
        amplitudes = {style: self._amplitude(styles[style], (width, height)) for style in set(choice)}
        spectra = np.fft.rfft2(images.astype(np.float32), axes=(1, 2))
        own, strength = np.abs(spectra), np.array(alphas, np.float32)[:, None, None, None]
        mixed = (1 - strength) * own + strength * np.stack([amplitudes[style] for style in choice])
        phase = np.divide(spectra, own, out=np.ones_like(spectra), where=own > 0)
        pixels = np.fft.irfft2(mixed * phase, (height, width), axes=(1, 2))
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)

    @staticmethod
    def _amplitude(style: Pixels, size: tuple[int, int]) -> NDArray[np.float32]:
        scaled = np.asarray(Image.fromarray(style).resize(size, Image.Resampling.BICUBIC), np.float32)
        return np.abs(np.fft.rfft2(scaled, axes=(0, 1)))
