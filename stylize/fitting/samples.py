"""Sample pictures of a decoder in training: a sheet to look at while `fit-decoder` runs."""

import io

import torch
from PIL import Image
from torch import Tensor

from stylize.fitting.data import CropBatches, Pool
from stylize.fitting.settings import FitSettings
from stylize.networks.adain import Decoder, Encoder, Stylizer, unit_range

SAMPLE_SIDE = 96


@torch.no_grad()
def sample_sheet(decoder: Decoder, encoder: Encoder, pool: Pool, settings: FitSettings) -> bytes:
    """Return a PNG with the same crops every time: a row of photos, of styles, and of photos in these styles.

    The crops are of training pictures, so that held-out ones stay unseen until the decoder is judged.
    """
    content, style = CropBatches(pool, settings, SAMPLE_SIDE)[0]
    weight = next(decoder.parameters())
    device, dtype = weight.device, next(encoder.parameters()).dtype
    stylizer = Stylizer(encoder, decoder)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        statistics = stylizer.style_statistics(unit_range(style.to(device)))
        stylized = stylizer(unit_range(content.to(device)), *statistics)
    rows = [content, style, (stylized.float() * 255).round().byte().cpu()]
    buffer = io.BytesIO()
    _tile(rows).save(buffer, "PNG")
    return buffer.getvalue()


def _tile(rows: list[Tensor]) -> Image.Image:
    """Put rows of pictures (B, 3, H, W) below each other."""
    pixels = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())
