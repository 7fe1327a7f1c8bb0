"""Pools, crops and variations of the training pictures, and the sheet of samples."""

import io
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import pdist
from scipy.stats import kstest

from stylize.fitting import FitSettings, Phase
from stylize.fitting import data as variations
from stylize.fitting.data import (
    SAMPLE_SIDE,
    CropBatches,
    Pool,
    _remembered,
    banded_noise,
    combine,
    draw_texture,
    is_held_out,
    open_pool,
    paint,
    recolour,
    sample_sheet,
)
from stylize.networks.adain import AdaINNetwork, Decoder, Encoder
from stylize.networks.stylizer import Pixels

STYLE = Phase("style", 24, 2)
PLAIN = FitSettings((STYLE,), batch_size=4, recoloured_share=0.0, texture_share=0.0, combined_share=0.0)
Vary = Callable[[Image.Image, np.random.Generator], Image.Image]


def test_large_pictures_are_kept_reduced(tmp_path: Path) -> None:
    Image.new("RGB", (1400, 700), (9, 8, 7)).save(tmp_path / "scan.png")
    pool = open_pool(tmp_path, ["dots"], [], 0.0)
    assert _remembered(pool.content[0]).size == (1024, 512)


def _drawn(batches: CropBatches) -> tuple[set[tuple[int, ...]], set[tuple[int, ...]]]:
    """Return the colours of the contents, and of the styles and the contents that are styles."""
    contents: set[tuple[int, ...]] = set()
    styles: set[tuple[int, ...]] = set()
    for step in range(40):
        content, style = batches[step]
        own = step % 2
        contents |= {tuple(crop[:, 0, 0].tolist()) for crop in content[own:]}
        styles |= {tuple(crop[:, 0, 0].tolist()) for crop in [*content[:own], *style]}
    return contents, styles


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("paint", replace(PLAIN, photo_share=1.0, painted_share=1.0)),
        ("recolour", replace(PLAIN, photo_share=0.0, pattern_share=0.0, recoloured_share=1.0)),
        ("combine", replace(PLAIN, pattern_share=0.0, combined_share=1.0)),
        ("draw_texture", replace(PLAIN, photo_share=0.0, texture_share=1.0)),
    ],
)
def test_styles_are_varied_as_often_as_the_recipe_says(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, name: str, settings: FitSettings
) -> None:
    grey = Image.new("RGB", (16, 16), (1, 2, 3))
    monkeypatch.setattr(f"stylize.fitting.data.{name}", lambda *_: grey)
    plain = replace(PLAIN, pattern_share=0.0, painted_share=0.0)
    varied, untouched = (CropBatches(pool, recipe, 16)[0][1][:, :, 0, 0] for recipe in (settings, plain))
    assert (varied == torch.tensor([1, 2, 3])).all()
    assert not (untouched == torch.tensor([1, 2, 3])).all(dim=1).any()


def test_held_out_pictures_are_never_drawn(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    colours = {f"{index}.png": (10 * index, 200 - 10 * index, 77) for index in range(12)}
    for kind in ("photos", "paintings"):
        (tmp_path / kind).mkdir()
        for name, colour in colours.items():
            (tmp_path / kind / name).write_bytes(encode(np.asarray(Image.new("RGB", (20, 20), colour))))
    pool = open_pool(tmp_path / "photos", [str(tmp_path / "paintings"), "dots"], ["dots", "3", "4"], 0.4)
    contents, styles = _drawn(CropBatches(pool, replace(PLAIN, photo_share=0.0), 16))
    kept = {colour for name, colour in colours.items() if not is_held_out(name, 0.4)}
    assert 2 < len(kept) < 12
    assert contents == kept
    photos_as_styles = replace(PLAIN, photo_share=1.0, painted_share=0.0)
    assert _drawn(CropBatches(pool, photos_as_styles, 16)) == (kept, kept)
    assert styles == {colour for name, colour in colours.items() if name not in ("3.png", "4.png")}


def test_a_steps_crops_depend_on_nothing_else(pool: Pool) -> None:
    batches, again = (CropBatches(pool, FitSettings((STYLE,), batch_size=3), 16) for _ in range(2))
    for first, second in zip(batches[7], again[7], strict=True):
        assert first.shape == (3, 3, 16, 16)
        assert torch.equal(first, second)
    assert not torch.equal(batches[7][0], batches[8][0])


def test_styles_have_a_side_of_their_own(pool: Pool) -> None:
    for step in (0, 1):
        content, style = CropBatches(pool, PLAIN, 16, 24)[step]
        assert (content.shape, style.shape) == ((4, 3, 16, 16), (4, 3, 24, 24))


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


@pytest.fixture
def crop(noise: Callable[..., Pixels]) -> Image.Image:
    return Image.fromarray(noise(0, 24, 24)).resize((32, 32), Image.Resampling.BICUBIC)


def arrays(vary: Vary, crop: Image.Image, draws: int = 12) -> list[Pixels]:
    made = [vary(crop, np.random.default_rng(seed)) for seed in range(draws)]
    again = [vary(crop, np.random.default_rng(seed)) for seed in range(draws)]
    assert [picture.tobytes() for picture in made] == [picture.tobytes() for picture in again]
    assert {(picture.mode, picture.size) for picture in made} == {("RGB", crop.size)}
    return [np.asarray(picture) for picture in made]


def test_recolouring_varies(crop: Image.Image) -> None:
    assert len({pixels.tobytes() for pixels in arrays(recolour, crop, 40)}) > 20


def test_permuted_channels_have_the_same_values(crop: Image.Image) -> None:
    channels = np.moveaxis(np.asarray(crop), 2, 0)
    orders = {tuple(order): channels[list(order)].tobytes() for order in permutations(range(3))}
    made = [np.moveaxis(pixels, 2, 0).tobytes() for pixels in arrays(variations._permute_channels, crop, 30)]
    assert set(made) == set(orders.values())


def test_turned_colours_keep_the_ratios_of_their_distances() -> None:
    generator = np.random.default_rng(0)
    narrow = Image.fromarray(generator.integers(120, 136, (8, 8, 3), dtype=np.uint8))  # too narrow to be clipped
    before = pdist(np.asarray(narrow, np.float64).reshape(-1, 3))
    made = arrays(variations._turn_colours, narrow)
    assert len({tuple(pixels.mean((0, 1)).round()) for pixels in made}) == len(made)
    for pixels in made:
        after = pdist(pixels.reshape(-1, 3).astype(np.float64))
        gain = np.median(after[before > 5] / before[before > 5])
        assert 0.65 < gain < 1.85
        np.testing.assert_allclose(after, gain * before, atol=2.5)  # both are rounded to 8 bits


def test_a_palette_depends_on_luminance_only(monkeypatch: pytest.MonkeyPatch) -> None:
    black, white = [0.0, 0.2, 0.4], [1.0, 0.6, 0.2]
    monkeypatch.setattr(variations, "_random_palette", lambda *_: np.array([black, white]))
    grey = Image.fromarray(np.linspace(0, 255, 256).astype(np.uint8).reshape(16, 16)).convert("RGB")
    for pixels in arrays(variations._map_luminance, grey):
        share = (float(pixels[0, 0, 2]) - 0) / (255 * 0.4)  # of the palette; the rest is the crop itself
        assert 0.48 < share <= 1.01
        wanted = np.interp(np.arange(256)[:, None], [0, 255], [0, 1]) * (np.array(white) - black) + black
        mixed = share * wanted * 255 + (1 - share) * np.arange(256)[:, None]
        np.testing.assert_allclose(pixels.reshape(256, 3), mixed, atol=3)


def test_palettes_are_colours_and_half_of_them_are_ordered() -> None:
    drawn = [variations._random_palette(4, np.random.default_rng(seed)) for seed in range(60)]
    assert all(palette.shape == (4, 3) and palette.min() >= 0 and palette.max() <= 1 for palette in drawn)
    assert 20 < sum(bool(np.all(np.diff(palette.sum(1)) >= 0)) for palette in drawn) < 45


class Always:
    """A generator whose every share is met by the given branches of `paint`, in their order."""

    def __init__(self, *branches: bool) -> None:
        self.draws = [0.0 if branch else 0.99 for branch in branches]

    def random(self) -> float:
        return self.draws.pop(0)

    def choice(self, sides: list[int]) -> int:
        return sides[0]

    def integers(self, low: int, high: int) -> int:
        return low


def painted(crop: Image.Image, *branches: bool) -> Pixels:
    return np.asarray(paint(crop, Always(*branches))).astype(np.int64)  # type: ignore[arg-type]


def test_painting_flattens_reduces_tones_and_draws_contours(crop: Image.Image) -> None:
    pixels = np.asarray(crop).astype(np.int64)
    np.testing.assert_array_equal(painted(crop, False, False, False), pixels)
    np.testing.assert_array_equal(painted(crop, False, True, False), pixels // 64 * 64)

    flat = painted(crop, True, False, False)
    for row, column in ((3, 5), (20, 11)):
        for channel in range(3):
            window = pixels[row - 1 : row + 2, column - 1 : column + 2, channel].ravel()
            values, counts = np.unique(window, return_counts=True)
            often = counts.max() > 2  # else Pillow's mode filter keeps the pixel
            assert flat[row, column, channel] in (
                values[counts == counts.max()] if often else [pixels[row, column, channel]]
            )

    step = Image.new("RGB", (16, 16), (200, 150, 100))
    step.paste((100, 50, 20), (8, 0, 16, 16))
    contours = painted(step, False, False, True)
    assert contours[8, 3].tolist() == [200, 150, 100]
    assert contours[8, 7].tolist() == [0, 0, 0]


def test_two_styles_are_mixed_stand_side_by_side_or_lie_in_patches() -> None:
    red, blue = Image.new("RGB", (20, 20), (200, 0, 0)), Image.new("RGB", (20, 20), (0, 0, 200))
    blends, halves, patches = 0, 0, 0
    for pixels in arrays(lambda crop, rng: combine(crop, blue, rng), red, 30):
        colours = {tuple(colour) for colour in pixels.reshape(-1, 3).tolist()}
        if len(colours) == 1:
            assert all(35 < colour[0] < 165 and abs(colour[0] + colour[2] - 200) <= 1 for colour in colours)
            blends += 1
            continue
        assert colours == {(200, 0, 0), (0, 0, 200)}
        assert 0.25 < (pixels[..., 2] == 200).mean() < 0.75
        upright = (pixels == pixels[:1]).all()
        halves, patches = halves + bool(upright), patches + (not upright)
    assert min(blends, halves, patches) >= 5


def test_noise_is_uniform_and_moves_at_the_scale_of_its_band() -> None:
    spectra = []
    for seed in range(30):
        field = banded_noise(96, np.random.default_rng(seed))
        assert field.shape == (96, 96)
        assert kstest(field.ravel(), "uniform").statistic < 0.12  # warping loses and doubles some values
        power = np.square(np.abs(np.fft.fft2(field - field.mean())))
        frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(96), np.fft.fftfreq(96)))
        spectra.append((power * frequency).sum() / power.sum())
    assert min(spectra) < 0.06  # cycles a pixel: waves of many pixels,
    assert max(spectra) > 0.1  # and of few


def test_warping_only_moves_values() -> None:
    field = np.random.default_rng(0).random((96, 96))
    moved = [variations._warped(field, np.random.default_rng(seed)) for seed in range(5)]
    assert all(set(picture.ravel()) <= set(field.ravel()) for picture in moved)
    assert all((picture != field).mean() > 0.3 for picture in moved)


def test_textures_differ_in_colours_and_grain() -> None:
    made = [np.asarray(draw_texture(32, np.random.default_rng(seed))) for seed in range(24)]
    again = [np.asarray(draw_texture(32, np.random.default_rng(seed))) for seed in range(24)]
    assert all(first.tobytes() == second.tobytes() for first, second in zip(made, again, strict=True))
    assert {(pixels.shape, pixels.dtype) for pixels in made} == {((32, 32, 3), np.dtype(np.uint8))}
    means = np.array([pixels.mean((0, 1)) for pixels in made])
    assert means.std(axis=0).min() > 25  # of 255: no two have the same palette
    assert min(pixels.reshape(-1, 3).std(axis=0).max() for pixels in made) > 3
