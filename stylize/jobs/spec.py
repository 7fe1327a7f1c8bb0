"""The specification of a job: all that its result depends on, how it is cut into shards, and what each copy draws."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from itertools import islice
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self

import typer

from stylize.console import InputError, option_name
from stylize.console.references import is_reference
from stylize.console.settings import OneOf, check_settings
from stylize.networks import FEATURES, MIN_SIDE, TORCHVISION, TRANSFERS, check_transfer
from stylize.shards import CODECS, MAX_COPIES

if TYPE_CHECKING:
    from stylize.sources import Source

SAMPLES_PER_SHARD = 1000
# Recorded only where they are given.
LATER_OPTIONS = {"style_size": None, "transfer": FEATURES, "bits": None, "compiled": False, "stylizer": None}
OWN_NETWORKS = ("work_size", "transfer", "backend", "dtype", "encoder", "decoder")  # options of the built-in stylizer
VERSIONED = ("stylized-pairing", "torch", "pillow", "numpy", "simplejpeg")
LARGEST_STYLE = 2048  # pixels; one picture of that size takes gigabytes in the encoder

STYLE_HELP = "Picture, folder, zip, built-in or fitted style; repeat for more; `patterns` for all built-in ones."
DATA_HELP = (
    "shapes, cifar10, cifar100, imagenet100:FOLDER, a folder or zip of class folders, maybe in train/, test/ and val/, "
    "images.npz, hf:NAME_OR_FOLDER[:SPLIT], or a WebDataset: a folder of tars, or their paths with braces or wildcards."
)
SIZE_HELP = "Scale and crop to N × N pixels; else the images' own size."
WORK_SIZE_HELP = "Short side while stylizing, if not --size."
STYLE_SIZE_HELP = "Short side of style pictures. [default: 256]"
ALPHA_HELP = "0 keeps the content's style, 1 takes the style's; 0.4:0.7 draws each copy's between them. [0 to 1]"
STYLIZER_HELP = "Code of your own in place of AdaIN: package.module:function, or a class."
TRANSFER_HELP = "features (AdaIN); colours, their means and deviations alone, without networks; or both."
BACKEND_HELP = "auto (torch), torch, or openvino on CPUs, whose int8 is faster and not the same pixels."
DTYPE_HELP = "auto, float32, bfloat16 or float16 for torch; int8 (auto) or bfloat16 for openvino."
BITS_HELP = "Bits that 16-bit pictures use, say 12 for values up to 4095; else 16."
FRACTION_HELP = "Held-out fraction where the data have no test split; 0 for no test split."
ENCODER_HELP = f"Encoder file of `stylize weights import`, or {TORCHVISION}; else the embedded one."
Encoder = Annotated[str | None, typer.Option(help=ENCODER_HELP)]
Decoder = Annotated[Path | None, typer.Option(help="Decoder file that belongs to the encoder; else the shipped one.")]


def parse_alpha(given: float | str) -> float | str:
    """Return a strength as the manifest records it: a number, or the text of a range, `LOW:HIGH`.

    Raises `InputError` for anything outside [0, 1], and for a range that is none.
    """
    try:
        low, high = alpha_range(given)
    except ValueError:
        low, high = nan, nan
    if not 0 <= low <= high <= 1:
        raise InputError(f"--alpha is {given}: give 0 to 1, or a range as 0.4:0.7.")
    return low if low == high else f"{low}:{high}"


def alpha_range(alpha: float | str) -> tuple[float, float]:
    """Return the least and the greatest strength of copies; raise `ValueError` for a text that names none."""
    low, colon, high = str(alpha).partition(":")
    return float(low), float(high if colon else low)


@dataclass(frozen=True)
class ShardOptions:
    """The options of `stylize shards` that change its result; sizes in pixels, None for the images' own size.

    `style_size` is the short side at which style pictures are looked at, None for 256.
    Raises `InputError` for a value out of its range.
    """

    style: Annotated[tuple[str, ...], typer.Option(help=STYLE_HELP)] = ("swirls",)
    data: Annotated[str, typer.Option(help=DATA_HELP)] = "shapes"
    size: Annotated[int | None, typer.Option(min=MIN_SIDE, help=SIZE_HELP)] = None
    work_size: Annotated[int | None, typer.Option(min=MIN_SIDE, help=WORK_SIZE_HELP)] = None
    style_size: Annotated[int | None, typer.Option(min=MIN_SIDE, max=LARGEST_STYLE, help=STYLE_SIZE_HELP)] = None
    alpha: Annotated[Any, typer.Option(parser=parse_alpha, metavar="ALPHA|LOW:HIGH", help=ALPHA_HELP)] = 1.0
    transfer: Annotated[str, OneOf(*TRANSFERS), typer.Option(help=TRANSFER_HELP)] = FEATURES
    styles_per_image: Annotated[int, typer.Option(min=1, max=MAX_COPIES, help="Stylized copies of every image.")] = 1
    seed: Annotated[int, typer.Option(min=0, help="Chooses styles, order and held-out images.")] = 0
    limit: Annotated[int | None, typer.Option(min=1, help="At most N images of every split.")] = None
    test_fraction: Annotated[float, typer.Option(help=FRACTION_HELP)] = 0.1
    bits: Annotated[int | None, typer.Option(min=8, max=16, help=BITS_HELP)] = None
    codec: Annotated[str, OneOf(*CODECS), typer.Option(help="jpg, png or webp.")] = "jpg"
    quality: Annotated[int, typer.Option(min=1, max=100, help="Quality of JPEG and WebP files.")] = 95
    backend: Annotated[str, typer.Option(help=BACKEND_HELP)] = "auto"
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP)] = "auto"
    encoder: Encoder = None
    decoder: Decoder = None
    stylizer: Annotated[str | None, typer.Option(help=STYLIZER_HELP)] = None

    def __post_init__(self) -> None:
        from stylize.sources.splits import check_fraction  # which imports NumPy, as --help need not

        check_settings(self)
        object.__setattr__(self, "alpha", parse_alpha(self.alpha))
        check_transfer(self.transfer, self.work_size)
        check_fraction(self.test_fraction)
        if self.stylizer is None:
            return
        if not is_reference(self.stylizer):
            raise InputError(f"--stylizer is {self.stylizer!r}: give package.module:function.")
        for name in OWN_NETWORKS:
            if getattr(self, name) != getattr(ShardOptions, name):
                raise InputError(f"{option_name(name)} is of the built-in stylizer: leave it out with --stylizer.")


@dataclass(frozen=True)
class StyleRecord:
    """A style as the manifest names it; without SHA-256 what copies have of a stylizer that needs no styles."""

    name: str
    sha256: str | None


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
    alpha: float | str | None
    styles_per_image: int
    seed: int
    test_fraction: float
    codec: str
    quality: int
    encoder_sha256: str | None
    decoder_sha256: str | None
    backend: str
    calibration_sha256: str | None
    dtype: str
    device: str
    batch_pixels: int | None
    samples_per_shard: int
    versions: dict[str, str]
    style_size: int | None = None
    transfer: str = FEATURES
    bits: int | None = None
    stylizer: dict[str, Any] | None = None
    compiled: bool = False

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """Return the specification that `stylize shards` has written into a manifest."""
        known = {field.name: document[field.name] for field in fields(cls) if field.name in document}
        return cls(**{**known, "styles": tuple(StyleRecord(**style) for style in document["styles"])})

    def document(self) -> dict[str, Any]:
        """Return the specification as the manifest holds it, as JSON: some options only where they are no default."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {name: value for name, value in document.items() if LATER_OPTIONS.get(name, ...) != value}


def spec_digest(spec: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON without the source's fingerprint: staged shards may outlive it."""
    return hashlib.sha256(json.dumps({**spec, "source_fingerprint": None}, sort_keys=True).encode()).hexdigest()


def source_record(source: "Source", options: ShardOptions) -> dict[str, Any]:
    """Return what specifications record of the data set, however the samples are made of its images."""
    return {
        "source": source.name,
        "source_fingerprint": source.fingerprint(),
        "class_names": list(source.class_names),
        "size": options.size,
        "seed": options.seed,
        "codec": options.codec,
        "quality": options.quality,
        "samples_per_shard": SAMPLES_PER_SHARD,
        "versions": {name: version(name) for name in VERSIONED},
    }


@dataclass(frozen=True)
class ShardPlan:
    """One shard to make: its file name, its split and the indices of its images."""

    name: str
    split: str
    indices: tuple[int, ...]


def shard_sizes(counts: Mapping[str, int], samples_per_shard: int) -> dict[str, int]:
    """Return how many images every shard is made of, by name and in the order of shards."""
    return {
        f"{split}-{number:06d}.tar": min(samples_per_shard, count - start)
        for split, count in counts.items()
        for number, start in enumerate(range(0, count, samples_per_shard))
    }


def plan_shards(spec: Spec, source: "Source") -> Iterator[ShardPlan]:
    """Shuffle every split once, by hashing (seed, split, index), and cut it into shards."""
    for split in source.splits:
        indices = iter(shuffled(range(source.count(split)), spec.seed, split))
        for name, size in shard_sizes({split: spec.counts[split]}, spec.samples_per_shard).items():
            yield ShardPlan(name, split, tuple(islice(indices, size)))


def shuffled(indices: Iterable[int], seed: int, split: str) -> list[int]:
    """Return the indices of a split's samples in the order of shards: by the SHA-256 of `SEED:SPLIT:INDEX`."""
    return sorted(indices, key=lambda index: hashlib.sha256(f"{seed}:{split}:{index}".encode()).digest())


class Draw(NamedTuple):
    """What one copy of an image gets: the index of its style, its strength, and a seed of 32 bits."""

    style: int
    alpha: float
    seed: int


def draw_copies(spec: Spec, key: str) -> list[Draw]:
    """Draw for each of an image's copies, by hashing (seed, key, k), k = 0 … copies − 1: no generator, no state."""
    low, high = alpha_range(1.0 if spec.alpha is None else spec.alpha)
    draws = []
    for k in range(spec.styles_per_image):
        digest = hashlib.sha256(f"{spec.seed}:{key}:{k}".encode()).digest()
        style, strength, seed = (int.from_bytes(digest[at : at + 8], "big") for at in (0, 8, 16))
        alpha = low if low == high else round(low + (high - low) * strength / 2**64, 4)
        draws.append(Draw(style % len(spec.styles), alpha, seed % 2**32))
    return draws
