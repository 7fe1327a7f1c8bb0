"""What of a style is transferred: its features by the networks, the statistics of its colours, or both."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stylize.engine.styles import Style
from stylize.errors import InputError
from stylize.networks.adain import adain, unit_range
from stylize.networks.channels_last import channel_statistics

FEATURES = "features"  # AdaIN, the paper's way
COLOURS = "colours"  # no network: what is left of stylizing without texture
BOTH = "both"  # AdaIN, then colours: the decoder gives muted ones
TRANSFERS = (FEATURES, COLOURS, BOTH)


def check_transfer(transfer: str, work_size: int | None) -> None:
    """Raise `InputError` for what is none of `TRANSFERS`, or a working size where no network works at it."""
    if transfer not in TRANSFERS:
        raise InputError(f"--transfer is {transfer!r}: give one of {', '.join(TRANSFERS)}.")
    if transfer == COLOURS and work_size is not None:
        raise InputError(f"--work-size {work_size} is that of the networks, which --transfer {COLOURS} does not run.")


def colour_statistics(styles: Sequence[Style], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the channels' means and deviations of style pictures, each (S, 3, 1, 1), of values in [0, 1]."""
    pictures = (torch.from_numpy(np.array(style.picture)).permute(2, 0, 1)[None] for style in styles)
    means, deviations = zip(*(channel_statistics(unit_range(picture)) for picture in pictures), strict=True)
    return torch.cat(means).to(device), torch.cat(deviations).to(device)


def transfer_colours(pixels: Tensor, means: Tensor, deviations: Tensor, alpha: float) -> Tensor:
    """Give pixels (B, 3, H, W) in [0, 1] the channel statistics (B, 3, 1, 1) of a style, and clip; float32.

    That is AdaIN of the pixels themselves (Reinhard et al. 2001, in RGB); `alpha` 0 changes nothing.
    """
    return adain(pixels.float(), means, deviations, alpha).clamp(0, 1)
