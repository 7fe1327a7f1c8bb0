"""`PairedShards`: the samples of a split, read in any order from a folder of shards, each of them checked."""

import hashlib
import io
import shutil
import sys
import warnings
import weakref
import zlib
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from itertools import chain, product
from pathlib import Path
from tarfile import BLOCKSIZE
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from stylize.console import InputError
from stylize.shards import image_roles, is_header_of, open_shard
from stylize.shards.decode import MAX_PIXELS
from stylize.shards.index import SplitIndex, differs, index_split, load_index
from stylize.shards.manifest import ORIGIN_NAME, SPLITS, read_manifest
from stylize.shards.picture_formats import decode_plain_jpeg
from stylize.shards.remote import DEFAULT_CACHE, DEFAULT_GB, local_shards

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
_RESERVED = 1 << 20  # bytes of it, for the semaphores of processes
_UNKNOWN = -1
_CHUNK = 1 << 20
_FORMATS = ("JPEG", "PNG", "WEBP")
_WARNINGS = Lock()  # their filters belong to all threads
Pixels = NDArray[np.uint8]


class PairedShards(Dataset[tuple[Tensor, int]]):
    """The samples of one split; `samples[i]` is (uint8 images (1+K, 3, H, W), label).

    Image 0 is the original, images 1 to K are its stylized copies; the splits `val` and `test` have none.  A
    `transform` gets all images of a sample at once, so torchvision's give them the same crop and flip.  Only offsets
    are kept in memory, in arrays, so a data set of millions is cheap to hand to worker processes.

    `shards` is a folder or its URL, which is downloaded into the cache; `PairedStream` is for what is larger.  `names`
    are those of the shards to use, None for all of the split.  Raises `InputError` where a shard is missing, damaged,
    or holds another number of samples, copies or classes than the manifest says; damage to bytes shows when they are
    first read.
    """

    def __init__(
        self,
        shards: str | Path,
        split: str,
        transform: Callable[[Tensor], Tensor] | None = None,
        cache: Path = DEFAULT_CACHE,
        cache_gb: float = DEFAULT_GB,
        names: Container[str] | None = None,
    ) -> None:
        if split not in SPLITS:
            raise InputError(f"Shards have no split {split!r}: choose one of {', '.join(SPLITS)}.")
        lent = ExitStack()
        weakref.finalize(self, lent.close)  # the cache keeps the copy of a URL until then
        folder = lent.enter_context(local_shards(str(shards), cache, cache_gb))
        manifest = read_manifest(folder)
        self.transform, self.class_names = transform, manifest.class_names
        self.size: int | None = manifest.spec.get("size")
        self.copies = int(manifest.spec.get("styles_per_image", 1)) if split == "train" else 0
        if names is not None:
            manifest = replace(manifest, shards=tuple(shard for shard in manifest.shards if shard.name in names))
            self.index = index_split(folder, manifest, split)
        elif split == "train" and (folder / ORIGIN_NAME).exists():
            raise InputError(f"The pairs of {shards} are larger than the cache: raise its size, or use `PairedStream`.")
        else:
            self.index = load_index(folder, manifest, split)
        self.keys, self.labels = self.index.keys, self.index.labels
        self._bytes = VerifiedBytes(self.index)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        images = self.read(index, range(1 + self.copies))
        return images if self.transform is None else self.transform(images), int(self.labels[index])

    def by_class(self, indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return, of ascending indices of samples, those with each label, ascending."""
        labels = self.labels[indices]
        order = np.argsort(labels, kind="stable")
        return np.split(indices[order], np.searchsorted(labels[order], np.arange(1, len(self.class_names))))

    def read(self, index: int, images: Sequence[int]) -> Tensor:
        """Return the chosen images of a sample (0 original, k the k-th copy) as uint8 (len(images), 3, H, W)."""
        (pixels,) = self.read_many([index], [images])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def read_many(self, indices: Sequence[int], images: Sequence[Sequence[int]]) -> list[Pixels]:
        """Return the chosen images of each sample, V of each, as uint8 (V, H, W, 3).

        First all are read, then all decoded: faster than one by one, for what is used stays in the processor's cache.
        """
        payloads = [self._bytes.read(index, parts) for index, parts in zip(indices, images, strict=True)]
        names = [f"{self.index.path(index)}: sample {self.keys[index]}" for index in indices]
        return decode_samples(list(zip(names, payloads, strict=True)), self.size)


def decode_samples(samples: Sequence[tuple[str, Sequence[bytes]]], side: int | None) -> list[Pixels]:
    """Decode the images of samples as `decode_images` does; an `InputError` begins with the sample's name.

    Decoders leave Python's lock, so they share the threads of PyTorch: all of training on CPUs, one of a worker.
    """
    threads = torch.get_num_threads()
    shares = [samples[k * len(samples) // threads : (k + 1) * len(samples) // threads] for k in range(threads)]
    decoded = _decoders(threads).map(lambda share: [_decoded(name, payloads, side) for name, payloads in share], shares)
    return list(chain.from_iterable(decoded))


def _decoded(name: str, payloads: Sequence[bytes], side: int | None) -> Pixels:
    try:
        return decode_images(payloads, side)
    except UnusableImageError as error:
        raise InputError(f"{name} {error}") from None


@cache
def _decoders(threads: int) -> ThreadPoolExecutor:
    """Return threads for the life of the process."""
    return ThreadPoolExecutor(threads, "decoder")


def shared(tensor: Tensor) -> Tensor | NDArray[Any]:
    """Return a tensor in the memory that processes share or, where there is no room, an array, which each copies."""
    room = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else sys.maxsize
    if tensor.nbytes + _RESERVED > room:
        return tensor.numpy()
    try:
        return tensor.share_memory_()  # type: ignore[no-untyped-call,no-any-return]
    except RuntimeError:  # another process was faster
        return tensor.numpy()


def hashed(*parts: object) -> int:
    """Return an integer in [0, 2**64) that depends on the parts alone."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


class VerifiedBytes:
    """Reads parts of samples, and raises `InputError` rather than return a byte that differs from the manifest's.

    One pass over a shard compares its SHA-256 with the manifest's and its headers with the index, and notes a CRC-32
    of every part, which each later reading is compared with.  The notes lie in shared memory, so worker processes hash
    a shard once between them.
    """

    def __init__(self, index: SplitIndex) -> None:
        self.index = index
        self._checks = shared(torch.full(index.spans.shape[:2], _UNKNOWN, dtype=torch.int64))

    def read(self, index: int, parts: Sequence[int]) -> list[bytes]:
        """Return the chosen parts of a sample: 0 the original, k its k-th copy."""
        noted = np.asarray(self._checks)
        if _UNKNOWN in (checks := noted[index].tolist()):
            self._verify(int(self.index.shards[index]))
            checks = noted[index].tolist()
        payloads = self.index.read(index, parts)
        if [zlib.crc32(payload) for payload in payloads] != [checks[part] for part in parts]:
            raise differs(self.index.path(index))
        return payloads

    def _verify(self, shard: int) -> None:
        """Hash a shard and note its parts' checks, if it is the manifest's and inside as the index says."""
        index, path = self.index, self.index.paths[shard]
        first, last = np.searchsorted(index.shards, [shard, shard + 1]).tolist()
        samples = zip(index.keys[first:last].tolist(), index.labels[first:last].tolist(), strict=True)
        roles = [*image_roles(index.spans.shape[1] - 2), "cls"]
        digest, checks, right = hashlib.sha256(), [], True
        with open_shard(path) as file:
            members = _members(file, index.spans[first:last].reshape(-1, 2).tolist(), digest.update)
            for (key, label), role in product(samples, roles):
                header, payload = next(members)
                right = right and is_header_of(header, key, role, len(payload))
                right = right and (role != "cls" or (payload.isdigit() and int(payload) == label))
                checks.append(zlib.crc32(payload))
            while rest := file.read(_CHUNK):
                digest.update(rest)
        if digest.hexdigest() != index.sha256[shard]:
            raise differs(path)
        if not right:
            raise InputError(f"Shard {path} is not as its folder's index says: run `stylize index` on the folder.")
        np.asarray(self._checks)[first:last] = np.reshape(checks, (last - first, -1))


def _members(
    file: io.BufferedReader, spans: Sequence[Sequence[int]], hashed: Callable[[bytes], None]
) -> Iterator[tuple[bytes, bytes]]:
    """Yield header and payload of each part of a shard; everything up to its end goes through `hashed`."""
    for offset, size in spans:
        between, payload = file.read(offset - file.tell()), file.read(size)
        hashed(between)
        hashed(payload)
        yield between[-BLOCKSIZE:], payload


class UnusableImageError(InputError):
    """An image that cannot be learnt from; its text goes on after the sample's name."""


def decode_images(payloads: Sequence[bytes], side: int | None = None) -> Pixels:
    """Return JPEG, PNG or WebP images of one size, `side` × `side` where it is given, as RGB (V, H, W, 3).

    Raises `UnusableImageError` for an image that is none, or of another size, or that has more pixels than any picture
    in a shard.
    """
    if side is None:
        decoded = [_decode(payload, None) for payload in payloads]
        if any(image.shape != decoded[0].shape for image in decoded):
            raise UnusableImageError("has images of different sizes: its pair is not aligned, make the shard again.")
        return np.stack(decoded)
    images = np.empty((len(payloads), side, side, 3), np.uint8)
    for image, payload in zip(images, payloads, strict=True):
        if decode_plain_jpeg(payload, MAX_PIXELS, image) is None:
            image[:] = _decode(payload, side)
    return images


def _decode(payload: bytes, side: int | None) -> Pixels:
    """Return an image as RGB (H, W, 3)."""
    if (pixels := decode_plain_jpeg(payload, MAX_PIXELS)) is not None:
        _check_size(pixels.shape[1], pixels.shape[0], side)
        return pixels
    try:
        # Pillow only warns of sizes which `_check_size` refuses, so its warning says nothing.
        with _WARNINGS, warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            opened = Image.open(io.BytesIO(payload), formats=_FORMATS)
        with opened as image:
            _check_size(*image.size, side)
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except UnidentifiedImageError:
        raise UnusableImageError(f"has an image that is not {', '.join(_FORMATS)}: make the shard again.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnusableImageError(f"has an undecodable image ({error}): make the shard again.") from None


def _check_size(width: int, height: int, side: int | None) -> None:
    if side is not None and (width, height) != (side, side):
        raise UnusableImageError(
            f"has an image of {width}×{height} pixels, not the {side}×{side} of its manifest: make the shard again."
        )
    if width * height > MAX_PIXELS:
        raise UnusableImageError(
            f"has an image of {width}×{height} pixels, more than the limit of {MAX_PIXELS}: make the shard again."
        )
