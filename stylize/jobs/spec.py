"""The specification of a job: all that its result depends on, and the shards that it is cut into."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from stylize.console import InputError
from stylize.networks.adain import MIN_SIDE
from stylize.networks.openvino import calibration_sha256
from stylize.networks.styles import Style
from stylize.networks.stylizer import FEATURES, INT8, Stylizer, check_transfer
from stylize.shards.shard import CODECS, MAX_COPIES
from stylize.sources.source import Source
from stylize.sources.splits import check_fraction

SAMPLES_PER_SHARD = 1000
LARGEST_STYLE = 2048  # pixels; one picture of that size takes gigabytes in the encoder
LATER_OPTIONS = {"style_size": None, "transfer": FEATURES}  # of manifests that older ones equal without them
VERSIONED = ("stylized-pairing", "torch", "pillow", "numpy", "simplejpeg")
BACKEND_PACKAGES = {"torch": (), "openvino": ("openvino",)}  # beside torch, which every backend needs


@dataclass(frozen=True)
class ShardOptions:
    """The options of `stylize shards` that change its result; sizes in pixels, None for the images' own size.

    `style_size` is the short side at which style pictures are looked at, None for 256.
    """

    style: tuple[str, ...] = ("swirls",)
    data: str = "shapes"
    size: int | None = None
    work_size: int | None = None
    style_size: int | None = None
    alpha: float = 1.0
    transfer: str = FEATURES
    styles_per_image: int = 1
    seed: int = 0
    limit: int | None = None
    test_fraction: float = 0.1
    codec: str = "jpg"
    quality: int = 95
    backend: str = "auto"
    dtype: str = "auto"
    encoder: str | None = None
    decoder: Path | None = None

    def __post_init__(self) -> None:
        for name, value in (("--size", self.size), ("--work-size", self.work_size)):
            if value is not None and value < MIN_SIDE:
                raise InputError(f"{name} is {value}: give at least {MIN_SIDE} pixels.")
        if self.style_size is not None and not MIN_SIDE <= self.style_size <= LARGEST_STYLE:
            raise InputError(f"--style-size is {self.style_size}: give {MIN_SIDE} to {LARGEST_STYLE} pixels.")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit is {self.limit}: give at least 1.")
        if not 0 <= self.alpha <= 1:
            raise InputError(f"--alpha is {self.alpha}: give a number from 0 (content) to 1 (style).")
        check_transfer(self.transfer, self.work_size)
        if not 1 <= self.styles_per_image <= MAX_COPIES:
            raise InputError(f"--styles-per-image is {self.styles_per_image}: give 1 to {MAX_COPIES}.")
        check_fraction(self.test_fraction)
        if self.codec not in CODECS or not 1 <= self.quality <= 100:
            raise InputError(
                f"No codec {self.codec} at quality {self.quality}: give {', '.join(CODECS)}, and 1 to 100."
            )
        if self.seed < 0:
            raise InputError(f"--seed is {self.seed}: give 0 or more.")


@dataclass(frozen=True)
class StyleRecord:
    """A style as the manifest names it."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Spec:
    """Everything that the bytes depend on; the manifest holds it, and its digest names the work in progress."""

    source: str
    source_fingerprint: str
    class_names: tuple[str, ...]
    counts: dict[str, int]
    styles: tuple[StyleRecord, ...]
    size: int | None
    work_size: int | None
    alpha: float
    styles_per_image: int
    seed: int
    test_fraction: float
    codec: str
    quality: int
    encoder_sha256: str
    decoder_sha256: str
    backend: str
    calibration_sha256: str | None
    dtype: str
    device: str
    batch_pixels: int
    samples_per_shard: int
    versions: dict[str, str]
    style_size: int | None = None
    transfer: str = FEATURES

    def document(self) -> dict[str, Any]:
        """Return the specification as the manifest holds it: some options only where they are not the default."""
        document = asdict(self)
        for name, default in LATER_OPTIONS.items():
            if document[name] == default:
                del document[name]
        return document

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON without the source's fingerprint: staged shards may outlive it."""
        document = {**self.document(), "source_fingerprint": None}
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def make_spec(
    options: ShardOptions, source: Source, styles: list[Style], hashes: tuple[str, str], stylizer: Stylizer
) -> Spec:
    """Resolve the options; `hashes` are the encoder's and the decoder's SHA-256."""
    limit, device = options.limit, stylizer.device.type
    counts = {split: min(limit or source.count(split), source.count(split)) for split in source.splits}
    return Spec(
        source=source.name,
        source_fingerprint=source.fingerprint(),
        class_names=source.class_names,
        counts=counts,
        styles=tuple(StyleRecord(style.name, style.sha256) for style in styles),
        size=options.size,
        work_size=options.work_size,
        alpha=options.alpha,
        styles_per_image=options.styles_per_image,
        seed=options.seed,
        test_fraction=options.test_fraction,
        codec=options.codec,
        quality=options.quality,
        encoder_sha256=hashes[0],
        decoder_sha256=hashes[1],
        backend=stylizer.backend,
        calibration_sha256=calibration_sha256() if stylizer.dtype_name == INT8 else None,
        dtype=stylizer.dtype_name,
        device=f"{device} {torch.backends.cpu.get_cpu_capability()}" if device == "cpu" else device,
        batch_pixels=stylizer.batch_pixels,
        samples_per_shard=SAMPLES_PER_SHARD,
        versions={name: version(name) for name in (*VERSIONED, *BACKEND_PACKAGES[stylizer.backend])},
        style_size=options.style_size,
        transfer=options.transfer,
    )


@dataclass(frozen=True)
class ShardPlan:
    """One shard to make: its file name, its split and the indices of its images."""

    name: str
    split: str
    indices: tuple[int, ...]


def shard_sizes(counts: Mapping[str, int], samples_per_shard: int) -> dict[str, int]:
    """Return how many images every shard is made of, by name and in the order of shards."""
    return {
        _shard_name(split, number): min(samples_per_shard, count - start)
        for split, count in counts.items()
        for number, start in enumerate(range(0, count, samples_per_shard))
    }


def _shard_name(split: str, number: int) -> str:
    return f"{split}-{number:06d}.tar"


def plan_shards(spec: Spec, source: Source) -> Iterator[ShardPlan]:
    """Shuffle every split once, by hashing (seed, split, index), and cut it into shards."""
    for split in source.splits:
        chosen = shuffled(range(source.count(split)), spec.seed, split)[: spec.counts[split]]
        for number, start in enumerate(range(0, len(chosen), spec.samples_per_shard)):
            indices = tuple(chosen[start : start + spec.samples_per_shard])
            yield ShardPlan(_shard_name(split, number), split, indices)


def shuffled(indices: Iterable[int], seed: int, split: str) -> list[int]:
    """Return the indices of a split's samples in the order of shards: by the SHA-256 of `SEED:SPLIT:INDEX`."""
    return sorted(indices, key=lambda index: hashlib.sha256(f"{seed}:{split}:{index}".encode()).digest())
