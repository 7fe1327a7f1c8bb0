import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

from stylize.console import InputError
from stylize.networks.adain import Decoder, Encoder, Stylizer
from stylize.networks.styles import Style, load_styles
from stylize.networks.stylizer import Engine, Pixels, psnr
from stylize.networks.weights import default_decoder_file, embedded_encoder, load_decoder
from stylize.sources.shapes import draw_shape

Noise = Callable[..., Pixels]


def difference(first: Pixels, second: Pixels) -> int:
    return int(np.abs(first.astype(int) - second.astype(int)).max())


def test_a_batch_is_its_pictures_one_by_one(engine: Engine, noise: Noise, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = np.stack([noise(seed, 16, 24) for seed in range(5)])
    choice = [0, 2, 1, 1, 0]
    single = [engine.stylize(pictures[i : i + 1], choice[i : i + 1], 0.7) for i in range(5)]
    whole = engine.stylize(pictures, choice, 0.7)
    small, sizes = copy.copy(engine), []
    small.batch_pixels = small.largest_batch = 2 * 16 * 24
    whole_batch = Engine._stylize_batch

    def record(engine: Engine, pictures: Pixels, *rest: object) -> Pixels:
        sizes.append(len(pictures))
        return whole_batch(engine, pictures, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "_stylize_batch", record)
    split = small.stylize(pictures, choice, 0.7)
    assert sizes == [2, 2, 1]
    assert whole.shape == pictures.shape
    assert max(difference(whole, np.concatenate(single)), difference(whole, split)) <= 1


def test_it_is_the_networks_output_rounded(
    engine: Engine, encoder: Encoder, decoder: Decoder, styles: list[Style], noise: Noise
) -> None:
    stylizer = Stylizer(encoder, decoder)
    content = torch.from_numpy(noise(0, 17, 20).copy()).permute(2, 0, 1)[None] / 255
    style = torch.from_numpy(np.array(styles[1].picture)).permute(2, 0, 1)[None] / 255
    output = stylizer(content, *stylizer.style_statistics(style), 0.5)[0].permute(1, 2, 0).numpy()
    found = engine.stylize(noise(0, 17, 20)[None], [1], 0.5)[0]
    assert difference(found, np.round(output * 255).astype(np.uint8)) <= 1


def test_styles_and_alpha_matter(engine: Engine, noise: Noise) -> None:
    pictures = np.repeat(noise(0, 16, 16)[None], 3, axis=0)
    first, second, third = engine.stylize(pictures, [0, 1, 2], 1.0)
    assert min(difference(first, second), difference(second, third), difference(first, third)) > 5
    plain = engine.stylize(pictures, [0, 1, 2], 0.0)
    assert max(difference(plain[0], plain[1]), difference(plain[1], plain[2])) <= 1
    assert difference(plain[0], first) > 5


@pytest.mark.parametrize("work_size", [16, 40])
def test_work_size_keeps_the_shape(engine: Engine, noise: Noise, work_size: int) -> None:
    pictures = noise(0, 20, 31)[None]
    found = engine.stylize(pictures, [0], 1.0, work_size)
    assert found.shape == pictures.shape
    assert difference(found, engine.stylize(pictures, [0], 1.0)) > 1


@pytest.mark.parametrize("work_size", [16, 40])
def test_work_size_works_in_bfloat16(
    encoder: Encoder, decoder: Decoder, styles: list[Style], engine: Engine, noise: Noise, work_size: int
) -> None:
    pictures = noise(0, 20, 31)[None]
    found = Engine(encoder, decoder, styles, "bfloat16").stylize(pictures, [0], 1.0, work_size)
    assert difference(found, engine.stylize(pictures, [0], 1.0, work_size)) < 20


def test_engines_do_not_change_the_networks_that_they_are_given(
    encoder: Encoder, decoder: Decoder, styles: list[Style]
) -> None:
    engine = Engine(encoder, decoder, styles[:1], "bfloat16")
    assert engine.dtype_name == "bfloat16"
    kept = {parameter.dtype for network in (encoder, decoder) for parameter in network.parameters()}
    assert kept == {torch.float32}


def test_unknown_types_are_named(encoder: Encoder, decoder: Decoder, styles: list[Style]) -> None:
    with pytest.raises(InputError, match="--dtype is 'int8': give auto or one of float32, bfloat16, float16"):
        Engine(encoder, decoder, styles, "int8")


def test_output_that_is_not_finite_is_an_error(
    encoder: Encoder, decoder: Decoder, styles: list[Style], noise: Noise
) -> None:
    broken = copy.deepcopy(decoder)
    broken.convolutions[4].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="stylized pictures are not finite"):
        Engine(encoder, broken, styles[:1], "float32").stylize(noise(0, 16, 16)[None], [0], 1.0)


def test_batches_are_halved_until_they_fit(engine: Engine, noise: Noise, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = np.stack([noise(seed, 16, 16) for seed in range(7)])
    wanted = engine.stylize(pictures, [0] * 7, 1.0)
    small, sizes = copy.copy(engine), []
    whole = Engine._stylize_batch

    def with_room_for(room: int) -> Callable[..., Pixels]:
        def stylize_batch(engine: Engine, pictures: Pixels, *rest: object) -> Pixels:
            sizes.append(len(pictures))
            if len(pictures) > room:
                raise torch.OutOfMemoryError
            return whole(engine, pictures, *rest)  # type: ignore[arg-type]

        return stylize_batch

    small.largest_batch = 7
    monkeypatch.setattr(Engine, "_stylize_batch", with_room_for(3))
    assert difference(small.stylize(pictures, [0] * 7, 1.0), wanted) <= 1
    assert sizes == [7, 3, 3, 1]
    assert small.largest_batch == 3
    monkeypatch.setattr(Engine, "_stylize_batch", with_room_for(0))
    with pytest.raises(InputError, match="A single picture of 16×16 pixels does not fit into the memory of cpu"):
        small.stylize(pictures, [0] * 7, 1.0)


def test_too_little_memory_of_a_cpu_is_named(engine: Engine, noise: Noise, monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate_too_much(*_: object) -> Pixels:
        return torch.empty(2**60, dtype=torch.uint8).numpy()

    monkeypatch.setattr(Engine, "_stylize_batch", allocate_too_much)
    with pytest.raises(InputError, match="A single picture of 20×16 pixels does not fit into the memory"):
        copy.copy(engine).stylize(np.stack([noise(0, 16, 20)] * 2), [0, 0], 1.0)


def test_every_thread_has_a_stream_and_large_pictures_are_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    assert engine.streams == (3 if engine.device.type == "cpu" else 1)
    small = [(16, 16, None), (512, 768, None), (768, 512, 512), (64, 64, 600)]
    large = [(512, 769, None), (300, 4000, None), (900, 900, 64), (64, 64, 700)]
    assert [engine.is_large(*size) for size in small + large] == [False] * 4 + [True] * 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_agrees_with_the_cpu(encoder: Encoder, decoder: Decoder, styles: list[Style], noise: Noise) -> None:
    engine = Engine(encoder, decoder, styles, "float32")
    assert engine.device.type == "cuda"
    stylizer = Stylizer(encoder, decoder)
    content, style = (torch.from_numpy(np.array(p)).permute(2, 0, 1)[None] / 255 for p in (noise(0), styles[0].picture))
    output = stylizer(content, *stylizer.style_statistics(style))[0].permute(1, 2, 0).numpy()
    assert difference(engine.stylize(noise(0)[None], [0], 1.0)[0], np.round(output * 255).astype(np.uint8)) <= 2


def test_bfloat16_differs_from_float32_by_no_more_than_40_decibels() -> None:
    encoder = embedded_encoder()
    decoder = load_decoder(default_decoder_file(), encoder.sha256)
    style = load_styles(["waves"])
    pictures = np.stack([np.asarray(draw_shape(index, size=64, split="test").picture) for index in range(2)])
    single, half = (
        Engine(encoder.network, decoder, style, dtype).stylize(pictures, [0] * 2, 1.0)
        for dtype in ("float32", "bfloat16")
    )
    for first, second in zip(single, half, strict=True):
        assert psnr(first, second) >= 40
