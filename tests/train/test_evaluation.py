import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from stylize.console import InputError
from stylize.shards import read_shard
from stylize.shards.manifest import read_manifest
from train import PairedShards, evaluate, image_preset, load_test_images

ShardFolderMaker = Callable[..., Path]


class _Brightness(nn.Module):
    """Two classes: darker or brighter than a threshold; remembers the dtypes that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(0.5))
        self.dropout = nn.Dropout(0.9)
        self.seen: set[torch.dtype] = set()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        brightness = self.dropout(images).mean((1, 2, 3)) - self.threshold
        self.seen.add((brightness[:1, None] @ self.threshold.view(1, 1)).dtype)
        return torch.stack([-brightness, brightness], 1)


def test_images_are_the_shards_pixels(make_shard_folder: ShardFolderMaker) -> None:
    shards = make_shard_folder()
    paths = read_manifest(shards).paths(shards, "test")
    expected = [sample for path in paths for sample in read_shard(path)]
    images = list(load_test_images(shards, 16, "small"))
    assert [(image.key, image.label) for image in images] == [(sample.key, sample.label) for sample in expected]
    for image, sample in zip(images, expected, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(sample.content))).transpose(2, 0, 1) / np.float32(255)
        np.testing.assert_array_equal(image.pixels.numpy(), pixels)


def test_paper_images_are_224_px(make_shard_folder: ShardFolderMaker) -> None:
    image = next(load_test_images(make_shard_folder(size=None), 224, "paper"))
    assert image.pixels.shape == (3, 224, 224)
    assert image.pixels.min() >= 0
    assert image.pixels.max() <= 1


def test_accuracy_against_a_loop_over_the_same_images(make_shard_folder: ShardFolderMaker) -> None:
    shards = make_shard_folder(classes=2, test=30)
    model = _Brightness().train()
    images = list(load_test_images(shards, 16, "small"))
    correct = [(float(image.pixels.mean()) > 0.5) == bool(image.label) for image in images]
    samples, preset = PairedShards(shards, "test"), image_preset("small", 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert evaluate(model, samples, preset, batch_size=7) == np.mean(correct)
    assert evaluate(model, samples, preset, [3, 4, 5], workers=1) == np.mean(correct[3:6])
    assert model.seen == {torch.float32}
    assert model.training


@pytest.mark.parametrize(
    ("size", "name", "test", "message"),
    [(16, "large", 3, "'large'"), (32, "paper", 3, "224 pixels, not 32"), (16, "small", 0, "no test images")],
)
def test_bad_input_is_refused_at_the_call(
    make_shard_folder: ShardFolderMaker, size: int, name: str, test: int, message: str
) -> None:
    shards = make_shard_folder(test=test)
    with pytest.raises(InputError, match=message):
        load_test_images(shards, size, name)


def test_no_images(make_shard_folder: ShardFolderMaker) -> None:
    samples = PairedShards(make_shard_folder(test=0), "test")
    with pytest.raises(InputError, match="no image"):
        evaluate(_Brightness(), samples, image_preset("small", 16))
