"""The stylizer in batches, types and colours, with bad arguments, and its self-test."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch._dynamo.utils import counters

from stylize.console import InputError
from stylize.jobs.job import open_job
from stylize.jobs.spec import ShardOptions
from stylize.networks.adain import AdaINNetwork, Decoder, Encoder
from stylize.networks.styles import Style
from stylize.networks.stylizer import Pixels, Stylizer, correlation, golden_pictures, golden_style, psnr, self_test
from stylize.networks.weights import load_pair
from stylize.sources.patterns import draw_pattern
from stylize.sources.shapes import draw_shape

Noise = Callable[..., Pixels]


def difference(first: Pixels, second: Pixels) -> int:
    return int(np.abs(first.astype(int) - second.astype(int)).max())


def shapes(count: int, side: int) -> Pixels:
    return np.stack([np.asarray(draw_shape(index, size=side, split="test").picture) for index in range(count)])


class RecordedNetwork:
    """A network that remembers the sizes of its batches and has memory for so many images."""

    def __init__(self, network: Any, room: int = 1000) -> None:
        self.network, self.room, self.sizes = network, room, list[int]()

    def __call__(self, pixels: torch.Tensor, *rest: object) -> torch.Tensor:
        self.sizes.append(len(pixels))
        if len(pixels) > self.room:
            raise torch.OutOfMemoryError
        output: torch.Tensor = self.network(pixels, *rest)
        return output


@pytest.fixture
def recorded(stylizer: Stylizer) -> tuple[Stylizer, RecordedNetwork]:
    """Return the stylizer with a network that records its batches."""
    copied = copy.copy(stylizer)
    copied.network = RecordedNetwork(stylizer.network)
    return copied, copied.network


def test_loading_by_names_gives_the_shipped_pair_and_styles_in_turn() -> None:
    images = np.repeat(shapes(1, 24), 3, axis=0)
    stylizer = Stylizer.load(["dots", "waves"], dtype="float32", device="cpu", style_size=64)
    made = stylizer(images)
    assert (made.shape, str(made.dtype)) == (images.shape, "uint8")
    assert difference(made[0], made[2]) <= 1 < 20 < difference(made[0], made[1])
    pair = load_pair()
    network = AdaINNetwork(pair.encoder.network, pair.decoder)
    style, content = (
        torch.from_numpy(np.array(one)).permute(2, 0, 1)[None] / 255 for one in (draw_pattern("waves", 64), images[1])
    )
    output = network(content, *network.style_statistics(style))[0].permute(1, 2, 0).numpy()
    assert difference(made[1], np.round(output * 255).astype(np.uint8)) <= 1


def test_a_batch_is_its_pictures_one_by_one(
    stylizer: Stylizer, recorded: tuple[Stylizer, RecordedNetwork], noise: Noise
) -> None:
    pictures = np.stack([noise(seed, 16, 24) for seed in range(5)])
    choice = [0, 2, 1, 1, 0]
    single = [stylizer(pictures[i : i + 1], choice[i : i + 1], 0.7) for i in range(5)]
    whole = stylizer(pictures, choice, 0.7)
    small, network = recorded
    small.batch_pixels = small.largest_batch = 2 * 16 * 24
    split = small(pictures, choice, 0.7)
    assert network.sizes == [2, 2, 1]
    assert whole.shape == pictures.shape
    assert max(difference(whole, np.concatenate(single)), difference(whole, split)) <= 1
    assert stylizer(pictures[:0]).shape == (0, 16, 24, 3)


def test_it_is_the_networks_output_rounded(
    stylizer: Stylizer, encoder: Encoder, decoder: Decoder, styles: list[Style], noise: Noise
) -> None:
    network = AdaINNetwork(encoder, decoder)
    content = torch.from_numpy(noise(0, 17, 20).copy()).permute(2, 0, 1)[None] / 255
    style = torch.from_numpy(np.array(styles[1].picture)).permute(2, 0, 1)[None] / 255
    output = network(content, *network.style_statistics(style), 0.5)[0].permute(1, 2, 0).numpy()
    found = stylizer(noise(0, 17, 20)[None], [1], 0.5)[0]
    assert difference(found, np.round(output * 255).astype(np.uint8)) <= (1 if stylizer.device.type == "cpu" else 2)


def test_styles_and_alpha_matter(stylizer: Stylizer, noise: Noise) -> None:
    pictures = np.repeat(noise(0, 16, 16)[None], 3, axis=0)
    first, second, third = stylizer(pictures, [0, 1, 2])
    assert min(difference(first, second), difference(second, third), difference(first, third)) > 5
    plain = stylizer(pictures, [0, 1, 2], 0.0)
    assert max(difference(plain[0], plain[1]), difference(plain[1], plain[2])) <= 1
    assert difference(plain[0], first) > 5


@pytest.mark.parametrize("work_size", [16, 40])
def test_work_size_keeps_the_shape_in_every_type(
    encoder: Encoder, decoder: Decoder, styles: list[Style], stylizer: Stylizer, noise: Noise, work_size: int
) -> None:
    pictures = noise(0, 20, 31)[None]
    found = stylizer(pictures, [0], work_size=work_size)
    assert found.shape == pictures.shape
    assert difference(found, stylizer(pictures, [0])) > 1
    half = Stylizer(encoder, decoder, styles, "bfloat16")
    assert difference(half(pictures, [0], work_size=work_size), found) < 20
    assert half.dtype_name == "bfloat16"
    kept = {parameter.dtype for network in (encoder, decoder) for parameter in network.parameters()}
    assert kept == {torch.float32}, "the networks that it was given"


@pytest.mark.parametrize(
    ("options", "named"),
    [({"dtype": "int8"}, "'int8'.*bfloat16"), ({"device": "tpu9"}, "'tpu9'"), ({"device": "meta"}, "'meta'")],
)
def test_unknown_types_and_devices_are_named(
    encoder: Encoder, decoder: Decoder, styles: list[Style], options: dict[str, str], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        Stylizer(encoder, decoder, styles, **options)


IMAGES = np.zeros((2, 16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "options", "named"),
    [
        (IMAGES.astype(np.float32), {}, r"float32 \(2, 16, 16, 3\)"),
        (IMAGES[0], {}, r"\(16, 16, 3\)"),
        (IMAGES[..., :1], {}, r"\(2, 16, 16, 1\)"),
        (IMAGES[:, :15], {}, "16×15"),
        (IMAGES, {"choice": [0]}, "choice has 1"),
        (IMAGES, {"choice": [0, 3]}, "0 to 2"),
        (IMAGES, {"alpha": 1.5}, "alpha is 1.5"),
        (IMAGES, {"transfer": "colors"}, "'colors'.*features, colours, both"),
        (IMAGES, {"transfer": "colours", "work_size": 32}, "--work-size 32"),
    ],
)
def test_bad_arguments_are_named(stylizer: Stylizer, images: Pixels, options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        stylizer(images, **options)


def test_output_that_is_not_finite_is_an_error(
    encoder: Encoder, decoder: Decoder, styles: list[Style], noise: Noise
) -> None:
    broken = copy.deepcopy(decoder)
    broken.convolutions[4].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        Stylizer(encoder, broken, styles[:1], "float32")(noise(0, 16, 16)[None])


def test_batches_are_halved_until_they_fit(
    stylizer: Stylizer, recorded: tuple[Stylizer, RecordedNetwork], noise: Noise
) -> None:
    pictures = np.stack([noise(seed, 16, 16) for seed in range(7)])
    small, network = recorded
    small.largest_batch, network.room = 7, 3
    assert difference(small(pictures), stylizer(pictures)) <= 1
    assert network.sizes == [7, 3, 3, 1]
    assert small.largest_batch == 3
    network.room = 0
    with pytest.raises(InputError, match="16×16 pixels does not fit into the memory of"):
        small(pictures)


def test_the_network_is_compiled_once_and_stylizes_the_same(
    encoder: Encoder, decoder: Decoder, styles: list[Style], noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    counters.clear()
    stylizer = Stylizer(encoder, decoder, styles, "bfloat16", device="cpu")
    batches = [
        np.stack([noise(seed, side, side) for seed in range(count)]) for side, count in ((32, 3), (16, 4), (24, 1))
    ]
    expected = [stylizer(batch) for batch in batches]
    compiler = torch.compile
    monkeypatch.setattr("torch.compile", lambda network, options, **how: compiler(network, backend="eager", **how))
    assert (stylizer.compile(), stylizer.recorded) == (None, {"compiled": True})
    for batch, wanted in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(stylizer(batch), wanted)
    assert counters["stats"]["unique_graphs"] == 1


def test_a_network_that_cannot_be_compiled_stays_as_it_is(
    encoder: Encoder, decoder: Decoder, styles: list[Style], noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr("torch.compile", lambda *_, **__: fail)
    stylizer = Stylizer(encoder, decoder, styles[:1], "float32", device="cpu")
    assert (stylizer.compile(), stylizer.recorded) == ("RuntimeError: no compiler", {})
    assert stylizer(noise(0, 16, 16)[None]).shape == (1, 16, 16, 3)


def test_too_little_memory_of_a_cpu_is_named(stylizer: Stylizer, noise: Noise) -> None:
    small = copy.copy(stylizer)
    small.network = lambda *_: torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(InputError, match="20×16 pixels does not fit into the memory"):
        small(np.stack([noise(0, 16, 20)] * 2))


def test_every_thread_has_a_stream_and_large_pictures_are_alone(
    stylizer: Stylizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    assert stylizer.streams == (3 if stylizer.device.type == "cpu" else 2)
    small = [(16, 16, None), (512, 768, None), (768, 512, 512), (64, 64, 600)]
    large = [(512, 769, None), (300, 4000, None), (900, 900, 64), (64, 64, 700)]
    assert [stylizer.is_large(*size) for size in small + large] == [False] * 4 + [True] * 4


def test_bfloat16_differs_from_float32_by_no_more_than_40_decibels() -> None:
    pictures = shapes(2, 64)
    single, half = (Stylizer.load(["waves"], dtype=dtype, style_size=96)(pictures) for dtype in ("float32", "bfloat16"))
    for first, second in zip(single, half, strict=True):
        assert psnr(first, second) >= 40


def colours_by_numpy(pixels: Pixels, style: Style, alpha: float) -> NDArray[np.float64]:
    """Return a picture with a style's channel means and standard deviations, in grey levels; slow and obvious."""
    content, of_style = pixels / 255.0, np.asarray(style.picture) / 255.0
    aligned = np.empty_like(content)
    for channel in range(3):
        one, other = content[..., channel], of_style[..., channel]
        aligned[..., channel] = (one - one.mean()) / one.std() * other.std() + other.mean()
    blended: NDArray[np.float64] = np.clip((1 - alpha) * content + alpha * aligned, 0, 1) * 255
    return blended


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_colours_are_the_styles_as_numpy_says(
    stylizer: Stylizer, styles: list[Style], noise: Noise, alpha: float
) -> None:
    pictures = np.stack([noise(seed, 20, 28) // 2 + 40 for seed in range(3)])
    found = stylizer(pictures, [2, 0, 1], alpha, transfer="colours")
    for picture, choice, made in zip(pictures, [2, 0, 1], found, strict=True):
        assert np.abs(made - colours_by_numpy(picture, styles[choice], alpha)).max() < 1


@pytest.mark.parametrize("work_size", [None, 32])
def test_both_are_the_features_first_and_then_the_colours(styles: list[Style], work_size: int | None) -> None:
    pair = load_pair()
    stylizer = Stylizer(pair.encoder.network, pair.decoder, styles, "float32")
    pictures = shapes(2, 24)
    features = stylizer(pictures, [1, 2], 1.0, work_size)
    found = stylizer(pictures, [1, 2], 1.0, work_size, "both")
    for picture, choice, made in zip(features, [1, 2], found, strict=True):
        assert np.abs(made - colours_by_numpy(picture, styles[choice], 1.0)).mean() < 1
    assert np.abs(features.astype(int) - found).mean() > 5


def test_colours_do_not_depend_on_the_networks_type(encoder: Encoder, decoder: Decoder, styles: list[Style]) -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), (1, 16, 16, 3))
    made = [
        Stylizer(encoder, decoder, styles, dtype)(ramp, [1], 0.7, transfer="colours")
        for dtype in ("float32", "bfloat16")
    ]
    assert np.array_equal(made[0], made[1])


def test_a_flat_picture_takes_the_styles_mean_alone(stylizer: Stylizer, styles: list[Style]) -> None:
    flat = np.full((1, 16, 16, 3), 90, np.uint8)
    (made,) = stylizer(flat, [0], transfer="colours")
    assert np.abs(made - np.asarray(styles[0].picture).mean((0, 1))).max() < 1


def draw_golden() -> Pixels:
    """Return the strip of content, style and stylized content that ships, to be drawn anew when the pair changes."""
    content, style = np.asarray(draw_shape(0, size=64, split="test").picture), draw_pattern("swirls", 64)
    pair = load_pair()
    stylizer = Stylizer(pair.encoder.network, pair.decoder, [Style("golden", "", style)], "float32")
    return np.concatenate([content, np.asarray(style), stylizer(content[None])[0]], axis=1)


def test_the_shipped_pair_passes_in_every_type_and_still_draws_the_golden_picture() -> None:
    pair = load_pair()
    for dtype in ("float32", "bfloat16"):
        self_test(Stylizer(pair.encoder.network, pair.decoder, [golden_style()], dtype), shipped=True)
    assert psnr(draw_golden(), np.concatenate(golden_pictures(), axis=1)) > 45


def test_weights_that_decode_something_else_are_refused(decoder: Decoder) -> None:
    encoder = load_pair().encoder.network
    with pytest.raises(InputError, match="does not reconstruct the self-test's picture"):
        self_test(Stylizer(encoder, decoder, [golden_style()], "float32"), shipped=False)


def test_a_shipped_pair_with_a_slight_fault_misses_the_golden_picture() -> None:
    pair = load_pair()
    pair.decoder.convolutions[-1].weight.data[0] *= 3  # the reds are off
    stylizer = Stylizer(pair.encoder.network, pair.decoder, [golden_style()], "float32", device="cpu")
    self_test(stylizer, shipped=False)
    with pytest.raises(InputError, match="comes out wrong in float32 on cpu"):
        self_test(stylizer, shipped=True)


def test_a_run_tests_its_networks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AdaINNetwork, "forward", lambda _self, pixels, *_: torch.full_like(pixels, 0.5))
    with pytest.raises(InputError, match="self-test"):
        open_job(ShardOptions(limit=2))


def test_correlation_and_psnr_are_what_they_are_by_definition() -> None:
    first, second = np.random.default_rng(0).integers(0, 256, (2, 8, 9, 3), dtype=np.uint8)
    one, other = (pixels.astype(float) - pixels.mean() for pixels in (first, second))
    assert correlation(first, second) == pytest.approx((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))
    assert correlation(first, np.full_like(first, 7)) == 0
    assert psnr(first, first) == float("inf")
    error = np.mean((first.astype(float) - second.astype(float)) ** 2)
    assert psnr(first, second) == pytest.approx(20 * np.log10(255) - 10 * np.log10(error))
