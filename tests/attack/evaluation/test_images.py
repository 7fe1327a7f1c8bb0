import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from attack import choose_images, image_order, load_image_set
from train import load_test_images

KEYS = [f"{index:08d}" for index in range(200)]


def test_order_is_that_of_the_hashes() -> None:
    digests = {hashlib.sha256(b"3:" + key.encode()).hexdigest(): key for key in KEYS}
    expected = [digests[digest] for digest in sorted(digests)]
    assert image_order(KEYS, seed=3) == expected
    assert image_order(reversed(KEYS), seed=3) == expected
    assert image_order(KEYS, seed=4) != expected
    assert expected != KEYS


@pytest.mark.parametrize(("images", "kept"), [(1, 1), (12, 12), (1000, 30)])
def test_the_first_images_in_that_order_are_chosen(
    make_shard_folder: Callable[..., Path], images: int, kept: int
) -> None:
    shards = make_shard_folder(test=30)
    tests = {image.key: image for image in load_test_images(shards, 16, "small")}

    keys = choose_images(shards, images, 5)
    chosen = load_image_set(shards, 16, "small", keys)

    assert list(keys) == image_order(tests, 5)[:kept]
    assert chosen.keys == keys
    for key, pixels, label in zip(keys, chosen.pixels, chosen.labels, strict=True):
        assert torch.equal(pixels, tests[key].pixels)
        assert label == tests[key].label
