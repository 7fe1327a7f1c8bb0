from pathlib import Path

import numpy as np
import pytest
import torch

from stylize.console import InputError
from stylize.jobs.job import open_job
from stylize.jobs.spec import ShardOptions
from stylize.networks.adain import Decoder, Encoder
from stylize.networks.stylizer import Engine, correlation, draw_golden, golden_pictures, golden_style, psnr, self_test
from stylize.networks.weights import default_decoder_file, embedded_encoder, load_decoder


@pytest.fixture(scope="module")
def pair() -> tuple[Encoder, Decoder]:
    encoder = embedded_encoder()
    return encoder.network, load_decoder(default_decoder_file(), encoder.sha256)


def test_the_shipped_pair_passes_in_every_type_and_still_draws_the_golden_picture(
    pair: tuple[Encoder, Decoder],
) -> None:
    for dtype in ("float32", "bfloat16"):
        self_test(Engine(*pair, [golden_style()], dtype), shipped=True)
    assert psnr(np.asarray(draw_golden()), np.concatenate(golden_pictures(), axis=1)) > 45


def test_weights_that_decode_something_else_are_refused(pair: tuple[Encoder, Decoder], decoder: Decoder) -> None:
    with pytest.raises(InputError, match="does not reconstruct the self-test's picture"):
        self_test(Engine(pair[0], decoder, [golden_style()], "float32"), shipped=False)


def test_a_shipped_pair_with_a_slight_fault_misses_the_golden_picture(pair: tuple[Encoder, Decoder]) -> None:
    encoder, decoder = pair
    faulty = Decoder()
    faulty.load_state_dict(decoder.state_dict())
    faulty.convolutions[-1].weight.data[0] *= 3  # the reds are off
    engine = Engine(encoder, faulty.requires_grad_(False), [golden_style()], "float32")
    self_test(engine, shipped=False)
    with pytest.raises(InputError, match=r"comes out wrong in float32 on cpu"):
        self_test(engine, shipped=True)


def test_a_run_tests_its_networks_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(pixels: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return torch.full_like(pixels, 0.5)

    monkeypatch.setattr("stylize.networks.adain.Stylizer.forward", lambda _self, *arguments: broken(*arguments))
    with pytest.raises(InputError, match="self-test"):
        open_job(ShardOptions(limit=2))


def test_correlation_and_psnr_agree_with_numpy() -> None:
    first, second = np.random.default_rng(0).integers(0, 256, (2, 8, 9, 3), dtype=np.uint8)
    wanted = np.corrcoef(first.ravel().astype(float), second.ravel().astype(float))[0, 1]
    assert correlation(first, second) == pytest.approx(wanted)
    assert correlation(first, np.full_like(first, 7)) == 0
    assert psnr(first, first) == float("inf")
    error = np.mean((first.astype(float) - second.astype(float)) ** 2)
    assert psnr(first, second) == pytest.approx(20 * np.log10(255) - 10 * np.log10(error))
