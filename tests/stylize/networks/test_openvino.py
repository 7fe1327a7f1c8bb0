"""Quantisation in integer arithmetic of NumPy, and OpenVINO against PyTorch."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence, Set
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from stylize.console import InputError
from stylize.jobs.job import open_job
from stylize.jobs.run import make_shards
from stylize.jobs.spec import ShardOptions
from stylize.networks.adain import POOLED, UPSAMPLED, AdaINNetwork, Decoder, Encoder, Layer
from stylize.networks.devices import sums_int8_exactly
from stylize.networks.openvino import (
    best_range,
    best_upper_end,
    calibration_pictures,
    calibration_sha256,
    import_openvino,
    plain_graph,
    quantise_chain,
    quantise_pair,
)
from stylize.networks.styles import Style, load_styles
from stylize.networks.stylizer import Pixels, Stylizer, psnr
from stylize.networks.weights import default_decoder_file, embedded_encoder, load_decoder, load_pair
from stylize.sources.patterns import draw_pattern
from stylize.sources.shapes import draw_shape

Noise = Callable[..., Pixels]


def multiplies_int8() -> bool:
    if not (find_spec("openvino") and sums_int8_exactly()):
        return False
    return "INT8" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


has_openvino = pytest.mark.skipif(not find_spec("openvino"), reason="needs the extra openvino")
needs_int8 = pytest.mark.skipif(not multiplies_int8(), reason="needs the extra openvino and a CPU with int8")
MIN_PSNR = 34.0
REFUSAL = r"does not multiply int8 exactly in hardware \(VNNI or AMX\): give --backend torch"


def convolution(channels: int = 4, outputs: int = 5) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(channels, outputs, 3, padding=1, padding_mode="reflect").requires_grad_(False)


def test_a_quantised_convolution_is_integer_arithmetic() -> None:
    exact, inputs = convolution(), 10 * torch.rand(6, 4, 8, 8, generator=torch.Generator().manual_seed(1)) - 3
    low, high = inputs.amin((0, 2, 3), keepdim=True), inputs.amax((0, 2, 3), keepdim=True)
    (layer,) = quantise_chain([Layer(None, exact, rectified=False)], inputs, (low, high))
    levels = np.rint((inputs - low).numpy() / (high - low).numpy() * 255).astype(np.int64)
    padded = np.pad(levels, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    weight, sums = layer.weight.numpy().astype(np.int64), np.zeros((6, 5, 8, 8), np.int64)
    for row in range(3):
        for column in range(3):
            window = padded[:, :, row : row + 8, column : column + 8]
            sums += np.einsum("oc,bchw->bohw", weight[:, :, row, column], window)
    wanted = sums * layer.scale.numpy().reshape(1, -1, 1, 1) / 255 + layer.bias.numpy().reshape(1, -1, 1, 1)
    assert np.abs(weight).max(axis=(1, 2, 3)).tolist() == [127] * 5
    torch.testing.assert_close(layer(inputs), torch.from_numpy(wanted).float(), rtol=1e-4, atol=1e-4)
    assert (layer(inputs) - exact(inputs)).abs().max() < 0.1


def test_biases_take_back_what_rounding_shifts() -> None:
    convolutions = [convolution(), convolution(5, 3)]
    inputs = torch.rand(6, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    ends = torch.zeros(1, 4, 1, 1), torch.full((1, 4, 1, 1), 0.7)  # clips, so that there is a shift
    first, second = quantise_chain([Layer(None, layer, rectified=True) for layer in convolutions], inputs, ends)
    exact, found = convolutions[1](F.relu(convolutions[0](inputs))), second(F.relu(first(inputs)))
    torch.testing.assert_close(found.mean((0, 2, 3)), exact.mean((0, 2, 3)), rtol=0, atol=1e-5)


def test_a_range_has_the_least_error_of_its_grid() -> None:
    values = torch.randn(60_000, generator=torch.Generator().manual_seed(0)).relu()
    values[0] = 7.0  # an outlier is not worth the resolution of the others
    end = float(best_upper_end(values))

    def error(high: float) -> float:
        levels = np.clip(np.rint(values.double().numpy() / high * 255), 0, 255)
        return float(np.square(levels / 255 * high - values.double().numpy()).mean())

    grid = [2 ** (step / 8) for step in range(-16, 33)]
    assert error(end) == pytest.approx(min(map(error, grid)), rel=1e-3)
    assert end < 7


def test_loud_channels_get_wider_ranges_and_silent_ones_none_that_is_empty() -> None:
    activations = (
        torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        * torch.tensor([16.0, 1.0, 0.0])[None, :, None, None]
    )
    low, high = best_range(activations)
    assert low.abs().max() == 0
    assert float(high[0, 0] / high[0, 1]) == pytest.approx(4, rel=0.05)  # the square root of 16
    assert high.min() > 0
    torch.testing.assert_close(best_range(activations, 2.0)[1], 2 * high)
    _, silent = best_range(torch.zeros(1, 3, 4, 4))
    assert silent.min() > 0


def test_calibration_is_the_same_every_time(
    encoder: Encoder, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = calibration_pictures()[:6, ::2, ::2]
    monkeypatch.setattr("stylize.networks.openvino.calibration_pictures", lambda: few)
    statistics = torch.zeros(30, 512, 1, 1), torch.ones(30, 512, 1, 1)
    first, second = (quantise_pair(encoder, decoder, *statistics) for _ in range(2))
    for one, other in zip((*first[0], *first[1]), (*second[0], *second[1]), strict=True):
        assert torch.equal(one.weight, other.weight)
        assert torch.equal(one.bias, other.bias)
        assert one.bias.isfinite().all()  # the encoder's silent channels do no harm
        assert torch.equal(one.high, other.high)
    assert len({picture.tobytes() for picture in calibration_pictures()}) == 24


class Rounded(nn.Module):
    """A quantised chain in exact arithmetic on any CPU; without resampling after the last layer."""

    def __init__(self, layers: Sequence[Callable[[Tensor], Tensor]], pooled: Set[int], upsampled: Set[int]) -> None:
        super().__init__()
        self.layers, self.pooled, self.upsampled = layers, pooled, upsampled

    def forward(self, activations: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            activations = layer(activations if index == 0 else F.relu(activations))
            if index in self.pooled:
                activations = F.max_pool2d(activations, 2)
            if index in self.upsampled:
                activations = F.interpolate(activations, scale_factor=2)
        return activations


@torch.inference_mode()
def test_the_shipped_pair_stays_within_34_decibels_on_what_it_was_not_calibrated_on() -> None:
    pair = load_pair()
    exact = AdaINNetwork(pair.encoder.network, pair.decoder)
    styles = torch.cat([pixels(draw_pattern(name, 128)) for name in ("waves", "brush-strokes", "weave")])
    means, stds = exact.style_statistics(styles)
    encoder, decoder = quantise_pair(pair.encoder.network, pair.decoder, means, stds)
    rounded = AdaINNetwork(
        nn.Sequential(Rounded(encoder, POOLED, set()), nn.ReLU()),
        Rounded([pair.decoder.convolutions[0], *decoder], set(), UPSAMPLED),
    )
    contents = [draw_shape(index, size=64, split="test").picture for index in range(3)]
    contents += [draw_pattern(name, 64, seed=77) for name in ("swirls", "weave", "zigzag")]
    ratios = []
    for index, content in enumerate(contents):
        style = means[[index % 3]], stds[[index % 3]]
        one, other = (network(pixels(content), *style).mul(255).byte().numpy() for network in (exact, rounded))
        ratios.append(psnr(one, other))
    assert np.mean(ratios) >= 34


def pixels(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def difference(first: Pixels, second: Pixels) -> int:
    return int(np.abs(first.astype(int) - second.astype(int)).max())


@pytest.fixture(scope="module")
def int8(encoder: Encoder, decoder: Decoder, styles: list[Style]) -> Stylizer:
    return Stylizer(encoder, decoder, styles, backend="openvino")


def test_without_the_extra_its_name_is_told(
    encoder: Encoder, decoder: Decoder, styles: list[Style], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match=r'not installed: pip install "stylized-pairing\[openvino\]"'):
        Stylizer(encoder, decoder, styles, backend="openvino")
    assert Stylizer(encoder, decoder, styles).backend == "torch"


@pytest.mark.parametrize(
    ("backend", "dtype", "message"),
    [
        ("openvino", "float32", "--dtype is 'float32': .*; with --backend openvino, int8 or bfloat16"),
        ("torch", "int8", "--dtype is 'int8': .*; with --backend openvino, int8 or bfloat16"),
        ("onnx", "auto", "--backend is 'onnx': give auto or one of torch, openvino"),
    ],
)
def test_what_a_backend_does_not_run_is_refused(
    encoder: Encoder, decoder: Decoder, styles: list[Style], backend: str, dtype: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Stylizer(encoder, decoder, styles, dtype, backend)


@has_openvino
def test_importing_it_opens_no_connection() -> None:
    """OpenVINO's telemetry is not loaded, and the import does without it (PEP 578 audit events)."""
    code = """
import socket, sys
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise AssertionError(arguments)
sys.addaudithook(hook)
from stylize.networks.openvino import import_openvino
assert import_openvino().Core()
assert sys.modules["openvino_telemetry"] is None
"""
    process = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


@needs_int8
def test_int8_differs_from_float32_by_no_more_than_34_decibels_on_what_it_was_not_calibrated_on() -> None:
    encoder = embedded_encoder()
    decoder = load_decoder(default_decoder_file(), encoder.sha256)
    styles = load_styles(["waves", "brush-strokes", "weave"])
    contents = [draw_shape(index, size=64, split="test").picture for index in range(3)]
    contents += [draw_pattern(name, 64, seed=77) for name in ("swirls", "weave", "zigzag")]
    pictures = np.stack([np.asarray(picture) for picture in contents])
    assert not {picture.tobytes() for picture in pictures} & {one.tobytes() for one in calibration_pictures()}
    exact, rounded = (
        Stylizer(encoder.network, decoder, styles, dtype, backend)(pictures, [0, 1, 2] * 2, 1.0)
        for dtype, backend in (("float32", "torch"), ("int8", "openvino"))
    )
    ratios = [psnr(first, second) for first, second in zip(exact, rounded, strict=True)]
    assert np.mean(ratios) >= MIN_PSNR


@needs_int8
@pytest.mark.parametrize(("height", "width"), [(16, 16), (24, 40), (17, 35)])
def test_int8_agrees_with_torch_at_any_size_and_alpha(
    int8: Stylizer, stylizer: Stylizer, noise: Noise, height: int, width: int
) -> None:
    pictures = np.stack([noise(seed, height, width) for seed in range(3)])
    for alpha in (0.0, 0.5, 1.0):
        found = int8(pictures, [2, 0, 1], alpha)
        assert found.shape == pictures.shape
        assert psnr(found, stylizer(pictures, [2, 0, 1], alpha)) > 25
    assert (int8.backend, int8.dtype_name, int8.device.type) == ("openvino", "int8", "cpu")


@needs_int8
def test_a_picture_does_not_depend_on_its_batch_or_the_threads(
    int8: Stylizer, encoder: Encoder, decoder: Decoder, styles: list[Style], noise: Noise
) -> None:
    pictures = np.stack([noise(seed, 24, 24) for seed in range(5)])
    choice = [0, 1, 2, 0, 1]
    whole = int8(pictures, choice, 1.0)
    single = [int8(pictures[i : i + 1], choice[i : i + 1], 1.0)[0] for i in range(5)]
    assert difference(whole, np.stack(single)) <= 1
    assert np.array_equal(whole, Stylizer(encoder, decoder, styles, backend="openvino")(pictures, choice, 1.0))


@has_openvino
def test_a_cpu_that_saturates_sums_is_refused(
    encoder: Encoder, decoder: Decoder, styles: list[Style], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx2": True})
    with pytest.raises(InputError, match=REFUSAL):
        Stylizer(encoder, decoder, styles, backend="openvino")


@has_openvino
def test_a_cpu_without_int8_is_refused(
    encoder: Encoder, decoder: Decoder, styles: list[Style], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylize.networks.openvino.sums_int8_exactly", lambda: True)
    monkeypatch.setattr("stylize.networks.openvino._capabilities", lambda _core: ["FP32"])
    with pytest.raises(InputError, match=REFUSAL):
        Stylizer(encoder, decoder, styles, backend="openvino")


@needs_int8
def test_the_manifest_says_what_made_the_shards(class_folders: Path, tmp_path: Path) -> None:
    options = ShardOptions(style=("dots",), data=str(class_folders), size=16, limit=2, backend="openvino", dtype="int8")
    make_shards(open_job(options), tmp_path / "shards")
    spec = json.loads((tmp_path / "shards/manifest.json").read_text())["spec"]
    assert (spec["backend"], spec["dtype"], spec["device"].split()[0]) == ("openvino", "int8", "cpu")
    assert spec["calibration_sha256"] == calibration_sha256()
    assert spec["versions"]["openvino"] == version("openvino")


@has_openvino
@pytest.mark.parametrize("network", ["encoder", "decoder"])
@pytest.mark.parametrize(("height", "width"), [(2, 2), (3, 5)])
def test_the_graph_of_plain_layers_computes_what_torch_does(network: str, height: int, width: int) -> None:
    pair = load_pair()
    encodes = network == "encoder"
    exact: Encoder | Decoder = pair.encoder.network if encodes else pair.decoder
    shape = (3, 3, 8 * height, 8 * width) if encodes else (3, 512, height, width)
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = import_openvino().Core().compile_model(plain_graph(exact.chain), "CPU", options)
    torch.testing.assert_close(torch.from_numpy(compiled([values.numpy()])[0]), exact(values), rtol=1e-4, atol=1e-4)


@pytest.fixture
def any_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let OpenVINO run bfloat16 on CPUs that do not multiply it, where it computes in a wider type."""
    monkeypatch.setattr("stylize.networks.openvino._capabilities", lambda _core: ["FP32", "BF16"])


@has_openvino
@pytest.mark.usefixtures("any_cpu")
def test_bfloat16_differs_from_float32_by_no_more_than_40_decibels() -> None:
    pair, styles = load_pair(), load_styles(["waves", "brush-strokes"])
    pictures = np.stack([np.asarray(draw_shape(index, size=48, split="test").picture) for index in range(4)])
    exact, rounded = (
        Stylizer(pair.encoder.network, pair.decoder, styles, dtype, backend)(pictures, [0, 1, 0, 1], 1.0)
        for dtype, backend in (("float32", "torch"), ("bfloat16", "openvino"))
    )
    assert psnr(exact, rounded) >= 40


@has_openvino
@pytest.mark.usefixtures("any_cpu")
def test_the_manifest_names_bfloat16_and_no_calibration(class_folders: Path, tmp_path: Path) -> None:
    options = ShardOptions(
        style=("dots",), data=str(class_folders), size=16, limit=2, backend="openvino", dtype="bfloat16"
    )
    make_shards(open_job(options), tmp_path / "shards")
    spec = json.loads((tmp_path / "shards/manifest.json").read_text())["spec"]
    assert (spec["backend"], spec["dtype"], spec["calibration_sha256"]) == ("openvino", "bfloat16", None)
    assert spec["versions"]["openvino"] == version("openvino")


@has_openvino
def test_a_cpu_without_bfloat16_is_refused(
    encoder: Encoder, decoder: Decoder, styles: list[Style], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylize.networks.openvino._capabilities", lambda _core: ["FP32", "INT8"])
    with pytest.raises(InputError, match="This CPU does not multiply bfloat16 in hardware: give --backend torch"):
        Stylizer(encoder, decoder, styles, "bfloat16", "openvino")


def test_torch_shards_name_no_calibration(finished: Path) -> None:
    spec = json.loads((finished / "manifest.json").read_text())["spec"]
    assert (spec["backend"], spec["calibration_sha256"]) == ("torch", None)
    assert "openvino" not in spec["versions"]
    assert torch.__version__.startswith(spec["versions"]["torch"].split("+")[0])
