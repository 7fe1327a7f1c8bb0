"""The stylizers under `examples/`: each makes shards, and does what its paper or package says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from examples.fast_style import FastStyle
from examples.fourier import AmplitudeMix
from stylize.console import InputError
from stylize.jobs.job import open_job
from stylize.jobs.run import make_shards
from stylize.jobs.spec import ShardOptions
from stylize.shards import Sample, read_shard
from stylize.shards.decode import decode_picture
from stylize.shards.verify import verify_shards

EXAMPLES = Path(__file__).parents[2] / "examples"
SIDE = 48


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for index in range(6):
        coarse = np.random.default_rng(index).integers(0, 256, (6, 6, 3), np.uint8)
        folder = tmp_path / "photos" / ("cat", "dog")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return tmp_path / "photos"


def made(photos: Path, stylizer: str, **options: Any) -> list[Sample]:
    settings = ShardOptions(data=str(photos), stylizer=stylizer, codec="png", test_fraction=0, size=SIDE, **options)
    out = photos.parent / "out"
    make_shards(open_job(settings), out)
    assert verify_shards(out) == []
    return list(read_shard(out / "train-000000.tar"))


def pixels(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(decode_picture(data))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60


def test_amplitudes_are_mixed_and_phases_kept(photos: Path) -> None:
    rng = np.random.default_rng(0)
    image, style = (np.kron(rng.integers(90, 160, (6, 6, 3)), np.ones((4, 4, 1))).astype(np.uint8) for _ in range(2))
    mix = AmplitudeMix()(np.stack([image] * 2), [0, 0], [style], [0.0, 0.5])
    assert np.array_equal(mix[0], image)
    spectra = [np.fft.fft2(picture[..., 0].astype(float)) for picture in (image, style, mix[1])]
    expected = np.fft.ifft2((abs(spectra[0]) + abs(spectra[1])) / 2 * np.exp(1j * np.angle(spectra[0]))).real
    assert abs(np.clip(expected, 0, 255) - mix[1][..., 0]).max() <= 0.51
    samples = made(photos, "examples.fourier:AmplitudeMix", alpha="0:1", style=("dots", "marble"))
    assert len({sample.metadata["alphas"][0] for sample in samples}) == 6


class Reference(nn.Module):
    """The network of Johnson et al. as PyTorch's `fast_neural_style` has it."""

    def __init__(self) -> None:
        super().__init__()
        for name, (wide, out, kernel, stride) in {
            "conv1": (3, 32, 9, 1), "conv2": (32, 64, 3, 2), "conv3": (64, 128, 3, 2),
            "deconv1": (128, 64, 3, 1), "deconv2": (64, 32, 3, 1), "deconv3": (32, 3, 9, 1),
        }.items():  # fmt: skip
            self.add_module(name, self.layer(wide, out, kernel, stride))
        for number, channels in enumerate((32, 64, 128, 64, 32), 1):
            self.add_module(f"in{number}", nn.InstanceNorm2d(channels, affine=True))
        for number in range(1, 6):
            parts: dict[str, nn.Module] = {f"conv{at}": self.layer(128, 128, 3, 1) for at in (1, 2)}
            parts |= {f"in{at}": nn.InstanceNorm2d(128, affine=True) for at in (1, 2)}
            self.add_module(f"res{number}", nn.ModuleDict(parts))

    @staticmethod
    def layer(wide: int, out: int, kernel: int, stride: int) -> nn.ModuleDict:
        return nn.ModuleDict({"pad": nn.ReflectionPad2d(kernel // 2), "conv2d": nn.Conv2d(wide, out, kernel, stride)})

    def run(self, name: str, x: Tensor) -> Tensor:
        layer: Any = self.get_submodule(name)
        return Tensor(layer["conv2d"](layer["pad"](x)))

    def forward(self, x: Tensor) -> Tensor:
        norm: Any = self.get_submodule
        for number in (1, 2, 3):
            x = norm(f"in{number}")(self.run(f"conv{number}", x)).relu()
        for block in (f"res{number}" for number in range(1, 6)):
            inner = norm(f"{block}.in1")(self.run(f"{block}.conv1", x)).relu()
            x = norm(f"{block}.in2")(self.run(f"{block}.conv2", inner)) + x
        for number in (1, 2):
            x = norm(f"in{number + 3}")(self.run(f"deconv{number}", nn.Upsample(scale_factor=2)(x))).relu()
        return self.run("deconv3", x)


def test_a_network_of_weights_gives_what_its_layers_give(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network: Any = Reference().eval()
    network.deconv3["conv2d"].weight.data *= 200
    network.deconv3["conv2d"].bias.data += 128
    torch.save(network.state_dict(), tmp_path / "mosaic.pth")
    monkeypatch.setenv("FAST_STYLE", str(tmp_path / "mosaic.pth"))
    (sample, *_) = made(photos, "examples.fast_style:FastStyle")
    content = pixels(sample.content)
    with torch.inference_mode():
        output = network(torch.from_numpy(content.copy()).permute(2, 0, 1)[None].float())[0].permute(1, 2, 0)
    expected = output.clamp(0, 255).numpy()
    assert abs(expected - pixels(sample.styled[0])).max() <= 0.51
    assert expected.std() > 1
    odd = np.zeros((1, 33, 34, 3), np.uint8)
    assert FastStyle()(odd, [0], ()).shape == odd.shape
    monkeypatch.setenv("FAST_STYLE", str(tmp_path / "none.pth"))
    with pytest.raises(InputError, match=r"none\.pth"):
        made(photos, "examples.fast_style:FastStyle")


def test_weather_of_a_package_is_drawn_by_seed(photos: Path) -> None:
    pytest.importorskip("kornia")
    samples = made(photos, "examples.weather:Weather", styles_per_image=2)
    pairs = [(pixels(sample.content), pixels(copy)) for sample in samples for copy in sample.styled]
    rainy = {bool((copy[(copy != content).any(-1)] == 200).all()) for content, copy in pairs}  # drops are grey lines
    assert rainy == {True, False}
    assert all(sample.styled[0] != sample.styled[1] for sample in samples)
