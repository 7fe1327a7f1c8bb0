"""Small pictures, networks with random weights, and one finished shard folder."""

import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL import Image

from stylize.cli.main import main
from stylize.jobs.job import Job, make_spec
from stylize.jobs.run import make_shards
from stylize.jobs.spec import ShardOptions
from stylize.networks.adain import Decoder, Encoder, WinogradConvolution
from stylize.networks.styles import Style
from stylize.networks.stylizer import Pixels, Stylizer
from stylize.sources.opening import open_source

JobMaker = Callable[..., Job]
Run = Callable[..., tuple[int, str, str]]


NETWORK = TypeVar("NETWORK", bound=torch.nn.Module)


def _noise(seed: int, height: int = 32, width: int = 32) -> Pixels:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _encode(pixels: Pixels, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def _class_folders(root: Path, train: int = 12, test: int = 4, side: int = 32) -> Path:
    for split, count, start in (("train", train, 0), ("test", test, 1000)):
        for index in range(count):
            folder = root / split / ("cat", "dog")[index % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{index:03d}.png").write_bytes(_encode(_noise(start + index, side, side)))
    return root


@pytest.fixture(scope="session", autouse=True)
def winograd_once() -> Iterator[None]:
    """Transform the weights of a convolution once in all tests: stylizers do not change them."""
    made: dict[bytes, dict[str, torch.Tensor]] = {}
    transform = WinogradConvolution.__init__

    def once(self: WinogradConvolution, convolution: torch.nn.Conv2d) -> None:
        tensors = convolution.state_dict().values()
        key = blake2b(b"".join(tensor.numpy().tobytes() for tensor in tensors)).digest()
        if key not in made:
            transform(self, convolution)
            made[key] = dict(self.named_buffers())
            return
        torch.nn.Module.__init__(self)
        for name, buffer in made[key].items():
            self.register_buffer(name, buffer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WinogradConvolution, "__init__", once)
        yield


@pytest.fixture(scope="session")
def noise() -> Callable[..., Pixels]:
    """Return a function of (seed, height, width) that gives smooth random pixels (H, W, 3)."""
    return _noise


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """Return a function of (pixels, Pillow format, options) that gives an image file's bytes."""
    return _encode


@pytest.fixture
def hf_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return Hugging Face `datasets`, with its cache in the test's folder, no network and no progress bars."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return datasets


@pytest.fixture(scope="session")
def make_class_folders() -> Callable[..., Path]:
    """Return a function that writes PNG files of two classes into `train/` and `test/`; class i % 2 for file i."""
    return _class_folders


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """Return an encoder with fixed random weights that keep the activations' scale."""
    return _randomised(Encoder(), 0)


@pytest.fixture(scope="session")
def decoder() -> Decoder:
    return _randomised(Decoder(), 1)


def _randomised(network: NETWORK, seed: int) -> NETWORK:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        scale = (2 / parameter[0].numel()) ** 0.5 if parameter.dim() == 4 else 0.1
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def styles() -> list[Style]:
    return [Style(f"style{seed}", f"{seed:064d}", Image.fromarray(_noise(50 + seed, 24, 24))) for seed in range(3)]


@pytest.fixture(scope="session")
def stylizer(encoder: Encoder, decoder: Decoder, styles: list[Style]) -> Stylizer:
    return Stylizer(encoder, decoder, styles, "float32")


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    return _class_folders(tmp_path / "images")


@pytest.fixture(scope="session")
def make_job(stylizer: Stylizer, styles: list[Style]) -> JobMaker:
    """Return a function that makes a job of a data folder and options, with the random networks in float32."""

    def make(data: Path | str, samples_per_shard: int = 1000, **options: object) -> Job:
        settings = ShardOptions(data=str(data), **options)  # type: ignore[arg-type]
        source = open_source(settings.data, seed=settings.seed, test_fraction=settings.test_fraction)
        spec = make_spec(settings, source, styles, ("encoder", "decoder"), stylizer)
        return Job(replace(spec, samples_per_shard=samples_per_shard), source, stylizer)

    return make


@pytest.fixture(scope="session")
def finished_job(make_job: JobMaker, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return make_job(_class_folders(tmp_path_factory.mktemp("images")), samples_per_shard=5)


@pytest.fixture(scope="session")
def finished(finished_job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished folder with 12 training pairs and 4 test images; tests must copy it before changing it."""
    out = tmp_path_factory.mktemp("finished") / "shards"
    make_shards(finished_job, out)
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished folder, to damage."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Return a function that runs `stylize` in `tmp_path` and gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stylize.networks.devices.MATRIX", 8)
    monkeypatch.setattr("stylize.networks.styles.STYLE_SIDE", 64)
    monkeypatch.setattr("stylize.cli.shards.MACHINE_SECONDS", 0.001)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["stylize", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        output = capsys.readouterr()
        return int(caught.value.code or 0), output.out, output.err

    return call
