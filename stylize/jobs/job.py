"""A job opened: source, styles, networks and codec, ready to make shards."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from stylize.console import InputError, print_notice
from stylize.jobs.spec import VERSIONED, ShardOptions, Spec, StyleRecord, source_record
from stylize.jobs.stylizers import OwnStylizer, open_own_stylizer
from stylize.networks import COLOURS, MIN_SIDE
from stylize.networks.devices import device_kind
from stylize.networks.openvino import calibration_sha256
from stylize.networks.styles import Style, load_styles
from stylize.networks.stylizer import Pixels, Stylizer, golden_style, self_test
from stylize.networks.weights import load_pair
from stylize.shards.decode import MAX_PIXELS, PictureError, decode, decode_picture
from stylize.shards.picture_formats import decode_plain_jpeg
from stylize.sources import Source
from stylize.sources.opening import open_source

BACKEND_PACKAGES = {"torch": (), "openvino": ("openvino",), "own": ()}  # beside torch, which every backend needs
COMPILED_PIXELS = 10**10  # from which a GPU saves the minute that compiling takes
_PILLOW_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


class Content(NamedTuple):
    """A sample's content bytes, their pixels (H, W, 3), and what looked wrong in decoding the source."""

    data: bytes
    pixels: Pixels
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Codec:
    """An image format, its quality, 1 to 100 (PNG is lossless and ignores it), and the bits that 16-bit sources use."""

    name: str
    quality: int
    bits: int | None = None

    def encode(self, pixels: Pixels) -> bytes:
        """Encode pixels (H, W, 3); JPEG by libjpeg-turbo, without chroma subsampling, which would smear small pictures.

        Raises `PictureError` where the format cannot hold them.
        """
        buffer = io.BytesIO()
        options = {"quality": self.quality} if self.name == "webp" else {}
        try:
            if self.name == "jpg":
                encoded: bytes = simplejpeg.encode_jpeg(pixels, self.quality, colorsubsampling="444")
                return encoded
            Image.fromarray(pixels).save(buffer, _PILLOW_FORMATS[self.name], **options)
        except (OSError, ValueError) as error:
            raise PictureError(f"cannot be stored as {self.name}: {error}") from None
        return buffer.getvalue()

    def read_content(self, data: bytes, size: int | None) -> Content:
        """Return a sample's content.

        With `size` the picture is scaled and centre-cropped to size × size. The source's bytes are kept untouched where
        nothing had to change: right codec, upright sRGB, right size, side data that anybody can read. Raises
        `PictureError` for an unusable picture.
        """
        if self.name == "jpg" and size is not None:
            pixels = decode_plain_jpeg(data, MAX_PIXELS, into=np.empty((size, size, 3), np.uint8))
            if pixels is not None:  # as what follows would give, without a way through Pillow
                return Content(data, pixels, ())
        decoded = decode(data, self.bits)
        picture = decoded.picture
        if size is not None and picture.size != (size, size):
            picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
        elif decoded.plain_format == _PILLOW_FORMATS[self.name] and min(picture.size) >= MIN_SIDE:
            return Content(decoded.data, np.asarray(picture), decoded.warnings)
        if min(picture.size) < MIN_SIDE:
            raise PictureError(
                f"has {picture.width}×{picture.height} pixels, the limit is {MIN_SIDE} a side; or set --size"
            )
        encoded = self.encode(np.ascontiguousarray(picture))
        return Content(encoded, np.asarray(decode_picture(encoded)), decoded.warnings)


@dataclass(frozen=True)
class Failure:
    """An image that could not be used, and why."""

    split: str
    path: str
    reason: str


@dataclass(frozen=True)
class Job:
    """Everything that making a shard needs."""

    spec: Spec
    source: Source
    stylizer: Stylizer | OwnStylizer
    reopen: Callable[[str], "Job"] | None = None  # on another device, in another process

    @property
    def codec(self) -> Codec:
        """Return how images are stored."""
        return Codec(self.spec.codec, self.spec.quality, self.spec.bits)


def open_job(options: ShardOptions, device: str = "auto") -> Job:
    """Load source, styles and networks, on a device by PyTorch's name or the best one.

    On a GPU the network of a large job is compiled, where the machine can.
    Raises `InputError` for anything that does not exist or does not fit.
    """
    if options.stylizer:
        source = open_source(options.data, seed=options.seed, test_fraction=options.test_fraction)
        own, records = open_own_stylizer(options)
        return Job(make_spec(options, source, records, (None, None), own), source, own)
    pair = load_pair(options.encoder, options.decoder)  # before the images, which may take minutes to list
    source = open_source(options.data, seed=options.seed, test_fraction=options.test_fraction)
    styles = load_styles(options.style, pair.decoder_sha256, options.style_size)
    if options.transfer == COLOURS and (names := [style.name for style in styles if style.fitted]):
        raise InputError(f"--transfer {COLOURS} does not use fitted statistics: give the picture of {names[0]}.")
    networks = pair.encoder.network, pair.decoder
    stylizer = Stylizer(*networks, [*styles, golden_style()], options.dtype, options.backend, device)
    if _pays_to_compile(options, source, stylizer) and (reason := stylizer.compile()) and device == "auto":
        print_notice(f"The network is not compiled, and slower for it ({reason}).")
    self_test(stylizer, shipped=options.decoder is None)
    hashes = (pair.encoder.sha256, pair.decoder_sha256)
    return Job(make_spec(options, source, styles, hashes, stylizer), source, stylizer, partial(open_job, options))


def make_spec(
    options: ShardOptions,
    source: Source,
    styles: Sequence[Style | StyleRecord],
    hashes: tuple[str | None, str | None],
    stylizer: Stylizer | OwnStylizer,
) -> Spec:
    """Resolve the options; `hashes` are the encoder's and the decoder's SHA-256."""
    limit = options.limit
    names = {field.name for field in fields(Spec)} & {field.name for field in fields(ShardOptions)}
    recorded: dict[str, Any] = {
        **{name: getattr(options, name) for name in names},
        **source_record(source, options),
        "class_names": source.class_names,
        "counts": {split: min(limit or source.count(split), source.count(split)) for split in source.splits},
        "styles": tuple(StyleRecord(style.name, style.sha256) for style in styles),
        "encoder_sha256": hashes[0],
        "decoder_sha256": hashes[1],
        "backend": stylizer.backend,
        "calibration_sha256": calibration_sha256() if stylizer.dtype_name == "int8" else None,
        "dtype": stylizer.dtype_name,
        "device": device_kind(stylizer.device),
        "batch_pixels": stylizer.batch_pixels,
        **stylizer.recorded,
        "versions": {name: version(name) for name in (*VERSIONED, *BACKEND_PACKAGES[stylizer.backend])},
    }
    return Spec(**recorded)


def _pays_to_compile(options: ShardOptions, source: Source, stylizer: Stylizer) -> bool:
    """Return whether a GPU's work is long enough; of pictures of many shapes, each would be compiled anew."""
    if stylizer.device.type == "cpu" or options.transfer == COLOURS or options.size is None:
        return False
    images = min(options.limit or source.count("train"), source.count("train"))
    return images * options.styles_per_image * (options.work_size or options.size) ** 2 >= COMPILED_PIXELS
