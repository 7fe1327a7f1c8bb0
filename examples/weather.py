"""Rain and snow of kornia, a package of PyPI: each copy gets one of them, drawn by its seed.

pip install kornia; stylize shards --stylizer examples.weather:Weather --data photos --styles-per-image 2
"""

from importlib.metadata import version

import numpy as np
import torch
from kornia.augmentation import RandomRain, RandomSnow
from numpy.typing import NDArray


class Weather:
    """A stylizer that needs no styles and draws from the seeds that it is handed."""

    name, version, needs_styles = "weather", f"kornia {version('kornia')}", False
    parameters = {"snow": "0.4 to 0.6", "brightness": "1.5 to 2.5", "drops": "500 to 1000"}  # noqa: RUF012

    def __init__(self) -> None:
        snow = RandomSnow(snow_coefficient=(0.4, 0.6), brightness=(1.5, 2.5), p=1.0)
        self.kinds = snow, RandomRain(number_of_drops=(500, 1000), p=1.0)

    def __call__(
        self, images: NDArray[np.uint8], choice: list[int], styles: object, seeds: list[int]
    ) -> NDArray[np.uint8]:
        """Return the images (N, H, W, 3) in rain or snow."""
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        made = []
        with torch.random.fork_rng(devices=[]):
            for picture, seed in zip(pixels, seeds, strict=True):
                torch.manual_seed(seed)
                made.append(self.kinds[seed % 2](picture[None]).clamp(0, 1))
        return (torch.cat(made) * 255).round().byte().permute(0, 2, 3, 1).numpy()
