"""Random access to the samples of a shard folder, decoded to pixels."""

import io
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from stylize.errors import InputError
from stylize.shards.manifest import read_manifest
from stylize.shards.stored_index import ORIGIN, load_index
from stylize.sources.pictures import MAX_PIXELS
from stylize.sources.plain_jpeg import decode_plain_jpeg
from train.order import split_validation
from train.streamed import StreamedBytes
from train.verified import VerifiedBytes

_FORMATS = ("JPEG", "PNG", "WEBP")


class PairDataset(Dataset[tuple[Tensor, int]]):
    """All samples of one split, checked against the manifest; `dataset[i]` is (uint8 (1+K, 3, H, W), label).

    Image 0 is the original, images 1 to K are its stylized copies (none in the test split).  Only offsets are kept in
    memory, in arrays, so a data set of millions is cheap to hand to worker processes.  Raises `InputError` where a
    shard is missing, damaged, or holds another number of samples, copies or classes than the manifest says; damage to
    bytes shows when they are first read.
    """

    def __init__(self, shards: Path, split: str) -> None:
        manifest = read_manifest(shards)
        self.class_names = manifest.class_names
        self.size: int | None = manifest.spec.get("size")
        self.copies = int(manifest.spec.get("styles_per_image", 1)) if split == "train" else 0
        self.index = load_index(shards, manifest, split)
        self.keys, self.labels = self.index.keys, self.index.labels
        self._bytes = VerifiedBytes(self.index)
        origin = shards / ORIGIN
        self.streamed = StreamedBytes(origin.read_text(), self.index) if origin.exists() else None

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def _by_class(self) -> list[NDArray[np.int64]]:
        return [np.flatnonzero(self.labels == label) for label in range(len(self.class_names))]

    def of_class(self, label: int) -> NDArray[np.int64]:
        """Return the indices of the samples with a label, ascending."""
        return self._by_class[label]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.read(index, range(1 + self.copies)), int(self.labels[index])

    def fetch(self, indices: Sequence[int], images: int) -> None:
        """Fetch the first images of samples at once where their shards are behind a URL, before they are read."""
        if self.streamed is not None:
            self.streamed.fetch(indices, images)

    def read(self, index: int, images: Sequence[int]) -> Tensor:
        """Return the chosen images of a sample (0 original, k the k-th copy) as uint8 (len(images), 3, H, W)."""
        where = f"{self.index.path(index)}: sample {self.keys[index]}"
        reader = self.streamed if self.streamed and self.streamed.holds(index) else self._bytes
        payloads = reader.read(index, images)
        decoded = [decode_image(payload, where, self.size) for payload in payloads]
        if any(image.shape != decoded[0].shape for image in decoded):
            raise InputError(f"{where} has images of different sizes: its pair is not aligned, make the shard again.")
        return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2)


def hold_out(
    shards: Path, samples: PairDataset, fraction: float, seed: int
) -> tuple[NDArray[np.int64], PairDataset, NDArray[np.int64]]:
    """Return the indices of samples to train on, the samples to validate on, and the indices of those.

    A split `val` of the shards goes before a fraction of the training split.
    """
    own = PairDataset(shards, "val")
    if len(own):
        return np.arange(len(samples)), own, np.arange(len(own))
    training, validation = split_validation(samples.keys, fraction, seed)
    return training, samples, validation


def decode_image(payload: bytes, where: str, side: int | None = None) -> NDArray[np.uint8]:
    """Return an encoded JPEG, PNG or WebP image as RGB (H, W, 3); `where` names it in the error.

    Raises `InputError` for an image that is none, that is not `side` × `side` pixels, or that has more pixels than any
    picture in a shard (`side` None).
    """
    if (pixels := decode_plain_jpeg(payload, MAX_PIXELS)) is not None:
        _check_size(pixels.shape[1], pixels.shape[0], where, side)
        return pixels
    try:
        with _open_image(payload) as image:
            _check_size(*image.size, where, side)
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except UnidentifiedImageError:
        raise InputError(f"{where} has an image that is not {', '.join(_FORMATS)}: make the shard again.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{where} has an undecodable image ({error}): make the shard again.") from None


def _open_image(payload: bytes) -> Image.Image:
    """Read an image's header.  Pillow only warns of sizes which `_check_size` refuses, so its warning says nothing."""
    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        return Image.open(io.BytesIO(payload), formats=_FORMATS)


def _check_size(width: int, height: int, where: str, side: int | None) -> None:
    if side is not None and (width, height) != (side, side):
        raise InputError(
            f"{where} has an image of {width}×{height} pixels, not the {side}×{side} of its manifest: "
            "make the shard again."
        )
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{where} has an image of {width}×{height} pixels, more than the limit of {MAX_PIXELS}: "
            "make the shard again."
        )
