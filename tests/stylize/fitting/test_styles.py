import copy
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from stylize.console import InputError
from stylize.fitting.evaluate import Evaluator
from stylize.fitting.styles import RATE, StyleFit, fit_styles
from stylize.jobs.job import open_job
from stylize.jobs.spec import ShardOptions
from stylize.networks.adain import AdaINNetwork, Decoder, Encoder
from stylize.networks.openvino import calibration_pictures
from stylize.networks.styles import FittedStatistics, Style, load_styles, write_fitted
from stylize.networks.stylizer import Pixels, Stylizer
from stylize.networks.weights import LoadedEncoder, Pair, load_pair
from stylize.shards.manifest import read_manifest
from stylize.sources.shapes import draw_shape

Noise = Callable[..., Pixels]
Array = NDArray[np.float64]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def pair(encoder: Encoder, decoder: Decoder) -> Pair:
    return Pair(LoadedEncoder(encoder, "e" * 64), decoder, "d" * 64)


@pytest.fixture
def fitted(styles: list[Style]) -> FittedStatistics:
    generator = torch.Generator().manual_seed(0)
    mean, std = torch.rand(2, 1, 512, 1, 1, generator=generator)
    return FittedStatistics(mean, std + 0.1, "d" * 64)


def half_size() -> Pixels:
    return calibration_pictures()[:, ::2, ::2]


def few_pictures() -> Pixels:
    return half_size()[:4]


class SlowObjective:
    """Content + 5 · style over a few pictures, in float64, in NumPy where the networks are left."""

    def __init__(self, encoder: Encoder, decoder: Decoder, style: Style) -> None:
        self.encoder, self.decoder = copy.deepcopy((encoder, decoder))
        self.encoder.double()
        self.decoder.double()
        self.photo = self.layers(few_pictures())
        self.style = self.layers(np.asarray(style.picture)[None])

    def layers(self, pictures: Pixels) -> list[Array]:
        pixels = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).double() / 255
        return [layer.numpy() for layer in self.encoder.style_features(pixels)]

    @staticmethod
    def moments(features: Array) -> Array:
        return np.stack([features.mean((2, 3)), np.sqrt(features.var((2, 3)) + 1e-5)])

    def style_loss(self, layers: list[Array]) -> Array:
        pairs = zip(layers, self.style, strict=True)
        squares = [((self.moments(one) - self.moments(other)) ** 2).mean(2).sum(0) for one, other in pairs]
        total: Array = np.stack(squares).sum(0)
        return total

    def __call__(self, mean: Array, std: Array) -> float:
        mu, sigma = self.moments(self.photo[-1])[..., None, None]
        style_mu, style_sigma = self.moments(self.style[-1])[..., None, None]
        normal = (self.photo[-1] - mu) / sigma
        target = normal * style_sigma + style_mu
        output = self.decoder(torch.from_numpy(normal * std + mean)).clamp(0, 1)
        found = [layer.numpy() for layer in self.encoder.style_features(output)]
        content = ((found[-1] - target) ** 2).mean((1, 2, 3)) / (((self.photo[-1] - target) ** 2).mean((1, 2, 3)) + 0.3)
        return float((content + 5 * self.style_loss(found) / (self.style_loss(self.photo) + 2)).mean())


def test_the_first_step_goes_down_the_slope_of_the_objective(
    encoder: Encoder, decoder: Decoder, styles: list[Style], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam's first step is its rate against the sign of every derivative; those are compared with differences."""
    monkeypatch.setattr("stylize.fitting.styles.STEPS", 1)
    monkeypatch.setattr("stylize.fitting.styles.calibration_pictures", few_pictures)
    fit = StyleFit(encoder, decoder, styles[0])
    mean, std = (statistic.double().numpy() for statistic in fit.statistics())
    slow = SlowObjective(encoder, decoder, styles[0])
    fit.train()
    steps = fit.shift.detach().flatten().numpy(), fit.log_scale.detach().flatten().numpy()
    assert all(np.abs(step).max() == pytest.approx(RATE, rel=1e-3) for step in steps)
    moved = np.flatnonzero(np.min(np.abs(steps), axis=0) > 0.9 * RATE)  # not those of dead channels
    for channel in moved[:: max(1, len(moved) // 6)]:
        change = np.zeros((1, 512, 1, 1))
        change[0, channel] = 1e-4
        slopes = (
            slow(mean + change, std) - slow(mean - change, std),
            slow(mean, std * np.exp(change)) - slow(mean, std * np.exp(-change)),
        )
        for slope, step in zip(slopes, steps, strict=True):
            assert np.sign(slope) == -np.sign(step[channel])


def test_a_fitted_style_comes_closer_on_pictures_that_it_was_not_fitted_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylize.fitting.styles.STEPS", 8)
    monkeypatch.setattr("stylize.fitting.styles.calibration_pictures", half_size)
    pair, (plain,) = load_pair(), load_styles(["crystals"])
    (result,) = fit_styles(pair, [plain], tmp_path)
    assert result.before
    assert result.after
    assert result.after[1] < 0.7 * result.before[1]
    (fitted,) = load_styles([str(tmp_path)], pair.decoder_sha256)
    photos = [draw_shape(index, size=48, split="test").picture for index in range(6)]
    evaluator = Evaluator(pair.encoder.network, pair.decoder, photos, 48)
    residuals = [float(evaluator.score(style)[:, 0].median()) for style in (plain, fitted)]
    assert residuals[1] < 0.8 * residuals[0]


def test_a_file_holds_the_style_and_its_statistics(
    tmp_path: Path, styles: list[Style], fitted: FittedStatistics
) -> None:
    path = tmp_path / "a.style.safetensors"
    write_fitted(path, styles[0], fitted, {})
    (tmp_path / "._a.style.safetensors").write_bytes(b"a resource fork")
    for name in (tmp_path, path):
        (found,) = load_styles([str(name)], "d" * 64)
        assert found.name == f"{styles[0].name} (fitted)"
        assert found.picture.tobytes() == styles[0].picture.tobytes()
        assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert found.fitted
        assert torch.equal(found.fitted.mean, fitted.mean)
        assert torch.equal(found.fitted.std, fitted.std)


@pytest.mark.parametrize(
    ("dtype", "alpha", "largest", "average"),
    [("float32", 1.0, 1.01, 1.01), ("float32", 0.4, 1.01, 1.01), ("bfloat16", 1.0, 255, 5)],
)
def test_the_stylizer_aligns_with_fitted_statistics(
    encoder: Encoder,
    decoder: Decoder,
    styles: list[Style],
    fitted: FittedStatistics,
    noise: Noise,
    dtype: str,
    alpha: float,
    largest: float,
    average: float,
) -> None:
    style = Style("fitted", "f", styles[0].picture, fitted)
    content = torch.from_numpy(noise(0).copy()).permute(2, 0, 1)[None] / 255
    expected = AdaINNetwork(encoder, decoder)(content, fitted.mean, fitted.std, alpha)[0].permute(1, 2, 0) * 255
    found = Stylizer(encoder, decoder, [styles[1], style], dtype)(noise(0)[None], [1], alpha)[0]
    error = np.abs(found - expected.numpy())
    assert error.max() < largest
    assert error.mean() < average


def test_scores_of_fitted_styles_compare_with_the_pictures_own_statistics(
    encoder: Encoder, decoder: Decoder, styles: list[Style], fitted: FittedStatistics, noise: Noise
) -> None:
    evaluator = Evaluator(encoder, decoder, [Image.fromarray(noise(0))], 32)
    pixels = torch.from_numpy(styles[0].array.copy()).permute(0, 3, 1, 2).to(evaluator.device, evaluator.dtype) / 255
    own = evaluator.encoder(pixels).float()
    std, mean = torch.std_mean(own, dim=(2, 3), correction=0, keepdim=True)
    (plain,) = evaluator.score(styles[0])[:, 0]
    same = FittedStatistics(mean, (std.square() + 1e-5).sqrt(), "")
    (unchanged,) = evaluator.score(Style("s", "s", styles[0].picture, same))[:, 0]
    (changed,) = evaluator.score(Style("s", "s", styles[0].picture, fitted))[:, 0]
    assert float(unchanged) == pytest.approx(float(plain), rel=1e-2)
    assert float(changed) != pytest.approx(float(plain), rel=1e-2)


def test_finished_styles_are_not_made_again(
    tmp_path: Path, pair: Pair, styles: list[Style], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylize.fitting.styles.STEPS", 1)
    monkeypatch.setattr("stylize.fitting.styles.calibration_pictures", few_pictures)
    first = next(fit_styles(pair, styles[:2], tmp_path))  # stopped after one of two
    assert [path.name for path in tmp_path.iterdir()] == [first.path.name] == ["style0-00000000.style.safetensors"]
    payload, time = first.path.read_bytes(), first.path.stat().st_mtime_ns
    results = list(fit_styles(pair, styles, tmp_path))
    assert [result.before is None for result in results] == [True, False, False]
    assert first.path.stat().st_mtime_ns == time
    if not torch.cuda.is_available():  # whose sums come in any order
        (again,) = fit_styles(pair, styles[:1], tmp_path / "other")
        assert again.path.read_bytes() == payload


def test_styles_of_another_decoder_are_refused_and_fitted_anew(
    tmp_path: Path, pair: Pair, styles: list[Style], fitted: FittedStatistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylize.fitting.styles.STEPS", 1)
    monkeypatch.setattr("stylize.fitting.styles.calibration_pictures", few_pictures)
    path = tmp_path / "style0-00000000.style.safetensors"
    write_fitted(path, styles[0], FittedStatistics(fitted.mean, fitted.std, "c" * 64), {})
    with pytest.raises(InputError, match=r"dddddddddddd .*style0 \(fitted\) to decoder cccccccccccc"):
        load_styles([str(tmp_path)], pair.decoder_sha256)
    for _ in range(2):  # of another decoder, then damaged
        (result,) = fit_styles(pair, styles[:1], tmp_path)
        assert result.before
        assert load_styles([str(tmp_path)], pair.decoder_sha256)
        path.write_bytes(path.read_bytes()[:-1])


def test_colours_are_those_of_pictures(
    tmp_path: Path, styles: list[Style], fitted: FittedStatistics, make_class_folders: Callable[..., Path]
) -> None:
    own = FittedStatistics(fitted.mean, fitted.std, load_pair().decoder_sha256)
    write_fitted(tmp_path / "a.style.safetensors", styles[0], own, {})
    style, data = str(tmp_path / "a.style.safetensors"), str(make_class_folders(tmp_path / "images"))
    with pytest.raises(InputError, match=r"does not use fitted statistics: give the picture of style0 \(fitted\)"):
        open_job(ShardOptions(style=(style,), data=data, transfer="colours"))


def test_what_cannot_be_fitted_is_said(
    tmp_path: Path, pair: Pair, styles: list[Style], fitted: FittedStatistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylize.fitting.styles.STEPS", 1)
    monkeypatch.setattr("stylize.fitting.styles.calibration_pictures", few_pictures)
    with pytest.raises(InputError, match="style0 is fitted already"):
        list(fit_styles(pair, [replace(styles[0], fitted=fitted)], tmp_path))
    broken = copy.deepcopy(pair.decoder)
    broken.convolutions[0].weight.data *= float("nan")
    with pytest.raises(InputError, match=r"style0 .*not finite"):
        list(fit_styles(replace(pair, decoder=broken), styles[:1], tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_folder_of_pictures_and_fitted_styles_is_refused(
    run: Run, tmp_path: Path, styles: list[Style], fitted: FittedStatistics
) -> None:
    styles[0].picture.save(tmp_path / "a.png")
    code, _, errors = run("fit-styles", "--style", tmp_path, "--out", tmp_path)
    assert code == 2
    assert "is a --style too" in errors
    write_fitted(tmp_path / "a.style.safetensors", styles[0], fitted, {})
    with pytest.raises(InputError, match="holds pictures and fitted styles"):
        load_styles([str(tmp_path)])


def test_damaged_files_are_named(tmp_path: Path, styles: list[Style], fitted: FittedStatistics) -> None:
    path = tmp_path / "a.style.safetensors"
    write_fitted(path, styles[0], fitted, {})
    whole, tensors = path.read_bytes(), load_file(path)
    metadata = {"origin": '{"name": "style", "decoder_sha256": "d"}'}
    cases: list[tuple[bytes | dict[str, torch.Tensor], dict[str, str]]] = [
        (b"<html>", metadata),
        (b"", metadata),
        (whole[:-7], metadata),
        ({"mean": tensors["mean"]}, metadata),
        ({**tensors, "mean": tensors["mean"][:, :5]}, metadata),
        ({**tensors, "deviation": tensors["deviation"] * float("nan")}, metadata),
        ({**tensors, "picture": tensors["picture"].float()}, metadata),
        ({**tensors, "picture": tensors["picture"][..., :2].contiguous()}, metadata),
        ({**tensors, "picture": tensors["picture"][:8].contiguous()}, metadata),
        (tensors, {}),
        ({**tensors, "picture": torch.zeros(24, 5000, 3, dtype=torch.uint8)}, metadata),
        ({**tensors, "deviation": tensors["deviation"] - 1}, metadata),
        (tensors, {"origin": "[]"}),
        (tensors, {"origin": "[" * 100_000}),
        (tensors, {"origin": '{"name": "\\ud800", "decoder_sha256": "d"}'}),
        (tensors, {"origin": "no JSON"}),
    ]
    for content, names in cases:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            save_file(content, path, names)
        with pytest.raises(InputError, match=r"a\.style\.safetensors is not a fitted style"):
            load_styles([str(path)])


def test_fitted_styles_in_commands(
    run: Run, tmp_path: Path, class_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylize.fitting.styles.STEPS", 2)
    monkeypatch.setattr("stylize.fitting.styles.calibration_pictures", few_pictures)
    code, output, _ = run("fit-styles", "--style", "dots", "--style", "waves", "--out", "styles")
    assert code == 0
    assert "losses on drawn pictures: content" in output
    code, output, _ = run("fit-styles", "--style", "dots", "--style", "waves", "--out", "styles")
    assert code == 0
    assert output.count("there already") == 2
    assert run("shards", "--style", "styles", "--data", class_folders, "--out", "shards")[0] == 0
    hashes = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "styles").iterdir()}
    styles = read_manifest(tmp_path / "shards").spec["styles"]
    assert {style["sha256"] for style in styles} == hashes
    assert [style["name"] for style in styles] == ["dots (fitted)", "waves (fitted)"]
    assert run("preview", class_folders / "test", "--style", "styles", "--size", "32")[0] == 0
