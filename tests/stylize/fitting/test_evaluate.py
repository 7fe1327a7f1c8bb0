import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from stylize.console import InputError
from stylize.fitting.data import is_held_out
from stylize.fitting.evaluate import Evaluator, evaluate_decoder, evaluation_table, held_out_photos, summarise
from stylize.networks.adain import Decoder, Encoder
from stylize.networks.styles import Style
from stylize.networks.stylizer import Pixels
from stylize.networks.weights import LoadedEncoder, save_decoder

Array = NDArray[np.float64]
SIDE = 32


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylize.fitting.evaluate.best_dtype", lambda _device: torch.float32)


@pytest.fixture
def photos(noise: Callable[..., Pixels]) -> list[Image.Image]:
    return [Image.fromarray(noise(seed, SIDE, SIDE)) for seed in range(5)]


def statistics(layer: torch.Tensor) -> tuple[Array, Array]:
    array = layer.double().numpy()
    return array.mean((2, 3)), np.sqrt(array.var((2, 3)) + 1e-5)


def style_loss(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    pairs = [
        pair for a, b in zip(first, second, strict=True) for pair in zip(statistics(a), statistics(b), strict=True)
    ]
    return float(sum(((one - other) ** 2).mean() for one, other in pairs))


def test_scores_are_losses_over_the_photos_own(
    encoder: Encoder, decoder: Decoder, photos: list[Image.Image], styles: list[Style]
) -> None:
    evaluator = Evaluator(encoder, decoder, photos, SIDE)
    scores = evaluator.score(styles[0])
    assert len(scores) == len(photos)
    style = torch.from_numpy(np.array(styles[0].picture)).permute(2, 0, 1)[None].float() / 255
    wanted = encoder.style_features(style)
    style_mean, style_std = statistics(wanted[-1])
    for photo, score in zip(photos, scores.tolist(), strict=True):
        style_residual, content_residual, colour_distance = score
        pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float() / 255
        layers = encoder.style_features(pixels)
        mean, std = statistics(layers[-1])
        features = layers[-1].double().numpy()
        target = (features - mean[..., None, None]) / std[..., None, None]
        target = target * style_std[..., None, None] + style_mean[..., None, None]
        output = decoder(torch.from_numpy(target).float()).clamp(0, 1)
        found = encoder.style_features(output)
        content = float(((found[-1].double().numpy() - target) ** 2).mean() / ((features - target) ** 2).mean())
        assert content_residual == pytest.approx(content, rel=1e-2)
        assert style_residual == pytest.approx(style_loss(found, wanted) / style_loss(layers, wanted), rel=1e-2)
        values = [array.numpy()[0].reshape(3, -1) for array in (output, style)]
        distances = [values[0].mean(1) - values[1].mean(1), values[0].std(1, ddof=1) - values[1].std(1, ddof=1)]
        assert colour_distance == pytest.approx(np.abs(np.concatenate(distances)).mean(), rel=1e-3)
    for psnr, photo in zip(evaluator.reconstruction_psnr(), photos, strict=True):
        pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float() / 255
        error = (decoder(encoder(pixels)).clamp(0, 1) - pixels).double().numpy()
        assert psnr == pytest.approx(-10 * np.log10((error**2).mean()), rel=1e-3)


def test_optimised_pixels_come_closer_to_the_objective_than_the_photo(
    encoder: Encoder, decoder: Decoder, photos: list[Image.Image], styles: list[Style], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylize.fitting.evaluate.OPTIMISER_STEPS", 15)
    ((style_residual, *_),) = Evaluator(encoder, decoder, photos, SIDE).lower_bound(styles[0], photos=1).tolist()
    assert style_residual < 0.9


def test_summaries_are_numpys() -> None:
    values = [3.0, 1.0, 4.0, 1.5]
    found = summarise(values)
    wanted = {"median": np.median(values), "mean": np.mean(values), "std": np.std(values), "n": 4}
    assert found == pytest.approx(wanted)


def test_a_document_holds_every_style_and_only_held_out_photos(
    tmp_path: Path, encoder: Encoder, decoder: Decoder, photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylize.networks.weights.embedded_encoder", lambda: LoadedEncoder(encoder, "ab"))
    monkeypatch.setattr("stylize.fitting.evaluate.OPTIMISER_STEPS", 2)
    save_decoder(tmp_path / "decoder", decoder, "ab", {})
    (tmp_path / "photos").mkdir()
    for index in range(12):
        photos[index % 5].save(tmp_path / "photos" / f"{index}.png")
    held_out = [f"{index}.png" for index in range(12) if is_held_out(f"{index}.png", 0.5)]
    document = evaluate_decoder(
        tmp_path / "photos", ["dots", "waves"], tmp_path / "decoder", 0.5, photos=3, size=SIDE, lower_bound=1
    )
    assert len(document["photos"]) == 3 < len(held_out)
    assert set(document["photos"]) < set(held_out)
    assert set(document["styles"]) == set(document["lower_bound_styles"]) == {"dots", "waves"}
    means = [document["styles"][name]["style_residual"]["mean"] for name in ("dots", "waves")]
    assert document["overall"]["style_residual"]["mean"] == pytest.approx(np.mean(means))
    assert document["overall"]["style_residual"]["n"] == 6
    text = io.StringIO()
    Console(file=text, width=200).print(evaluation_table(document))
    assert all(
        name in text.getvalue() for name in ("dots", "waves", "overall, all", "lower bound, all", "style residual")
    )


def test_nothing_to_evaluate_on_is_said(tmp_path: Path, photos: list[Image.Image]) -> None:
    photos[0].save(tmp_path / "1.png")
    fraction = 0.0
    with pytest.raises(InputError, match="has no held-out photos"):
        held_out_photos(tmp_path, fraction, 5)
    with pytest.raises(InputError, match="--size is 8: give at least 16"):
        evaluate_decoder(tmp_path, ["dots"], size=8)
    for name in ("2.png", "3.png"):
        (tmp_path / name).write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"^2 photos .*2\.png .*3\.png"):
        evaluate_decoder(tmp_path, ["dots"], held_out_fraction=1.0)
    for name in ("2.png", "3.png"):
        (tmp_path / name).unlink()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        photos[ord(name) - ord("a")].save(tmp_path / name / "style.png")
    with pytest.raises(InputError, match="Two styles have the same name"):
        evaluate_decoder(tmp_path, [str(tmp_path / "a"), str(tmp_path / "b")], held_out_fraction=1.0)
