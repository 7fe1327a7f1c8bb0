from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from stylize.engine import Pixels
from stylize.errors import InputError
from stylize.fit import fit_decoder
from stylize.fit_data import CropBatches, CropSettings, FitSettings, Pool, is_held_out, open_pool
from stylize.fit_losses import initialise_from_encoder, reconstruction_loss, style_transfer_losses
from stylize.networks import Decoder, Encoder
from stylize.weights import LoadedEncoder, load_decoder, read_recipe

Array = NDArray[np.float64]
SHA256 = "ab" * 32
SETTINGS = FitSettings(
    reconstruction_steps=2, reconstruction_side=16, style_steps=2, style_side=16, batch_size=2, pattern_share=0.0
)


@pytest.fixture
def pool(tmp_path: Path, noise: Callable[..., Pixels], encode: Callable[..., bytes]) -> Pool:
    for kind, start in (("photos", 0), ("paintings", 100)):
        (tmp_path / kind).mkdir()
        for index in range(6):
            (tmp_path / kind / f"{index}.png").write_bytes(encode(noise(start + index, 24, 30)))
    return open_pool(tmp_path / "photos", [str(tmp_path / "paintings")], [], 0.0)


def statistics(features: Array) -> tuple[Array, Array]:
    return features.mean((2, 3)), np.sqrt(features.var((2, 3)) + 1e-5)


def test_losses_are_the_papers(encoder: Encoder, decoder: Decoder) -> None:
    generator = torch.Generator().manual_seed(0)
    content, style = (torch.rand(2, 3, 16, 16, generator=generator) for _ in range(2))
    found = style_transfer_losses(encoder, decoder, content, style)
    wanted = [layer.double().numpy() for layer in encoder.style_features(style)]
    x = encoder(content).double().numpy()
    (mean, deviation), (style_mean, style_deviation) = statistics(x), statistics(wanted[-1])
    target = (x - mean[..., None, None]) / deviation[..., None, None]
    target = target * style_deviation[..., None, None] + style_mean[..., None, None]
    output = decoder(torch.from_numpy(target).float())
    layers = [layer.double().numpy() for layer in encoder.style_features(output)]
    style_loss = 0.0
    for layer, reference in zip(layers, wanted, strict=True):
        for one, other in zip(statistics(layer), statistics(reference), strict=True):
            style_loss += float(((one - other) ** 2).mean())
    assert float(found["content"]) == pytest.approx(((layers[-1] - target) ** 2).mean(), rel=1e-3)
    assert float(found["style"]) == pytest.approx(style_loss, rel=1e-3)
    reconstruction = decoder(encoder(content)).double().numpy() - content.double().numpy()
    loss = reconstruction_loss(encoder, decoder, content)["reconstruction"]
    assert float(loss) == pytest.approx(np.abs(reconstruction).mean(), rel=1e-4)


def _without_bias(layer: torch.nn.Module, output: torch.Tensor) -> torch.Tensor:
    assert isinstance(layer.bias, torch.Tensor)
    return output - layer.bias[:, None, None]


def test_the_start_has_unit_variance_and_the_pictures_statistics(encoder: Encoder) -> None:
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    decoder = Decoder().requires_grad_(False)
    initialise_from_encoder(decoder, encoder, pixels)
    deviations: list[float] = []
    for layer in decoder.convolutions:
        layer.register_forward_hook(
            lambda layer, _, output: deviations.append(float(_without_bias(layer, output).std()))
        )
    output = decoder(encoder(pixels))
    assert deviations == pytest.approx([1.0] * 8 + [float(pixels.std())], rel=1e-3)
    torch.testing.assert_close(output.mean((0, 2, 3)), pixels.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)


def test_an_interrupted_training_goes_on_to_the_same_decoder(
    pool: Pool, tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylize.fit.CHECKPOINT_STEPS", 1)
    loaded = LoadedEncoder(encoder, SHA256)
    steps: list[tuple[str, int]] = []
    fit_decoder(pool, tmp_path / "whole", loaded, SETTINGS, lambda phase, step, *_: steps.append((phase, step)))
    assert steps == [("reconstruction", 1), ("reconstruction", 2), ("style", 1), ("style", 2)]

    for stop in (("reconstruction", 2), ("style", 2)):

        def report(phase: str, step: int, _total: int, losses: dict[str, float], stop: tuple[str, int] = stop) -> None:
            assert all(np.isfinite(list(losses.values())))
            if (phase, step) == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit_decoder(pool, tmp_path / "cut", loaded, SETTINGS, report)
        assert (tmp_path / "cut.state").exists()
        assert not (tmp_path / "cut").exists()
    other = FitSettings(style_steps=3, style_side=16, batch_size=2)
    with pytest.raises(InputError, match="has other settings"):
        fit_decoder(pool, tmp_path / "cut", loaded, other, lambda *_: None)
    fit_decoder(pool, tmp_path / "cut", loaded, SETTINGS, lambda *_: None)
    whole, resumed = (load_decoder(tmp_path / name, SHA256).state_dict() for name in ("whole", "cut"))
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name])
    assert read_recipe(tmp_path / "cut")["contents"] == 6
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "cut", "photos", "paintings"}


def test_held_out_pictures_are_never_drawn(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    colours = {f"{index}.png": (10 * index, 200 - 10 * index, 77) for index in range(12)}
    for kind in ("photos", "paintings"):
        (tmp_path / kind).mkdir()
        for name, colour in colours.items():
            (tmp_path / kind / name).write_bytes(encode(np.asarray(Image.new("RGB", (20, 20), colour))))
    pool = open_pool(tmp_path / "photos", [str(tmp_path / "paintings"), "dots"], ["dots", "3", "4"], 0.4)
    batches = CropBatches(pool, CropSettings(side=16, batch_size=4, photo_share=0.0, pattern_share=0.5, seed=0))
    contents, styles = set(), set()
    for step in range(40):
        content, style = batches[step]
        contents |= {tuple(crop[:, 0, 0].tolist()) for crop in content}
        styles |= {tuple(sorted(crop[:, 0, 0].tolist())) for crop in style}
    kept = {colour for name, colour in colours.items() if not is_held_out(name, 0.4)}
    assert 2 < len(kept) < 12
    assert contents == kept
    assert styles == {tuple(sorted(colour)) for name, colour in colours.items() if name not in ("3.png", "4.png")}


def test_a_steps_crops_depend_on_nothing_else(pool: Pool) -> None:
    settings = CropSettings(side=16, batch_size=3, photo_share=0.3, pattern_share=0.0, seed=0)
    for first, second in zip(CropBatches(pool, settings)[7], CropBatches(pool, settings)[7], strict=True):
        assert first.shape == (3, 3, 16, 16)
        assert torch.equal(first, second)
    assert not torch.equal(CropBatches(pool, settings)[7][0], CropBatches(pool, settings)[8][0])


def test_nothing_left_unknown_names_and_bad_settings_are_refused(pool: Pool, tmp_path: Path) -> None:
    photos, paintings = tmp_path / "photos", str(tmp_path / "paintings")
    with pytest.raises(InputError, match="Nothing is left to train on"):
        open_pool(photos, [paintings], [], 1.0)
    with pytest.raises(InputError, match="Nothing is left to train on"):
        open_pool(photos, ["dots"], ["dots"], 0.0)
    with pytest.raises(InputError, match="Held-out styles not among the styles: 99"):
        open_pool(photos, [paintings], ["99"], 0.0)
    for settings in ({"style_side": 20}, {"reconstruction_side": 8}, {"style_steps": 0}, {"batch_size": 0}):
        with pytest.raises(InputError):
            FitSettings(**settings)
