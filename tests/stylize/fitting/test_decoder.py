"""Training of decoders, resumed and recorded."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stylize.console import InputError
from stylize.files import file_sha256
from stylize.fitting import PRESETS, FitSettings, Phase
from stylize.fitting.data import CropBatches, Pool, open_pool
from stylize.fitting.decoder import CALLS_BEFORE, DecoderFit, Recorded, fit_decoder
from stylize.fitting.optimise import Statistics, Targets, statistics_of, style_targets
from stylize.networks.adain import Decoder, Encoder
from stylize.networks.stylizer import Pixels
from stylize.networks.weights import LoadedEncoder, load_decoder, read_recipe, save_decoder

SHA256 = "ab" * 32
RECONSTRUCTION, STYLE = Phase("reconstruction", 16, 2), Phase("style", 24, 2, restart=1.0, style_side=32)
SETTINGS = FitSettings((RECONSTRUCTION, STYLE), batch_size=2, pattern_share=0.0)
STEPS = CALLS_BEFORE + 3


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
    tiny = replace(preset, phases=tuple(replace(phase, side=16, steps=1) for phase in preset.phases), batch_size=4)
    seen: list[tuple[str, int]] = []
    fit_decoder(
        pool,
        tmp_path / "out",
        LoadedEncoder(encoder, SHA256),
        tiny,
        lambda phase, step, _: seen.append((phase.loss, step)),
    )
    assert seen == [("reconstruction", 1), ("style", 1)]
    assert read_recipe(tmp_path / "out")["pairings"] == preset.pairings
    load_decoder(tmp_path / "out", SHA256)


def test_a_loss_that_is_not_finite_ends_the_training(pool: Pool, encoder: Encoder) -> None:
    fit = DecoderFit(SETTINGS, pool, LoadedEncoder(encoder, SHA256))
    fit.decoder.convolutions[0].weight.data.fill_(torch.nan)
    with pytest.raises(InputError, match="not finite at step 0: lower the learning rate"):
        fit.train_step("style", *CropBatches(pool, SETTINGS, 16)[0])


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


def test_on_a_cpu_the_function_is_called_every_time() -> None:
    seen: list[tuple[Tensor, ...]] = []

    def function(*batch: Tensor) -> dict[str, Tensor]:
        seen.append(batch)
        return {"sum": torch.stack(batch).sum()}

    recorded = Recorded(function, torch.device("cpu"))
    batches = [torch.full((2,), float(step)) for step in range(STEPS)]
    assert [float(recorded(batch, batch)["sum"]) for batch in batches] == [4.0 * step for step in range(STEPS)]
    assert all(first is batch and second is batch for (first, second), batch in zip(seen, batches, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_replayed_steps_are_those_of_calls(
    tmp_path: Path,
    encoder: Encoder,
    noise: Callable[..., Pixels],
    encode: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "picture.png").write_bytes(encode(noise(0, 24, 24)))
    pool = open_pool(tmp_path, [str(tmp_path)], [], 0.0)
    losses = []
    for calls in (STEPS, CALLS_BEFORE):
        monkeypatch.setattr("stylize.fitting.decoder.CALLS_BEFORE", calls)
        fit = DecoderFit(FitSettings((Phase("style", 32, STEPS),), batch_size=4), pool, LoadedEncoder(encoder, ""))
        batches = [torch.from_numpy(noise(step, 4 * 3 * 32, 32)[..., 0].reshape(4, 3, 32, 32)) for step in range(STEPS)]
        losses.append([fit.train_step("style", batch, batch.flip(0)) for batch in batches])
        assert (fit.recorded.popitem()[1].graph is None) == (calls == STEPS)
    for called, replayed in zip(*losses, strict=True):
        assert replayed == pytest.approx(called, rel=0.02)
