from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from stylize.console import InputError
from stylize.fitting.data import CropBatches, Pool, _remembered, is_held_out, open_pool
from stylize.fitting.decoder import DecoderFit, fit_decoder
from stylize.fitting.optimise import (
    CONTENT_FLOOR,
    STYLE_FLOOR,
    Statistics,
    Targets,
    initialise_from_encoder,
    statistics_of,
    style_targets,
    style_transfer_losses,
)
from stylize.fitting.settings import PRESETS, FitSettings, Phase
from stylize.networks.adain import Decoder, Encoder
from stylize.networks.stylizer import Pixels
from stylize.networks.weights import LoadedEncoder, load_decoder, read_recipe, save_decoder
from stylize.shards.shard import file_sha256

Array = NDArray[np.float64]
SHA256 = "ab" * 32
RECONSTRUCTION, STYLE = Phase("reconstruction", 16, 2), Phase("style", 24, 2, restart=1.0, style_side=32)
PLAIN = FitSettings((STYLE,), batch_size=4, recoloured_share=0.0, texture_share=0.0, combined_share=0.0)
SETTINGS = FitSettings((RECONSTRUCTION, STYLE), batch_size=2, pattern_share=0.0)


@pytest.fixture
def pool(tmp_path: Path, noise: Callable[..., Pixels], encode: Callable[..., bytes]) -> Pool:
    for kind, start in (("photos", 0), ("paintings", 100)):
        (tmp_path / kind).mkdir()
        for index in range(6):
            (tmp_path / kind / f"{index}.png").write_bytes(encode(noise(start + index, 24, 30)))
    return open_pool(tmp_path / "photos", [str(tmp_path / "paintings")], [], 0.0)


def statistics(features: Array) -> tuple[Array, Array]:
    return features.mean((2, 3)), np.sqrt(features.var((2, 3)) + 1e-5)


def test_losses_are_the_papers_over_those_of_the_photo(encoder: Encoder, decoder: Decoder) -> None:
    generator = torch.Generator().manual_seed(0)
    content, style, output = (torch.rand(2, 3, 16, 16, generator=generator) for _ in range(3))
    photo = encoder.style_features(content)
    targets = style_targets(photo[-1], statistics_of(photo), statistics_of(encoder.style_features(style)))
    found = style_transfer_losses(encoder, output, targets)

    layers = {
        name: [layer.double().numpy() for layer in encoder.style_features(pixels)]
        for name, pixels in (("content", content), ("style", style), ("output", output))
    }
    (mean, std), (style_mean, style_std) = (statistics(layers[name][-1]) for name in ("content", "style"))
    target = (layers["content"][-1] - mean[..., None, None]) / std[..., None, None]
    target = target * style_std[..., None, None] + style_mean[..., None, None]
    np.testing.assert_allclose(targets.features.numpy(), target, rtol=1e-3, atol=1e-4)

    def content_loss(name: str, sample: int) -> float:
        return float(((layers[name][-1][sample] - target[sample]) ** 2).mean())

    def style_loss(name: str, sample: int) -> float:
        total = 0.0
        for layer, reference in zip(layers[name], layers["style"], strict=True):
            for one, other in zip(statistics(layer), statistics(reference), strict=True):
                total += float(((one[sample] - other[sample]) ** 2).mean())
        return total

    for name, loss, floor in (("content", content_loss, CONTENT_FLOOR), ("style", style_loss, STYLE_FLOOR)):
        wanted = np.mean([loss("output", sample) / (loss("content", sample) + floor) for sample in range(2)])
        assert float(found[name]) == pytest.approx(wanted, rel=1e-3)


def test_every_content_meets_other_styles_and_the_first_its_own(
    pool: Pool, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Targets] = []

    def record(content: torch.Tensor, own: list[Statistics], style: list[Statistics]) -> Targets:
        seen.append(style_targets(content, own, style))
        return seen[-1]

    monkeypatch.setattr("stylize.fitting.decoder.style_targets", record)
    fit = DecoderFit(FitSettings((STYLE,), batch_size=4, pairings=2), pool, LoadedEncoder(encoder, SHA256))
    content, style = (torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8) for _ in range(2))
    losses = fit.train_step("style", content, style)
    assert set(losses) == {"content", "style", "identity"}
    dtype = next(fit.encoder.parameters()).dtype
    own, *others = (
        statistics_of(fit.encoder.style_features((pixels[None] / 255).to(dtype))) for pixels in (content[0], *style[1:])
    )
    assert len(seen) == 2
    for targets, order in zip(seen, ([0, 1, 2], [1, 2, 0]), strict=True):
        wanted = [own, *(others[index] for index in order)]
        for layer, (mean, std) in enumerate(targets.statistics):
            for sample, picture in enumerate(wanted):
                torch.testing.assert_close(mean[sample], picture[layer][0][0], rtol=0.05, atol=0.05)
                torch.testing.assert_close(std[sample], picture[layer][1][0], rtol=0.05, atol=0.05)


def _without_bias(layer: torch.nn.Module, output: torch.Tensor) -> torch.Tensor:
    assert isinstance(layer.bias, torch.Tensor)
    return output - layer.bias[:, None, None]


def test_the_start_has_unit_variance_and_the_pictures_statistics(encoder: Encoder) -> None:
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    decoder = Decoder().requires_grad_(False)
    initialise_from_encoder(decoder, encoder, pixels)
    stds: list[float] = []
    for layer in decoder.convolutions:
        layer.register_forward_hook(lambda layer, _, output: stds.append(float(_without_bias(layer, output).std())))
    output = decoder(encoder(pixels))
    assert stds == pytest.approx([1.0] * 8 + [float(pixels.std())], rel=1e-3)
    torch.testing.assert_close(output.mean((0, 2, 3)), pixels.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)


def test_an_interrupted_training_goes_on_to_the_same_decoder(
    pool: Pool, tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylize.fitting.decoder.CHECKPOINT_STEPS", 1)
    loaded = LoadedEncoder(encoder, SHA256)
    steps: list[tuple[Phase, int]] = []
    fit_decoder(pool, tmp_path / "whole", loaded, SETTINGS, lambda phase, step, _: steps.append((phase, step)))
    assert steps == [(RECONSTRUCTION, 1), (RECONSTRUCTION, 2), (STYLE, 1), (STYLE, 2)]

    for stop in ((RECONSTRUCTION, 2), (STYLE, 2)):

        def report(phase: Phase, step: int, losses: dict[str, float], stop: tuple[Phase, int] = stop) -> None:
            assert all(np.isfinite(list(losses.values())))
            if (phase, step) == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit_decoder(pool, tmp_path / "cut", loaded, SETTINGS, report)
        assert (tmp_path / "cut.state").exists()
        assert (tmp_path / "cut.samples.png").exists()
        assert not (tmp_path / "cut").exists()
    other = FitSettings((Phase("style", 16, 3),), batch_size=2)
    with pytest.raises(InputError, match="has other settings"):
        fit_decoder(pool, tmp_path / "cut", loaded, other, lambda *_: None)
    fit_decoder(pool, tmp_path / "cut", loaded, SETTINGS, lambda *_: None)
    whole, resumed = (load_decoder(tmp_path / name, SHA256).state_dict() for name in ("whole", "cut"))
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name])
    assert read_recipe(tmp_path / "cut")["contents"] == 6
    assert {path.name for path in tmp_path.iterdir()} == {
        *("whole", "cut", "photos", "paintings"),
        *("whole.samples.png", "cut.samples.png"),
    }
    assert (tmp_path / "cut.samples.png").read_bytes() == (tmp_path / "whole.samples.png").read_bytes()


def test_a_training_begins_with_the_weights_it_is_given(pool: Pool, tmp_path: Path, encoder: Encoder) -> None:
    loaded, start, other = LoadedEncoder(encoder, SHA256), tmp_path / "start", tmp_path / "other"
    for path, seed in ((start, 1), (other, 2)):
        torch.manual_seed(seed)
        save_decoder(path, Decoder(), SHA256, {"seed": seed})
    fit = DecoderFit(SETTINGS, pool, loaded, start)
    for name, tensor in load_decoder(start, SHA256).state_dict().items():
        assert torch.equal(tensor, fit.decoder.state_dict()[name])
        assert torch.equal(tensor, fit.optimisation.averaged.state_dict()[name])
    with pytest.raises(InputError, match="has other settings"):
        DecoderFit(SETTINGS, pool, loaded, other).restore(fit.state())
    with pytest.raises(InputError, match="belongs to encoder"):
        DecoderFit(SETTINGS, pool, LoadedEncoder(encoder, "cd" * 32), start)
    with pytest.raises(InputError, match="absent is not a decoder"):
        DecoderFit(SETTINGS, pool, loaded, tmp_path / "absent")
    fit_decoder(pool, tmp_path / "out", loaded, SETTINGS, lambda *_: None, start)
    recipe = read_recipe(tmp_path / "out")
    assert (recipe["start"], recipe["start_recipe"]) == (file_sha256(start), {"seed": 1})
    trained = load_decoder(tmp_path / "out", SHA256).state_dict()
    assert not torch.equal(trained["convolutions.0.weight"], fit.decoder.state_dict()["convolutions.0.weight"])


def test_the_preset_for_gpus_runs_from_start_to_end(pool: Pool, tmp_path: Path, encoder: Encoder) -> None:
    preset = PRESETS["gpu"]
    *_, last = preset.phases
    assert {phase.side for phase in preset.phases} == {256}
    assert last.steps * preset.pairings >= 100_000
    tiny = replace(preset, phases=tuple(replace(phase, side=16, steps=2) for phase in preset.phases), batch_size=4)
    seen: list[tuple[str, int]] = []
    fit_decoder(
        pool,
        tmp_path / "out",
        LoadedEncoder(encoder, SHA256),
        tiny,
        lambda phase, step, _: seen.append((phase.loss, step)),
    )
    assert seen == [("reconstruction", 1), ("reconstruction", 2), ("style", 1), ("style", 2)]
    assert read_recipe(tmp_path / "out")["pairings"] == preset.pairings
    load_decoder(tmp_path / "out", SHA256)


def test_a_loss_that_is_not_finite_ends_the_training(pool: Pool, encoder: Encoder) -> None:
    fit = DecoderFit(SETTINGS, pool, LoadedEncoder(encoder, SHA256))
    fit.decoder.convolutions[0].weight.data.fill_(torch.nan)
    with pytest.raises(InputError, match="not finite at step 0: lower the learning rate"):
        fit.train_step("style", *CropBatches(pool, SETTINGS, 16)[0])


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


def test_learning_rates_restart_where_a_phase_says_so() -> None:
    phases = (Phase("reconstruction", 16, 60), Phase("style", 16, 40), Phase("style", 16, 200, restart=0.5))
    settings = FitSettings(phases)
    factors = [settings.rate_factor(step) for step in (0, 49, 75, 99, 100, 149, 200)]
    assert factors == pytest.approx([0.02, 0.5157, 0.1464, 0.0002, 0.01, 0.42955, 0.25], abs=1e-4)
    alone = FitSettings((Phase("style", 16, 200, restart=0.5),))
    assert [alone.rate_factor(step) for step in range(200)] == [settings.rate_factor(step) for step in range(100, 300)]


def test_nothing_left_unknown_names_and_bad_settings_are_refused(pool: Pool, tmp_path: Path) -> None:
    photos, paintings = tmp_path / "photos", str(tmp_path / "paintings")
    with pytest.raises(InputError, match="Nothing is left to train on"):
        open_pool(photos, [paintings], [], 1.0)
    with pytest.raises(InputError, match="Nothing is left to train on"):
        open_pool(photos, ["dots"], ["dots"], 0.0)
    with pytest.raises(InputError, match="Held-out styles not among the styles: 99"):
        open_pool(photos, [paintings], ["99"], 0.0)
    wrong_sides = [Phase("style", 20, 1), Phase("reconstruction", 8, 1), Phase("style", 16, 1, style_side=0)]
    for wrong in (*wrong_sides, Phase("style", 16, 0), Phase("other", 16, 1), Phase("style", 16, 1, restart=-0.5)):
        with pytest.raises(InputError):
            FitSettings((wrong,))
    with pytest.raises(InputError):
        FitSettings((STYLE,), batch_size=0)
