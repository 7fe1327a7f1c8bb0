"""Small shard folders drawn in the test, for `train` and `attack`, an object store, and the commands."""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stylize.files import file_sha256
from stylize.shards import Sample, write_shard
from stylize.shards.manifest import Manifest, ShardEntry, write_manifest
from tests.commands import stand_ins

ShardFolderMaker = Callable[..., Path]
_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


def draw_class_image(label: int, height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Return a noisy image (H, W, 3) whose mean colour tells its class."""
    colour = np.random.default_rng(1000 + label).integers(50, 206, 3)
    noise = np.random.default_rng(seed).integers(-50, 50, (height, width, 3))
    image: NDArray[np.uint8] = np.clip(colour + noise, 0, 255).astype(np.uint8)
    return image


def draw_styled_copy(content: NDArray[np.uint8], k: int) -> NDArray[np.uint8]:
    """Return the k-th styled copy: other values (the negative, darkened k times), the same geometry."""
    styled: NDArray[np.uint8] = 255 - content // (k + 1)
    return styled


def _encode(image: NDArray[np.uint8], codec: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, _FORMATS[codec])
    return buffer.getvalue()


@pytest.fixture
def make_shard_folder(tmp_path: Path) -> ShardFolderMaker:
    """Return a function that writes a whole shard folder of random-colour class images under `tmp_path`.

    With `size=None` the images differ in size (20 to 40 px) and the manifest's size is null.  Samples are written in
    shards of `samples_per_shard`; class `label` of sample i is i modulo `classes`.  Images without loss: `codec="png"`.
    """

    def make(
        name: str = "shards",
        *,
        classes: int = 3,
        train: int = 24,
        test: int = 12,
        size: int | None = 16,
        styles_per_image: int = 1,
        codec: str = "png",
        samples_per_shard: int = 10,
        seed: int = 0,
    ) -> Path:
        directory = tmp_path / name
        directory.mkdir(parents=True)

        def draw(split: str, index: int) -> Sample:
            image_seed = seed * 100_000 + index
            height, width = (size, size) if size else np.random.default_rng(image_seed).integers(20, 41, 2).tolist()
            image = draw_class_image(index % classes, height, width, image_seed)
            styled = tuple(
                _encode(draw_styled_copy(image, k), codec) for k in range(styles_per_image if split == "train" else 0)
            )
            key = f"{index:08d}"
            return Sample(key, _encode(image, codec), styled, index % classes, {"source": f"{split}/{key}.{codec}"})

        def shards() -> Iterator[ShardEntry]:
            for split, start, count in (("train", 0, train), ("test", train, test)):
                for number, first in enumerate(range(start, start + count, samples_per_shard)):
                    indices = range(first, min(first + samples_per_shard, start + count))
                    path = directory / f"{split}-{number:06d}.tar"
                    samples = write_shard(path, (draw(split, index) for index in indices), codec)
                    yield ShardEntry(path.name, split, samples, path.stat().st_size, file_sha256(path))

        spec = {
            "class_names": [f"class{label}" for label in range(classes)],
            "size": size,
            "styles_per_image": styles_per_image,
            "codec": codec,
            "styles": [{"name": "negative", "sha256": "0" * 64}],
            "counts": {"train": train, "test": test},
        }
        write_manifest(directory, Manifest(spec, tuple(shards())))
        return directory

    return make


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Start an S3 server and return its address; clients of this process use it."""
    from moto.server import ThreadedMotoServer  # takes a second, which other tests need not wait

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield address
    server.stop()


@pytest.fixture
def store(server: str) -> Any:
    """Return a client of an empty bucket that keeps every version of an object."""
    import boto3
    from s3fs import S3FileSystem

    urlopen(Request(f"{server}/moto-api/reset", method="POST")).close()
    S3FileSystem.clear_instance_cache()
    client = boto3.client("s3", endpoint_url=server)
    client.create_bucket(Bucket="bucket")
    client.put_bucket_versioning(Bucket="bucket", VersioningConfiguration={"Status": "Enabled"})
    return client


@pytest.fixture(scope="session")
def stand_in_folder() -> Iterator[Path]:
    with TemporaryDirectory() as folder, stand_ins(Path(folder)):
        yield Path(folder)


@pytest.fixture(scope="module")
def commands(stand_in_folder: Path) -> Iterator[Path]:
    """Return a folder with stand-ins for the commands, which come first on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(stand_in_folder), prepend=os.pathsep)
        yield stand_in_folder
