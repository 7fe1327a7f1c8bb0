import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stylize.fitting.data import SAMPLE_SIDE, CropBatches, open_pool, sample_sheet
from stylize.fitting.settings import FitSettings, Phase
from stylize.networks.adain import AdaINNetwork, Decoder, Encoder
from stylize.networks.stylizer import Pixels


def test_the_sheet_shows_photos_styles_and_both(
    tmp_path: Path, noise: Callable[..., Pixels], encode: Callable[..., bytes], encoder: Encoder, decoder: Decoder
) -> None:
    for index in range(4):
        (tmp_path / f"{index}.png").write_bytes(encode(noise(index, 100, 120)))
    pool = open_pool(tmp_path, [str(tmp_path)], [], 0.0)
    settings = FitSettings((Phase("style", 16, 1),), batch_size=3)
    sheet = np.asarray(Image.open(io.BytesIO(sample_sheet(decoder, encoder, pool, settings))))
    assert sheet.shape == (3 * SAMPLE_SIDE, 3 * SAMPLE_SIDE, 3)

    content, style = CropBatches(pool, settings, SAMPLE_SIDE)[0]
    network = AdaINNetwork(encoder, decoder)
    for column in range(3):
        pair = [(pixels[column : column + 1] / 255).float() for pixels in (content, style)]
        with torch.no_grad():
            styled = network(pair[0], *network.style_statistics(pair[1]))[0]
        wanted = [content[column].numpy(), style[column].numpy(), styled.numpy() * 255]
        for row, picture in enumerate(wanted):
            cell = sheet[row * SAMPLE_SIDE :, column * SAMPLE_SIDE :][:SAMPLE_SIDE, :SAMPLE_SIDE]
            np.testing.assert_allclose(cell.transpose(2, 0, 1), picture, atol=1.0)
